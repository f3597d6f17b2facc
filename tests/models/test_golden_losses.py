"""Losses and gradients of a pretraining step against the released implementation's."""

from functools import cache

import pytest
import torch

from nemo_speechlm.data.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.models.pretrain import LEVELS, SpeechLMModel
from tests.golden import converted, load, needs_golden, ours_of, relative_error

pytestmark = needs_golden
PAD, EOS = 1, 2
FOLDERS = ["speechlm_p_tiny", "speechlm_large_tiny"]
VARIANTS = [(folder, name) for folder in FOLDERS for name in ("loss", "loss_label_short", "loss_trimmed")]
VARIANTS.append(("speechlm_p_tiny", "loss_offset0"))


@cache
def released(folder: str):
    """The pretrained model, and the plan of its conversion."""
    return converted(f"{folder}/checkpoint_real_structure.pt")


def batch_of(golden: dict) -> PretrainBatch:
    wave_padding = golden["wave_padding_mask"]
    labels = golden["labels_padded"]
    units = labels.masked_fill(labels == PAD, PAD_UNIT)
    speech = SpeechBatch(golden["source"], (~wave_padding).sum(1), units, (labels != PAD).sum(1))
    target = golden["text_target"]
    characters = (target != PAD) & (target != EOS)
    text_units = golden["text_src_tokens"]
    text = TextBatch(
        text_units.masked_fill(text_units == PAD, PAD_UNIT),
        (text_units != PAD).sum(1),
        (target - 1).masked_fill(~characters, 0),  # the blank, our last class, was their first
        characters.sum(1),
    )
    return PretrainBatch(speech, text)


def step(model: SpeechLMModel, golden: dict):
    batch = batch_of(golden)
    output = model.forward_speech(
        batch.speech, golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
    )
    masked, unmasked = model._predictions(output)
    log_probs, _ = model.forward_text(batch.text, golden["text_mask_indices"])
    return output, masked, unmasked, log_probs, model._uctc(batch.text, log_probs)


@pytest.mark.parametrize(("folder", "variant"), VARIANTS)
def test_losses(folder, variant):
    (model, _), golden = released(folder), load(f"{folder}/{variant}.pt")
    with torch.no_grad():
        output, masked, unmasked, log_probs, uctc = step(model, golden)
    assert torch.equal(output.swap, golden["swap_indices"])
    count = golden["sample_size"]
    for number, level in enumerate(LEVELS):
        assert masked[level].loss.item() == pytest.approx(golden[f"loss_m_{number}"], rel=1e-5)
        assert unmasked[level].loss.item() == pytest.approx(golden[f"loss_u_{number}"], rel=1e-5)
        assert masked[level].frames.item() == count
        assert masked[level].correct.item() == golden[f"correct_m_{number}"]
        for kind, frames in (("m", output.mask), ("u", ~output.mask)):
            labeled = frames & (output.units != PAD_UNIT)
            assert relative_error(output.logits[number][labeled], golden[f"logits_{kind}{number}"]) < 1e-5
            assert torch.equal(output.units[labeled], golden[f"targets_subsampled_{kind}{number}"])
    assert output.penalty.item() == pytest.approx(float(golden["features_pen"]), rel=1e-5)
    inside = ~golden["text_padding_mask"]
    theirs = golden["text_ctc_logits"].log_softmax(-1)[:-1].transpose(0, 1).roll(-1, dims=2)
    assert relative_error(log_probs[inside], theirs[inside]) < 1e-5
    assert uctc.item() == pytest.approx(golden["text_ctc_loss"] / golden["text_sample_size"], rel=1e-5)
    total = sum(p.loss for p in masked.values()) / count + 10 * output.penalty + 0.1 * uctc
    assert total.item() * count == pytest.approx(golden["loss_item"], rel=1e-5)


@pytest.mark.parametrize(("folder", "variant"), [case for case in VARIANTS if case[1] != "loss_offset0"])
def test_states(folder, variant):
    """What classifiers and CTC head are given, padded frames included where they are scored."""
    (model, _), golden = released(folder), load(f"{folder}/{variant}.pt")
    heads = {"sp_speech_out": model.unit_classifiers["speech"], "sp_unit_out": model.unit_classifiers["shared"]}
    seen = {}
    hooks = [
        head.register_forward_pre_hook(lambda _m, inputs, name=name: seen.__setitem__(name, inputs[0]))
        for name, head in heads.items()
    ]
    with torch.no_grad():
        step(model, golden)
    for hook in hooks:
        hook.remove()
    scored = ~golden["padding_mask"]
    for name, ours in seen.items():
        assert relative_error(ours[scored], golden[name][scored]) < 1e-5, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_gradients(folder):
    (model, plan), golden = released(folder), load(f"{folder}/loss.pt")
    output, masked, _, _, uctc = step(model, golden)
    count = golden["sample_size"]
    loss = sum(p.loss for p in masked.values()) + count * (10 * output.penalty + 0.1 * uctc)
    model.zero_grad()
    loss.backward()
    parameters = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, theirs in load(f"{folder}/grads.pt").items():
        if not name.startswith("grad."):
            continue
        name = name.removeprefix("grad.")
        rows = slice(0, 80) if name.endswith("[:80]") else slice(None)
        ours, theirs = ours_of(plan, name.removesuffix("[:80]"), theirs)
        # Gradients that are zero but for rounding (the key projection's bias) are compared with that in mind.
        difference = (parameters.pop(ours)[rows] - theirs).abs().max()
        assert difference <= 1e-4 * max(theirs.abs().max(), 0.1), ours
    assert not [name for name, gradient in parameters.items() if gradient is not None], "none is left uncompared"
