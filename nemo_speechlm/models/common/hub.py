"""Where the ``.nemo`` file of a model is: a file, in a folder, or ``user/name`` on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from nemo.core.classes import ModelPT

from nemo_speechlm.checks import is_hub_name
from nemo_speechlm.errors import InputError


def model_file(name: str | Path, refresh: bool = False) -> Path:
    """Find the ``.nemo`` file of a model; one of the hub is downloaded into Hugging Face's cache, once.

    On the hub the file must be called as NeMo calls it: ``name.nemo`` in ``user/name``.

    Args:
        name: a ``.nemo`` file, a folder with one, or ``user/name`` of the hub. What is there as a file or a folder is
            never looked for on the hub.
        refresh: download again what is in the cache.

    Raises:
        InputError: if there is no such file, folder or model, or the hub cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        return _of_folder(path)
    if path.exists() or not is_hub_name(str(name)):
        return path
    try:
        found = Path(ModelPT.from_pretrained(str(name), refresh_cache=refresh, return_model_file=True))
    except GatedRepoError as error:
        raise InputError("is on the hub for those alone who were let in; log in with: hf auth login", name) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError("no such file, and no such model on the Hugging Face hub", name) from error
    except Exception as error:  # of the hub, the network or the disk; HTTP clients have errors of their own
        reason = first_line(error)
        raise InputError(f"no such file, and the Hugging Face hub cannot be asked for it: {reason}", name) from error
    return _of_folder(found) if found.is_dir() else found


def first_line(error: Exception) -> str:
    """What an error says in its first line, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _of_folder(folder: Path) -> Path:
    named = folder / f"{folder.name}.nemo"
    found = [named] if named.exists() else sorted(folder.glob("*.nemo"))
    if len(found) != 1:
        what = ", ".join(path.name for path in found) or "no .nemo file"
        raise InputError(
            f"is a folder with {what} in it; expected the .nemo file of a model, or a folder with one", folder
        )
    return found[0]
