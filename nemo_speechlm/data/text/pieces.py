"""Text to SentencePiece tokens, strictly: what the tokenizer cannot spell is an error, not an unknown token."""

from pathlib import Path

import sentencepiece

from nemo_speechlm.errors import InputError

WORD_START = "▁"
"""SentencePiece's sign for the beginning of a word; with characters as tokens it is one of its own."""


class TokenEncoder:
    """Text to token ids.

    It has a SentencePiece processor of its own, so that any kind of data-loading worker can be sent it.

    Args:
        model: SentencePiece model file (``tokenizer.model``), or the content of one.

    Attributes:
        content: of that file.

    Raises:
        InputError: if it is not there or not one.
    """

    def __init__(self, model: str | Path | bytes):
        self.name = "the tokenizer" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                raise InputError("no such file; expected a SentencePiece model, see train_tokenizer.py", model)
            model = Path(model).read_bytes()
        self.content = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError("is not a SentencePiece model that can be read", self.name) from error

    @property
    def labels(self) -> list[str]:
        """The tokens; an id is a position here."""
        return [self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize())]

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """Encode a transcript; runs of white space count as one space.

        Raises:
            InputError: on a character that no token has.
        """
        text = " ".join(text.split())
        ids = self._processor.EncodeAsIds(text)
        unknown = self._processor.unk_id()
        if unknown in ids:
            pieces = self._processor.EncodeAsPieces(text)
            found = next(piece for piece, i in zip(pieces, ids, strict=True) if i == unknown).strip(WORD_START)
            raise InputError(
                f"{found!r} in {text[:60]!r} cannot be spelled with the {len(self.labels)} tokens of {self.name}; "
                "normalize the text, or train the tokenizer on text that has it",
                path,
                line,
            )
        return ids
