"""Restoring a model by its name, and putting one on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from nemo.core.classes import ModelPT
from omegaconf import OmegaConf

import nemo_speechlm.models  # noqa: F401  # NeMo builds only classes that are registered
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, refuse_input_as_output, refuse_overwrite, whole_file
from nemo_speechlm.hub.card import Card, without_folders
from nemo_speechlm.models.common.hub import first_line, model_file
from nemo_speechlm.models.common.restore import restore_file


def from_pretrained(name: str | Path, device: str = "auto", refresh: bool = False) -> Any:
    """Restore a model, ours or any of NeMo's, in evaluation mode.

    NeMo's ``ModelPT.from_pretrained("user/name")`` finds the same models of the hub; this takes files and folders too.

    Args:
        name: ``user/name`` on the Hugging Face hub, a folder with one ``.nemo`` file, or such a file.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.
        refresh: download again what was downloaded before.

    Raises:
        InputError: if there is no such model, or it cannot be restored.
    """
    return restore_file(ModelPT, model_file(name, refresh), device)


def push_to_hub(
    model: ModelPT,
    name: str,
    card: Card,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Put a model and its card on the Hugging Face hub, as NeMo does (``push_to_hf_hub``).

    Args:
        model: any model. Its config forgets the folders that files were in on this machine.
        name: ``user/name``; made if it is not there, and its files are replaced if it is.
        card: of the model.
        private: whether others may not see it, if it is made now.
        token: of the user; None: the one that ``hf auth login`` has kept, or ``HF_TOKEN``.
        endpoint: of the hub; None: Hugging Face's, or what ``HF_ENDPOINT`` says.

    Returns:
        the address of the model's page.

    Raises:
        InputError: if the hub refuses, or cannot be reached.
    """
    _forget_folders(model)
    try:
        return model.push_to_hf_hub(
            name,
            model_card=card.text(name),
            commit_message="Model and card",
            private=private,
            token=token,
            api_endpoint=endpoint,
        )
    except Exception as error:  # of the hub, the network or the disk; HTTP clients have errors of their own
        raise InputError(f"cannot be put on the Hugging Face hub: {first_line(error)}", name) from error


def write_folder(
    model: ModelPT,
    folder: str | Path,
    name: str,
    card: Card,
    overwrite: bool = False,
    source: str | Path | None = None,
) -> list[Path]:
    """Write what would be put on the hub into a folder: ``README.md`` and the ``.nemo`` file.

    Args:
        model: any model.
        folder: to write to.
        name: ``user/name``.
        card: of the model.
        overwrite: replace files that are there.
        source: the file that the model comes from, which is never replaced.

    Returns:
        the files.

    Raises:
        InputError: if one of them is there, and may not be replaced.
    """
    folder = Path(folder)
    paths = [folder / "README.md", folder / f"{name.split('/')[-1]}.nemo"]
    for path in paths:
        refuse_overwrite(path, overwrite)
    refuse_input_as_output(paths, {"model": source})
    _forget_folders(model)
    with whole_file(paths[1]) as partial:
        model.save_to(str(partial))
    with atomic_write(paths[0]) as file:
        file.write(card.text(name))
    return paths


def _forget_folders(model: ModelPT) -> None:
    """Take the folders of the author's machine out of the config."""
    model.cfg = OmegaConf.create(without_folders(OmegaConf.to_container(model.cfg, resolve=True)))
