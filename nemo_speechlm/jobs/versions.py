"""Versions of what makes a job's results: the same settings may give others under another version."""

import platform
from collections.abc import Iterable
from importlib import metadata

import nemo_speechlm


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """The version of this package, and of libraries.

    Args:
        libraries: as they are called where they are installed from, or ``python``.

    Returns:
        by name; a library that is not installed has none.
    """
    found = {"nemo_speechlm": nemo_speechlm.__version__}
    for name in libraries:
        if name == "python":
            found[name] = platform.python_version()
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))
