"""One writer at a time, whoever ends how."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, whole_file
from nemo_speechlm.locks import lock_path, only_writer

HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from nemo_speechlm.locks import only_writer
with only_writer(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def output(tmp_path):
    return tmp_path / "units.json"


@pytest.fixture
def holder(output):
    """Another process that is making the output, until its input is closed."""
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parent.parent), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_process_is_told_who_is_first(holder, output):
    who = (
        rf"units\.json: another process is making it \(process {holder.pid} on {socket.gethostname()}, since \d{{4}}-"
    )
    with pytest.raises(InputError, match=who), only_writer(output):
        pass
    for write in (atomic_write, whole_file):
        with pytest.raises(InputError, match=who), write(output):
            pass
    with atomic_write(output.with_name("units.shard0of2.json")) as file:  # another output
        file.write("x")
    holder.stdin.close()
    assert holder.wait(timeout=30) == 0
    with atomic_write(output) as file:
        file.write("mine")
    assert sorted(path.name for path in output.parent.iterdir()) == ["units.json", "units.shard0of2.json"]


def test_the_lock_of_a_killed_process_is_free(holder, output):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    assert lock_path(output).exists()
    with only_writer(output):
        assert f"process {os.getpid()} on" in lock_path(output).read_text()
    assert not lock_path(output).exists()


def test_who_waits_comes_next(holder, output):
    holder.stdin.close()
    with only_writer(output, wait=30):
        assert holder.wait(timeout=30) == 0


def test_who_waits_in_vain(holder, output):
    with pytest.raises(InputError, match="another process is making it"), only_writer(output, wait=0.3):
        pytest.fail("it is held")


def test_a_lock_of_another_machine_can_be_removed(holder, output, monkeypatch):
    """As on a file system that keeps the locks of a machine that went down."""
    monkeypatch.setattr(socket, "gethostname", lambda: "other-node")
    with pytest.raises(InputError, match=rf"that machine went down, remove {lock_path(output)}"), only_writer(output):
        pytest.fail("it is held")


def test_a_process_may_hold_it_several_times(output):
    with only_writer(output):
        with atomic_write(output) as file:
            file.write("x")
        assert lock_path(output).exists()
    with pytest.raises(ZeroDivisionError), only_writer(output):
        1 / 0  # noqa: B018
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_leads_to_what_was_written(output, tmp_path, there):
    """A folder of runs with links to another disk."""
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "units.json"
    link.symlink_to(os.path.relpath(output, link.parent))
    if there:
        output.write_text("old")
    with atomic_write(link) as file:
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
            [".lock.units.json", ".partial.units.json", *(["units.json"] if there else [])]
        )
        file.write("new")
    assert link.is_symlink()
    assert output.read_text() == "new"
    with whole_file(link) as partial:
        partial.write_text("newer")
    assert link.is_symlink()
    assert output.read_text() == "newer"
    assert [path.name for path in link.parent.iterdir()] == [link.name]


def test_a_link_and_its_file_have_one_lock(output, holder, tmp_path):
    (tmp_path / "link.json").symlink_to(output)
    with (
        pytest.raises(InputError, match=r"link\.json: another process is making it"),
        only_writer(tmp_path / "link.json"),
    ):
        pass


def test_links_in_a_circle_are_replaced(output):
    output.symlink_to(output)
    with atomic_write(output) as file:
        file.write("new")
    assert output.read_text() == "new"
