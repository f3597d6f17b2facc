"""Processes that train together, as torchrun would start them, forked from one that has imported everything."""

import faulthandler
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import torch


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells one of its processes, all of them on this machine."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "test",
    }


def run_in_processes(function: Callable[..., Any], processes: int, *arguments: Any, seconds: float = 200) -> list[int]:
    """Call ``function(rank, *arguments)`` in several processes, each with one thread and in a group of its own.

    Returns:
        their exit statuses; negative is the number of the signal that ended one.

    Raises:
        TimeoutError: if one has not ended after so many seconds; all are then killed.
    """
    context, port = multiprocessing.get_context("fork"), free_port()
    started = [
        context.Process(target=_enter, args=(function, rank, processes, port, arguments)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    deadline = time.monotonic() + seconds
    for process in started:
        process.join(max(0.1, deadline - time.monotonic()))
    hung = [process for process in started if process.is_alive()]
    for process in hung:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
    if hung:
        raise TimeoutError(f"{len(hung)} of {processes} processes did not end within {seconds} s")
    return [process.exitcode or 0 for process in started]


def _enter(function: Callable[..., Any], rank: int, processes: int, port: int, arguments: tuple[Any, ...]) -> None:
    os.setsid()
    faulthandler.enable(file=2)  # where a crash in compiled code says its stack, and what captures output has it
    torch.set_num_threads(1)
    os.environ |= torchrun_environment(rank, processes, port)
    function(rank, *arguments)
