"""Divide sentences among training, validation and test by their content, so that equal ones stay together."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record

_PARTS = 64
"""Of the keys, by their lowest bits; a power of two, at most 128."""


def place_sentences(
    records: Iterable[Record], *, unique: bool, valid_lines: int, valid_output: Path | None, seed: int
) -> Sequence[Path | str | None]:
    """Where each sentence goes: repeated ones nowhere, ``valid_lines`` random ones to ``valid_output``.

    Needs at most 16 bytes a sentence, so that a corpus of tens of millions fits in memory. A held-out sentence occurs
    nowhere else if ``unique``.

    Raises:
        InputError: if there are no more than ``valid_lines`` sentences.
    """
    keys = np.fromiter((_key(record["text"]) for record in records), dtype=np.uint64)
    kept = _first_of_each(keys) if unique else np.ones(len(keys), dtype=bool)
    del keys
    count = int(np.count_nonzero(kept))
    if valid_lines and valid_lines >= count:
        raise InputError(f"valid_lines={valid_lines}, but the source gives {count} in all")
    held_out = np.random.default_rng(seed).choice(count, valid_lines, replace=False)
    choices: tuple[Path | str | None, ...] = (None, "a repeated sentence", valid_output)
    codes = (~kept).astype(np.int8)
    codes[np.flatnonzero(kept)[held_out]] = 2
    return _Places(codes, choices)


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """Whether a key stands there for the first time: (N,) bool. The keys are looked at a part at a time: sorting them
    all would take four times their memory.
    """
    first = np.zeros(len(keys), dtype=bool)
    parts = keys.astype(np.uint8) % np.uint8(_PARTS)
    for part in range(_PARTS):
        rows = np.flatnonzero(parts == part)
        first[rows[np.unique(keys[rows], return_index=True)[1]]] = True
    return first


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
