"""What a step was made from, so that a result is not taken for that of other files."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import atomic_write, content_of

_WRITTEN = ("output", "exp_dir")
"""How keys end that name what a command writes."""


def input_files(command: Sequence[str]) -> dict[str, Path]:
    """The files that a command reads, as far as they are there: by ``key`` and place among the key's names.

    Args:
        command: arguments such as ``manifest=a.json`` or ``model.train_ds.speech.manifest_filepath=[a.json,b.json]``;
            of a folder, such as a tokenizer's, all files count.
    """
    found = {}
    for word in command:
        key, _, value = word.partition("=")
        if key.endswith(_WRITTEN):
            continue
        names = [name for name in re.split(r"[\[\],]", value) if "/" in name]
        for number, name in enumerate(names):
            path = Path(name)
            files = sorted(path.rglob("[!.]*")) if path.is_dir() else [path]  # without locks
            for file in files:
                if file.is_file():
                    place = "" if file == path else f"/{file.relative_to(path)}"
                    found[f"{key}[{number}]{place}"] = file
    return found


class InputRecord:
    """A JSON file beside a step's log: the files that it was made from, with their digests.

    Args:
        path: of the record.
    """

    def __init__(self, path: Path):
        self.path = path

    def write(self, command: Sequence[str]) -> None:
        """Put down what a command that is about to start will read."""
        found = {place: content_of(file) for place, file in input_files(command).items()}
        with atomic_write(self.path) as file:
            json.dump(found, file, indent=1)

    def check(self, command: Sequence[str], what: str) -> None:
        """Raise if a file that the command names has another content than the one it was run with.

        Files may have been moved, and what is gone is not compared.

        Args:
            command: of now.
            what: was made, for the message.

        Raises:
            SpeechLMError: naming the file.
        """
        if not self.path.exists():
            return
        known: Mapping[str, Mapping[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        for place, file in input_files(command).items():
            if place not in known:
                continue
            before = known[place]
            now = content_of(file, before)
            if now["sha256"] != before["sha256"]:
                source = "another content of that file" if before["path"] == now["path"] else before["path"]
                raise SpeechLMError(
                    f"{what} was made from other data: {place} is {file}, and it was made from {source}; give another "
                    "output, or remove that file and what was made from it"
                )
