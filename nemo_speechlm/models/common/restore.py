"""Restoring a ``.nemo`` file that a user names."""

import tarfile
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from nemo.core.classes import ModelPT

from nemo_speechlm.checks import check_model_file
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.hub import model_file

Model = TypeVar("Model", bound=ModelPT)


def restore_file(kind: type[Model], path: str | Path, device: str = "auto") -> Model:
    """Restore a model through ``kind.restore_from``, in evaluation mode.

    Args:
        kind: the class, or a base of it.
        path: ``.nemo`` file, folder with one, or ``user/name`` on the Hugging Face hub.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.

    Raises:
        InputError: if the file is not there or cannot be restored.
        SpeechLMError: if there is no such device.
    """
    path = model_file(path)
    check_model_file(path)
    try:
        return kind.restore_from(str(path), map_location=pick_device(device)).eval()
    except SpeechLMError:
        raise
    except Exception as error:  # of an archive, its YAML, its pickle, a class that NeMo will not make, ...
        reason = _missing_part(Path(path)) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot be restored: {reason}", path) from error


def _missing_part(path: Path) -> str | None:
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


def restore_extractor(path: str | Path, device: str = "auto") -> Any:
    """Restore any model that has ``extract_features``.

    Raises:
        InputError: if the file is not there, or not one of such a model.
    """
    model = restore_file(ModelPT, path, device)
    if not isinstance(model, FeatureExtraction):
        raise InputError(f"is a {type(model).__name__}, which has no features of SpeechLM's kind", path)
    return model


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one.

    Raises:
        SpeechLMError: if PyTorch cannot use it here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch that was built without CUDA
        raise SpeechLMError(
            f"device is {name!r}, which PyTorch cannot use here: {str(error).splitlines()[0]}"
        ) from error
    return device
