"""What is on record of a model, for its card: its training run, and evaluations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import file_digest

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


def refuse_other_run(run: Mapping[str, Any], config: Mapping[str, Any], folder: str | Path) -> None:
    """Raise if a run's record is plainly not that of a model: it names other training data or another optimizer.

    Args:
        run: the record.
        config: of the model, nested dicts.
        folder: of the run, for the message.

    Raises:
        InputError: naming the key.
    """
    known = dict(leaves(config, "model."))
    for key, before in run["settings"].items():
        if key.startswith("model.optim.") and key in known and known[key] != before:
            raise InputError(
                f"is the run of another model: {key} is {before} there, {known[key]} in the model", folder
            )
    for key, files in run["files"].items():
        value = known.get(key)
        if not key.startswith("model.train_ds.") or not isinstance(value, str) or len(files) != 1:
            continue
        if PurePath(value).name != files[0]["name"]:
            raise InputError(
                f"is the run of another model: {key} is {files[0]['name']} there, {PurePath(value).name} in the model",
                folder,
            )


def leaves(value: Any, before: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is in nested dicts, with ``before`` in front of each key; nothing of others."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        yield from leaves(item, f"{before}{key}.") if isinstance(item, Mapping) else [(f"{before}{key}", item)]


def read_results(paths: Sequence[str | Path], model: str | Path) -> list[dict[str, Any]]:
    """The summaries of a model's evaluations: ``summary.json`` of ``speechlm_evaluate.py``, or the folders with them.

    Args:
        paths: of the summaries.
        model: the ``.nemo`` file.

    Raises:
        InputError: if one cannot be read, is not such a summary, or is that of another model.
    """
    content = file_digest(model) if paths else None
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
        if "model_sha256" not in values:
            raise InputError("does not say by digest which model it is of, as earlier versions; evaluate again", file)
        if values["model_sha256"] != content:
            raise InputError(
                f"has figures of another model, {values.get('model')} with the SHA-256 {values['model_sha256'][:12]}; "
                f"that of {model} is {str(content)[:12]}",
                file,
            )
        found.append(values)
    return found
