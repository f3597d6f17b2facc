"""Beam search over the words of an ARPA model, through flashlight-text (extra ``lm``).

Axis legend: T frames, V labels without the blank.
"""

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nemo_speechlm.decoding.options import Decoded, DecodingOptions, words_beside
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import iter_lines, open_text
from nemo_speechlm.language_models.arpa import SPECIAL, arpa_words

_NEVER = -1e4
"""Log probability."""


class LexiconDecoder:
    """The most likely sequence of words that the language model knows.

    Args:
        lm: ARPA file of words (gzipped or not), or KenLM's binary format with ``<lm>.words`` beside it, a word a line.
        labels: the V labels. Characters, with the space or without, or tokens that begin words with ``▁``.
        spell: turns a word into label ids; words that it refuses by an ``InputError`` are left out.

    Raises:
        InputError: if the file is not there or cannot be read, or no word can be spelled.
        SpeechLMError: if flashlight-text is not installed.
    """

    def __init__(self, lm: str | Path, labels: Sequence[str], spell: Callable[[str], list[int]]):
        try:
            from flashlight.lib.text import decoder as flashlight
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import create_word_dict
        except ImportError as error:
            raise SpeechLMError(
                "decoding=lexicon needs flashlight-text, which has no wheel for Python 3.13: "
                "pip install 'nemo_speechlm[lm]' with Python 3.11 or 3.12"
            ) from error
        self._flashlight = flashlight
        lm = Path(lm)
        self._space = labels.index(" ") if " " in labels else None
        self._blank = len(labels)
        # Flashlight's silence may stand between words. Where no label is the space, it is a class that never occurs.
        self._silence = 2 * self._blank + 1 if self._space is None else self._space
        spellings, lost = _spellings(lm, spell, self._space)
        if not spellings:
            raise InputError("none of its words can be spelled with the labels of this model", lm)
        if lost:
            print(
                f"{lm}: {len(lost):,} of its {len(lost) + len(spellings):,} words cannot be spelled with the labels "
                f"of this model and will not be recognized, such as {', '.join(map(repr, lost[:3]))}",
                file=sys.stderr,
            )
        words = create_word_dict({**{word: [] for word in spellings}, "<unk>": []})
        self._unknown = words.get_index("<unk>")
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._lm = KenLM(str(_unpacked(lm, Path(folder))), words)
            except RuntimeError as error:
                raise InputError(f"KenLM cannot read it: {str(error).splitlines()[-1]}", lm) from error
        self._trie = flashlight.Trie(2 * self._blank + 2, self._silence)
        start = self._lm.start(False)
        for word, ids in spellings.items():
            index = words.get_index(word)
            score = self._lm.score(start, index)[1]
            self._trie.insert(ids, index, score)
            if self._space is None:
                self._trie.insert([*ids, self._blank + 1 + ids[-1]], index, score)
        self._trie.smear(flashlight.SmearingMode.MAX)
        self.vocabulary_size = len(spellings)

    def decode(
        self, log_probs: Sequence[np.ndarray], options: DecodingOptions, progress: Callable[[int], object]
    ) -> list[Decoded]:
        """See :class:`~nemo_speechlm.decoding.options.Decoder`."""
        settings = self._flashlight.LexiconDecoderOptions(
            beam_size=options.beam_size,
            beam_size_token=(options.beam_size_token or self._blank + 1) * (2 if self._space is None else 1),
            beam_threshold=options.beam_threshold,
            lm_weight=options.lm_weight,
            word_score=options.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=self._flashlight.CriterionType.CTC,
        )
        search = self._flashlight.LexiconDecoder(
            settings, self._trie, self._lm, self._silence, self._blank, self._unknown, [], False
        )
        decoded = []
        for frames in log_probs:
            decoded.append(self._one(search, frames))
            progress(1)
        return decoded

    def _one(self, search, log_probs: np.ndarray) -> Decoded:
        if not len(log_probs):
            return Decoded([], 0.0)
        x_TV = np.asarray(log_probs, dtype=np.float32)
        if self._space is None:
            x_TV = _with_continued(x_TV)
        else:  # words end with a space, the last one too
            end = np.full((1, x_TV.shape[1]), _NEVER, dtype=np.float32)
            end[0, self._space] = 0.0
            x_TV = np.concatenate([x_TV, end])
        x_TV = np.ascontiguousarray(x_TV)
        results = search.decode(x_TV.ctypes.data, *x_TV.shape)
        if not results:
            return Decoded([], 0.0)
        path = np.array([t for t in results[0].tokens if t >= 0])
        first = np.ones(len(path), dtype=bool)
        first[1:] = path[1:] != path[:-1]
        tokens = path[first & (path < self._blank)].tolist()
        if self._space is not None:
            tokens = _without_outer(tokens, self._space)
        return Decoded(tokens, float(results[0].score))


def _with_continued(x_TV: np.ndarray) -> np.ndarray:
    """Put classes behind the blank: of each label, that it goes on from the frame before; and one that never occurs.

    For flashlight, a word is over with the first frame of its last label. That label is the space where there is one;
    any other may go on, so words have a second spelling, with its continuation at the end. It is there only where the
    label was no less likely than the blank before, and where the next frame is not best called by it, too: else two
    equal labels would pass for one, or one for two.
    """
    labels, blank = x_TV[:, :-1], x_TV[:, -1:]
    goes_on = np.zeros(labels.shape, dtype=bool)
    goes_on[1:] = labels[:-1] >= blank[:-1]
    goes_on[:-1] &= x_TV.argmax(axis=1)[1:, None] != np.arange(labels.shape[1])
    return np.concatenate([x_TV, np.where(goes_on, labels, _NEVER), np.full_like(blank, _NEVER)], axis=1)


def _without_outer(tokens: list[int], space: int) -> list[int]:
    start, end = 0, len(tokens)
    while start < end and tokens[start] == space:
        start += 1
    while end > start and tokens[end - 1] == space:
        end -= 1
    return tokens[start:end]


def _spellings(
    lm: Path, spell: Callable[[str], list[int]], space: int | None
) -> tuple[dict[str, list[int]], list[str]]:
    """The labels of each word of a model, and the words that cannot be spelled."""
    found, lost = {}, []
    for word in _words(lm):
        if word in SPECIAL:  # a list beside a binary model may have them
            continue
        try:
            ids = spell(word)
        except InputError:
            lost.append(word)
            continue
        if ids:
            found[word] = ids if space is None else [*ids, space]
    return found, lost


def _words(lm: Path) -> Iterator[str]:
    """The model's vocabulary: unigrams of an ARPA file, or the list beside a binary one."""
    if not lm.is_file():
        raise InputError("no such file; expected a language model of words, see train_ngram.py", lm)
    listed = words_beside(lm)
    if listed.exists():
        yield from (line.strip() for _, line in iter_lines(listed))
        return
    try:
        yield from arpa_words(lm)
    except InputError as error:
        raise InputError(
            f"{error.reason}; a model in KenLM's binary format needs its list of words, {listed.name}, beside it",
            lm,
            error.line,
        ) from error


def _unpacked(lm: Path, folder: Path) -> Path:
    if lm.suffix != ".gz":
        return lm
    plain = folder / lm.stem
    with open_text(lm) as source, open(plain, "w", encoding="utf-8") as target:
        shutil.copyfileobj(source, target)
    return plain
