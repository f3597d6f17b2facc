"""Restoring a ``.nemo`` file that a user names."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from nemo.core.classes import ModelPT
from nemo.utils.model_utils import import_class_by_path

from nemo_speechlm.checks import check_model_file
from nemo_speechlm.errors import InputError, SpeechLMError, first_line
from nemo_speechlm.models.common.archive import missing_part
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.spaces import keep_spaces

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
        model = kind.restore_from(str(path), map_location=pick_device(device)).eval()
        keep_spaces(model)
        return model
    except SpeechLMError:
        raise
    except Exception as error:  # of an archive, its YAML, its pickle, a class that NeMo will not make, ...
        error = _told_by_the_class(str(path), error)
        if isinstance(error, SpeechLMError):
            raise error from None
        reason = missing_part(Path(path)) or first_line(error)
        raise InputError(f"cannot be restored: {reason}", path) from error
    finally:  # where it fails, NeMo would take the models that are made afterwards for restored ones, without data
        ModelPT._set_model_restore_state(is_being_restored=False)


def _told_by_the_class(path: str, error: Exception) -> Exception:
    """What the class that a file names has against it, where NeMo tells only that its base has no instances."""
    if "abstract class" not in str(error):
        return error
    try:
        config: Any = ModelPT.restore_from(path, return_config=True)
        import_class_by_path(config.target).restore_from(path, map_location="cpu")
    except Exception as own:
        return own
    return error


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
        raise SpeechLMError(f"device is {name!r}, which PyTorch cannot use here: {first_line(error)}") from error
    return device
