"""The walk-through of docs/russian.md runs as it is written, only smaller."""

import json
import re
import shlex
from pathlib import Path

import pytest

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.testing.corpora import russian
from nemo_speechlm.units.inventory import UnitInventory
from tests.functional.commands import run_example
from tests.pages import ROOT, blocks, command_lines

pytest.importorskip("espeakng_loader")
pytest.importorskip("phonemizer")

SMALLER = {
    "train_minutes": "0.7",
    "untranscribed_minutes": "0.05",
    "valid_minutes": "0.1",
    "test_minutes": "0.1",
    "sentences": "300",
    "valid_lines": "20",
    "trainer.max_steps": "2",
}
"""Values of the page's options that only say how much."""
SHORTER = {
    "train_aligner": ["plan.passes=4", "plan.settle=1", "plan.components=300", "threads=1"],
    "speechlm_pretrain": ["trainer.val_check_interval=2", "model.train_ds.speech.batch_duration=12"],
    "speechlm_finetune_ctc": ["trainer.val_check_interval=2", "model.train_ds.batch_duration=12"],
    "prepare_text": ["workers=1"],
    "tokenize_speech": ["workers=1"],
    "tokenize_text": ["workers=1"],
}


def commands(page: Path, out: Path) -> list[list[str]]:
    """The page's commands that are run, with their loops unrolled, each as (script, argument, ...)."""
    code = "".join(block.code for block in blocks(page) if block.language == "bash" and block.reason is None)
    lines = [line.replace("$OUT", str(out)) for line in command_lines(code)]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def smaller(arguments: list[str]) -> list[str]:
    cut = [
        re.sub(r"^([\w.]+)=.*", lambda m: f"{m[1]}={SMALLER[m[1]]}" if m[1] in SMALLER else m[0], a) for a in arguments
    ]
    return [*cut, *SHORTER.get(Path(arguments[0]).stem, [])]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs" / "russian.md"
    steps = commands(page, tmp_path)
    assert len(steps) == 11
    assert set(SMALLER) <= set(re.findall(r"([\w.]+)=", page.read_text(encoding="utf-8")))
    monkeypatch.chdir(ROOT)
    for step in steps:
        arguments = smaller(step)
        assert not run_example(Path(arguments[0]).name, *arguments[1:]), arguments

    inventory = UnitInventory.load(tmp_path / "units.json")
    assert inventory.language == "ru"
    assert set(inventory.durations) == set(inventory.symbols)
    for part in ("train", "valid", "text", "valid_text"):
        records = [record for _, record in read_manifest(tmp_path / f"{part}.units.json")]
        assert records
        for record in records:
            assert set(record["text"]) <= set(russian().characters)
            assert set(inventory.encode(record["units"].split()))
    given, aligned = (
        sum(1 for _ in read_manifest(tmp_path / name)) for name in ("corpus/train.json", "train.units.json")
    )
    assert aligned >= 0.8 * given

    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    assert "".join(model.cfg.decoder.vocabulary) == russian().characters
    summary = json.loads((tmp_path / "test" / "summary.json").read_text())
    assert summary["cer"] > 0
