"""What a worker does to extract features: the utterances of a batch of lines become files.

Axis legend: B utterances, T frames, D width, L layers.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import partial_path, writing
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.features.options import FeatureOptions
from nemo_speechlm.inference.features.shards import frames_of_shard, piece_path, write_shard
from nemo_speechlm.jobs.types import BatchWork, Result
from nemo_speechlm.models.common.precision import autocast


@dataclass(frozen=True)
class FeatureItem:
    """An utterance whose features are wanted: a line of the job.

    Attributes:
        utterance: what to read.
        name: an id.
        file: where its features go, below the folder.
        batch: which utterances are computed together.
        together: how many utterances the file holds.
    """

    utterance: Utterance
    name: str
    file: str
    batch: int
    together: int = 1

    @property
    def place(self) -> tuple[int, float]:
        """Items are computed in the order of this: batch by batch, the longest first."""
        return self.batch, -self.utterance.duration

    def line(self) -> str:
        """As JSON."""
        values = asdict(self)
        if isinstance(self.utterance.path, Path):
            values["utterance"]["path"] = str(self.utterance.path)
        return json.dumps(values, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, line: str) -> "FeatureItem":
        """From :meth:`line`."""
        values = json.loads(line)
        utterance = values.pop("utterance")
        path = utterance["path"]
        if isinstance(path, str):
            utterance["path"] = Path(path)
        else:
            span = path["span"]
            utterance["path"] = TarAudio(path["path"], path["name"], None if span is None else tuple(span))
        return cls(Utterance(**utterance), **values)


@dataclass
class FeatureWork:
    """Makes the work of a job that extracts features. It is picklable; a model that is there already is left behind.

    Attributes:
        remake: makes the model, in another process.
        folder: the output.
        options: how.
        numbers: of the layers, from 1.
        columns: of shards, see :func:`~nemo_speechlm.inference.features.shards.columns_of`.
        model: if there is one in this process.
    """

    remake: Callable[[], Any]
    folder: Path
    options: FeatureOptions
    numbers: Sequence[int]
    columns: Sequence[str] = ()
    model: Any = field(default=None, repr=False)

    def __call__(self) -> BatchWork:
        """The work on a batch of lines."""
        self.model = self.model or self.remake()
        return self._work

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def _work(self, lines: Sequence[tuple[int, str]]) -> Sequence[Result]:
        items = [FeatureItem.parse(line) for _, line in lines]
        if self.options.format == "huggingface":
            return self._shard(items)
        found: list[Result] = []
        for _, batch in groupby(items, key=lambda item: item.batch):
            found += self._files(list(batch))
        return found

    def _files(self, items: Sequence[FeatureItem]) -> Sequence[Result]:
        """Write a file for each utterance of a batch, but those that are there."""
        files = [self.folder / item.file for item in items]
        if all(file.exists() for file in files):
            return [{"num_frames": num_frames(file)} for file in files]
        found: list[Result] = [{}] * len(items)
        for index, states in self._states(items):
            if isinstance(states, InputError):
                found[index] = states
                continue
            if not files[index].exists():
                _write(files[index], states, self.numbers)
            found[index] = {"num_frames": states.shape[1]}
        return found

    def _shard(self, items: Sequence[FeatureItem]) -> Sequence[Result]:
        """Write a shard, or a piece of it where others of its utterances cannot be used."""
        path = self.folder / items[0].file
        states: dict[int, Tensor] = {}
        found: list[Result] = [{}] * len(items)
        if path.exists() and len(items) == items[0].together:
            frames = frames_of_shard(path)
            if len(frames) == len(items):  # else some could not be used
                return [{"row": row, "num_frames": each} for row, each in enumerate(frames)]
        for index, made in self._states(items):
            if isinstance(made, InputError):
                found[index] = made
            else:
                states[index] = made.clone()
        if len(states) < items[0].together:
            path = piece_path(path, items[0].name)
        good = [items[index] for index in sorted(states)]
        if good:
            ids, records = [item.name for item in good], [item.utterance.record for item in good]
            with writing(path):
                kept = [states[index] for index in sorted(states)]
                write_shard(path, ids, records, kept, self.numbers, self.columns)
        for row, index in enumerate(sorted(states)):
            found[index] = {"row": row, "num_frames": states[index].shape[1]}
            if path.name != Path(items[0].file).name:
                found[index] |= {"piece": path.name}  # type: ignore[operator]
        return found

    def _states(self, items: Sequence[FeatureItem]) -> Iterator[tuple[int, Tensor | InputError]]:
        """(number, features (L, T, D)) of some items, batch by batch; or why one cannot be read."""
        model = self.model
        numbers = sorted(range(len(items)), key=lambda number: items[number].place)
        batches = [list(own) for _, own in groupby(numbers, key=lambda number: items[number].batch)]
        sample_rate = int(model.cfg.get("sample_rate", 16000))
        reader = _Reader([item.utterance for item in items], batches, sample_rate)
        with torch.inference_mode(), autocast(model.device.type, self.options.precision):
            for good, audio, samples, bad in DataLoader(reader, batch_size=None, num_workers=self.options.num_workers):
                yield from bad
                if not good:
                    continue
                layers, frames = model.extract_features(
                    audio.to(model.device), samples.to(model.device), [number - 1 for number in self.numbers]
                )
                stacked = torch.stack(layers, dim=1).to("cpu", getattr(torch, self.options.dtype))
                for number, states, length in zip(good, stacked, frames.tolist(), strict=True):
                    yield number, states[:, :length]


class _Reader(Dataset):
    """Batches of audio, with the numbers of those that can be read, and why others cannot."""

    def __init__(self, utterances: Sequence[Utterance], batches: Sequence[Sequence[int]], sample_rate: int):
        self._utterances, self._batches, self._sample_rate = utterances, batches, sample_rate

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[list[int], Tensor, Tensor, list[tuple[int, InputError]]]:
        if index >= len(self):
            raise IndexError(index)
        good, bad, read = [], [], []
        for number in self._batches[index]:
            own = self._utterances[number]
            try:
                read.append(read_audio(own.path, self._sample_rate, own.offset, own.duration))
                good.append(number)
            except InputError as error:
                bad.append((number, error))
        audio, samples = collate_audio(read, self._sample_rate) if read else (torch.empty(0), torch.empty(0))
        return good, audio, samples, bad


def _write(path: Path, states_LTD: Tensor, numbers: Sequence[int]) -> None:
    partial = partial_path(path)
    try:
        with writing(path):
            if path.suffix == ".npy":
                np.save(partial, states_LTD.numpy())
            else:
                from safetensors.torch import save_file

                save_file({f"layer_{n}": s.contiguous() for n, s in zip(numbers, states_LTD, strict=True)}, partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def num_frames(path: Path) -> int:
    """T of a file of features."""
    if path.suffix == ".npy":
        return int(np.load(path, mmap_mode="r").shape[1])
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(file.get_slice(next(iter(file.keys()))).get_shape()[0])
