"""What a step was made with and from, so that a result is not taken for that of other settings or files."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.checks import is_hub_name
from nemo_speechlm.demo.overrides import value_of
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import atomic_write, content_of, shown_files

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
        key = word.partition("=")[0]
        if key.endswith(_WRITTEN):
            continue
        names = [
            name
            for text in _texts(value_of(word))
            for name in ([text] if Path(text).exists() else text.split(","))  # as NeMo names several
            if "/" in name or ("." in name and Path(name).is_file())
        ]
        for number, name in enumerate(names):
            path = Path(name)
            files = shown_files(path) if path.is_dir() else [path]
            for file in files:
                if file.is_file():
                    place = "" if file == path else f"/{file.relative_to(path)}"
                    found[f"{key}[{number}]{place}"] = file
    return found


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _without_places(word: str) -> str:
    """An argument with ``/`` for each path in it: wherever the files are, as many of them are named."""
    key, _, given = word.partition("=")
    if key == "model" and is_hub_name(given):
        return word
    value = value_of(word)
    if value is None:  # code, the name of a script
        return re.sub(r"[^\[\],=]*/[^\[\],]*", "/", word)
    if not any("/" in text for text in _texts(value)):
        return word
    return f"{key}={_placeless(_paths(value) if isinstance(value, str) else value)}"


def _paths(text: str) -> list[str]:
    """The paths in a text: one with commas in it, or several with commas between them, as NeMo names them."""
    paths = text.split(",")
    alike = len({path.startswith("/") for path in paths}) == 1 and all("/" in path for path in paths)
    return paths if alike else [text]


def _placeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _placeless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_placeless(item) for item in value]
    return "/" if isinstance(value, str) and "/" in value else value


class InputRecord:
    """A JSON file beside a step's log: its command, and the files that it was made from with their digests.

    Until a step has ended well, its record is in a list of those that have begun: where this process is killed, the
    step may go on, and make the output though another was begun since.

    Args:
        path: of the record.

    Attributes:
        begun_path: of the list.
    """

    def __init__(self, path: Path):
        self.path = path
        self.begun_path = path.with_suffix(".begun.json")

    def begin(self, command: Sequence[str]) -> None:
        """Put down what a command that is about to start will read; its output is not there."""
        files = {place: content_of(file) for place, file in input_files(command).items()}
        self._write_begun([*self._begun(), {"command": list(command), "files": files}])
        self.path.unlink(missing_ok=True)  # of an output that is gone

    def end(self) -> None:
        """The command that began last has made the output."""
        with atomic_write(self.path) as file:
            json.dump(self._begun()[-1], file, indent=1)
        self.begun_path.unlink()

    def forget(self) -> None:
        """The command that began last has ended and made nothing."""
        self._write_begun(self._begun()[:-1])

    def _begun(self) -> list[dict[str, Any]]:
        """The records of commands whose end nobody has seen, and of the one that runs; oldest first."""
        return json.loads(self.begun_path.read_text(encoding="utf-8")) if self.begun_path.exists() else []

    def _write_begun(self, records: Sequence[Mapping[str, Any]]) -> None:
        if not records:
            self.begun_path.unlink(missing_ok=True)
            return
        with atomic_write(self.begun_path) as file:
            json.dump(records, file, indent=1)

    def check(self, command: Sequence[str], what: str) -> None:
        """Raise if the command has other settings, or names other files, than the one it was run with.

        Files may have been moved, and the content of one that is gone is not compared. Any of the commands that have
        begun may have made the output.

        Args:
            command: of now.
            what: was made, for the message.

        Raises:
            SpeechLMError: naming the settings or the file.
        """
        done = [json.loads(self.path.read_text(encoding="utf-8"))] if self.path.exists() else []
        for record in [*done, *self._begun()]:
            if "command" not in record:  # of 2026-11-29: files alone
                record = {"command": command, "files": record}
            _check(record, command, what)


def _check(record: Mapping[str, Any], command: Sequence[str], what: str) -> None:
    """:meth:`InputRecord.check` against one record."""
    gone, new = _difference(record["command"], command), _difference(command, record["command"])
    if gone or new:
        was, would_be = (" ".join(words) or "fewer settings" for words in (gone, new))
        raise SpeechLMError(
            f"{what} was made with {was}, now it is {would_be}; give another output, or remove that file and what "
            "was made from it"
        )
    known: Mapping[str, Mapping[str, Any]] = record["files"]
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


def _difference(command: Sequence[str], other: Sequence[str]) -> list[str]:
    """The arguments that are not in the other command, wherever their files are."""
    left = Counter(map(_without_places, other))
    found = []
    for word in command:
        form = _without_places(word)
        if left[form]:
            left[form] -= 1
        else:
            found.append(word)
    return found
