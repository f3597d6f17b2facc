"""Safetensors with all that is not a tensor as JSON in their header.

Aligners and centroids are kept in such files, and so is what their trainings have learned so far.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.files import differences, plain, whole_file


class TensorFile(NamedTuple):
    """A kind of such files, and how messages speak of it.

    Attributes:
        key: of the JSON in the header.
        version: of the format; a file of another one is refused.
        made_by: the command that makes one, and what it makes.
        file: what a file of this kind is.
        content: what is in one.
        remedy: what to do about a file of another version.
    """

    key: str
    version: int
    made_by: str
    file: str
    content: str
    remedy: str

    def save(self, path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a file, under a temporary name until all is written.

        Raises:
            InputError: if it cannot be written there.
            OutputError: if the disk is full.
        """
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({"version": self.version, **header}, ensure_ascii=False)
        with whole_file(path) as partial:
            partial.write_bytes(save(content, {self.key: text}))

    def load(self, path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Read header and tensors.

        Raises:
            InputError: if the file is missing, damaged, of another kind or of another version.
        """
        if not Path(path).is_file():
            raise InputError(f"no such file; {self.made_by}", path)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"not {self.file}, or damaged: {error}", path) from error
        try:
            header = json.loads(metadata[self.key])
            version = header["version"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a safetensors file, but not one of {self.content}", path) from error
        if version != self.version:
            raise InputError(f"{self.content} of format {version}, expected {self.version}; {self.remedy}", path)
        return header, tensors


_PROGRESS = TensorFile("progress", 1, "a training makes it", "the progress of a training", "progress", "begin anew")


class TrainingProgress:
    """What a training has learned so far, in a file beside its output, with the settings that it was learned by.

    Args:
        output: the file that the training will make.
        settings: everything that affects the result; of files what is in them, not where they are.

    Attributes:
        path: where it is kept; not the name under which the output itself is written.
    """

    def __init__(self, output: str | Path, settings: Mapping[str, Any]):
        self.path, self._output, self._settings = progress_path(output), output, plain(settings)

    def save(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace what was saved before; where that cannot be written, what was there stays, and training goes on."""
        try:
            _PROGRESS.save(self.path, {"settings": self._settings, "values": values}, tensors)
        except (InputError, OutputError) as error:
            logging.getLogger(__name__).warning(
                f"The progress in {self.path} could not be written ({error.reason}). Training goes on; what it learns "
                "from now on is lost if it ends before this is written"
            )

    def load(self, overwrite: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Values and tensors as they were saved; None if there are none, undamaged.

        A damaged file is not an error: nothing is lost but time.

        Args:
            overwrite: leave aside what was learned by other settings; the next :meth:`save` replaces it.

        Raises:
            InputError: if it was learned by other settings, saying in what they differ.
        """
        if not self.path.exists():
            return None
        try:
            header, tensors = _PROGRESS.load(self.path)
        except InputError:
            return None
        if header["settings"] == self._settings:
            return header["values"], tensors
        if overwrite:
            return None
        differ = "; ".join(differences(header["settings"], self._settings))
        raise InputError(
            f"its training was begun with {differ}; give that again to go on, overwrite=true to begin anew, "
            "or another output",
            self._output,
        )


def progress_path(output: str | Path) -> Path:
    """Where a training keeps what it has learned so far."""
    output = Path(output)
    return output.with_name(f".progress.{output.name}")
