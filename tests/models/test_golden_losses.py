"""Losses and gradients of a pretraining step against the released implementation's."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.losses import UCTCLoss
from nemo_speechlm.models.pretrain import LEVELS, SpeechLMModel
from nemo_speechlm.modules import SpanMask, WaveformPreprocessor
from nemo_speechlm.modules.ctc_head import SpeechLMCTCHead
from nemo_speechlm.tokenizers import UnitInventory
from tests.golden import GOLDEN, load, needs_golden, relative_error, released_classifiers, released_encoder, rename

pytestmark = needs_golden
PAD, EOS, BLANK = 1, 2, 0
VARIANTS = [("speechlm_p_tiny", "loss"), ("speechlm_p_tiny", "loss_offset0"), ("speechlm_large_tiny", "loss")]
# Not among them: labels that end before the audio. The released code then learns to predict "<pad>", we nothing.


class Released(SpeechLMModel):
    """Our model around the released parameters, without a config of its own."""

    def __init__(self, folder: str):  # deliberately not ModelPT's: only the computation is wanted
        torch.nn.Module.__init__(self)
        config = json.loads((GOLDEN / folder / "cfg.json").read_text())["model"]
        symbols = json.loads((GOLDEN / folder / "dictionaries.json").read_text())
        encoder, released = released_encoder(folder)
        units = next(v for k, v in symbols.items() if k.startswith("text_src"))
        self.inventory = UnitInventory("phoneme", "en", config["label_rate"], tuple(units))
        self.preprocessor, self.encoder = WaveformPreprocessor(), encoder
        width = encoder.d_model
        self.unit_classifiers = torch.nn.ModuleDict(zip(LEVELS, released_classifiers(released), strict=True))
        self.unit_embedding = torch.nn.Embedding.from_pretrained(released["unit_embed_tokens.weight"], freeze=False)
        self.masking, self.swapping, self.text_masking = SpanMask(0.8, 10, 2), SpanMask(0.4, 5), SpanMask(0.8, 10, 2)
        head = "unit_encoder_ctc_head."
        classes = len(released[head + "5.weight"])
        self.labels = [str(i) for i in range(1, classes)]
        self.ctc_head = SpeechLMCTCHead(feat_in=width, num_classes=classes - 1, dropout=0.0)
        blank_last = [*range(1, classes), BLANK]
        self.ctc_head.load_state_dict(
            {
                "conv.weight": released[head + "1.weight"],
                "norm.weight": released[head + "3.2.weight"],
                "norm.bias": released[head + "3.2.bias"],
                "linear.weight": released[head + "5.weight"][blank_last],
                "linear.bias": released[head + "5.bias"][blank_last],
            }
        )
        self.uctc_loss = UCTCLoss(blank=classes - 1)
        self._cfg = OmegaConf.create({"sample_rate": 16000, "preprocessor": {}})
        self.released = released
        self.pre_norm = config["layer_norm_first"]
        self.eval()


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


@pytest.fixture(scope="module", params=sorted({folder for folder, _ in VARIANTS}))
def model(request):
    return Released(request.param)


def step(model: Released, golden: dict):
    batch = batch_of(golden)
    output = model.forward_speech(
        batch.speech, golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
    )
    masked, unmasked = model._predictions(output)
    log_probs, _ = model.forward_text(batch.text, golden["text_mask_indices"])
    return output, masked, unmasked, log_probs, model._uctc(batch.text, log_probs)


@pytest.mark.parametrize(("folder", "variant"), VARIANTS)
def test_losses(folder, variant):
    model, golden = Released(folder), load(f"{folder}/{variant}.pt")
    with torch.no_grad():
        output, masked, unmasked, log_probs, uctc = step(model, golden)
    assert torch.equal(output.swap, golden["swap_indices"])
    count = golden["sample_size"]
    for number, level in enumerate(LEVELS):
        assert masked[level].loss.item() == pytest.approx(golden[f"loss_m_{number}"], rel=1e-5)
        assert unmasked[level].loss.item() == pytest.approx(golden[f"loss_u_{number}"], rel=1e-5)
        assert masked[level].frames.item() == count
        assert masked[level].correct.item() == golden[f"correct_m_{number}"]
        labeled = output.mask & (output.units != PAD_UNIT)
        assert relative_error(output.logits[number][labeled], golden[f"logits_m{number}"]) < 1e-5
        assert torch.equal(output.units[labeled], golden[f"targets_subsampled_m{number}"])
    assert output.penalty.item() == pytest.approx(float(golden["features_pen"]), rel=1e-5)
    inside = ~golden["text_padding_mask"]
    theirs = golden["text_ctc_logits"].log_softmax(-1)[:-1].transpose(0, 1).roll(-1, dims=2)
    assert relative_error(log_probs[inside], theirs[inside]) < 1e-5
    assert uctc.item() == pytest.approx(golden["text_ctc_loss"] / golden["text_sample_size"], rel=1e-5)
    total = sum(p.loss for p in masked.values()) / count + 10 * output.penalty + 0.1 * uctc
    assert total.item() * count == pytest.approx(golden["loss_item"], rel=1e-5)


@pytest.mark.parametrize("folder", ["speechlm_p_tiny", "speechlm_large_tiny"])
def test_gradients(folder):
    model, golden = Released(folder), load(f"{folder}/loss.pt")
    gradients = {
        name.removeprefix("grad."): value
        for name, value in load(f"{folder}/grads.pt").items()
        if torch.is_tensor(value)
    }
    output, masked, _, _, uctc = step(model, golden)
    count = golden["sample_size"]
    loss = sum(p.loss for p in masked.values()) + count * (10 * output.penalty + 0.1 * uctc)
    loss.backward()
    parameters = dict(model.encoder.named_parameters())
    compared = 0
    for name, theirs in gradients.items():
        name, rows = name.removesuffix("[:80]"), slice(0, 80) if name.endswith("[:80]") else slice(None)
        ours = rename(name, model.pre_norm)
        if ours is None:
            continue
        assert parameters[ours].grad is not None, ours
        gradient = parameters[ours].grad[rows]
        # Gradients that are zero but for rounding (the key projection's bias) are compared with that in mind.
        assert (gradient - theirs).abs().max() <= 1e-4 * max(theirs.abs().max(), 0.1), ours
        compared += 1
    assert compared >= len(parameters) - 1
    theirs = gradients["unit_embed_tokens.weight"]
    assert relative_error(model.unit_embedding.weight.grad, theirs) < 1e-4
