"""Utterances with the right answers, as audio or as features of the cache.

Axis legend: B utterances, S samples, L layers, T frames, D width, U answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nemo.utils import logging
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.sources import naming
from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.length_batches import LengthBatches
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.worker_signals import leave_signals_to_parent
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.probing.targets import Targets
from nemo_speechlm.inference.audio_batches import Utterance


class ProbeBatch(NamedTuple):
    """Utterances of a step.

    Attributes:
        inputs: audio (B, S), or features (B, L, T, D).
        lengths: (B,) samples or frames.
        targets: (B, U) ids of the right answers, 0 where padded.
        target_lengths: (B,).
        rows: (B,) the utterances' numbers in the manifest.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ProbeExamples:
    """The lines of a manifest with their answers.

    Attributes:
        utterances: where the audio is.
        answers: ids.
    """

    utterances: list[Utterance]
    answers: list[list[int]]

    @classmethod
    def read(
        cls, manifest: str | Path | Sequence, targets: Targets, max_seconds: float | None = None
    ) -> "ProbeExamples":
        """Read a manifest; what is longer than ``max_seconds`` is left out, with a warning.

        Raises:
            InputError: naming the first line that cannot be used; or if none is left.
        """
        utterances, answers, longer = [], [], 0
        for path, number, record in read_manifests(manifest, ["audio_filepath", *targets.keys]):
            part = audio_part(record, path, number)
            if max_seconds is not None and part.duration > max_seconds:
                longer += 1
                continue
            named = {**naming(part.path), "duration": round(part.duration, 4)}
            utterances.append(Utterance(record | named, *part))
            answers.append(targets.encode(record, path, number))
        if not utterances:
            raise InputError(f"no utterance is at most max_seconds={max_seconds:g} long", str(manifest))
        if longer:
            logging.warning(f"{manifest}: left out {longer} utterances longer than max_seconds={max_seconds:g}")
        return cls(utterances, answers)

    @property
    def durations(self) -> np.ndarray:
        """(N,) seconds."""
        return np.array([utterance.duration for utterance in self.utterances])


class ProbeDataset(Dataset):
    """Examples by number.

    Args:
        examples: what they are.
        sample_rate: Hz, to which audio is resampled.
        features: a file (L, T, D) for each example; None: audio.
    """

    def __init__(self, examples: ProbeExamples, sample_rate: int, features: Sequence[Path] | None = None):
        self.examples, self.sample_rate, self.features = examples, sample_rate, features

    def __len__(self) -> int:
        return len(self.examples.utterances)

    def __getitem__(self, row: int) -> tuple[int, np.ndarray]:
        if self.features is not None:
            return row, np.load(self.features[row])
        own = self.examples.utterances[row]
        return row, read_audio(own.path, self.sample_rate, own.offset, own.duration)

    def collate(self, items: Sequence[tuple[int, np.ndarray]]) -> ProbeBatch:
        """Pad and stack."""
        rows = [row for row, _ in items]
        if self.features is None:
            inputs, lengths = collate_audio([values for _, values in items], self.sample_rate)
        else:
            inputs, lengths = _stacked([torch.from_numpy(values) for _, values in items])
        answers = [torch.tensor(self.examples.answers[row], dtype=torch.int64) for row in rows]
        targets = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True)
        return ProbeBatch(inputs, lengths, targets, torch.tensor([len(a) for a in answers]), torch.tensor(rows))


def _stacked(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features (L, T, D) -> (B, L, T, D) in fp32, zeros where padded, and frames (B,)."""
    lengths = torch.tensor([x.shape[1] for x in states])
    stacked = torch.zeros(len(states), states[0].shape[0], int(lengths.max()), states[0].shape[2])
    for row, x in zip(stacked, states, strict=True):
        row[:, : x.shape[1]] = x
    return stacked, lengths


class CountBatches(LengthBatches):
    """Endless batches of so many utterances of similar length, as SUPERB counts them.

    Args:
        lengths: of each utterance.
        size: utterances in a batch; a pass's last one may have fewer.
        seed: of the order.
        rank: of this process.
        world_size: processes, which take turns with the batches.
        used: see :class:`LengthBatches`.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        used: Callable[[], int] | None = None,
    ):
        super().__init__(lengths, 0, seed, rank, world_size, used=used)
        self.size = size

    def _pass(self, turn: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, turn))
        order = np.argsort(self.lengths * (1 + self.jitter * rng.random(len(self.lengths))), kind="stable")
        batches = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        rng.shuffle(batches)  # type: ignore[arg-type]
        return batches


def in_order(dataset: ProbeDataset, size: int, num_workers: int = 0, part: slice = slice(None)) -> DataLoader:
    """A loader that passes once over all, longest first, or over some of them in that order."""
    order = np.argsort(-dataset.examples.durations, kind="stable")[part]
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_parent,
    )
