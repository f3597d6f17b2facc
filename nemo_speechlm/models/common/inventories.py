"""The unit inventory of a model: a file of its config, which then travels in its ``.nemo``."""

import json
import tarfile
from pathlib import Path

import yaml
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


def read_inventory(path: str | Path, key: str, model: str = "a text-to-unit model") -> UnitInventory:
    """The inventory under a config key of a ``.nemo`` file, without building the model.

    Args:
        path: the file.
        key: of its config.
        model: what is expected, for messages.

    Raises:
        InputError: if the file cannot be read, or has no such inventory.
    """
    try:
        with tarfile.open(path) as archive:
            members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}

            def content(name: str) -> bytes:
                file = archive.extractfile(members[name])
                assert file is not None
                return file.read()

            config = yaml.safe_load(content("model_config.yaml"))
            values = json.loads(content(config[key].removeprefix("nemo:")))
    except FileNotFoundError:
        raise InputError(f"no such file; expected the .nemo file of {model}", path) from None
    except (tarfile.TarError, OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"is not the .nemo file of {model}: {error!r}", path) from error
    return UnitInventory.from_dict(values, path)
