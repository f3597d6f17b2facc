"""Errors that a user can act on: each says where, what was found, what was expected."""

from pathlib import Path


class SpeechLMError(Exception):
    """Base of all errors caused by input, configuration or environment rather than by a defect of ours.

    Commands print its message without a traceback and exit with status 1.
    """


class InputError(SpeechLMError):
    """Something in the user's input is wrong.

    Args:
        message: what was found, what was expected and, where there is one, the way out.
        path: the file it was found in.
        line: its line number there, counted from 1.
    """

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None):
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message)
        self.reason = message
        self.path = None if path is None else str(path)
        self.line = line

    def __reduce__(self):  # so that it survives the way back from a worker process
        return type(self), (self.reason, self.path, self.line)


class OutputError(SpeechLMError):
    """The output cannot be written, because the disk is full, say; no input is to blame.

    Args:
        path: what was to be written.
        reason: why it cannot be.
    """

    def __init__(self, path: str | Path, reason: object):
        super().__init__(f"{path}: cannot be written: {reason}; once that is mended, the same command goes on")
        self.path, self.reason = str(path), str(reason)

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class Unfinished(SpeechLMError):
    """Raised by a task that stopped early on purpose; the same command continues it.

    Commands exit with status 75 (``EX_TEMPFAIL`` of sysexits.h: try again), so that a job script can go on by it.
    """

    status = 75


class SkipItem(SpeechLMError):
    """Raised for one item of a job that is fine as input but cannot be used (an alignment that found no path, say).

    The job goes on; the item is listed with this reason in the job's ``.skipped.jsonl``.

    Args:
        message: why.
        path: file to report, when a line number means nothing to the user.
    """

    def __init__(self, message: str, path: str | Path | None = None):
        super().__init__(message)
        self.path = None if path is None else str(path)

    def __reduce__(self):
        return type(self), (str(self), self.path)


def system_error(error: OSError) -> str:
    """An error of the system in a line: the file, if Python names one, and what is wrong."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def first_line(error: BaseException) -> str:
    """What a library's error says first; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
