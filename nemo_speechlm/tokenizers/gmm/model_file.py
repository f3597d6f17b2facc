"""The file of an aligner with its units and pronunciations: all that is needed to align new speech."""

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nemo_speechlm.alignment.aligner import GmmAligner
from nemo_speechlm.alignment.file import load_aligner, save_aligner
from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.word_pronouncer import Pronouncing
from nemo_speechlm.units.inventory import UnitInventory

_LEXICON = "lexicon"
"""Name of the tensor with the lexicon's JSON, compressed: as text it may be larger than a header can be."""


class GmmModel(NamedTuple):
    """An aligner with its units and pronunciations.

    Attributes:
        aligner: the acoustics.
        pronouncing: how words become units.
        inventory: the units.
        speaker_key: key of manifests that names the speaker.
    """

    aligner: GmmAligner
    pronouncing: Pronouncing
    inventory: UnitInventory
    speaker_key: str


def save_model(path: str | Path, model: GmmModel) -> None:
    """Write one file with all of it."""
    lexicon = json.dumps({word: [list(v) for v in variants] for word, variants in model.pronouncing.lexicon.items()})
    packed = torch.from_numpy(np.frombuffer(zlib.compress(lexicon.encode()), dtype=np.uint8).copy())
    extra = {
        "pronouncing": model.pronouncing.to_dict(),
        "inventory": model.inventory.to_dict(),
        "speaker_key": model.speaker_key,
    }
    save_aligner(path, model.aligner, extra, {_LEXICON: packed})


def load_model(path: str | Path) -> GmmModel:
    """Read what :func:`save_model` wrote.

    Raises:
        InputError: if it is missing, damaged or something else.
    """
    saved = load_aligner(path)
    try:
        lexicon = json.loads(zlib.decompress(saved.tensors[_LEXICON].numpy().tobytes()))
        lexicon = {word: [tuple(variant) for variant in variants] for word, variants in lexicon.items()}
        pronouncing = Pronouncing(lexicon=lexicon, **saved.extra["pronouncing"])
        inventory = UnitInventory.from_dict(saved.extra["inventory"], path)
        return GmmModel(saved.aligner, pronouncing, inventory, str(saved.extra["speaker_key"]))
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise InputError(f"a damaged aligner: {type(error).__name__}: {error}", path) from error
