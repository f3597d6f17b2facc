"""A lexicon of the words of a corpus, and the inventory of the units that they are made of."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from nemo_speechlm.data.manifests.sentences import iter_texts
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.pronouncing.phonemizer import Phonemizer

_LOOKED_UP_AT_ONCE = 512


@dataclass
class CorpusLexicon:
    """Words with their pronunciations, and how often each phone occurs in the text that they come from.

    Attributes:
        words: pronunciations in phones, the usual one first.
        phones: occurrences of each phone, a word counted by its usual pronunciation.
        report: words written, and why others are missing.
    """

    words: dict[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    phones: Counter[str] = field(default_factory=Counter)
    report: JobReport = field(default_factory=JobReport)


def count_words(sources: Iterable[str | Path], language: Language) -> Counter[str]:
    """How often each word stands in texts or manifests (plain or JSON lines with ``text``, gzipped or not).

    Raises:
        InputError: naming the line, if it has no text; or if there are no words.
    """
    words: Counter[str] = Counter()
    for source in sources:
        for _, text in tqdm(iter_texts(source), desc=f"words of {Path(source).name}", unit="line"):
            words.update(language.sentence_words(text))
        if not words:
            raise InputError("no words in it", source)
    return words


def make_lexicon(
    counts: Mapping[str, int], phonemizer: Phonemizer, language: Language, *, min_words: int = 1, min_phones: int = 1
) -> CorpusLexicon:
    """Pronounce the words of a corpus.

    Args:
        counts: of its words.
        phonemizer: what knows them.
        language: its rule for foreign words.
        min_words: words that are rarer are left out.
        min_phones: rarer phones are taken for errors; pronunciations with them are left out.

    Raises:
        InputError: if nothing is left.
    """
    lexicon = CorpusLexicon()
    wanted: list[str] = []
    for word in sorted(counts):
        if language.foreign != "espeak" and language.is_foreign(word):
            lexicon.report.skip("a word with digits or letters outside the alphabet")
        elif counts[word] < min_words:
            lexicon.report.skip(f"a word that occurs fewer than min_words={min_words} times")
        else:
            wanted.append(word)
    spoken: dict[str, Sequence[Sequence[str]]] = {}
    with tqdm(total=len(wanted), desc="pronounce", unit="word") as bar:
        unknown = iter(wanted)
        while words := list(islice(unknown, _LOOKED_UP_AT_ONCE)):
            phonemizer.prepare(words)
            for word in words:
                try:
                    spoken[word] = phonemizer.pronunciations(word)
                except InputError:
                    lexicon.report.skip("a word without a pronunciation")
            bar.update(len(words))
    while True:  # words that are left out take their phones along, of which others may be rare then
        lexicon.phones = _phones_of(spoken, counts)
        rare = {phone for phone, count in lexicon.phones.items() if count < min_phones}
        if not rare:
            break
        for word, variants in list(spoken.items()):
            spoken[word] = [variant for variant in variants if not rare.intersection(variant)]
            if not spoken[word]:
                lexicon.report.skip(f"a word with a phone that occurs fewer than min_phones={min_phones} times")
                del spoken[word]
    lexicon.words.update(spoken)
    lexicon.report.written += len(spoken)
    if not lexicon.words:
        raise InputError(f"no word is left: {lexicon.report}")
    return lexicon


def _phones_of(spoken: Mapping[str, Sequence[Sequence[str]]], counts: Mapping[str, int]) -> Counter[str]:
    """How often each phone occurs in a text with these words; one of further variants alone as often as its word."""
    phones: Counter[str] = Counter()
    for word, variants in spoken.items():
        for phone in variants[0]:
            phones[phone] += counts[word]
        for variant in variants[1:]:
            phones.update(dict.fromkeys(set(variant) - set(variants[0]), counts[word]))
    return phones


def write_lexicon(path: str | Path, lexicon: CorpusLexicon) -> None:
    """Write a word and its phones a line, sorted by word; a word with several pronunciations stands on several."""
    with atomic_write(path) as file:
        for word in sorted(lexicon.words):
            for phones in lexicon.words[word]:
                file.write(f"{word}\t{' '.join(phones)}\n")


def write_counts(path: str | Path, lexicon: CorpusLexicon) -> None:
    """Write each phone with its number of occurrences, the commonest first."""
    with atomic_write(path) as file:
        for phone, count in sorted(lexicon.phones.items(), key=lambda item: (-item[1], item[0])):
            file.write(f"{phone}\t{count}\n")
