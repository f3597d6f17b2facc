"""What is on record of a model, for its card: its training run, and evaluations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.errors import InputError

NAME = "run.json"


def read_run(folder: str | Path) -> dict[str, Any]:
    """The record below a run's folder (``run.json``, beside its checkpoints).

    Raises:
        InputError: if there is none, or more than one, or it cannot be read.
    """
    found = sorted(Path(folder).rglob(NAME))
    if len(found) != 1:
        raise InputError(f"has {len(found)} files {NAME} in it, expected one: the folder of one training run", folder)
    try:
        values = json.loads(found[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON: {error}", found[0]) from error
    if not isinstance(values, dict) or not {"settings", "files"} <= values.keys():
        raise InputError("is not the record of a training run: it has no settings and files", found[0])
    return values


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The summaries of evaluations: ``summary.json`` of ``speechlm_evaluate.py``, or the folders that hold them.

    Raises:
        InputError: if one cannot be read, or is not such a summary.
    """
    found = []
    for path in map(Path, paths):
        file = path / "summary.json" if path.is_dir() else path
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError("no such file; expected the summary.json of speechlm_evaluate.py", file) from error
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as JSON: {error}", file) from error
        if not isinstance(values, dict) or "wer" not in values or "manifest" not in values:
            raise InputError("is not the summary.json of speechlm_evaluate.py: it has no wer and manifest", file)
        found.append(values)
    return found
