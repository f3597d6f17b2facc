"""Tell the user which lines have had no result for long: a worker that hangs there looks like one that works.

The files of chunks say it, which the command sees whatever engine makes them.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.jobs.chunks import Chunk, count_records, unfinished
from nemo_speechlm.jobs.lines import LineIndex
from nemo_speechlm.jobs.work import ChunkWork

PATIENCE = 600.0
"""Seconds without a result after which the user is told; then again after twice as many, and so on."""

_SHOWN = 120
"""Characters of a line that are shown."""

_LOOKS = 20
"""How often the files are looked at meanwhile."""


@contextmanager
def naming_slow_lines(work: ChunkWork, unit: str = "line", timeout: float | None = None) -> Iterator[None]:
    """Log a warning, inside the block, about each batch of lines that takes long.

    Args:
        work: whose lines they are.
        unit: what a line is called.
        timeout: seconds after which the engine ends a worker; None is never.
    """
    ended, watch = threading.Event(), _Watch(work, unit, timeout)

    def look() -> None:
        while not ended.wait(PATIENCE / _LOOKS):
            with suppress(OSError, SpeechLMError):  # a file that is gone by now; a source that has changed
                for message in watch.look(time.monotonic()):
                    logging.getLogger(__name__).warning(message)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


@dataclass
class _Seen:
    """An unfinished file: its size, since when it has had it, and after how many seconds to speak of it."""

    size: int
    since: float
    patience: float


class _Watch:
    """Remembers how long each unfinished file has not grown. A machine's clock is not compared with another's."""

    def __init__(self, work: ChunkWork, unit: str, timeout: float | None):
        self._work, self._unit, self._timeout = work, unit, timeout
        self._seen: dict[Path, _Seen] = {}

    def look(self, now: float) -> list[str]:
        """What to tell the user at this time, in seconds."""
        before, self._seen = self._seen, {}
        messages = []
        for path, chunk in sorted(unfinished(self._work.folder)):
            size, seen = path.stat().st_size, before.get(path)
            if seen is None or seen.size != size:
                seen = _Seen(size, now, PATIENCE)
            self._seen[path] = seen
            if now - seen.since >= seen.patience:
                seen.patience *= 2
                messages += self._message(path, chunk, now - seen.since)
        return messages

    def _message(self, path: Path, chunk: Chunk, seconds: float) -> list[str]:
        position = chunk.first + count_records(path)
        if position >= chunk.last:
            return []
        lines = list(LineIndex.load(self._work.folder).read(position, self._work.batches.end(position, chunk.last)))
        (first, line), (last, _) = lines[0], lines[-1]
        named = f"{self._unit} {first}" if first == last else f"{self._unit}s {first} to {last}"
        text = line if isinstance(line, str) else ""
        way_out = (
            f"Its worker is ended after engine.timeout={self._timeout:g} seconds"
            if self._timeout
            else "If its worker hangs, end the command and give it again with engine.timeout=SECONDS: it goes on, and "
            "finds the line"
        )
        content = text.strip()[:_SHOWN] + (", ..." if last > first else "")
        late = f"no result for {seconds / 60:.0f} minutes"
        return [f"{self._work.source}: {named} ({content}): {late}. {way_out}"]
