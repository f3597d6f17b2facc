"""The unit inventory of a model: a file of its config, which then travels in its ``.nemo``."""

from nemo.core.classes import ModelPT

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory


def registered_inventory(model: ModelPT, key: str) -> UnitInventory:
    """Read the inventory that ``cfg[key]`` names, and make it an artifact of the model.

    Raises:
        InputError: where the file is missing or not a valid inventory.
    """
    path = model.cfg[key]
    try:
        path = model.register_artifact(key, path)
    except FileNotFoundError as error:
        raise InputError("cannot read the unit inventory: no such file", path) from error
    return UnitInventory.load(path)
