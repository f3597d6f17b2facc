"""The program nemo-speechlm: lists the commands, finds the one that is asked for."""

import sys
from pathlib import Path

import pytest

from nemo_speechlm import program

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["nemo-speechlm", *arguments])
    program.main()


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_all_commands_are_listed(monkeypatch, capsys, arguments):
    run(monkeypatch, *arguments)
    lines = capsys.readouterr().out.split("commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert all(len(line.split()) > 3 for line in lines)


def test_a_command_runs(monkeypatch, capsys):
    run(monkeypatch, "speechlm_pretrain", "--config-name", "speechlm_p_base", "--help")
    assert "speechlm_p_base.yaml; ??? must be given" in capsys.readouterr().out


def test_an_unknown_command_names_those_near_it(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "transcrib")
    assert end.value.code == 2
    assert "error: no command 'transcrib'; did you mean transcribe?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["transcribe", "convert_checkpoint"])
def test_help_names_the_program_and_not_the_files_behind_it(monkeypatch, capsys, name):
    if name == "convert_checkpoint":
        with pytest.raises(SystemExit):
            run(monkeypatch, name, "--help")
    else:
        run(monkeypatch, name, "--help")
    text = capsys.readouterr().out
    assert text.startswith(f"usage: nemo-speechlm {name} ")
    assert f"    nemo-speechlm {name} " in text.partition("\n")[2]
    assert "python" not in text.partition("Options and their defaults")[0]
    assert program.shown().startswith("python ")  # afterwards
