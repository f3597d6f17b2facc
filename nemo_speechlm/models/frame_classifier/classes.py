"""The classes of a frame classifier: phones that units fall together into, each in equal parts of its time."""

import re

import torch
from torch import Tensor

from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.units.inventory import UnitInventory


def merged_phones(inventory: UnitInventory, ignore: str | None) -> tuple[list[str], list[int]]:
    """Names of the phones that units fall together into, and the phone of each unit."""
    try:
        pattern = re.compile(ignore) if ignore else None
    except re.error as error:
        raise SpeechLMError(f"model.classes.ignore is {ignore!r}, not a regular expression: {error}") from error
    names = [pattern.sub("", symbol) or symbol if pattern else symbol for symbol in inventory.symbols]
    phones = list(dict.fromkeys(names))
    numbers = {phone: number for number, phone in enumerate(phones)}
    return phones, [numbers[name] for name in names]


def classes_of(units: Tensor, phone_of_unit: Tensor, parts: int) -> Tensor:
    """Units (B, L), one per frame -> classes (B, L): the unit's phone, and which part of its time the frame is in.

    Where an utterance is cut, so is the time of its first and last unit.

    Args:
        units: ``PAD_UNIT`` where there is none, and then the class is ``PAD_UNIT``, too.
        phone_of_unit: (V,) the phone of each unit.
        parts: classes of each phone.
    """
    B, L = units.shape
    position = torch.arange(L, device=units.device).expand(B, L)
    changes = torch.ones_like(units, dtype=torch.bool)
    changes[:, 1:] = units[:, 1:] != units[:, :-1]
    first = torch.where(changes, position, 0).cummax(1).values
    following = torch.where(changes, position, L).roll(-1, 1)
    following[:, -1] = L
    stop = following.flip(1).cummin(1).values.flip(1)
    part = (position - first) * parts // (stop - first)
    classes = phone_of_unit[units.clamp(min=0)] * parts + part
    return classes.masked_fill(units == PAD_UNIT, PAD_UNIT)
