"""Training a SentencePiece tokenizer, in the folder that NeMo's models want."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from nemo_speechlm.checks import check_number
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.locks import only_writer
from nemo_speechlm.quiet import verbose_by_environment

_ERRORS = 2
"""SentencePiece's level of what it logs; 0 is all."""
KINDS = ("unigram", "bpe", "char", "word")
FILES = ("tokenizer.model", "tokenizer.vocab", "vocab.txt")
"""What the folder holds. The model is removed first and written last: where it is, the others are its own."""


_MOST_BYTES = 4192
"""Of a line; SentencePiece leaves out longer ones."""


def _pieces(sentence: str) -> Iterator[str]:
    """A sentence, divided between words where it is longer than SentencePiece takes."""
    if len(sentence.encode()) < _MOST_BYTES:
        yield sentence
        return
    piece = ""
    for word in sentence.split():
        if piece and len(f"{piece} {word}".encode()) >= _MOST_BYTES:
            yield piece
            piece = word
        else:
            piece = f"{piece} {word}".strip()
    yield piece


def train_tokenizer(
    sentences: Iterable[str],
    folder: str | Path,
    vocab_size: int,
    kind: str = "unigram",
    character_coverage: float = 1.0,
    sample_size: int = 0,
    overwrite: bool = False,
) -> int:
    """Train a tokenizer with NeMo's settings of SentencePiece: no sentence symbols, and id 0 for the unknown.

    Args:
        sentences: what to train on, cleaned as transcripts are.
        folder: where ``tokenizer.model``, ``tokenizer.vocab`` and ``vocab.txt`` go.
        vocab_size: number of tokens; fewer are made where the text is too small for so many.
        kind: one of ``KINDS``.
        character_coverage: share of the text's characters that are given tokens; below 1 for thousands of characters.
        sample_size: draw so many sentences to train on; 0 takes all.
        overwrite: replace a tokenizer that is there already.

    Returns:
        the number of tokens.

    Raises:
        InputError: if there is no text, a tokenizer in the folder, or the settings do not fit the text.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    check_number("character_coverage", character_coverage, least=0.98, most=1)  # the range that SentencePiece allows
    folder = Path(folder)
    with only_writer(folder / FILES[0]):
        return _train(sentences, folder, vocab_size, kind, character_coverage, sample_size, overwrite)


def _train(
    sentences: Iterable[str],
    folder: Path,
    vocab_size: int,
    kind: str,
    character_coverage: float,
    sample_size: int,
    overwrite: bool,
) -> int:
    """:func:`train_tokenizer` once nobody else writes the folder."""
    refuse_overwrite(folder / FILES[0], overwrite)
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model

    sentencepiece.set_min_log_level(0 if verbose_by_environment() else _ERRORS)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial.") as work:
        text = Path(work) / "text"
        with open(text, "w", encoding="utf-8") as file:
            count = sum(bool(file.write(piece + "\n")) for sentence in sentences for piece in _pieces(sentence))
        if not count:
            raise InputError("there is no text to train a tokenizer on")
        try:
            create_spt_model(
                str(text),
                vocab_size,
                sample_size,
                do_lower_case=False,
                tokenizer_type=kind,
                output_dir=str(Path(work) / "made"),
                character_coverage=character_coverage,
                remove_extra_whitespaces=True,
            )
        except RuntimeError as error:
            raise InputError(f"SentencePiece cannot make {vocab_size} tokens of this text: {error}") from error
        (folder / FILES[0]).unlink(missing_ok=True)
        for name in reversed(FILES):
            os.replace(Path(work) / "made" / name, folder / name)
    with open(folder / "tokenizer.vocab", encoding="utf-8") as file:
        return sum(1 for _ in file)
