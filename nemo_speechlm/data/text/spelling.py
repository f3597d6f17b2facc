"""Letters that texts may write without their accents, put back as transcripts have them: ещё where a novel has еще."""

import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from nemo_speechlm.data.manifests.lines import read_manifest, text_of
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import SkipItem, SpeechLMError


def spellings_of(
    transcripts: Sequence[str | Path], optional: str, cleaning: TextCleaning
) -> tuple[tuple[str, str], ...]:
    """How words of transcripts are written without an optional letter, and with it.

    A word that the transcripts have without the letter, too, is left as it is, whichever is meant: все and всё.

    Args:
        transcripts: manifests with ``text``.
        optional: the letters, such as ``"ё"``.
        cleaning: of transcripts; bounds of length do not count.

    Raises:
        SpeechLMError: if there are no such letters, or no word of the transcripts has one.
        InputError: at a line without a text.
    """
    if not optional:
        raise SpeechLMError(
            "spelled_as is for languages with optional letters (language.optional), as ru has ё; this one has none"
        )
    plain = str.maketrans({letter: _without_accent(letter) for letter in optional + optional.upper()})
    words = _words(transcripts, SentenceCleaner(cleaning))
    with_it = sorted(word for word in words if word.translate(plain) != word)
    if not with_it:
        raise SpeechLMError(f"spelled_as: no word of {', '.join(map(str, transcripts))} has {' or '.join(optional)}")
    found = {word.translate(plain): word for word in with_it}
    return tuple((without, word) for without, word in sorted(found.items()) if without not in words)


def _words(transcripts: Sequence[str | Path], cleaner: SentenceCleaner) -> Collection[str]:
    words: set[str] = set()
    for path in transcripts:
        for number, record in read_manifest(path, ["text"]):
            try:
                words.update(cleaner.clean(text_of(record, "text", path, number)).split())
            except SkipItem:
                continue
    return words


def _without_accent(letter: str) -> str:
    return unicodedata.normalize("NFD", letter)[0]
