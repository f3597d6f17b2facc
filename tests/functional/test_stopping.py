"""A command that trains in two processes, told to stop through the second; tests/training has the short form."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nemo_speechlm.testing.corpora import tiny_corpus
from tests.functional.commands import EXAMPLES
from tests.functional.test_pretrain_command import SMALL, data
from tests.long_forms import LONG


def second_rank(process):
    """The process that a training of two has started as its second."""
    (found,) = (
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/status")
        if f"PPid:\t{process}\n" in status.read_text()
        and b"LOCAL_RANK=1" in status.with_name("environ").read_bytes().split(b"\0")
    )
    return found


@pytest.mark.skipif(not LONG, reason="starts processes that import all: with LONG_TESTS=1")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds the second process through /proc")
@pytest.mark.timeout(300)
def test_sigterm_to_the_second_process_stops_both_with_one_checkpoint(tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=60)
    command = [
        sys.executable, str(EXAMPLES / "speechlm_pretrain.py"), *data(corpus), *SMALL, "output=out.nemo",
        "trainer.devices=2", "trainer.max_steps=1000000", "trainer.val_check_interval=1000000",
        "trainer.accumulate_grad_batches=2", "save_every_minutes=0.001", "+trainer.enable_progress_bar=false",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 200
            while not list(tmp_path.glob("runs/**/*-last.ckpt")) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert process.poll() is None, (tmp_path / "log").read_text(errors="replace")[-3000:]
            os.kill(second_rank(process.pid), signal.SIGTERM)
            status = process.wait(60)
        finally:
            process.kill()
    said = (tmp_path / "log").read_text(errors="replace")
    assert status == 75, said[-3000:]
    assert "SIGTERM was received at step" in said
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.nemo").exists()
    (last,) = tmp_path.glob("runs/**/*-last.ckpt")
    checkpoint = torch.load(last, weights_only=False)
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert batches["completed"] == batches["ready"] == 2 * checkpoint["global_step"]  # a whole update
