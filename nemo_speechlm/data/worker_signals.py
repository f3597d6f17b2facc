"""Loaders' workers leave it to their parent what a signal means."""

import os
import signal
import threading
from multiprocessing import parent_process


def leave_signals_to_parent(worker: int) -> None:
    """``worker_init_fn`` of loaders of training: a signal that all processes of a job get does not end the worker.

    SLURM sends SIGTERM or its own choice of signal to all processes of a step, and a terminal sends Ctrl-C to all. The
    parent wants to finish its update then and save, for which it needs the batches of its workers. A SIGTERM that the
    parent itself sends ends the worker, as ever. A worker whose parent is gone ends by PyTorch's own watch.

    Args:
        worker: number of the worker, as PyTorch gives it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    found = parent_process()
    parent = os.getppid() if found is None else found.pid
    # Blocked here, and so in threads that begin later, the signal waits for the one thread that asks who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_for, args=[parent], name="signals", daemon=True).start()


def _end_for(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
