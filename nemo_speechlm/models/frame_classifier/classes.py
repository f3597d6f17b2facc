"""TODO nemo_speechlm.models.frame_classifier.model.classes."""

import re
from typing import Any

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.units.inventory import UnitInventory


def check_parts(parts: Any) -> int:
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        raise SpeechLMError(f"model.classes.parts is {parts!r}, expected a whole number of at least 1")
    return parts


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
