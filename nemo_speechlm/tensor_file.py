"""Safetensors with all that is not a tensor as JSON in their header: what aligners and centroids are kept in."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import partial_path


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
        """Write a file, under a temporary name until all is written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        try:
            content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            text = json.dumps({"version": self.version, **header}, ensure_ascii=False)
            partial.write_bytes(save(content, {self.key: text}))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

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
