"""The tokens that an attention decoder writes: fairseq's special ones, then characters or SentencePiece tokens."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nemo_speechlm.data.manifests.lines import read_texts
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.text.characters import is_special
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3: of a CTC blank, of padding, of a sentence's end (and beginning), of what is not in a dictionary."""


class TargetVocabulary(Protocol):
    """What turns text into token ids and back. Calling one is encoding, so that data loaders take it as it is."""

    symbols: list[str]
    """All tokens; an id is a position here."""

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """Token ids without ``</s>``; raises InputError on what cannot be written with the tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are left out."""


class CharacterVocabulary:
    """Characters.

    Args:
        labels: one character each, behind the special tokens. Dictionaries of others may hold longer ones: text can
            then be read from tokens, but not turned into them.
        leading_space: texts begin with a space, as they do for models whose characters SentencePiece made.
    """

    def __init__(self, labels: Sequence[str], leading_space: bool = False):
        if not labels:
            raise InputError("labels is empty; expected the characters that the decoder may write")
        twice = [label for label, count in Counter(labels).items() if count > 1]
        if twice:
            raise InputError(f"labels has {twice[0]!r} twice")
        self.symbols = [*SPECIAL, *labels]
        self.leading_space = leading_space
        self._ids = {label: index for index, label in enumerate(self.symbols) if len(label) == 1}
        filler = ("madeupword",)  # what fairseq fills dictionaries up with
        self._long = next((s for s in labels if len(s) > 1 and not is_special(s) and not s.startswith(filler)), None)

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """Spell a text; runs of white space count as one space."""
        if self._long is not None:
            raise InputError(f"labels has {self._long!r}: text cannot be spelled with more than single characters")
        text = " ".join(text.split())
        if self.leading_space and text:
            text = " " + text
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise InputError(
                f"{character!r} (U+{ord(character):04X}) in {text[:60]!r} is not among the {len(self._ids)} "
                "characters of the decoder, which are those of the training texts unless model.labels names others; "
                "give all of them there, normalize the text, or leave the line out",
                path,
                line,
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Join the characters of ids."""
        return "".join(self.symbols[i] for i in ids if i >= len(SPECIAL)).replace("▁", " ").strip()


class PieceVocabulary:
    """The tokens of a SentencePiece model, behind the special ones.

    Args:
        encoder: of the model.
    """

    def __init__(self, encoder: TokenEncoder):
        self.encoder = encoder
        self.symbols = [*SPECIAL, *encoder.labels]

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """Cut a text into tokens."""
        return [i + len(SPECIAL) for i in self.encoder(text, path, line)]

    def decode(self, ids: Iterable[int]) -> str:
        """Join the tokens of ids; ``▁`` begins a word."""
        pieces = [self.symbols[i] for i in ids if i >= len(SPECIAL)]
        return "".join(piece for piece in pieces if not is_special(piece)).replace("▁", " ").strip()


@dataclass(frozen=True)
class TargetSurvey:
    """What the texts to be written look like.

    Attributes:
        characters: those that occur, the space first, then in order of code points.
        source_lang: of the speech, where the manifests say so.
        target_lang: of the text, where they do.
    """

    characters: list[str]
    source_lang: str | None
    target_lang: str | None


def survey_targets(manifests: str | Sequence, text_field: str = "text", skip_bad: bool = False) -> TargetSurvey:
    """Read the texts of manifests through before there is a vocabulary.

    Args:
        manifests: paths as in ``manifest_filepath`` of NeMo's data configs.
        text_field: the text's key; languages are in ``source_lang`` and ``target_lang``.
        skip_bad: leave out lines without such a text.

    Raises:
        InputError: if a line has no such text and is not left out, languages change from line to line, or there is no
            text at all.
    """
    characters: set[str] = set()
    languages: dict[str, str] = {}
    for path, number, record, text in read_texts(manifests, text_field, skip_bad):
        characters.update(text)
        for field in ("source_lang", "target_lang"):
            found = record.get(field)
            if found is not None and languages.setdefault(field, found) != found:
                raise InputError(
                    f"{field!r} is {found!r}, {languages[field]!r} before; train one model per language pair",
                    path,
                    number,
                )
    letters = sorted(character for character in characters if not character.isspace())
    if not letters:
        raise InputError(f"there is no text in {', '.join(expand_shards(manifests))}")
    return TargetSurvey([" ", *letters], languages.get("source_lang"), languages.get("target_lang"))
