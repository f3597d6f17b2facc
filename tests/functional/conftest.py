"""What tests of commands share."""

import pytest

from tests.functional.commands import run_example


@pytest.fixture
def run(capfd):
    """Runs a command in this process; returns its exit status and what it printed."""

    def run(example, *arguments):
        capfd.readouterr()
        status = run_example(example, *arguments)
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return run
