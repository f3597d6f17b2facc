import json

import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.report import RecognitionReport, ReportFiles

RECORDS = [{"audio_filepath": "a.wav", "text": "one two"}, {"audio_filepath": "b.wav", "text": "", "speaker": "7"}]


def report():
    return RecognitionReport.of(RECORDS, ["one two", ""], ["one too", "uh"])


def test_files(tmp_path):
    files = ReportFiles.at(tmp_path / "results")
    report().write(files, [InputError("no text", "m.json", 3)], model="x.nemo")
    lines = [json.loads(line) for line in files.utterances.read_text().splitlines()]
    assert [line["wer"] for line in lines] == [0.5, None]
    assert lines[1]["speaker"] == "7"
    assert lines[1]["words"] == {"substitutions": 0, "insertions": 1, "deletions": 0, "length": 0}
    summary = json.loads(files.summary.read_text())
    assert (summary["wer"], summary["utterances"], summary["model"], summary["skipped"]) == (1.0, 2, "x.nemo", 1)
    assert json.loads(files.skipped.read_text()) == {"file": "m.json", "line": 3, "reason": "no text"}
    with pytest.raises(InputError, match="exists already"):
        ReportFiles.at(tmp_path / "results")
    assert ReportFiles.at(tmp_path / "results", overwrite=True) == files


def test_beside_a_file(tmp_path):
    files = ReportFiles.at(tmp_path / "test.json")
    assert (files.utterances.name, files.summary.name) == ("test.json", "test.summary.json")


def test_table():
    table = report().table().splitlines()
    assert table[1].split() == ["WER", "100.00%", "2", "1", "1", "0", "2"]
    empty = RecognitionReport.of(RECORDS[1:], [""], ["uh"]).table().splitlines()
    assert empty[1].split()[:2] == ["WER", "-"]
