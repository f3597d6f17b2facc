"""Tests by random examples have a short form, which `make test` runs, and a long one: `make test LONG_TESTS=1`."""

import os


def examples(short: int, long: int) -> int:
    """How many examples a test is to try."""
    return long if os.environ.get("LONG_TESTS", "") not in ("", "0") else short
