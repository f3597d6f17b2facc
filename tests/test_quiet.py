"""What libraries log stays off the terminal while a command runs; what we say goes to stderr; files get all."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from nemo_speechlm.cli import command
from nemo_speechlm.models.common import pretrained
from nemo_speechlm.quiet import VARIABLE, quiet


def log(logger, level, message, path):
    """A message as if a file had logged it."""
    logger.handle(logger.makeRecord(logger.name, level, path, 1, message, (), None))


def everything(tmp_path):
    """Let a library and the package log, to stdout, stderr and a file; returns what the file got."""
    library = logging.getLogger("a_library")
    library.setLevel(logging.INFO)
    library.propagate = False
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(tmp_path / "log.txt")]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[lib] %(message)s"))
        library.addHandler(handler)
    try:
        log(library, logging.INFO, "of the library", "/lib/site-packages/a.py")
        log(library, logging.ERROR, "it broke", "/lib/site-packages/a.py")
        log(library, logging.INFO, "of ours", pretrained.__file__)
        log(library, logging.WARNING, "careful", pretrained.__file__)
        warnings.warn("old interface", UserWarning, stacklevel=1)
    finally:
        for handler in handlers:
            library.removeHandler(handler)
        handlers[1].close()
    return (tmp_path / "log.txt").read_text()


def test_only_our_messages_and_errors_on_stderr(tmp_path, capsys):
    with quiet():
        assert os.environ[VARIABLE] == "0"
        written = everything(tmp_path)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "[lib] it broke\nof ours\nwarning: careful\n"
    assert written == "[lib] of the library\n[lib] it broke\n[lib] of ours\n[lib] careful\n"


def test_verbose_shows_everything_on_stderr(tmp_path, capsys):
    with quiet(verbose=True), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        written = everything(tmp_path)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == written == "[lib] of the library\n[lib] it broke\n[lib] of ours\n[lib] careful\n"
    assert [str(each.message) for each in warned] == ["old interface"]


def test_afterwards_all_is_as_before(tmp_path, capsys):
    before = logging.StreamHandler.emit, warnings.showwarning, os.environ.get(VARIABLE)
    with quiet():
        pass
    assert (logging.StreamHandler.emit, warnings.showwarning, os.environ.get(VARIABLE)) == before
    with pytest.warns(UserWarning, match="old interface"):
        everything(tmp_path)
    assert capsys.readouterr().out.startswith("[lib] of the library\n")


def test_a_line_stays_clear_of_a_progress_bar(capsys):
    from tqdm import tqdm

    logger = logging.getLogger("a_library")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with quiet(), tqdm(total=2, desc="Working"):
            log(logger, logging.WARNING, "careful", pretrained.__file__)
    finally:
        logger.removeHandler(handler)
    line = next(line for line in capsys.readouterr().err.replace("\r", "\n").split("\n") if "careful" in line)
    assert line == "warning: careful"


@pytest.mark.parametrize(("value", "shown"), [("0", ""), ("1", "noise\n")])
def test_processes_that_a_command_starts_are_as_quiet(value, shown):
    program = "import gc, logging, nemo_speechlm.cli; gc.collect(); logging.getLogger('a_library').warning('noise')"
    environment = {**os.environ, VARIABLE: value}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("", shown)


@pytest.mark.parametrize(
    ("arguments", "environment", "seen"),
    [
        ([], None, "0"),
        (["verbose=true"], None, "1"),
        (["verbose=True"], "0", "1"),
        ([], "1", "1"),
        (["verbose=false"], "1", "0"),
        (["verbose=true", "verbose=false"], None, "0"),
    ],
)  # fmt: skip
def test_verbose_is_an_option_of_the_command_and_not_of_its_config(monkeypatch, arguments, environment, seen):
    found = {}

    @command("compare")
    def main(cfg):
        found.update(variable=os.environ[VARIABLE], keys=set(cfg), arguments=sys.argv[1:])

    monkeypatch.setattr(sys, "argv", ["compare", "a=one", *arguments, "b=two"])
    if environment is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, environment)
    main()
    assert found["variable"] == seen
    assert "verbose" not in found["keys"]
    assert not [argument for argument in found["arguments"] if "verbose" in argument]
