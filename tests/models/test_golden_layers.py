"""States of every layer inside a pretraining step, and in features, against the released implementation's."""

import json
from contextlib import contextmanager

import pytest
import torch

from nemo_speechlm.models.pretrain import LEVELS
from tests.golden import load, needs_golden, relative_error
from tests.models.test_golden_losses import PAD, VARIANTS, batch_of, released

pytestmark = needs_golden
FOLDERS = ["speechlm_p_tiny", "speechlm_large_tiny"]


@contextmanager
def watched(encoder, speech: str, shared: str):
    """Collects what goes into and comes out of the layers, under the golden files' names with these prefixes."""
    seen = {}

    def keep(name):
        return lambda *arguments: seen.__setitem__(name, arguments[-1])

    def keep_input(name):
        return lambda _module, inputs: seen.__setitem__(name, inputs[0])

    def keep_output(name):
        return lambda _module, _inputs, output: seen.__setitem__(name, output[0])

    hooks = [encoder.shared_transformer.register_forward_pre_hook(keep_input(f"{shared}unit_token_embeddings_in"))]
    hooks.append(encoder.shared_transformer.register_forward_hook(keep_output(f"{shared}unit_out")))
    for prefix, half in (
        (f"{speech}speech", encoder.speech_transformer),
        (f"{shared}unit", encoder.shared_transformer),
    ):
        hooks.append(half.layers[0].register_forward_pre_hook(keep_input(f"{prefix}_layer_in")))
        hooks += [layer.register_forward_hook(keep(f"{prefix}_layer_{i}")) for i, layer in enumerate(half.layers)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("folder", "variant"), VARIANTS)
def test_every_layer_in_a_step(folder, variant):
    (model, _), golden = released(folder), load(f"{folder}/{variant}.pt")
    batch = batch_of(golden)
    with torch.no_grad(), watched(model.encoder, "sp_", "sp_") as seen:
        arguments = golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
        output = model.forward_speech(batch.speech, *arguments)
    compared = compare(seen, golden, ~golden["padding_mask"])
    with torch.no_grad(), watched(model.encoder, "tx_speech_", "tx_") as seen:
        model.forward_text(batch.text, golden["text_mask_indices"])
    seen["text_encoder_out"] = seen["tx_unit_out"]
    compared += compare(seen, golden, ~golden["text_padding_mask"])
    assert compared == {"loss_offset0": 1}.get(variant, 14), "none is left out"
    assert len(output.logits[0][0]) == golden["feat_T"]
    assert torch.equal(golden["text_padding_mask"], golden["text_ctc_padding_mask"])


def compare(seen, golden, inside):
    """Compares what both have; returns how many tensors that were."""
    common = seen.keys() & golden.keys()
    for name in common:
        assert relative_error(seen[name][inside], golden[name][inside]) < 1e-5, name
    return len(common)


@pytest.mark.parametrize(("folder", "variant"), VARIANTS)
def test_every_number_in_a_step(folder, variant):
    (model, _), golden = released(folder), load(f"{folder}/{variant}.pt")
    batch = batch_of(golden)
    with torch.no_grad():
        output = model.forward_speech(
            batch.speech, golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
        )
        masked, _ = model._predictions(output)
        log_probs, _ = model.forward_text(batch.text, golden["text_mask_indices"])
        uctc = model._uctc(batch.text, log_probs)
    count = golden["sample_size"]
    assert masked[LEVELS[0]].frames.item() == golden["count_m_0"]
    penalty = 10 * count * output.penalty.item()
    assert penalty == pytest.approx(golden["loss_features_pen"], rel=1e-5)
    loss = sum(p.loss.item() for p in masked.values()) + penalty + 0.1 * count * uctc.item()
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
    assert golden["text_ntokens"] == golden["text_sample_size"]
    assert batch.text.unit_lengths.tolist() == golden["text_src_lengths"].tolist()
    spans = [(s.prob, s.length) for s in (model.masking, model.swapping, model.text_masking)]
    assert spans == [tuple(call[1:]) for call in json.loads(golden["mask_calls"])]
    if "sp_unit_src_tokens_in" in golden:
        tokens = golden["sp_unit_src_tokens_in"]
        assert torch.equal(golden["unit_encoder_padding_mask"], tokens == PAD)
        kept = ~golden["padding_mask"]
        assert torch.equal(output.units[kept], tokens[kept])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_layer_of_features(folder):
    (model, _), golden = released(folder), load(f"{folder}/features.pt")
    lengths = (~golden["wave_padding_mask"]).sum(1)
    with torch.no_grad(), watched(model.encoder, "", "") as seen:
        model.encoder.layer_outputs(golden["source"].unsqueeze(1), lengths)
    inside = ~golden["padding_mask"]
    assert compare(seen, golden, inside) == 8
    assert torch.equal(golden["unit_padding_mask"], golden["padding_mask"])
    last = seen["unit_layer_1"] if "large" in folder else seen["unit_out"]  # what the released lists hold as last
    assert relative_error(last[inside], golden["standalone_layer_3"][inside]) < 1e-5
    assert relative_error(seen["speech_layer_0"][inside], golden["standalone_layer_0"][inside]) < 1e-5
    assert relative_error(seen["speech_layer_1"][inside], golden["standalone_layer_1"][inside]) < 1e-5
    first = golden["standalone_output_layer1"]
    assert relative_error(seen["speech_layer_0"][inside], first[inside]) < 1e-5


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("number", [0, 1])
def test_convolutions_alone(folder, number):
    (model, _), golden = released(folder), load(f"{folder}/features.pt")
    audio = golden[f"wave{number}_raw"].unsqueeze(0)
    length = torch.tensor([audio.shape[1]])
    with torch.no_grad():
        signal, length = model.preprocessor(input_signal=audio, length=length)
        features, _ = model.encoder.front_end(signal, length)
    assert relative_error(features.transpose(1, 2), golden[f"single{number}_conv_features"]) < 1e-5
