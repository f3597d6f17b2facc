"""Divide sentences among training, validation and test by their content, so that equal ones stay together."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record


def place_sentences(
    records: Iterable[Record], *, unique: bool, valid_lines: int, valid_output: Path | None, seed: int
) -> Sequence[Path | str | None]:
    """Where each sentence goes: repeated ones nowhere, ``valid_lines`` random ones to ``valid_output``.

    Needs 16 bytes a sentence, so that a corpus of tens of millions fits in memory. A held-out sentence occurs nowhere
    else if ``unique``.

    Raises:
        InputError: if there are no more than ``valid_lines`` sentences.
    """
    keys = np.fromiter((_key(record["text"]) for record in records), dtype=np.uint64)
    kept = np.sort(np.unique(keys, return_index=True)[1]) if unique else np.arange(len(keys))
    if valid_lines and valid_lines >= len(kept):
        raise InputError(f"valid_lines={valid_lines}, but the source gives {len(kept)} in all")
    held_out = np.random.default_rng(seed).choice(kept, valid_lines, replace=False)
    choices: tuple[Path | str | None, ...] = (None, "a repeated sentence", valid_output)
    codes = np.ones(len(keys), dtype=np.int8)
    codes[kept] = 0
    codes[held_out] = 2
    return _Places(codes, choices)


class _Places(Sequence):
    """Places of sentences, one byte each."""

    def __init__(self, codes: np.ndarray, choices: tuple[Path | str | None, ...]):
        self._codes, self._choices = codes, choices

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: Any) -> Any:
        return self._choices[self._codes[index]]


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
