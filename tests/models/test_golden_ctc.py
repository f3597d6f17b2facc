"""The converted fine-tuned model against the released one: log-probabilities, tokens, loss and gradients."""

import json
from itertools import groupby

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.interop.plan import Options
from tests.golden import GOLDEN, converted, load, needs_golden, ours_of, relative_error

pytestmark = needs_golden


@pytest.fixture(scope="module")
def outputs():
    return load("speechlm_ctc_tiny/outputs.pt")


@pytest.fixture(scope="module")
def symbols():
    return json.loads((GOLDEN / "speechlm_ctc_tiny/dictionaries.json").read_text())["target_dictionary"]


@pytest.fixture(scope="module")
def case(symbols, tmp_path_factory):
    """The model and the plan of its conversion; the tiny checkpoint has no dictionary of its own."""
    path = tmp_path_factory.mktemp("dictionary") / "dict.ltr.txt"
    path.write_text("".join(f"{symbol} 1\n" for symbol in symbols[4:-1]))
    return converted("speechlm_ctc_tiny/checkpoint.pt", Options(label_dictionary=path))


def forward(model, waveforms, lengths):
    encoded, frames = model.encoder(audio_signal=waveforms.unsqueeze(1), length=lengths)
    return model.decoder(encoder_output=encoded), frames


def ours(theirs):
    """(T, B, V) with the blank first -> (B, T, V) with the blank last."""
    return theirs.transpose(0, 1).roll(-1, dims=2)


def test_labels(case, symbols):
    model, _ = case
    assert list(model.cfg.labels) == [" " if symbol == "|" else symbol for symbol in symbols[1:]]


@torch.no_grad()
def test_log_probabilities(case, outputs):
    model, _ = case
    waveforms, lengths = outputs["source"], (~outputs["wave_padding_mask"]).sum(1)
    log_probs, frames = forward(model, waveforms, lengths)
    assert torch.equal(frames, outputs["input_lengths"])
    theirs = ours(outputs["lprobs"])
    for row, length in enumerate(frames):
        assert relative_error(log_probs[row, :length], theirs[row, :length]) < 1e-5
    for row in (0, 1):
        alone, _ = forward(model, waveforms[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert relative_error(alone, ours(outputs[f"single{row}_lprobs"])[:, :-1]) < 1e-5


@torch.no_grad()
def test_greedy_tokens(case, outputs):
    model, _ = case
    waveforms, lengths = outputs["source"], (~outputs["wave_padding_mask"]).sum(1)
    log_probs, frames = forward(model, waveforms, lengths)
    for row, length in enumerate(frames):
        path = ((log_probs[row, :length].argmax(-1) + 1) % log_probs.shape[2]).tolist()
        assert path == outputs["greedy_path"][row, :length].tolist()
        assert [token for token, _ in groupby(path) if token] == outputs[f"greedy_tokens_{row}"].tolist()


def test_loss_and_gradients(case, outputs):
    model, plan = case
    lengths = (~outputs["wave_padding_mask"]).sum(1)
    log_probs, frames = forward(model, outputs["source"], lengths)
    loss = F.ctc_loss(
        log_probs.transpose(0, 1),
        outputs["target"] - 1,
        frames,
        outputs["target_lengths"],
        blank=log_probs.shape[2] - 1,
        reduction="sum",
    )
    torch.testing.assert_close(loss, torch.as_tensor(outputs["ctc_loss_sum"]))
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    for name, theirs in outputs.items():
        if name.startswith("grad."):
            # The head is in the checkpoint twice; its gradients are under the name that we leave.
            name = name.removeprefix("grad.").replace("w2v_model.unit_encoder_ctc_head.", "proj.")
            parameter, theirs = ours_of(plan, name, theirs)
            assert relative_error(parameters[parameter].grad, theirs) < 1e-4, name
    assert parameters["encoder.front_end.convs.0.weight"].grad is None, "it is frozen in fine-tuning"
