"""Importing much at once, without searches for garbage."""

import gc

import pytest

from nemo_speechlm import imports
from nemo_speechlm.imports import importing


def test_what_was_imported_is_not_searched_for_garbage(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    imports._leave_to_stay.cache_clear()
    for _ in range(2):
        with importing():
            pass
        assert frozen == [False]  # before the search goes on, and once in a process


def test_imports_are_not_interrupted_by_a_search_for_garbage():
    seen = []

    def fail():
        with importing():
            seen.append(gc.isenabled())
            raise ModuleNotFoundError

    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        fail()
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()  # whoever switched it off has it switched off still
    finally:
        gc.enable()
