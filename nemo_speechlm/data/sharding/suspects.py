"""Lines at which a worker died: looked at again in a process of their own, so that the one to blame is found."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import parse_line

PATIENCE = 60.0
"""Seconds that a suspect may take."""

_BEGAN = b"began"
_WIDTH = 20


class Suspects:
    """Which line a shard's worker is at, written down for the one that makes the shard if this one dies.

    Args:
        folder: which every worker sees.
        shard: its number.
    """

    def __init__(self, folder: Path, shard: int):
        self._note, self._list = folder / f"at_{shard}", folder / f"suspects_{shard}"

    def __enter__(self) -> Self:
        self.rows = {int(row) for row in self._read(self._list).split()}
        if died_at := self._read(self._note).strip():
            self.rows.add(int(died_at))
            self._list.write_text(" ".join(map(str, sorted(self.rows))), encoding="ascii")
        self._file = os.open(self._note, os.O_WRONLY | os.O_CREAT, 0o644)
        return self

    def at(self, row: int) -> bool:
        """Say that a line is next; returns whether a worker died at it."""
        os.pwrite(self._file, f"{row:<{_WIDTH}}".encode(), 0)
        return row in self.rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._note.unlink(missing_ok=True)
        if kind is None:
            self._list.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> str:
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""


def check_suspect(encoding: AudioEncoding, manifest: str, number: int, line: str) -> None:
    """Read the audio of a line in another process.

    Raises:
        InputError: naming the manifest and line, if that process dies or has no result in time.
    """
    work = json.dumps({"encoding": asdict(encoding), "manifest": manifest, "number": number, "line": line})
    program = f"from {__name__} import read; read()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            input=work.encode(),
            env=environment,
            timeout=PATIENCE,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"no result in {PATIENCE:g} seconds; a worker died on it before", manifest, number) from None
    if ended.returncode and _BEGAN in ended.stdout:  # otherwise the line is not to blame
        status = ended.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise InputError(f"a process that reads its audio dies ({how})", manifest, number)


def read() -> None:
    """What the other process does; an error of the line's is none of the process."""
    work = json.load(sys.stdin)
    manifest, number = work["manifest"], work["number"]
    with suppress(Exception):
        os.write(sys.stdout.fileno(), _BEGAN)
        AudioEncoding(**work["encoding"]).encoded(parse_line(work["line"], manifest, number), manifest, number)
