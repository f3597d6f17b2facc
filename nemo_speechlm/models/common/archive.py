"""What is in a ``.nemo`` file, without restoring it."""

import tarfile
from pathlib import Path

import yaml


def missing_part(path: Path) -> str | None:
    """What an archive lacks to be a model; NeMo speaks of what it tried instead."""
    try:
        if not tarfile.is_tarfile(path):
            return "it is no tar archive, as .nemo files are"
        with tarfile.open(path) as archive:
            members = {member.name.removeprefix("./"): member for member in archive.getmembers()}
            if "model_config.yaml" not in members:
                return "there is no model_config.yaml in it"
            content = archive.extractfile(members["model_config.yaml"])
            config = None if content is None else yaml.safe_load(content)
    except (tarfile.TarError, EOFError) as error:
        return f"its archive is damaged: {error}"
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None  # the reader's own error tells more
    if not isinstance(config, dict) or "target" not in config:
        return "its model_config.yaml has no target, the class of the model"
    if not any(name.startswith("model_weights") for name in members):  # model_weights.ckpt, or a folder of shards
        return "there is no model_weights.ckpt in it"
    return None
