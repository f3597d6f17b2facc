"""What an engine is asked for: workers that are given chunks, and what becomes of these."""

import pickle
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.jobs.chunks import Chunk
from nemo_speechlm.jobs.work import BadLine, BrokenProcess, ChunkMaker


class Attempt(NamedTuple):
    """A chunk that a worker was given."""

    chunk: Chunk
    name: str


@dataclass(frozen=True)
class Event:
    """Something that happened to an attempt."""

    attempt: Attempt


@dataclass(frozen=True)
class Progress(Event):
    """Some more lines are done."""

    lines: int


class Done(Event):
    """The chunk's file is there."""


@dataclass(frozen=True)
class Stopped(Event):
    """The work came to a line that ends the job."""

    position: int
    error: InputError


@dataclass(frozen=True)
class Died(Event):
    """The worker is gone: ``how``, for the user."""

    how: str


class Pool(ABC):
    """Workers, started as they are needed. Leaving the ``with`` block ends them.

    Attributes:
        heed: is to be called with events that cannot wait until :meth:`wait` returns.
    """

    heed: Callable[[Event], None]

    @property
    @abstractmethod
    def free(self) -> int:
        """How many chunks could be submitted now."""

    @abstractmethod
    def submit(self, attempt: Attempt) -> None:
        """Give a worker a chunk."""

    @abstractmethod
    def wait(self) -> list[Event]:
        """Wait until something happens.

        Raises:
            Exception: what making the work's function raised.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they are doing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def attempt_at(make: ChunkMaker, attempt: Attempt, done: Callable[[int], None]) -> Event | Exception:
    """Make a chunk in a worker.

    Returns:
        what became of it; an exception if no line is to blame (the source has changed, the disk is full).

    Raises:
        BrokenProcess: if this worker is of no use any more.
    """
    try:
        make(*attempt, done)
    except BadLine as bad:
        return Stopped(attempt, bad.position, bad.error)
    except BrokenProcess:
        raise
    except Exception as error:
        return picklable(error)
    return Done(attempt)


def picklable(error: Exception) -> Exception:
    """An exception that can be sent to another process, with its traceback as a note unless it is for the user."""
    if not isinstance(error, SpeechLMError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SpeechLMError(f"{type(error).__name__}: {error}")
    return error
