"""What the processes of a training agree on, and what they tell when one of them fails: one message for all."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer
from torch import distributed
from torch.distributed import distributed_c10d

from nemo_speechlm import quiet
from nemo_speechlm.errors import InputError, SpeechLMError, Unfinished, first_line

_KEY = "nemo_speechlm: processes that have failed"
_PATIENCE = 1.0
"""Seconds that a process which has nothing to say leaves the one that has: launchers stop all when one has ended."""

_GRACE = 5.0
"""Seconds that other processes of this machine have to end by themselves."""

_LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL")


def check_same_checkpoint(trainer: Trainer) -> None:
    """Check, once the processes of a training know one another, that all go on from the same checkpoint, or from none.

    Each has looked for it by itself: on another node the folder may be another one.

    Raises:
        InputError: naming a process that has found another one than the first.
    """
    if trainer.world_size == 1 or not distributed.is_initialized():
        return
    path = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
    own = None if path is None else (path.name, path.stat().st_size if path.is_file() else 0)
    found: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(found, (own, socket.gethostname()))
    first, host = found[0]
    for rank, (other, there) in enumerate(found):
        if other != first:
            raise InputError(
                f"process {rank} on {there} finds {_named(other)}, and the first process on {host} {_named(first)}; "
                "exp_manager.exp_dir must be a folder that all nodes see",
                path or Path(trainer.default_root_dir),
            )


def _named(checkpoint: tuple[str, int] | None) -> str:
    return "no checkpoint to go on from" if checkpoint is None else f"the checkpoint {checkpoint[0]}"


@contextmanager
def own_rank(trainer: Trainer) -> Iterator[None]:
    """Tell NeMo which process this is, where Lightning has started it in the shell of a SLURM job.

    There SLURM's own variables say of every process that it is the first, and NeMo goes by them.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if "SLURM_PROCID" not in os.environ or not isinstance(environment, LightningEnvironment):
        yield
        return
    with quiet.environment("RANK", str(trainer.global_rank)):
        yield


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
            "another process of this training has ended, or cannot be reached: what it wrote last, or its launcher, "
            "says why. Run the same command again to go on from the last checkpoint. What failed here: "
            f"{first_line(error)}"
        ) from error


@contextmanager
def until_the_first_is_done(trainer: Trainer) -> Iterator[None]:
    """Let the other processes wait at the block's end for the first one, which does most of what is in it.

    Those that go on sooner may look for what is not there yet, or end, and launchers then end the first one.
    """
    global _finished
    _finished += 1
    key, store = f"nemo_speechlm: the first process is done {_finished}", _store(trainer)
    try:
        yield
    finally:
        with suppress(Exception):  # the store may be gone with the first process
            if store is not None and trainer.is_global_zero:
                store.set(key, b"1")
            while store is not None and not store.check([key]):
                time.sleep(0.2)


_finished = 0
"""Trainings that have ended in this process, which is the same in all of them."""


def _store(trainer: Trainer) -> Any:
    if trainer.world_size == 1 or not distributed.is_initialized():
        return None
    return distributed_c10d._get_default_store()


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
