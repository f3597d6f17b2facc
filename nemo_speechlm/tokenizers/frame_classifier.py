"""Untranscribed speech to units, by a :class:`FrameClassifierModel`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel
from nemo_speechlm.tokenizers.speech import SpeechBatchTokenizer, SpeechInput, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory

SHORTEST = 0.1
"""Seconds; in less there is nothing to normalize features with."""

_LINES = 64
_DECODED_AT_ONCE = 200.0
_GPU_BATCH = 200.0


@dataclass(frozen=True)
class FrameClassifierTokenizing(SpeechTokenizing):
    """How a frame classifier turns speech into units; see ``conf/speech_tokenizer/frame_classifier.yaml``."""

    model: str
    lm_weight: float | None = None
    prior_weight: float | None = None
    penalty: float | None = None
    batch_duration: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for key in ("lm_weight", "prior_weight", "penalty", "batch_duration"):
            if (value := getattr(self, key)) is not None:
                check_number(key, value, least=None if key == "penalty" else 0)

    @cached_property
    def restored(self) -> FrameClassifierModel:
        """The model, with this decoding."""
        model: Any = restore_file(FrameClassifierModel, self.model, self.device)
        if not isinstance(model, FrameClassifierModel):
            raise InputError(f"is a {type(model).__name__}, expected a frame classifier", self.model)
        model.set_decoding(lm_weight=self.lm_weight, prior_weight=self.prior_weight, penalty=self.penalty)
        return model

    def __getstate__(self) -> dict:  # workers restore the model themselves
        return {key: value for key, value in self.__dict__.items() if key != "restored"}

    def inventory(self) -> UnitInventory:
        """The model's units."""
        return self.restored.inventory.with_durations({})

    def make(self) -> "FrameClassifierTokenizer":
        """The tokenizer."""
        return FrameClassifierTokenizer(self)

    @property
    def libraries(self) -> Sequence[str]:
        """What the model is computed by."""
        return (*super().libraries, "torch", "nemo_toolkit")

    def files(self) -> Sequence[str]:
        """The model."""
        return [str(model_file(self.model))]

    @property
    def batch_size(self) -> int:
        """How many utterances are sorted by length, to be decoded in batches."""
        return _LINES

    @property
    def max_workers(self) -> int | None:
        """One on a GPU."""
        return 1 if self.restored.device.type != "cpu" else None


class FrameClassifierTokenizer(SpeechBatchTokenizer):
    """Classifies the frames of utterances and decodes them, those of similar length together.

    On a CPU it computes with one thread. More processes help more than more threads, and the number of threads would
    change the last digits of matrix products, and so the output.

    Args:
        tokenizing: how.
    """

    def __init__(self, tokenizing: FrameClassifierTokenizing):
        self._model = tokenizing.restored
        self.sample_rate = int(self._model.cfg.sample_rate)
        on_cpu = self._model.device.type == "cpu"
        default = 0.0 if on_cpu else _GPU_BATCH
        self._batch_duration = default if tokenizing.batch_duration is None else tokenizing.batch_duration

    def tokenize_batch(self, utterances: Sequence[SpeechInput]) -> list[SpeechUnits | InputError | SkipItem]:
        """The units of several utterances, in their order; SIL is among them."""
        found: list[SpeechUnits | InputError | SkipItem] = [SkipItem(f"shorter than {SHORTEST} s") for _ in utterances]
        long = [i for i, u in enumerate(utterances) if len(u.samples) >= SHORTEST * self.sample_rate]
        lengths = [len(utterances[i].samples) for i in long]
        at_once = max(self._batch_duration, _DECODED_AT_ONCE)
        with _one_thread(self._model.device), torch.inference_mode():
            for group in batches_by_length(lengths, int(at_once * self.sample_rate)):
                members = [long[i] for i in group]
                scores, frames = self._scores([torch.from_numpy(utterances[i].samples) for i in members])
                for i, decoded in zip(members, self._model.phone_loop(scores, frames), strict=True):
                    found[i] = SpeechUnits(self._model.inventory.decode(decoded.units), decoded.durations)
        return found

    def _scores(self, signals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (B, L, C) and frames (B,) of utterances of similar length."""
        rows: list[Tensor] = []
        frames: list[Tensor] = []
        limit = int(self._batch_duration * self.sample_rate)
        for batch in batches_by_length([len(s) for s in signals], limit, torch.arange(len(signals)).numpy()):
            members = [signals[i] for i in batch]
            lengths = torch.tensor([len(s) for s in members], device=self._model.device)
            audio = pad_sequence(members, batch_first=True).to(self._model.device)
            scores, lengths = self._model.frame_scores(audio, lengths)
            rows.extend(row[:length] for row, length in zip(scores, lengths.tolist(), strict=True))
            frames.append(lengths)
        return pad_sequence(rows, batch_first=True), torch.cat(frames)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread on a CPU."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
