import json

import numpy as np
import pytest
import soundfile

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.comparison import Pairing, write_comparison
from nemo_speechlm.evaluation.report import RecognitionReport, ReportFiles, ReportOptions
from nemo_speechlm.evaluation.test_sets import read_utterances
from nemo_speechlm.evaluation.worst_page import write_page

TEXTS = ["the cat sat on the mat", "a dog", "one two three four"] * 4
RECORDS = [
    {"audio_filepath": f"{i}.wav", "duration": 2.0, "speaker": str(i % 2), "text": t} for i, t in enumerate(TEXTS)
]


def result(folder, hypotheses, records=RECORDS):
    files = ReportFiles.at(folder)
    RecognitionReport.of(records, [r["text"] for r in records], hypotheses).write(files)
    return files.utterances


def test_compares_utterance_by_utterance(tmp_path):
    a = result(tmp_path / "a", [text.replace("cat", "cart").replace("dog", "dock") for text in TEXTS])
    b = result(tmp_path / "b", [text.replace("two", "too") for text in TEXTS][::-1], RECORDS[::-1])
    pairing = Pairing.read(a, b)
    comparison = pairing.compare(draws=500)
    words = sum(len(text.split()) for text in TEXTS)
    assert comparison.difference == pytest.approx((4 - 8) / words)
    assert pairing.compare("speaker", draws=500).difference == comparison.difference
    table = pairing.table(comparison).splitlines()
    assert table[1].split()[:4] == ["A", f"{8 / words:.2%}", "8", str(words)]
    assert "B is better on 8 utterances, worse on 4, equal on 0" in table[-1]
    changes = "\n".join(pairing.changes(2))
    assert changes.count("(-1 errors)") == changes.count("(+1 errors)") == 2
    write_comparison(tmp_path / "c.json", pairing, comparison)
    assert json.loads((tmp_path / "c.json").read_text())["p_value"] == comparison.p_value


def test_other_utterances_are_an_error(tmp_path):
    a = result(tmp_path / "a", TEXTS)
    b = result(tmp_path / "b", TEXTS[1:], RECORDS[1:])
    with pytest.raises(InputError, match=r"b/utterances\.jsonl: 1 utterances of the other file .* 0\.wav from 0 s on"):
        Pairing.read(a, b)
    other = [{**RECORDS[0], "text": "something else"}, *RECORDS[1:]]
    c = result(tmp_path / "c", TEXTS, other)
    with pytest.raises(InputError, match="the reference is 'something else'"):
        Pairing.read(a, c)
    with pytest.raises(InputError, match="no key 'phones'"):
        Pairing.read(a, a, "per")
    with pytest.raises(InputError, match="no utterance has 'chapter'"):
        Pairing.read(a, a).compare("chapter")


def test_phones_of_other_references_are_an_error(tmp_path):
    files = []
    for name, reference in (("a", "abc"), ("b", "abcd")):
        options = ReportOptions(phones=lambda record, text, said, reference=reference: (reference, "abd"))
        files.append(ReportFiles.at(tmp_path / name))
        RecognitionReport.of(RECORDS, TEXTS, TEXTS, options).write(files[-1])
    with pytest.raises(
        InputError, match=r"b/utterances\.jsonl: 0\.wav: the reference has 4 phones, 3 in .*units_field"
    ):
        Pairing.read(files[0].utterances, files[1].utterances, "per")
    assert Pairing.read(files[0].utterances, files[1].utterances).totals()[0].errors == 0


def test_nothing_to_compare_on(tmp_path):
    silent = [{**record, "text": ""} for record in RECORDS]
    a, b = result(tmp_path / "a", [""] * len(silent), silent), result(tmp_path / "b", ["uh"] * len(silent), silent)
    with pytest.raises(InputError, match=r"a/utterances\.jsonl: there are no reference words to compare on"):
        Pairing.read(a, b).compare()


def test_page_of_the_worst(tmp_path):
    records = [{**r, "audio_filepath": "<b>.wav"} if i == 0 else r for i, r in enumerate(RECORDS)]
    hypotheses = ["the <i>cart</i> on a the mat", *TEXTS[1:]]
    report = RecognitionReport.of(records, TEXTS, hypotheses, ReportOptions(split_by=("speaker",)))
    write_page(tmp_path / "worst.html", report.records, report.summary(), tmp_path / "test.json", count=3)
    page = (tmp_path / "worst.html").read_text()
    assert page.count("<article>") == 3
    assert page.index("&lt;b&gt;.wav") < page.index(">1.wav")
    assert "&lt;i&gt;cart&lt;/i&gt;" in page
    assert "<i>cart" not in page
    assert "By speaker" in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("seconds", "part"),
    [
        ({"offset": "1.5", "duration": "2"}, "#t=1.5,3.5"),
        ({"offset": 1.5, "duration": 2}, "#t=1.5,3.5"),
        ({"offset": "1.5"}, "#t=1.5,4.0"),  # up to the end of the file
        ({"offset": "0", "duration": None}, "#t=0.0,4.0"),
        ({"duration": "4"}, ""),
    ],
)
def test_page_plays_the_part_of_the_file(tmp_path, seconds, part):
    soundfile.write(tmp_path / "a.wav", np.zeros(4 * 16000), 16000)
    manifest = tmp_path / "test.json"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "text": "a dog", **seconds}))
    utterances, _ = read_utterances(manifest)
    report = RecognitionReport.of([utterances[0].record], ["a dog"], ["a dock"])
    write_page(tmp_path / "worst.html", report.records, report.summary(), manifest)
    assert f'a.wav{part}">' in (tmp_path / "worst.html").read_text()
    # A result compares with one whose offset is written otherwise.
    files = ReportFiles.at(tmp_path / "results")
    report.write(files)
    text = files.utterances.read_text()
    (tmp_path / "other.json").write_text(text.replace('"offset": 1.5', '"offset": "1.50"'))
    assert len(Pairing.read(files.utterances, tmp_path / "other.json").records) == 1


@pytest.mark.parametrize("offset", ["begin", "nan", True, -1, [1]])
def test_offsets_that_are_none(tmp_path, offset):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / "test.json").write_text(json.dumps({"audio_filepath": "a.wav", "text": "a dog", "offset": offset}))
    with pytest.raises(InputError, match=r"test\.json:1: offset is .*, expected seconds"):
        read_utterances(tmp_path / "test.json")


def test_the_table_has_both_ends_of_the_interval(tmp_path):
    texts = [text.replace("two", "too") if i % 2 else text for i, text in enumerate(TEXTS)]
    pairing = Pairing.read(result(tmp_path / "a", TEXTS), result(tmp_path / "b", texts))
    found = pairing.compare(draws=500)
    assert found.interval.low < found.difference < found.interval.high
    said = f"B - A: {found.difference:+.2%} (95% between {found.interval.low:+.2%} to {found.interval.high:+.2%})"
    assert said in pairing.table(found)
