"""One piece of work at a time, in the order of arrival; a few may wait, and none takes for ever."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nemo_speechlm.errors import SpeechLMError

Result = TypeVar("Result")


class Busy(SpeechLMError):
    """Raised where too many wait already."""


class TimeUp(SpeechLMError):
    """Raised for work that was not done in time."""


class Turns:
    """A queue before a thread.

    A thread cannot be stopped from outside. So work is given a function that it calls now and then, which raises
    :class:`TimeUp` when its time is over. Who waits for it is told in time in any case.

    Args:
        waiting: how many may wait while one is at work.
        time_limit: seconds from arrival to the end.
    """

    def __init__(self, waiting: int, time_limit: float):
        self._waiting, self._time_limit = waiting, time_limit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._inside = 0

    async def run(self, work: Callable[[Callable[[], None]], Result]) -> Result:
        """Do a piece of work in its turn; ``work`` is called with the function that it must call now and then.

        Raises:
            Busy: if too many wait.
            TimeUp: if it was not done in time.
        """
        if self._inside > self._waiting:
            raise Busy(f"{self._inside} recordings are before this one, and no more may wait: try again in a moment")
        end = time.monotonic() + self._time_limit

        def check() -> None:
            if time.monotonic() > end:
                raise self._time_up()

        def turn() -> Result:
            check()
            return work(check)

        self._inside += 1
        task = asyncio.get_running_loop().run_in_executor(self._thread, turn)
        task.add_done_callback(self._left)
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._time_limit)
        except TimeoutError as error:
            raise self._time_up() from error

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _left(self, task: asyncio.Future) -> None:
        self._inside -= 1
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    def _time_up(self) -> TimeUp:
        return TimeUp(f"not done within {self._time_limit:g} s (time_limit): try a shorter recording, or later")
