"""The streams of pretraining data: each says how it is read, what a config may say of it, what its batches hold.

A model names its streams; the loader, the dataset and the model's own code ask them. The readers are NeMo data types,
too, so they may stand in an ``input_cfg`` beside NeMo's own: ``speech_units``, ``text_units``, ``text_tokens``,
``pairs``, ``transcripts``. Importing this module registers them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_speechlm.data.bad_examples import Preparation, Prepared
from nemo_speechlm.data.pretraining.audio_reader import AudioReader
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PairBatch, SpeechBatch, TextBatch, TokenBatch
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.data.pretraining.pairs_reader import PairsReader
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.text_reader import TextUnits, TextUnitsReader
from nemo_speechlm.data.pretraining.token_reader import TextTokens, TokensReader
from nemo_speechlm.data.pretraining.transcripts_reader import TranscriptsReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units, audio_of, base_of, name_of
from nemo_speechlm.units.inventory import UnitInventory


class Stream(ABC):
    """One kind of data.

    Attributes:
        name: its key in a config, and its field of a :class:`PretrainBatch`.
        reader: reads its manifests.
        unfit: keys of NeMo's loader that would make its batches wrong.
        takes_nemos: it takes data of NeMo's own types too, which NeMo reads.
        nemos: keys of NeMo's loader that its cuts are made for: with one of them, NeMo reads the data.
        on_host: fields of its batch that stay in the host's memory, where losses such as CTC want them.
        fewest: examples that a batch needs, where some are left out.
    """

    name: ClassVar[str]
    reader: ClassVar[type[ManifestReader]]
    on_host: ClassVar[tuple[str, ...]] = ()
    unfit: ClassVar[tuple[str, ...]] = ()
    takes_nemos: ClassVar[bool] = False
    nemos: ClassVar[tuple[str, ...]] = ()
    fewest: int = 1

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
    def prepare(self, example: Any) -> Any:
        """What a batch holds of an example, its audio read.

        Raises:
            InputError: if it cannot be used.
        """

    @abstractmethod
    def join(self, examples: Sequence[Any], content: Sequence[Any]) -> Any:
        """The batch of this stream that examples make, of what :meth:`prepare` gave for each."""

    def made_up(self) -> Any:
        """What :meth:`prepare` might have given, for a batch that is not counted; for streams that read files."""
        raise NotImplementedError

    def collate(self, examples: Iterable[Any]) -> Any:
        """The batch of this stream that examples make."""
        return self.batch(examples, Preparation())[0]

    def batch(self, examples: Iterable[Any], preparation: Preparation) -> tuple[Any, Prepared]:
        """The batch that examples make, or something made up in its place, and what came of them."""
        prepared = preparation.of(examples, self.prepare, self.fewest)
        if prepared.lost:
            return self.join((), [self.made_up()] * self.fewest), prepared
        return self.join(prepared.examples, prepared.content), prepared


@dataclass(frozen=True)
class SpeechStream(Stream):
    """Speech, with units where the model wants them.

    Attributes:
        inventory: the units, or None.
        sample_rate: of the audio in batches, Hz; other files are resampled.
        longest: seconds that the model can encode, None for any.
    """

    name: ClassVar[str] = "speech"
    reader: ClassVar[type[ManifestReader]] = SpeechReader
    takes_nemos: ClassVar[bool] = True
    # They change how long the audio is without changing its units.
    unfit: ClassVar[tuple[str, ...]] = ("perturb_speed", "concatenate_samples", "pad_min_duration")

    inventory: UnitInventory | None
    sample_rate: int = 16000
    longest: float | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`SpeechReader`."""
        inventory = None if self.inventory is None else self.inventory.to_dict()
        return {"inventory": inventory, "sample_rate": self.sample_rate, "longest": self.longest}

    def prepare(self, example: Cut) -> tuple[np.ndarray, ...]:
        """Audio (S,), and units (L,) where there are any."""
        if self.inventory is None:
            return (audio_of(example, self.sample_rate),)
        return audio_and_units(example, self.inventory, self.sample_rate)

    def join(self, examples: Sequence[Cut], content: Sequence[tuple[np.ndarray, ...]]) -> SpeechBatch:
        """Pad audio with zeros and units with ``PAD_UNIT``."""
        audios, *units = zip(*content, strict=True)
        batch = SpeechBatch(*pad(audios, torch.float32, 0.0), ids=ids_of(examples))
        if not units:
            return batch
        labels, lengths = pad(units[0], torch.int64, PAD_UNIT)
        return batch._replace(units=labels, unit_lengths=lengths)

    def made_up(self) -> tuple[np.ndarray, ...]:
        """Noise, with the first unit."""
        audio = noise(self.sample_rate)
        if self.inventory is None:
            return (audio,)
        return audio, np.zeros(round(NOISE * self.inventory.frame_rate), dtype=np.int64)


@dataclass(frozen=True)
class UnitTextStream(Stream):
    """Text as units with durations, and the characters it is spelled with.

    Attributes:
        inventory: the units.
        labels: the characters that targets are positions of; None where they are tokens.
        frame_rate: frames per second to which text is expanded.
        max_frames: frames that the model can encode, None for any.
        tokenizer: SentencePiece model, a file or the content of one, where targets are its tokens.
    """

    name: ClassVar[str] = "text"
    reader: ClassVar[type[ManifestReader]] = TextUnitsReader
    on_host: ClassVar[tuple[str, ...]] = ("unit_lengths", "target_lengths")

    inventory: UnitInventory
    labels: Sequence[str] | None
    frame_rate: float
    max_frames: int | None = None
    tokenizer: str | bytes | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`TextUnitsReader`."""
        writing = {"labels": None if self.labels is None else list(self.labels), "tokenizer": self.tokenizer}
        facts = {"frame_rate": self.frame_rate, "max_frames": self.max_frames}
        return {"inventory": self.inventory.to_dict(), **writing, **facts}

    def prepare(self, example: TextUnits) -> tuple[np.ndarray, np.ndarray]:
        """Units (L,), expanded, and targets (U,)."""
        return np.repeat(example.units, example.durations), example.targets

    def join(self, examples: Sequence[TextUnits], content: Sequence[tuple[np.ndarray, np.ndarray]]) -> TextBatch:
        """Pad."""
        expanded, targets = zip(*content, strict=True)
        return TextBatch(*pad(expanded, torch.int64, PAD_UNIT), *pad(targets, torch.int64, 0), ids_of(examples))


@dataclass(frozen=True)
class TokenTextStream(Stream):
    """Text as characters or SentencePiece tokens.

    Attributes:
        labels: the characters, where it is written in them.
        tokenizer: SentencePiece model, a file or the content of one, where it is written in tokens.
        max_frames: tokens that the model can encode, None for any.
        phones: config of what writes it as phones too (``_target_`` and arguments), or None.
    """

    name: ClassVar[str] = "text"
    reader: ClassVar[type[ManifestReader]] = TokensReader

    labels: Sequence[str] | None = None
    tokenizer: str | bytes | None = None
    max_frames: int | None = None
    phones: Mapping[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`TokensReader`."""
        return {**_writing(self.labels, self.tokenizer, self.phones), "max_frames": self.max_frames}

    def prepare(self, example: TextTokens) -> tuple[np.ndarray, ...]:
        """Tokens (U,), and phones (P,) where there are any."""
        return (example.tokens,) if example.phones is None else (example.tokens, example.phones)

    def join(self, examples: Sequence[TextTokens], content: Sequence[tuple[np.ndarray, ...]]) -> TokenBatch:
        """Pad with zeros."""
        tokens, *phones = zip(*content, strict=True)
        return _with_phones(TokenBatch(*pad(tokens, torch.int64, 0), ids_of(examples)), phones)


@dataclass(frozen=True)
class PairStream(Stream):
    """Utterances with their texts.

    Attributes:
        labels: the characters, where text is written in them.
        tokenizer: SentencePiece model, a file or the content of one, where it is written in tokens.
        sample_rate: of the audio in batches, Hz.
        longest: seconds that the model can encode, None for any.
        phones: config of what writes the text as phones too (``_target_`` and arguments), or None.
        phone_rate: phones that a second has room for: frames of the encoder. None: any number.
        fewest: pairs that a batch needs, where some are left out; 2 where a pair gets the text of another one.
    """

    name: ClassVar[str] = "pairs"
    reader: ClassVar[type[ManifestReader]] = PairsReader
    unfit: ClassVar[tuple[str, ...]] = (
        "truncate_duration",
        "cut_into_windows_duration",
        "concatenate_samples",
        "pad_min_duration",
    )

    labels: Sequence[str] | None = None
    tokenizer: str | bytes | None = None
    sample_rate: int = 16000
    longest: float | None = None
    phones: Mapping[str, Any] | None = None
    phone_rate: float | None = None
    fewest: int = 2

    def facts(self) -> dict[str, Any]:
        """Of :class:`PairsReader`."""
        facts = {"sample_rate": self.sample_rate, "longest": self.longest, "phone_rate": self.phone_rate}
        return {**_writing(self.labels, self.tokenizer, self.phones), **facts}

    def prepare(self, example: Cut) -> tuple[np.ndarray, ...]:
        """Audio (S,) and tokens (U,), and phones (P,) where there are any."""
        custom = base_of(example).custom
        phones = custom.get("phones")
        return audio_of(example, self.sample_rate), custom["tokens"], *(() if phones is None else (phones,))

    def join(self, examples: Sequence[Cut], content: Sequence[tuple[np.ndarray, ...]]) -> PairBatch:
        """Pad audio, tokens and phones with zeros."""
        audios, tokens, *phones = zip(*content, strict=True)
        batch = PairBatch(*pad(audios, torch.float32, 0.0), *pad(tokens, torch.int64, 0), ids_of(examples))
        return _with_phones(batch, phones)

    def made_up(self) -> tuple[np.ndarray, ...]:
        """Noise, with one token, and one phone where there are phones."""
        one = np.zeros(1, dtype=np.int32)
        return noise(self.sample_rate), one, *(() if self.phones is None else (one,))


def _writing(
    labels: Sequence[str] | None, tokenizer: str | bytes | None, phones: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {"labels": None if labels is None else list(labels), "tokenizer": tokenizer, "phones": phones}


Written = TypeVar("Written", TokenBatch, PairBatch)


def _with_phones(batch: Written, phones: Sequence[Sequence[np.ndarray]]) -> Written:
    if not phones:
        return batch
    padded, lengths = pad(phones[0], torch.int64, 0)
    return batch._replace(phones=padded, phone_lengths=lengths)


NOISE = 3.0
"""Seconds of audio that is made up."""


def noise(sample_rate: int) -> np.ndarray:
    """The same ``NOISE`` seconds (S,) each time: silence has no gradient where it is normalized."""
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(round(NOISE * sample_rate))).astype(np.float32)


def ids_of(examples: Iterable[Any]) -> tuple[str, ...]:
    """Where the examples stand in their manifests."""
    return tuple(name_of(example) for example in examples)


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
