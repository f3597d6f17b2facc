import sys

import pytest

from nemo_speechlm.cli import command
from nemo_speechlm.errors import SpeechLMError, Unfinished


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (Unfinished("the time is over"), 75, "the time is over\n"),
        (SpeechLMError("no such thing"), 1, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
    ],
)  # fmt: skip
def test_how_a_command_ends_says_its_status(monkeypatch, capsys, raised, status, printed):
    @command("compare")
    def main(cfg):
        raise raised

    monkeypatch.setattr(sys, "argv", ["compare", "a=1", "b=2"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status
    assert capsys.readouterr().err == printed
