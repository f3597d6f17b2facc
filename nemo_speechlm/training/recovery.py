"""What a kill or a bad disk left in a folder of checkpoints, put in order before a run goes on from it.

NeMo raises where there are two last checkpoints or one that it had marked as unfinished, and Lightning where one
cannot be read. Here the newest checkpoint that is sound is found and given the name that NeMo looks for.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nemo.utils import logging

from nemo_speechlm.errors import InputError
from nemo_speechlm.training.checkpoint_io import PREVIOUS, damage, is_last, look_into

_UNFINISHED = "-unfinished"  # NeMo's marker, beside a checkpoint of that name without .ckpt


@dataclass(frozen=True)
class _Found:
    path: Path
    step: int
    last: bool

    @property
    def order(self) -> tuple[int, bool, int]:
        """Of two at the same step a last checkpoint comes first, then the one that was written later."""
        return self.step, self.last, self.path.stat().st_mtime_ns


def put_in_order(folder: str | Path) -> None:
    """Leave one last checkpoint in a folder: the newest of all that is sound; if need be, a best one is copied.

    Damaged ones are renamed to ``.damaged``, each with a warning. Half-written files and NeMo's markers are removed.
    No other process may use the folder meanwhile.

    Args:
        folder: of a run's checkpoints; it need not exist.

    Raises:
        InputError: if there are checkpoints and none of them can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    for partial in folder.glob(".partial.*"):
        partial.unlink()
    _remove_markers(folder)
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    files = [path for path in files if path.name.removesuffix(PREVIOUS).endswith(".ckpt")]
    broken: dict[Path, str] = {}
    found = []
    for path in files:
        try:
            if (one := _look_into(path)) is not None:
                found.append(one)
        except InputError as error:
            broken[path] = error.reason
    found.sort(key=lambda one: one.order, reverse=True)
    while found and (reason := damage(found[0].path)) is not None:
        broken[found.pop(0).path] = reason
    if broken and not found:
        listed = "".join(f"\n  {path.name}: {reason}" for path, reason in broken.items())
        raise InputError(
            f"none of the checkpoints of this run can be read:{listed}\nRestore one of them, or remove them to begin "
            "the run anew",
            folder,
        )
    for path, reason in broken.items():
        kept = path.with_name(f"{path.name}.damaged")
        os.replace(path, kept)
        logging.warning(f"{path}: {reason}; it is passed over, and kept as {kept.name}")
    if found:
        _make_last(found[0], [one for one in found[1:] if one.last], warn=bool(broken))


def step_of(path: str | Path) -> int:
    """The number of updates after which a checkpoint was written."""
    return int(look_into(path)["global_step"])


def _look_into(path: Path) -> _Found | None:
    """What is known of a checkpoint; None if nothing goes on from it (weights alone).

    Raises:
        InputError: if it is damaged.
    """
    if (reason := damage(path, contents=False)) is not None:
        raise InputError(reason)
    checkpoint = look_into(path)
    if "global_step" not in checkpoint:
        raise InputError("it has no global_step")
    if not is_last(path) and "optimizer_states" not in checkpoint:
        return None
    return _Found(path, int(checkpoint["global_step"]), is_last(path))


def _make_last(newest: _Found, others: list[_Found], warn: bool) -> None:
    """Give the newest the name that NeMo looks for; keep one other last checkpoint, the newest, as ``.previous``."""
    name = newest.path.name.removesuffix(PREVIOUS)
    name = re.sub(r"last(-v\d+)?\.ckpt$", "last.ckpt", name) if newest.last else f"{Path(name).stem}-last.ckpt"
    target = newest.path.with_name(name)
    others = [one for one in others if one.path != target]
    for one in others[1:]:
        one.path.unlink()
    for one in others[:1]:
        if one.path.suffix != PREVIOUS:
            os.replace(one.path, f"{one.path}{PREVIOUS}")
    if newest.path == target:
        return
    if newest.last:
        os.replace(newest.path, target)
    else:
        _link(newest.path, target)
    say = logging.warning if warn else logging.info
    say(f"The run goes on from {newest.path.name}, at step {newest.step}")


def _link(path: Path, target: Path) -> None:
    """Another name for a file, or a copy where the file system has no links; nothing writes into checkpoints."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _remove_markers(folder: Path) -> None:
    """NeMo deletes files that have a marker. Ours are whole under their names; folders may be half-written."""
    for marker in folder.glob(f"*{_UNFINISHED}"):
        stem = marker.name.removesuffix(_UNFINISHED)
        for half in (folder / stem, folder / f"{stem}.ckpt"):
            if half.is_dir():
                logging.warning(f"{half}: it is half-written, and removed")
                shutil.rmtree(half)
        marker.unlink()
