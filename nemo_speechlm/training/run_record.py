"""What a training run was begun with, as ``run.json`` beside its checkpoints, so that only the same run continues it.

A record holds the settings that decide the weights, and a digest of the content of every file among them: start file,
manifests, units, tokenizer. Paths are not compared, so a corpus or a run may be moved. The audio that manifests name
is not read: it is known by what the manifests say of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nemo_speechlm import __version__
from nemo_speechlm.checks import is_number
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import FILE_KEYS, atomic_write, content_of, is_hidden, plain, shown_files, sync

NAME = "run.json"

BATCHES_PER_UPDATE = "batches per update (devices x nodes x trainer.accumulate_grad_batches)"
"""Compared in place of the three: a run may move to half as many GPUs if it accumulates twice as many batches."""

DECIDING = (
    # they choose the best checkpoint, among those of before a change too
    "exp_manager.checkpoint_callback_params.monitor", "exp_manager.checkpoint_callback_params.mode",
)  # fmt: skip
"""Keys that match a pattern of ``FREE`` and still decide what comes out."""

FREE = (
    # where results and logs go, and which of the run's checkpoints becomes the result
    "output", "overwrite", "save", "save_every_minutes", "name", "accept_changes", "exp_manager.*",
    "trainer.default_root_dir",
    # how long training lasts; learning rates follow (see continuation.py)
    "trainer.max_steps", "trainer.max_epochs", "trainer.min_steps", "trainer.min_epochs", "trainer.max_time",
    # on what machines; how many batches make an update is compared instead
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.accumulate_grad_batches", "trainer.benchmark", "trainer.deterministic", "model.compile",
    # how fast data come; the run itself fills a cache, which knows what its content was made from
    "model.cache", "*.num_workers", "*.pin_memory", "*.prefetch_factor", "*.timeout", "loader_timeout",
    # what becomes of what has stopped a run so far
    "on_bad", "*.on_bad", "max_bad", "*.max_bad",
    # when figures are computed and what is shown
    "trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps",
    "trainer.log_every_n_steps", "trainer.logger", "trainer.enable_*", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.inference_mode", "model.log_prediction", "model.test_ds.*",
)  # fmt: skip
"""Patterns of the keys that may change while a run goes on: they are taken from the command that continues it.

All other keys decide the weights, or the figures by which the best of them are chosen."""

_ARCHIVES = (".tar", ".tar.gz", ".tgz")  # of audio, terabytes perhaps: known by name and size


@dataclass(frozen=True)
class RunRecord:
    """What decides the weights of a run.

    Args:
        settings: deciding keys of the config and their values, except those that name files.
        files: for each key that names files, what is known of them: ``name``, ``path``, ``size`` and, but for archives
            of audio, ``sha256`` with ``mtime_ns`` and ``read_ns`` (when it was computed).
        free: the other keys of trainer and model and their values; not compared.
        accepted: changes that the user accepted on the way, oldest first: ``version``, ``changes``.
        version: of this package; not compared.
    """

    settings: Mapping[str, Any]
    files: Mapping[str, list[dict[str, Any]]]
    free: Mapping[str, Any] = field(default_factory=dict)
    accepted: tuple[Mapping[str, Any], ...] = ()
    version: str = __version__

    @classmethod
    def of(cls, config: Mapping[str, Any], batches_per_update: int, known: "RunRecord | None" = None) -> "RunRecord":
        """The record of a run that is about to begin or to continue.

        Args:
            config: a recipe's config as nested dicts and lists, without interpolations.
            batches_per_update: of all devices together.
            known: an earlier record; files with the same path, size and time of change as in it are not read again.
        """
        digests = {f["path"]: f for files in known.files.values() for f in files} if known is not None else {}
        settings: dict[str, Any] = {BATCHES_PER_UPDATE: batches_per_update}
        named: dict[str, list[dict[str, Any]]] = {}
        free: dict[str, Any] = {}
        for key, value in _leaves(config):
            if _matches(key, FREE) and not _matches(key, DECIDING):
                if key.startswith(("trainer.", "model.")):  # what is in exp_manager may be secret, as a logger's key
                    free[key] = value
            elif paths := _paths(value, key):
                named[key] = [_describe(path, root, digests) for root in paths for path in _files_of(root)]
            else:
                settings[key] = value
        # through JSON, so that values compare as they will when the record is read
        return cls(plain(settings), named, plain(free))

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord | None":
        """The record in a folder of checkpoints; None if there is none.

        Raises:
            InputError: if it cannot be read.
        """
        path = Path(folder) / NAME
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                content["settings"], content["files"], content["free"], tuple(content["accepted"]), content["version"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot be read as the record of a run ({error!r}); restore it, or remove it and continue the run "
                "with accept_changes=true",
                path,
            ) from error

    def write(self, folder: str | Path) -> None:
        """Put the record into a folder of checkpoints."""
        content = {
            "version": self.version,
            "settings": self.settings,
            "files": self.files,
            "free": self.free,
            "accepted": list(self.accepted),
        }
        with atomic_write(Path(folder) / NAME, before_rename=sync) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")

    def differences(self, now: "RunRecord") -> list[str]:
        """What decides the weights and is not the same now, a line each, by key."""
        found = []
        for key in [*self.settings, *(key for key in now.settings if key not in self.settings)]:
            if key in self.files or key in now.files:
                continue
            before, after = self.settings.get(key, _NONE), now.settings.get(key, _NONE)
            if before != after:
                found.append(f"{key}: {_shown(before)} before, {_shown(after)} now")
        for key in [*self.files, *(key for key in now.files if key not in self.files)]:
            found += _file_differences(key, self, now)
        return found

    def free_changes(self, now: "RunRecord") -> list[str]:
        """Which of the free keys have other values now, a line each; and the package's version, if it is another."""
        other = [] if self.version == now.version else [f"nemo_speechlm: {self.version} before, {now.version} now"]
        return other + [
            f"{key}: {_shown(self.free[key])} before, {_shown(value)} now"
            for key, value in now.free.items()
            if key in self.free and self.free[key] != value
        ]


class _Nothing:
    """Stands for a key that is not in a config, where None is a value."""


_NONE = _Nothing()


def _shown(value: Any) -> str:
    if value is _NONE:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."  # paths may be long


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is in nested dicts, in lists of dicts and lists, and in YAML files of data."""
    if key.endswith("input_cfg") and isinstance(value, str) and Path(value).is_file():  # a list of data, in a file
        from omegaconf import OmegaConf

        value = OmegaConf.to_container(OmegaConf.load(value), resolve=True)
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and is_number(value[1]):
        yield key, value[0]  # NeMo's [manifest, weight]
        yield f"{key}.weight", value[1]
    elif isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}.{number}")
    else:
        yield key, value


def _paths(value: Any, key: str) -> list[Path]:
    """The files or folders that a key's value names: one, a list, NeMo's ``a.json,b.json`` or ``audio_{0..3}.tar``.

    Empty where it names none, or a missing one, which is reported by what reads it.
    """
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        return []
    is_word = not any("/" in item or "." in item for item in strings)
    names = [name for name in key.split(".") if not name.isdigit()]  # without places in lists
    if is_word and not (names and names[-1] in FILE_KEYS):  # though there be a file of that name
        return []
    paths = [Path(name) for item in strings for name in _expanded(item)]
    if all(path.is_file() or (path.is_dir() and path.name not in ("", "..")) for path in paths):
        return paths
    return []


def _expanded(item: str) -> list[str]:
    if Path(item).exists():
        return [item]
    return expand_shards(item.split(","))


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else shown_files(path)


def _describe(path: Path, root: Path, digests: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    place = str(path.resolve())
    name = path.name if path == root else str(path.relative_to(root))
    if path.name.endswith(_ARCHIVES):
        return {"name": name, "path": place, "size": path.stat().st_size}
    return {"name": name, **content_of(path, digests.get(place))}


def _identity(file: Mapping[str, Any]) -> str:
    """What makes two files the same: their content; of archives, name and size."""
    return file.get("sha256") or f"{file['name']} {file['size']}"


def _file_differences(key: str, before: RunRecord, now: RunRecord) -> list[str]:
    if key not in before.files or key not in now.files:
        states = [
            ", ".join(file["path"] for file in record.files[key])
            if key in record.files
            else _shown(record.settings.get(key, _NONE))
            for record in (before, now)
        ]
        return [f"{key}: {states[0]} before, {states[1]} now"]
    old, new = before.files[key], now.files[key]
    if not any(is_hidden(file["name"]) for file in new):  # records of 0.1.0 have the hidden files of folders
        old = [file for file in old if not is_hidden(file["name"])]
    if len(old) != len(new):
        return [f"{key}: {len(old)} files before, {len(new)} now"]
    return [
        f"{key}: the content of {b['path']} ({b['size']:,} bytes) is not that of {a['path']} "
        f"before ({a['size']:,} bytes)"
        for a, b in zip(old, new, strict=True)
        if _identity(a) != _identity(b)
    ]
