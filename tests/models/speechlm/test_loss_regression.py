"""The loss of the first steps of a small run, pinned: what makes the model faster must leave it as it is.

The pinned losses were computed before any work on speed. Only a change that is meant to change them makes them anew::

    OMP_NUM_THREADS=1 python -m tests.models.speechlm.test_loss_regression
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels
from nemo_speechlm.testing.trainer import tiny_trainer

PINNED = Path(__file__).parents[2] / "assets" / "first_losses.csv"
STEPS = 20
KINDS = ("base", "large")


class Spans:
    """Draws masks with a generator of its own, so that the run does not depend on how the model draws its masks."""

    def __init__(self, seed: int, prob: float):
        self.rng, self.prob = np.random.default_rng(seed), prob

    def draw(self, lengths, num_frames, generator=None):
        starts = self.rng.random((len(lengths), num_frames)) < self.prob
        inside = starts | np.roll(starts, 1, axis=1) | np.roll(starts, 2, axis=1)
        return torch.from_numpy(inside & (np.arange(num_frames) < np.asarray(lengths)[:, None]))


class Losses(Callback):
    """Keeps every logged value of each step."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        torch.manual_seed(batch_idx)  # the label offset is drawn first: what else draws cannot move it

    def on_train_batch_end(self, trainer, *_):
        names = ("loss", "umlm_speech", "umlm_shared", "uctc", "feature_penalty")
        self.steps.append({name: float(trainer.callback_metrics[f"train_{name}"]) for name in names})


def pad(rows, value, dtype):
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), value, dtype=dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = torch.as_tensor(row, dtype=dtype)
    return padded, lengths


def batches():
    """Utterances of unequal lengths whose tones tell their units, and sentences that spell theirs."""
    rng = np.random.default_rng(0)
    num_units, num_labels = len(tiny_inventory()), len(tiny_labels())
    for _ in range(STEPS):
        frames = [np.repeat(rng.integers(num_units, size=n), 6) for n in rng.integers(10, 20, size=3)]
        pitch = [200.0 * 1.25 ** np.repeat(f, 160) for f in frames]
        audio = [0.3 * np.sin(np.cumsum(p) * 2 * np.pi / 16000) + 0.01 * rng.standard_normal(len(p)) for p in pitch]
        sentences = [rng.integers(1, num_labels, size=n) for n in rng.integers(5, 12, size=3)]
        speech = SpeechBatch(*pad(audio, 0.0, torch.float32), *pad(frames, PAD_UNIT, torch.int64))
        text = TextBatch(
            *pad([np.repeat(s, 4) for s in sentences], PAD_UNIT, torch.int64), *pad(sentences, 0, torch.int64)
        )
        yield PretrainBatch(speech, text)


def first_losses(kind: str) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_pretrain_config(tiny_corpus(folder, 1, 1), train_ds=None, validation_ds=None)
        config.loss.feature_penalty = 10.0
        config.ctc_head.dropout = 0.0
        config.optim.lr = 1e-3
        front_end = config.encoder.front_end
        front_end.gradient_scale = 0.1
        if kind == "large":
            front_end.norm, front_end.bias = "layer", True
            for half in ("speech_transformer", "shared_transformer"):
                config.encoder[half].update(pre_norm=True, n_layers=2)
        losses = Losses()
        trainer = tiny_trainer(STEPS, callbacks=[losses], gradient_clip_val=1.0)
        torch.manual_seed(0)
        model = SpeechLMModel(config, trainer)
        model.masking, model.swapping, model.text_masking = Spans(1, 0.2), Spans(2, 0.1), Spans(3, 0.2)
        model.setup_optimization(config.optim)
        trainer.fit(model, torch.utils.data.DataLoader(list(batches()), batch_size=None))
    return losses.steps


@pytest.mark.parametrize("kind", KINDS)
def test_first_losses(kind):
    with PINNED.open(newline="") as file:
        pinned = [row for row in csv.DictReader(file) if row["model"] == kind]
    found = first_losses(kind)
    assert len(found) == len(pinned) == STEPS
    for step, (ours, theirs) in enumerate(zip(found, pinned, strict=True)):
        for name, value in ours.items():
            assert value == pytest.approx(float(theirs[name]), rel=1e-4), (step, name)
    assert found[-1]["loss"] < 0.9 * found[0]["loss"]


if __name__ == "__main__":
    with PINNED.open("w", newline="") as file:
        rows = [{"model": kind, "step": i, **step} for kind in KINDS for i, step in enumerate(first_losses(kind))]
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
