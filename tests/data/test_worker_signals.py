import subprocess
import time

import pytest
import torch
from torch.utils.data import DataLoader

from nemo_speechlm.data.worker_signals import leave_signals_to_parent

WORKERS = 2


def loader(context):
    return DataLoader(
        torch.arange(40),
        batch_size=None,
        num_workers=WORKERS,
        worker_init_fn=leave_signals_to_parent,
        multiprocessing_context=context,
    )


class Slow(torch.utils.data.Dataset):
    """Takes so long that a signal arrives before all is read."""

    def __len__(self):
        return 40

    def __getitem__(self, item):
        time.sleep(0.1)
        return item


def send(name, pids):
    subprocess.run(["kill", "-s", name, *map(str, pids)], check=True)  # another process than the workers' parent


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_live_on_when_others_send_a_signal(context):
    items = iter(loader(context))
    found = []
    for name in ("TERM", "INT", "USR1"):
        found += [int(next(items)) for _ in range(2 * WORKERS)]  # each has begun, or lives on
        send(name, [worker.pid for worker in items._workers])
    found += [int(item) for item in items]
    assert found == list(range(40))


def test_a_worker_ends_when_its_parent_says_so():
    items = iter(loader("fork"))
    next(items)
    (worker, *_) = items._workers
    begun = time.monotonic()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0
    assert time.monotonic() - begun < 20


def test_without_it_workers_end():
    items = iter(DataLoader(Slow(), batch_size=None, num_workers=WORKERS))
    for _ in range(WORKERS):
        next(items)
    send("TERM", [worker.pid for worker in items._workers])
    with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
        list(items)
