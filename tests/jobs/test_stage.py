"""Work in pipelines of others gives what a job gives, and entries that cannot be used come back with the reason."""

import json
import pickle
from pathlib import Path

import pytest

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import parse_line
from nemo_speechlm.jobs import ManifestStage, run_job


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
