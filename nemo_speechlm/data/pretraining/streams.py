"""The streams of pretraining data: each says how it is read, what a config may say of it, what its batches hold.

A model names its streams; the loader, the dataset and the model's own code ask them. The readers are NeMo data types,
too, so they may stand in an ``input_cfg`` beside NeMo's own: ``speech_units``, ``text_units``, ``text_tokens``,
``pairs``, ``transcripts``. Importing this module registers them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_speechlm.data.pretraining.audio_reader import AudioReader
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PairBatch, SpeechBatch, TextBatch, TokenBatch
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.data.pretraining.pairs_reader import PairsReader
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.text_reader import TextUnits, TextUnitsReader
from nemo_speechlm.data.pretraining.token_reader import TextTokens, TokensReader
from nemo_speechlm.data.pretraining.transcripts_reader import TranscriptsReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units, audio_of, base_of
from nemo_speechlm.units.inventory import UnitInventory


class Stream(ABC):
    """One kind of data.

    Attributes:
        name: its key in a config, and its field of a :class:`PretrainBatch`.
        reader: reads its manifests.
        unfit: keys of NeMo's loader that would make its batches wrong.
        nemos: keys of NeMo's loader that its cuts are made for: with one of them, NeMo reads the data.
        on_host: fields of its batch that stay in the host's memory, where losses such as CTC want them.
    """

    name: ClassVar[str]
    reader: ClassVar[type[ManifestReader]]
    on_host: ClassVar[tuple[str, ...]] = ()
    unfit: ClassVar[tuple[str, ...]] = ()
    nemos: ClassVar[tuple[str, ...]] = ()

    @property
    def has_audio(self) -> bool:
        """Whether lengths are seconds; otherwise they are frames or tokens."""
        return issubclass(self.reader, AudioReader)

    @property
    def size_key(self) -> str:
        """The key that says how much a batch holds."""
        return "batch_duration" if self.has_audio else "batch_tokens"

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the model tells the reader: plain values for its ``facts``."""

    @abstractmethod
    def collate(self, examples: Iterable[Any]) -> Any:
        """The batch of this stream that examples make."""


@dataclass(frozen=True)
class SpeechStream(Stream):
    """Speech, with units where the model wants them.

    Attributes:
        inventory: the units, or None.
        sample_rate: of the audio in batches, Hz; other files are resampled, channels are averaged.
        longest: seconds that the model can encode, None for any.
    """

    name: ClassVar[str] = "speech"
    reader: ClassVar[type[ManifestReader]] = SpeechReader
    # They change how long the audio is without changing its units.
    unfit: ClassVar[tuple[str, ...]] = ("perturb_speed", "concatenate_samples", "pad_min_duration")

    inventory: UnitInventory | None
    sample_rate: int = 16000
    longest: float | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`SpeechReader`."""
        inventory = None if self.inventory is None else self.inventory.to_dict()
        return {"inventory": inventory, "sample_rate": self.sample_rate, "longest": self.longest}

    def collate(self, examples: Iterable[Cut]) -> SpeechBatch:
        """Pad audio with zeros and units with ``PAD_UNIT``."""
        cuts = list(examples)
        ids = ids_of(cuts)
        if self.inventory is None:
            audio = pad([audio_of(cut, self.sample_rate) for cut in cuts], torch.float32, 0.0)
            return SpeechBatch(*audio, ids=ids)
        both = [audio_and_units(cut, self.inventory, self.sample_rate) for cut in cuts]
        audios, units = zip(*both, strict=True)
        return SpeechBatch(*pad(audios, torch.float32, 0.0), *pad(units, torch.int64, PAD_UNIT), ids)


@dataclass(frozen=True)
class UnitTextStream(Stream):
    """Text as units with durations, and the characters it is spelled with.

    Attributes:
        inventory: the units.
        labels: the characters that targets are positions of.
        frame_rate: frames per second to which text is expanded.
        max_frames: frames that the model can encode, None for any.
    """

    name: ClassVar[str] = "text"
    reader: ClassVar[type[ManifestReader]] = TextUnitsReader
    on_host: ClassVar[tuple[str, ...]] = ("unit_lengths", "target_lengths")

    inventory: UnitInventory
    labels: Sequence[str]
    frame_rate: float
    max_frames: int | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`TextUnitsReader`."""
        facts = {"labels": list(self.labels), "frame_rate": self.frame_rate, "max_frames": self.max_frames}
        return {"inventory": self.inventory.to_dict(), **facts}

    def collate(self, examples: Iterable[TextUnits]) -> TextBatch:
        """Expand and pad."""
        sentences = list(examples)
        expanded = [np.repeat(sentence.units, sentence.durations) for sentence in sentences]
        targets = [sentence.targets for sentence in sentences]
        return TextBatch(*pad(expanded, torch.int64, PAD_UNIT), *pad(targets, torch.int64, 0), ids_of(sentences))


@dataclass(frozen=True)
class TokenTextStream(Stream):
    """Text as characters or SentencePiece tokens.

    Attributes:
        labels: the characters, where it is written in them.
        tokenizer: SentencePiece model, a file or the content of one, where it is written in tokens.
        max_frames: tokens that the model can encode, None for any.
    """

    name: ClassVar[str] = "text"
    reader: ClassVar[type[ManifestReader]] = TokensReader

    labels: Sequence[str] | None = None
    tokenizer: str | bytes | None = None
    max_frames: int | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`TokensReader`."""
        return {**_writing(self.labels, self.tokenizer), "max_frames": self.max_frames}

    def collate(self, examples: Iterable[TextTokens]) -> TokenBatch:
        """Pad with zeros."""
        sentences = list(examples)
        return TokenBatch(*pad([sentence.tokens for sentence in sentences], torch.int64, 0), ids_of(sentences))


@dataclass(frozen=True)
class PairStream(Stream):
    """Utterances with their texts.

    Attributes:
        labels: the characters, where text is written in them.
        tokenizer: SentencePiece model, a file or the content of one, where it is written in tokens.
        sample_rate: of the audio in batches, Hz.
        longest: seconds that the model can encode, None for any.
    """

    name: ClassVar[str] = "pairs"
    reader: ClassVar[type[ManifestReader]] = PairsReader
    unfit: ClassVar[tuple[str, ...]] = ("truncate_duration", "cut_into_windows_duration", "concatenate_samples")

    labels: Sequence[str] | None = None
    tokenizer: str | bytes | None = None
    sample_rate: int = 16000
    longest: float | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`PairsReader`."""
        facts = {"sample_rate": self.sample_rate, "longest": self.longest}
        return {**_writing(self.labels, self.tokenizer), **facts}

    def collate(self, examples: Iterable[Cut]) -> PairBatch:
        """Pad audio and tokens with zeros."""
        cuts = list(examples)
        audios = [audio_of(cut, self.sample_rate) for cut in cuts]
        tokens = [base_of(cut).custom["tokens"] for cut in cuts]
        return PairBatch(*pad(audios, torch.float32, 0.0), *pad(tokens, torch.int64, 0), ids_of(cuts))


def _writing(labels: Sequence[str] | None, tokenizer: str | bytes | None) -> dict[str, Any]:
    return {"labels": None if labels is None else list(labels), "tokenizer": tokenizer}


def ids_of(examples: Iterable[Any]) -> tuple[str, ...]:
    """Where the examples stand in their manifests."""
    return tuple(example.id for example in examples)


def pad(rows: Sequence[np.ndarray], dtype: torch.dtype, value: float) -> tuple[Tensor, Tensor]:
    """Stack (N,) arrays to (B, max N) with ``value`` behind their ends; returns their lengths (B,) too."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    padded = torch.empty((len(rows), int(lengths.max())), dtype=dtype)
    for place, row in zip(padded.numpy(), rows, strict=True):
        place[: len(row)] = row
        place[len(row) :] = value
    return padded, lengths


def _register(reader: type[ManifestReader]) -> None:
    @data_type_parser(reader.type)
    def parse(config: DictConfig | Mapping[str, Any]) -> tuple[CutSet, bool]:
        plain: Any = OmegaConf.to_object(config) if OmegaConf.is_config(config) else config
        return CutSet(reader.from_config(plain)), True


READERS = (SpeechReader, TextUnitsReader, TokensReader, PairsReader, TranscriptsReader)

for _reader in READERS:
    _register(_reader)
