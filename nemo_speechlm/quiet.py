"""What a command shows: results on stdout; on stderr progress and what the user should know, no libraries' logs."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "NEMO_SPEECHLM_VERBOSE"
"""Of the environment: 1 shows what libraries log, 0 does not. Processes that a command starts inherit it."""

_PACKAGE = str(Path(__file__).parent) + os.sep
_emit = logging.StreamHandler.emit


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Show only the package's own log messages and the errors of libraries inside the block, all of them on stderr.

    Handlers that write to files still get everything, so the log files in a run's folder are complete. Our messages
    appear without time and place, with ``warning:`` or ``error:`` before them.

    Libraries add handlers for the terminal when they are imported, each in a way of its own, and mostly after the
    block has begun. So the decision is made where all of them arrive: in ``logging.StreamHandler.emit``.

    Args:
        verbose: show what libraries log too, in their formats. It still goes to stderr.
    """
    warn, emit = warnings.showwarning, logging.StreamHandler.emit
    with environment(VARIABLE, "1" if verbose else "0"):
        logging.StreamHandler.emit = _emit_all if verbose else _emit_ours  # type: ignore[method-assign, assignment]
        if not verbose:
            warnings.showwarning = _show_no_warning
        try:
            yield
        finally:
            logging.StreamHandler.emit = emit  # type: ignore[method-assign, assignment]
            if warnings.showwarning is _show_no_warning:  # NeMo puts its own there, which logs
                warnings.showwarning = warn


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Give a variable of the environment a value inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def verbose_by_environment() -> bool:
    """Whether the environment asks for the libraries' logs."""
    return os.environ.get(VARIABLE) == "1"


def _emit_all(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    if _to_terminal(handler):
        _write(handler.format(record))
    else:
        _emit(handler, record)


def _emit_ours(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    if not _to_terminal(handler):
        _emit(handler, record)
    elif record.pathname.startswith(_PACKAGE):
        before = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        _write(before + record.getMessage())
    elif record.levelno >= logging.ERROR:
        _write(handler.format(record))


def _to_terminal(handler: logging.StreamHandler) -> bool:
    """Whether a handler writes to stdout or stderr, or to what was one of them before it was redirected."""
    standard = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return any(handler.stream is stream for stream in standard) or getattr(handler.stream, "closed", False)


def _write(line: str) -> None:
    """Write a line to stderr, above the progress bars that are there."""
    if (tqdm := sys.modules.get("tqdm")) is not None:
        tqdm.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def _show_no_warning(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``warnings.showwarning``."""


_as_parent = quiet()
if os.environ.get(VARIABLE) == "0":  # a worker of a command: it begins by importing what the command has imported
    _as_parent.__enter__()
