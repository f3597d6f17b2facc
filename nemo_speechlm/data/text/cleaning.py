"""Plain text into normalized sentences: one alphabet, no punctuation, no duplicates, some held out for validation."""

import re
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

from nemo_speechlm.data.manifests.lines import text_of
from nemo_speechlm.data.text.cleaning_options import TextCleaning, cased
from nemo_speechlm.data.text.folding import APOSTROPHES, PLAIN_LETTERS, PunctuationFolder
from nemo_speechlm.data.text.normalizer import NEEDS_NORMALIZER, nemo_normalizer
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record, iter_lines, parse_line
from nemo_speechlm.jobs.types import Work

_OTHER = "\0"

SURVEYED = 2000
"""Lines of a text that are looked at before it is cleaned."""

RARE = 0.01
"""Share of letters with accents in a text of a language without: of foreign words."""

_ELIDED = re.compile(
    "'(?:tis|twas|twere|twill|twould|em|till?|bout|cause|course|round|neath|gainst|mongst)", re.IGNORECASE
)


_DASHES = re.compile("-{2,}")


class SentenceCleaner:
    """Cleans sentences as a :class:`TextCleaning` says.

    >>> SentenceCleaner(TextCleaning()).clean("\u201cDon\u2019t,\u201d said the 'old' na\u00efve man\u2014softly.")
    "don't said the old naive man softly"
    """

    def __init__(self, cleaning: TextCleaning):
        self._cleaning = cleaning
        self._table = _CharacterTable(cleaning.characters)
        self._punctuation = PunctuationFolder(cleaning.characters)
        self._apostrophe = next((c for c in APOSTROPHES if c in cleaning.characters), "'")
        self._spellings = dict(cleaning.spellings)
        self._normalize = nemo_normalizer(cleaning) if cleaning.normalizer == "nemo" else None

    def clean(self, text: str) -> str:
        """The sentence in the wanted alphabet.

        Raises:
            SkipItem: if it is left out, with the reason.
        """
        cleaning = self._cleaning
        if self._normalize is not None and NEEDS_NORMALIZER.search(text):
            text = self._normalize(text)  # before NFKC, which makes 21/2 of two and a half
        if "-" in cleaning.characters:  # where it is a letter, two are a dash, and no word has both sides of it
            text = _DASHES.sub(" ", text)
        text = cased(unicodedata.normalize("NFKC", self._punctuation(text)), cleaning.case, cleaning.characters)
        translated = text.translate(self._table)
        words = translated.split()
        if _OTHER in translated:
            if cleaning.other_characters == "skip_line":
                raise SkipItem(self._reason(text))
            if cleaning.other_characters == "drop_word":
                words = [word for word in words if _OTHER not in word]
            words = [word.replace(_OTHER, "") for word in words]
        words = [word for word in (_without_quotes(word, self._apostrophe) for word in words if word) if word]
        if self._spellings:
            words = [self._spellings.get(word, word) for word in words]
        text = " ".join(words)
        self._check_length(len(words), len(text))
        return text

    def _reason(self, text: str) -> str:
        others = [c for c in text if self._table[ord(c)] == _OTHER]
        if all(c.isdigit() for c in others):
            return "digits (normalizer=nemo writes them out)"
        return f"letters outside characters: {next(c for c in others if not c.isdigit())!r}"

    def _check_length(self, words: int, characters: int) -> None:
        cleaning = self._cleaning
        if not words:
            raise SkipItem("no words")
        if words < cleaning.min_words:
            raise SkipItem(f"fewer than min_words={cleaning.min_words} words")
        if cleaning.max_words is not None and words > cleaning.max_words:
            raise SkipItem(f"more than max_words={cleaning.max_words} words")
        if characters < cleaning.min_characters:
            raise SkipItem(f"fewer than min_characters={cleaning.min_characters} characters")
        if cleaning.max_characters is not None and characters > cleaning.max_characters:
            raise SkipItem(f"more than max_characters={cleaning.max_characters} characters")


class _CharacterTable(dict[int, str]):
    """For ``str.translate``: what becomes of each character, found out when it is first met."""

    def __init__(self, characters: str):
        super().__init__()
        self._characters = frozenset(characters) - {" "}
        self._punctuation = PunctuationFolder(characters)

    def __missing__(self, code: int) -> str:
        self[code] = result = self._of(chr(code))
        return result

    def _of(self, character: str) -> str:
        character = self._punctuation(character)  # again: NFKC makes some, such as that of U+0149
        if character in self._characters:
            return character
        if character == "'":  # dropped where the alphabet has none: "dont" keeps its sound, "don t" does not
            return ""
        category = unicodedata.category(character)
        if category in ("Cf", "Mn", "Cc") and not character.isspace():  # soft hyphens, stray accents
            return ""
        if category[0] in "PSZC":
            return " "
        return self._folded(character)

    def _folded(self, character: str) -> str:
        """The character without its accents, if that is in the alphabet."""
        plain = PLAIN_LETTERS.get(character.lower()) or "".join(
            c for c in unicodedata.normalize("NFD", character) if not unicodedata.combining(c)
        )
        plain = plain.upper() if character.isupper() else plain
        return plain if set(plain) <= self._characters else _OTHER


def _without_quotes(word: str, apostrophe: str) -> str:
    """Apostrophes at a word's edges taken off where they are quotation marks: not from 'tis, boys' or dancin'.

    So are hyphens, which are dashes there, where the alphabet has them.
    """
    if word[0] == "-" or word[-1] == "-":
        word = word.strip("-")
    if apostrophe != "'":  # of another language than English, whose words these are
        return word.strip(apostrophe)
    if not (word.startswith("'") or word.endswith("'")):
        return word
    if word.startswith("'") and not _ELIDED.fullmatch(word):
        return word.strip("'")
    return word if word.lower().endswith(("s'", "in'")) else word.rstrip("'")


def lost_accents(source: str | Path, cleaning: TextCleaning) -> str | None:
    """What to say where the letters of a text are those of the alphabet but for accents, which would be taken off.

    The text may be of another language than the alphabet: of English, "příliš" would become "prilis" without a word.
    The first ``SURVEYED`` lines tell.

    Args:
        source: text, or JSON lines with ``text``.
        cleaning: what it is about to be cleaned by.

    Returns:
        None where hardly any letter would lose an accent.
    """
    kept = frozenset(cleaning.characters)
    table, letters, lost = _CharacterTable(cleaning.characters), 0, Counter[str]()
    for number, line in islice(iter_lines(source), SURVEYED):
        text = line
        if cleaning.json_lines:
            try:
                text = text_of(parse_line(line, source, number, ["text"]), "text", source, number)
            except InputError:  # the job will tell of it
                continue
        for character in cased(unicodedata.normalize("NFKC", text), cleaning.case, cleaning.characters):
            if character.isalpha():
                letters += 1
                if character not in kept and table[ord(character)] != _OTHER:
                    lost[character] += 1
    if not letters or lost.total() <= RARE * letters:
        return None
    return (
        f"{source}: {lost.total() / letters:.0%} of the letters lose their accents "
        f"({', '.join(character for character, _ in lost.most_common(5))}): they are not in characters. "
        "If the text is of another language, give language="
    )


def make_cleaning_work(cleaning: TextCleaning | None, source: str | Path) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs.job`) that cleans the lines of ``source``.

    With None, a line keeps its text; runs of white space become one space.
    """
    if cleaning is None:
        return _as_it_is
    cleaner = SentenceCleaner(cleaning)

    def work(number: int, line: str) -> Record:
        if not cleaning.json_lines:
            return {"text": cleaner.clean(line)}
        record = parse_line(line, source, number, ["text"])
        return {"text": cleaner.clean(text_of(record, "text", source, number))}

    return work


def _as_it_is(number: int, line: str) -> Record:
    text = " ".join(line.split())
    if not text:
        raise SkipItem("no words")
    return {"text": text}
