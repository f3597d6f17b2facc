import sys

import pytest

from nemo_speechlm.cli import command


@command("ctc_small")
def noop(cfg):
    pass


@pytest.mark.parametrize("arguments", [["--help"], ["-h", "--config-name", "ctc_base"]])
def test_help_shows_what_a_recipe_inherits(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["noop", *arguments])
    noop()
    text = capsys.readouterr().out
    assert "phase_ratio: [0.1, 0.4, 0.5]" in text
    assert ("defaults: [ctc, architecture/base@model" in text) == ("ctc_base" in arguments)
    assert text.count("/ctc.yaml:") == 1


def test_help_on_a_recipe_that_does_not_exist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["noop", "--help", "--config-name=nothing"])
    noop()
    assert "there are:" in capsys.readouterr().out
