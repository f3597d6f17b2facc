"""What an engine is asked for: workers that are given chunks, and what becomes of these."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from nemo_speechlm.errors import InputError
from nemo_speechlm.jobs.chunks import Chunk


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
