"""What the transcripts in a folder were made with, so that those of another model are not taken for this one's."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import nemo_speechlm
from nemo_speechlm.decoding.options import files_of_lm
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import content_of, dump_line, file_digest, plain
from nemo_speechlm.models.common.hub import model_file

NAME = ".made_with.jsonl"

_FREE = ("input", "output", "format", "overwrite", "batch_duration", "device")
"""Keys that decide nothing of a transcript, unless the padding of its batch counts (``batch_duration``)."""

_FILES = ("model", "lm")
"""Keys that name a file: its content counts."""


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What decides a transcript, of the config of ``transcribe.py`` or ``translate.py``."""
    found: dict[str, Any] = plain(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    found = {key: value for key, value in found.items() if key not in _FREE}
    for key in _FILES:
        if found.get(key) is not None:
            path = model_file(found[key]) if key == "model" else Path(found[key])
            found[key] = {"name": path.name, "sha256": file_digest(path)}
    for words in files_of_lm(cfg.get("lm"))[1:]:
        found["words beside lm"] = {"name": words.name, "sha256": file_digest(words)}
    return {**found, "version": nemo_speechlm.__version__}


class MadeWith:
    """The record in a folder of transcripts: a JSON line for each file that was written.

    What was written by hand, or by a version that kept none or another record, is in none of its lines.

    Args:
        folder: of the transcripts.
        settings: of now.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        self.path, self.settings = Path(folder) / NAME, dict(settings)
        self._known: dict[str, Mapping[str, Any]] = {}
        self._cut_off = False
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            self._cut_off = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                    if "recording" in record:
                        self._known[record["file"]] = record
                except (ValueError, KeyError, TypeError):  # cut off where a process was killed
                    continue

    def refuse_others(self, recording: Path, files: Iterable[Path]) -> None:
        """Raise if transcripts that are there were made with other settings, or of another recording.

        Raises:
            InputError: naming the transcript and what differs.
        """
        for file in files:
            known = self._known.get(self._name(file))
            if known is None:
                continue
            keys = dict.fromkeys([*known["settings"], *self.settings])
            changes = [
                f"{key} {_shown(before)}, now {_shown(now)}"
                for key in keys
                if _content(before := known["settings"].get(key)) != _content(now := self.settings.get(key))
            ]
            if recording.exists() and _is_other(recording, known["recording"]):
                changes.append(f"{known['recording']['path']}, now {recording} has another content")
            if changes:
                raise InputError(
                    f"was made with {'; '.join(changes)}. Give another output, or overwrite=true to make all anew",
                    file,
                )

    def add(self, recording: Path, files: Iterable[Path]) -> None:
        """Put down that files were written."""
        content = content_of(recording)
        lines = [
            dump_line({"file": self._name(file), "recording": content, "settings": self.settings}) for file in files
        ]
        with open(self.path, "a", encoding="utf-8") as record:
            record.write("\n" * self._cut_off + "".join(lines))
        self._cut_off = False

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path.parent).as_posix()


def _is_other(recording: Path, known: Mapping[str, Any]) -> bool:
    """Whether a recording has another content than the one that is known."""
    return recording.stat().st_size != known["size"] or content_of(recording, known)["sha256"] != known["sha256"]


def _content(value: Any) -> Any:
    """What is compared of a value: of a file its digest, not its name."""
    return value["sha256"] if isinstance(value, Mapping) and "sha256" in value else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "sha256" in value:
        return f"{value['name']} (sha256 {value['sha256'][:12]})"
    return "null" if value is None else str(value)
