"""How the processes of a training end when one of them has failed."""

import subprocess
import sys
import time
from types import SimpleNamespace

from nemo_speechlm.training import peers


def test_processes_that_wait_for_ever_are_ended(monkeypatch):
    """As those that wait in a collective of NCCL."""
    monkeypatch.setattr(peers, "_GRACE", 0.5)
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    begun = time.monotonic()
    try:
        trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[waiting, ended])))
        peers.end_others(trainer)
        assert waiting.wait(10) < 0
        assert ended.wait(10) == 0
        assert time.monotonic() - begun < 20
    finally:
        waiting.kill()


def test_nobody_to_end():
    for launcher in (None, SimpleNamespace(), SimpleNamespace(procs=None)):
        peers.end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
