"""The command: the block of its page, run; what it prints; how it ends."""

import os
import shlex
import signal
import threading
import urllib.request

import pytest

from tests.functional.commands import run_example
from tests.pages import ROOT, blocks


def test_the_command_of_the_page(models, recording, monkeypatch, capfd):
    block = blocks(ROOT / "docs/how-to/try-a-model.md")[0]
    arguments = shlex.split(block.code.replace("$OUT", str(models)))
    assert arguments[:2] == ["python", "examples/serve.py"]
    answers = []

    def use(port):
        address = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(f"{address}/recognize", recording.read_bytes(), {
            "Content-Type": "application/octet-stream"})  # fmt: skip
        try:
            for asked in (f"{address}/", request):
                with urllib.request.urlopen(asked, timeout=30) as reply:
                    answers.append(reply.read())
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does

    def opened(self, sockets):
        threading.Thread(target=use, args=[sockets[0].getsockname()[1]]).start()
        run(self, sockets)

    import uvicorn

    run = uvicorn.Server.run
    monkeypatch.setattr(uvicorn.Server, "run", opened)
    assert run_example("serve.py", *arguments[2:], "port=0", "device=cpu") == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert any(line.startswith("Open http://127.0.0.1:") for line in lines)
    assert lines[-1] == "ended"
    assert b"<!doctype html>" in answers[0]
    assert b'"units":[{' in answers[1]


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_the_extra_is_named_where_it_is_missing(models, monkeypatch, capfd, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    assert run_example("serve.py", f"model={models / 'ctc.nemo'}", "port=0") == 1
    assert "error: serve needs starlette and uvicorn: pip install 'nemo_speechlm[serve]'" in capfd.readouterr().err


def test_another_host_is_warned_of(models, monkeypatch, capfd):
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    assert run_example("serve.py", f"model={models / 'ctc.nemo'}", "port=0", "device=cpu", "host=0.0.0.0") == 0
    error = capfd.readouterr().err
    assert "warning: host=0.0.0.0: whoever reaches this machine can use the page. There is no password" in error
