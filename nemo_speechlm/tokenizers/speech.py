"""Speech to phoneme units: what is transcribed is aligned, what is not is decoded first (paper, 3.2)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nemo_speechlm.data.audio import Channel, read_utterance
from nemo_speechlm.data.manifest import Record, parse_line, read_manifest, unit_sequence
from nemo_speechlm.data.text_cleaning import SentenceCleaner, TextCleaning
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.jobs import Work
from nemo_speechlm.tokenizers.durations import estimate_durations
from nemo_speechlm.tokenizers.english import EnglishPhonemizer, check_style
from nemo_speechlm.tokenizers.sphinx_align import FRAME_RATE, SAMPLE_RATE, PhoneAligner
from nemo_speechlm.tokenizers.sphinx_decode import LanguageModel, SpeechDecoder
from nemo_speechlm.tokenizers.units import UnitInventory

Method = Literal["auto", "align", "decode"]


@dataclass(frozen=True)
class SpeechTokenizing:
    """How speech becomes units.

    Args:
        style: of the phonemes, ``position_stress`` or ``plain``.
        method: ``align`` with the transcript, ``decode`` whether there is one or not, or ``auto``: align what has one.
        lexicon: file of pronunciations that replace CMUdict's.
        model: language model that untranscribed speech is decoded with; None is pocketsphinx's own.
        max_states: HMM states that the decoder keeps in a frame.
        min_confidence: utterances that were decoded with less are left out.
        keep_text: write what was decoded as ``decoded_text``.
        channel: which one, counted from 0, or ``mix``.
    """

    style: str = "position_stress"
    method: Method = "auto"
    lexicon: str | None = None
    model: LanguageModel | None = None
    max_states: int = 3000
    min_confidence: float = 0.0
    keep_text: bool = False
    channel: Channel = "mix"

    def __post_init__(self) -> None:
        check_style(self.style)
        if self.method not in get_args(Method):
            raise InputError(f"method is {self.method!r}, expected one of {', '.join(get_args(Method))}")
        confidence, channel = self.min_confidence, self.channel
        if not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
            raise InputError(f"min_confidence is {confidence!r}, expected a number from 0 to 1")
        if channel != "mix" and (not isinstance(channel, int) or channel < 0):
            raise InputError(f"channel is {channel!r}, expected 0, 1, ... or mix")


class SpeechTokenizer:
    """Adds units to the records of a speech manifest.

    Args:
        tokenizing: how.
    """

    def __init__(self, tokenizing: SpeechTokenizing):
        self._how = tokenizing
        self._aligner = PhoneAligner(tokenizing.style, EnglishPhonemizer(tokenizing.lexicon))
        self._cleaner = SentenceCleaner(TextCleaning())

    @functools.cached_property
    def _decoder(self) -> SpeechDecoder:
        return SpeechDecoder(self._how.model, self._how.max_states)

    def tokenize(self, record: Record, manifest: str | Path, number: int) -> Record:
        """Line ``number`` of ``manifest`` with ``units``, ``unit_durations`` and the true ``duration``.

        Raises:
            InputError: naming the line, if its audio or transcript is bad.
            SkipItem: if no units were found in the audio.
        """
        samples = read_utterance(record, manifest, number, SAMPLE_RATE, self._how.channel)
        record = {key: value for key, value in record.items() if key not in ("units", "unit_durations")}
        record["duration"] = round(len(samples) / SAMPLE_RATE, 4)
        if self._how.method == "align" and not is_transcribed(record):
            raise InputError("no text to align with; method=decode or auto needs none", manifest, number)
        if self._how.method != "decode" and is_transcribed(record):
            words = self._words(record["text"], manifest, number)
        else:
            decoded = self._decoder.decode(samples)
            if decoded.confidence < self._how.min_confidence:
                raise SkipItem(f"decoded with a confidence of {decoded.confidence:.2f}")
            words = decoded.words
            record["confidence"] = round(decoded.confidence, 3)
            if self._how.keep_text:
                record["decoded_text"] = " ".join(words)
        try:
            segments = self._aligner.align(samples, words)
        except InputError as error:
            raise InputError(error.reason, manifest, number) from error
        record["units"] = " ".join(segment.unit for segment in segments)
        record["unit_durations"] = [segment.frames for segment in segments]
        return record

    def _words(self, text: object, manifest: str | Path, number: int) -> list[str]:
        if not isinstance(text, str):
            raise InputError(f"text is {type(text).__name__}, expected a string", manifest, number)
        return self._cleaner.clean(text).split()


def is_transcribed(record: Record) -> bool:
    """Whether a record says what was said; empty texts stand for "unknown" in many manifests."""
    text = record.get("text")
    return text is not None and (not isinstance(text, str) or bool(text.strip()))


def make_speech_units_work(manifest: str | Path, output: str | Path, tokenizing: SpeechTokenizing) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs`) that adds units to the lines of a speech manifest."""
    manifest = Path(manifest)
    tokenizer = SpeechTokenizer(tokenizing)
    moved = manifest.parent.resolve() != Path(output).parent.resolve()

    def work(number: int, line: str) -> Record:
        record = tokenizer.tokenize(parse_line(line, manifest, number, ["audio_filepath"]), manifest, number)
        path = Path(record["audio_filepath"]).expanduser()
        if moved and not path.is_absolute():  # it is relative to the manifest that it stands in
            record["audio_filepath"] = str((manifest.parent / path).resolve())
        return record

    return work


def check_speech_inventory(inventory: UnitInventory, path: str | Path) -> None:
    """Raise unless the inventory counts durations as this aligner does."""
    if inventory.frame_rate != FRAME_RATE:
        raise InputError(
            f"unit inventory: frame_rate is {inventory.frame_rate:g}, but speech is aligned at {FRAME_RATE} a second",
            path,
        )


def with_estimated_durations(inventory: UnitInventory, manifest: str | Path) -> UnitInventory:
    """The inventory with the duration statistics of a speech manifest's units."""
    sequences = (
        unit_sequence(record, inventory, manifest, number)
        for number, record in read_manifest(manifest, ["units", "unit_durations"])
    )
    return inventory.with_durations(estimate_durations(sequences, inventory))
