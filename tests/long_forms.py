"""Some tests have a short form, which `make test` runs, and a long one: `make test LONG_TESTS=1`."""

import os

LONG = os.environ.get("LONG_TESTS", "") not in ("", "0")


def examples(short: int, long: int) -> int:
    """How many examples a test is to try."""
    return long if LONG else short
