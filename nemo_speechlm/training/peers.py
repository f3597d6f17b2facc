"""What the processes of a training tell when one of them fails: one message, and no traceback of the others."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lightning.pytorch import Trainer
from torch import distributed
from torch.distributed import distributed_c10d

from nemo_speechlm.errors import SpeechLMError, Unfinished

_KEY = "nemo_speechlm: processes that have failed"
_PATIENCE = 1.0
"""Seconds that a process which has nothing to say leaves the one that has: launchers stop all when one has ended."""

_GRACE = 5.0
"""Seconds that other processes of this machine have to end by themselves."""

_LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL")


@contextmanager
def one_message(trainer: Trainer) -> Iterator[None]:
    """Let the process that fails first tell why, and the others end with status 1 without a word.

    A process whose peer has ended without a word (killed for its memory, say) says so in one line.

    Raises:
        SpeechLMError: what was wrong here, or that another process has ended.
    """
    try:
        yield
    except Unfinished:
        raise
    except SpeechLMError:
        if trainer.world_size > 1:
            if not _is_first():
                _leave()
            _let_others_ask(trainer.world_size)
            end_others(trainer)
        raise
    except RuntimeError as error:
        if trainer.world_size == 1 or not _was_left_alone(error):
            raise
        if not _is_first():
            _leave()
        raise SpeechLMError(
            "another process of this training has ended: what it wrote last, or its launcher, says why. Run the same "
            "command again to go on from the last checkpoint"
        ) from error


def _is_first() -> bool:
    """Whether no other process has failed so far; True where nobody can be asked."""
    with suppress(Exception):  # the store ends with the process that holds it, and each version has its own errors
        return distributed_c10d._get_default_store().add(_KEY, 1) == 1
    return True


def _let_others_ask(processes: int) -> None:
    """Give those that fail at the same moment the time to learn who was first: the store may end with this process."""
    with suppress(Exception):
        store, deadline = distributed_c10d._get_default_store(), time.monotonic() + _PATIENCE / 2
        while store.add(_KEY, 0) < processes and time.monotonic() < deadline:
            time.sleep(0.02)


def end_others(trainer: Trainer) -> None:
    """End the processes that this one has started, where they do not end by themselves.

    With gloo their collectives fail when this process ends. NCCL's wait for half an hour, and keep the GPUs.
    """
    processes = getattr(trainer.strategy.launcher, "procs", None) or []
    deadline = time.monotonic() + _GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in processes:
        process.kill()  # nothing where it has ended


def _leave() -> None:
    with suppress(Unfinished):  # SIGTERM, before training has begun
        time.sleep(_PATIENCE)
    sys.exit(1)


def _was_left_alone(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or any(mark in str(error) for mark in _LEFT_ALONE)
