"""Work in pipelines of others gives what a job gives, and entries that cannot be used come back with the reason."""

import copy
import json
import pickle
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import numpy as np
import pytest

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import parse_line
from nemo_speechlm.jobs import ManifestStage, run_job
from tests.pages import ROOT, blocks

Given, Made = TypeVar("Given"), TypeVar("Made")


def work(lines):
    """Results that depend on the line's number."""
    results = []
    for number, line in lines:
        record = parse_line(line, "manifest", number, ["text"])
        if record["text"] == "raise":
            raise KeyError("raise")
        if record["text"] == "bad":
            results.append(InputError("is bad", "manifest", number))
        elif record["text"] == "odd":
            results.append(SkipItem("is odd"))
        else:
            results.append({"text": record["text"], "drawn": number * number})
    return results


def make_work():
    return work


ENTRIES = [{"text": text, "line_number": number} for number, text in enumerate(["a", "ü", "c", "d"], start=7)]


def test_results_are_those_of_a_job(tmp_path: Path):
    manifest = tmp_path / "manifest"
    manifest.write_text("\n" * 6 + "".join(json.dumps({"text": entry["text"]}) + "\n" for entry in ENTRIES))
    run_job(manifest, tmp_path / "out", make_work, settings={}, batch_size=4)
    expected = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    stage = ManifestStage(make_work)
    stage.setup()
    found = [entry for half in (ENTRIES[2:], ENTRIES[:2]) for entry in pickle.loads(pickle.dumps(stage)).process(half)]
    assert sorted(found, key=lambda entry: entry.pop("line_number")) == expected


def test_entries_that_cannot_be_used_come_back():
    texts = ["a", "bad", "odd", "raise", "b"]
    found = ManifestStage(make_work).process([{"text": text} for text in texts])
    assert [entry["text"] for entry in found] == texts
    reasons = [entry.get("skipped") for entry in found]
    assert reasons[:3] == [None, "is bad", "is odd"]
    assert reasons[3].startswith("KeyError: 'raise' (test_stage.py:")
    assert reasons[4] is None


@pytest.mark.parametrize(("text", "error"), [("bad", InputError), ("raise", KeyError)])
def test_bad_entries_raise_if_told(text, error):
    with pytest.raises(error):
        ManifestStage(make_work, reason_key=None).process([{"text": text}])


class ProcessingStage(ABC, Generic[Given, Made]):
    """A stand-in for Curator's 1.4, with what the page's code meets of it."""

    name = "ProcessingStage"
    batch_size = 1

    @abstractmethod
    def process(self, task): ...


class Attributes(dict):
    """Keys are attributes, too: so later stages look for what they need."""

    def __getattr__(self, key):
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


@dataclass
class AudioTask:
    """A stand-in for Curator's task: one entry."""

    data: dict

    def __post_init__(self):
        self.data = Attributes(self.data)


def test_the_stage_that_the_page_shows_for_curator(monkeypatch):
    """The page's own code, on stand-ins for Curator's classes."""
    base, tasks = ModuleType("nemo_curator.stages.base"), ModuleType("nemo_curator.tasks")
    base.ProcessingStage, tasks.AudioTask = ProcessingStage, AudioTask
    for module in (ModuleType("nemo_curator"), ModuleType("nemo_curator.stages"), base, tasks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    page = ROOT / "docs/how-to/many-machines.md"
    (code,) = [block.code for block in blocks(page) if block.language == "python" and "nemo_curator" in block.code]
    names = {"ManifestStage": ManifestStage, "__name__": __name__}
    exec(compile(code, page, "exec"), names)
    seen = []
    stage = names["Units"](ManifestStage(lambda: lambda lines: seen.append(len(lines)) or work(lines)))
    stage = copy.deepcopy(stage)  # as with_ does
    assert isinstance(stage, ProcessingStage)
    assert (stage.name, stage.inputs(), stage.outputs()) == ("units", (["data"], []), (["data"], []))
    assert stage.batch_size > 1
    stage.setup()
    given = [AudioTask(entry) for entry in [*ENTRIES, {"text": "bad", "line_number": 3}]]
    made = stage.process_batch(np.array(given, dtype=object))  # as Ray Data hands them over
    assert isinstance(made, list)
    assert [id(task) for task in made] == [id(task) for task in given]
    assert seen == [5], "all lines at once"
    assert [task.data.drawn for task in made[:-1]] == [49, 64, 81, 100]
    assert [task.data.line_number for task in made] == [7, 8, 9, 10, 3]
    assert made[-1].data == {"text": "bad", "line_number": 3, "skipped": "is bad"}
    task = AudioTask({"text": "b", "line_number": 2})
    assert stage.process(task) is task
    assert task.data == {"text": "b", "line_number": 2, "drawn": 4}
