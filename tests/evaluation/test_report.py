import json
from pathlib import Path
from unicodedata import normalize

import pytest

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import align_words
from nemo_speechlm.evaluation.phones import make_phones
from nemo_speechlm.evaluation.report import RecognitionReport, ReportFiles, ReportOptions, split_tables
from nemo_speechlm.evaluation.test_sets import unwritable

LANGUAGES = [Path(__file__).resolve().parents[2] / "conf" / "language"]
RECORDS = [{"audio_filepath": "a.wav", "text": "one two"}, {"audio_filepath": "b.wav", "text": "", "speaker": "7"}]


def report(**options):
    return RecognitionReport.of(RECORDS, ["one two", ""], ["one too", "uh"], ReportOptions(**options))


def test_files(tmp_path):
    files = ReportFiles.at(tmp_path / "results")
    report().write(files, [InputError("no text", "m.json", 3)], model="x.nemo")
    lines = [json.loads(line) for line in files.utterances.read_text().splitlines()]
    assert [line["wer"] for line in lines] == [0.5, None]
    assert lines[0]["alignment"] == [["one", "one"], ["two", "too"]]
    assert lines[1]["speaker"] == "7"
    assert lines[1]["words"] == {"substitutions": 0, "insertions": 1, "deletions": 0, "length": 0}
    assert lines[1]["alignment"] == [[None, "uh"]]
    summary = json.loads(files.summary.read_text())
    assert (summary["wer"], summary["utterances"], summary["model"], summary["skipped"]) == (1.0, 2, "x.nemo", 1)
    assert json.loads(files.skipped.read_text()) == {"file": "m.json", "line": 3, "reason": "no text"}
    with pytest.raises(InputError, match="exists already"):
        ReportFiles.at(tmp_path / "results")
    assert ReportFiles.at(tmp_path / "results", overwrite=True) == files


def test_nothing_of_an_earlier_report_stays(tmp_path):
    files = ReportFiles.at(tmp_path)
    report().write(files, [InputError("no text", "m.json", 3)])
    files.page.write_text("the worst")
    report().write(files)
    assert not files.skipped.exists()
    assert not files.page.exists()


def test_a_report_is_there_when_its_summary_is(tmp_path):
    """Where writing stops halfway, the same command goes on, and no earlier summary is beside new utterances."""
    files = ReportFiles.at(tmp_path)

    def stops(summary):
        assert files.utterances.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report().write(files, write_page=stops)
    files = ReportFiles.at(tmp_path)
    report().write(files)
    with pytest.raises(KeyboardInterrupt):
        report().write(ReportFiles.at(tmp_path, overwrite=True), write_page=stops)
    assert not files.summary.exists()


def test_a_file_that_the_user_names_is_never_replaced_unasked(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InputError, match=r"mine\.json: exists already"):
        ReportFiles.at(tmp_path / "mine.json")


def test_composed_and_decomposed_letters_are_equal():
    found = RecognitionReport.of(RECORDS[:1], [normalize("NFD", "мой ёж")], [normalize("NFC", "мой ёж")])
    assert found.summary()["wer"] == 0
    assert found.records[0]["text"] == found.records[0]["pred_text"]


def test_intervals_of_splits_resample_the_same(tmp_path):
    """Speakers differ much, their utterances do not."""
    records = [{"audio_filepath": f"{i}.wav", "speaker": i // 20, "sex": "f"} for i in range(80)]
    heard = ["one two" if i < 60 else "three four" for i in range(80)]
    options = ReportOptions(split_by=("sex", "speaker"), draw_by="speaker")
    summary = RecognitionReport.of(records, ["one two"] * 80, heard, options).summary()
    assert summary["splits"]["sex"]["f"]["wer_interval"] == summary["wer_interval"]
    assert summary["wer_interval"][0] == 0
    assert summary["splits"]["speaker"]["3"]["wer_interval"] is None


def test_beside_a_file(tmp_path):
    files = ReportFiles.at(tmp_path / "test.json")
    assert (files.utterances.name, files.summary.name) == ("test.json", "test.summary.json")
    assert files.page.name == "test.html"


def test_table():
    table = report().table().splitlines()
    assert table[1].split() == ["WER", "100.00%", "2", "1", "1", "0", "2"]
    empty = RecognitionReport.of(RECORDS[1:], [""], ["uh"]).table().splitlines()
    assert empty[1].split()[:2] == ["WER", "-"]


@pytest.mark.parametrize("heard", ["", "uh"])
def test_rates_of_references_without_words_are_undefined(heard, tmp_path):
    records = [{"audio_filepath": f"{i}.wav", "text": "", "speaker": str(i)} for i in range(3)]
    options = ReportOptions(phones=make_phones("en", None, LANGUAGES), split_by=("speaker",))
    found = RecognitionReport.of(records, [""] * 3, [heard] * 3, options)
    summary = found.write(ReportFiles.at(tmp_path), draws=100)
    for part in (summary, summary["splits"]["speaker"]["0"]):
        for rate in ("wer", "cer", "per"):
            assert part[rate] is None
            assert part[f"{rate}_interval"] is None
    assert summary["words"]["insertions"] == 3 * len(heard.split())
    assert [record["wer"] for record in found.records] == [None] * 3
    _, *rates, note = found.table().splitlines()
    assert [line.split()[1] for line in rates] == ["-"] * 3
    assert note.startswith("- is undefined: no reference has a word")
    assert split_tables(summary).splitlines()[2].split() == ["0", "1", "-", "-", "-"]


def test_splits():
    found = report(split_by=("speaker",))
    summary = found.summary()
    assert summary["splits"]["speaker"]["7"]["utterances"] == 1
    assert summary["splits"]["speaker"][""]["wer"] == 0.5
    assert summary["wer_interval"][0] <= summary["wer"] <= summary["wer_interval"][1]
    assert split_tables(summary).splitlines()[2].split() == ["1", "50.00%", "14.29%"]
    assert "wer_interval" not in report(draws=0).summary()
    with pytest.raises(InputError, match="no line of the manifest has 'chapter'"):
        report(split_by=("chapter",)).summary()


def test_phones():
    phones = make_phones("en", None, LANGUAGES)
    found = report(phones=phones)
    assert found.counts["per"][0].errors == 0  # "two" and "too" sound alike
    assert found.counts["per"][0].length == 5
    units = make_phones("en", "units", LANGUAGES)
    record = {"audio_filepath": "a.wav", "units": "SIL W_B AH1_I N_E SIL T_B UW1_E SIL"}
    assert units(record, "", "one to")[0] == units(record, "", "one to")[1]
    kaldi = {"audio_filepath": "a.wav", "units": "SIL_S W_B AH1_I N_E SPN_S SIL_B SPN_B"}
    assert units(kaldi, "", "")[0] == ["W", "AH", "N"]
    with pytest.raises(InputError, match=r"a\.wav: 'units' is 'None'"):
        units(RECORDS[0], "", "")
    with pytest.raises(InputError, match=r"a\.wav: 'units' is .*'12', '5', '0'.*, expected symbols of phoneme"):
        units({"audio_filepath": "a.wav", "units": "12 5 0"}, "", "")
    with pytest.raises(SpeechLMError, match="there is no language 'xx'; there are"):
        make_phones("xx", None, LANGUAGES)


def test_a_language_of_a_folder_of_ones_own(tmp_path):
    (tmp_path / "xx.yaml").write_text('code: xx\nvoice: cs\ncharacters: " ab"\n')
    phones = make_phones("xx", None, [*LANGUAGES, tmp_path])
    assert phones(RECORDS[0], "baba", "ab") == (["b", "a", "b", "a"], ["a", "p"]), "as Czech: b at the end is p"


def test_a_phonemizer_of_another_language_is_refused():
    with pytest.raises(SpeechLMError, match=r"phonemizer=en cannot pronounce 100% of the words .* such as 'привет'"):
        make_phones("en", None, LANGUAGES, ["привет мир"])
    make_phones("en", None, LANGUAGES, ["hello there"] * 9 + ["hello мир"])
    make_phones("en", "units", LANGUAGES, ["привет"])  # the references' phones are their units


def test_references_that_a_model_cannot_write():
    letters = "abc '"
    assert unwritable(["a b", "c"], letters) is None
    assert unwritable(["A, b", "c, a"], "") is None, "not known"
    said = unwritable(["A, b", "c, a"], letters)
    assert said.startswith("the references have characters that the model never writes: ',' 'A' (',' in 2 of them)")


def test_punctuation_is_no_phone():
    english, russian = (make_phones(language, None, LANGUAGES) for language in ("en", "ru"))
    right, said = english({}, "one \u2013 two , he said .", "one two he said")
    assert right == said == ["W", "AH", "N", "T", "UW", "HH", "IY", "S", "EH", "D"]
    right, said = russian({}, "В дом \u2013 мама!", "в дом мама")  # a capital alone would be spelled
    assert right == said == ["v", "d", "o", "m", "m", "ɑ", "m", "a"]


def test_alignment_has_every_word_once():
    pairs = align_words("a b c d", "b x d e")
    assert [r for r, _ in pairs if r is not None] == "a b c d".split()
    assert [h for _, h in pairs if h is not None] == "b x d e".split()
    assert sum(r != h for r, h in pairs) == 3
