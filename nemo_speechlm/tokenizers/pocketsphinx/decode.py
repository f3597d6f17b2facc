"""Decoding of English speech that has no transcript, with pocketsphinx (as the paper labels its unpaired speech)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pocketsphinx

from nemo_speechlm.data.audio.files import to_int16
from nemo_speechlm.data.manifests.sentences import iter_texts
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import atomic_write
from nemo_speechlm.language_models.kneser_ney import train_ngram_model
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.tokenizers.pocketsphinx.align import MAX_VARIANTS, run_decoder
from nemo_speechlm.units.phones import base_phone


class LanguageModel(NamedTuple):
    """The words that a decoder knows, and their language model.

    Attributes:
        lm: n-gram model in the ARPA format or pocketsphinx's binary one; None is the one that comes with it.
        dictionary: words and their phones in pocketsphinx's format; None is the one that comes with it.
    """

    lm: Path | None = None
    dictionary: Path | None = None


class DecodedSpeech(NamedTuple):
    """What was recognized in an utterance.

    Attributes:
        words: in order, without silences and noises.
        confidence: mean posterior probability of the words, from 0 to 1.
    """

    words: list[str]
    confidence: float


class SpeechDecoder:
    """Turns speech into words.

    Args:
        model: language model and dictionary.
        max_states: HMM states kept in a frame. On read speech, 3,000 made no more errors than pocketsphinx's 30,000.
        max_words: words that may end in a frame.

    Raises:
        InputError: if pocketsphinx cannot read the model or the dictionary.
    """

    def __init__(self, model: LanguageModel | None = None, max_states: int = 3000, max_words: int = 5):
        model = model or LanguageModel()
        pocketsphinx.set_loglevel("FATAL")
        options = {
            name: str(path) for name, path in (("lm", model.lm), ("dict", model.dictionary)) if path is not None
        }
        try:
            self._decoder = pocketsphinx.Decoder(maxhmmpf=max_states, maxwpf=max_words, **options)
        except RuntimeError as error:
            names = " and ".join(f"{name}={path}" for name, path in options.items())
            raise InputError(f"pocketsphinx cannot read {names}") from error

    def decode(self, samples: np.ndarray) -> DecodedSpeech:
        """Decode an utterance.

        Args:
            samples: speech at 16 kHz, shape (T,), between -1 and 1.

        Raises:
            SkipItem: if no word was heard.
        """
        found = run_decoder(self._decoder, to_int16(samples).tobytes())
        heard = [s for s in self._decoder.seg() if s.word[0] not in "<[("] if found else []  # <sil>, [NOISE], (NULL)
        if not heard:
            raise SkipItem("no word was heard")
        confidence = float(np.mean([min(s.prob, 1.0) for s in heard]))
        return DecodedSpeech([s.word.partition("(")[0] for s in heard], confidence)


def make_language_model(
    text: str | Path,
    lm: str | Path,
    dictionary: str | Path,
    phonemizer: EnglishPhonemizer,
    *,
    order: int = 3,
    vocabulary_size: int | None = 20000,
) -> int:
    """Make an n-gram model of a text, with its dictionary; returns the number of words that it knows.

    Args:
        text: plain text, one sentence a line, or JSON lines with ``text``. It is cleaned as prepare_text.py does;
            lines with digits are left out, as are triples of words that occur once.
        lm: where to write the model, in the ARPA format.
        dictionary: where to write the pronunciations of its words.
        phonemizer: of the dictionary.
        order: length of the longest n-grams, 1 to 3.
        vocabulary_size: the most frequent words that are kept; None keeps all.

    Raises:
        InputError: if there are no words in the text.
    """
    try:
        # one occurrence of a triple says little, and they are most of a large text's
        ngrams = train_ngram_model(_sentences(text), order, vocabulary_size, cutoffs=(1, 2))
    except InputError as error:
        raise InputError(error.reason, text) from None
    ngrams.write_arpa(lm)
    write_dictionary(ngrams.words, dictionary, phonemizer)
    return len(ngrams.words)


def _sentences(text: str | Path) -> Iterator[list[str]]:
    cleaner = SentenceCleaner(TextCleaning())
    for _, sentence in iter_texts(text):
        try:
            yield cleaner.clean(sentence).split()
        except SkipItem:
            continue


def write_dictionary(words: Iterable[str], path: str | Path, phonemizer: EnglishPhonemizer) -> None:
    """Write the pronunciations of words as pocketsphinx reads them: without stress, variants as ``word(2)``."""
    with atomic_write(path) as file:
        for word in words:
            phones = [" ".join(map(base_phone, p)) for p in phonemizer.pronunciations(word)]
            for number, variant in enumerate(list(dict.fromkeys(phones))[:MAX_VARIANTS], start=1):
                file.write(f"{word if number == 1 else f'{word}({number})'} {variant}\n")
