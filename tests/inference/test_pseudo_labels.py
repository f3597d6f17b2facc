"""Which utterances become training data."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.decoding.decoders import greedy
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.pseudo_labels import LabelSummary
from nemo_speechlm.inference import pseudo_labels
from nemo_speechlm.inference.pseudo_labels import Labels, PseudoLabel, chosen, label_manifest
from tests.memory import traced_peak

LABELS = [
    PseudoLabel({"text": "a b"}, 10.0, "a b", 0.9),
    PseudoLabel({"text": "c d"}, 20.0, "c x", 0.5),
    PseudoLabel({}, 30.0, "", 0.0),
    PseudoLabel({}, 40.0, "e", 0.7),
]


def gathered(labels):
    found = Labels()
    for label in labels:
        found.add(label)
    return found


def which(labels, **options):
    return chosen(gathered(labels), **options).tolist()


def summary(labels, kept):
    told = LabelSummary()
    for label in labels:
        told.add(label)
    return told.said(gathered(labels), np.array(kept))


def test_by_score():
    assert which(LABELS) == [True, True, False, True]
    assert which(LABELS, min_score=0.7) == [True, False, False, True]


def test_by_hours():
    assert which(LABELS, keep=0.5) == [True, False, False, True]
    assert which(LABELS, keep=0.3) == [True, False, False, False]  # the second surest is too long, the third less sure
    assert which(LABELS, keep=1.0) == [True, True, False, True]


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0.01, 1, exclude_min=True),
)
def test_never_more_than_the_share(rows, keep):
    labels = [PseudoLabel({}, seconds, "w", score) for seconds, score in rows]
    kept = which(labels, keep=keep)
    hours = sum(label.duration for label, good in zip(labels, kept, strict=True) if good)
    assert hours <= keep * sum(label.duration for label in labels) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 0.5, "keep": 0.5}, "min_score and keep are both given"),
        ({"min_score": 2}, "min_score is 2"),
        ({"keep": 0}, "keep is 0, expected a number"),
        ({"keep": "half"}, "keep is 'half'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(SpeechLMError, match=message):
        chosen(Labels(), **options)


def test_lines_and_summary():
    assert LABELS[1].line() == {"text": "c x", "reference": "c d", "score": 0.5}
    assert LABELS[3].line() == {"reference": None, "text": "e", "score": 0.7}
    lines = summary(LABELS, [True, False, False, True]).splitlines()
    assert lines[0] == "kept: 2 of 4 utterances, 0.01 h, scores 0.700 to 0.900, WER 0.0% of the 1 with a transcript"
    assert lines[1].endswith("scores 0.000 to 0.500, WER 50.0% of the 1 with a transcript")
    with pytest.raises(InputError, match=r"none of 4 utterances is kept; the highest score is 0\.900"):
        summary(LABELS, [False] * 4)


def test_a_second_round_keeps_the_true_transcript():
    first = PseudoLabel({"text": "a b"}, 10.0, "a x", 0.5)
    second = PseudoLabel(first.line(), 10.0, "a b", 0.9)
    assert second.line() == {"text": "a b", "reference": "a b", "score": 0.9}
    assert "WER 0.0%" in summary([second], [True])


class Speaks(torch.nn.Module):
    """Stands in for a CTC model of a and b, and for its text: an utterance's sign is its label."""

    device = torch.device("cpu")
    cfg = OmegaConf.create({"sample_rate": 16000})
    labels = ("a", "b")

    def forward(self, input_signal, input_signal_length):
        frames = input_signal_length // 1600
        probabilities = torch.full((len(frames), int(frames.max()), 3), 0.1)
        probabilities[..., 2] = 0.8
        for row, audio, samples in zip(probabilities, input_signal, input_signal_length, strict=True):
            row[0] = 0.1
            row[0, int(audio[0] > 0)] = 1 - samples / 1e5
        return probabilities.log(), frames, None

    @classmethod
    def of(cls, model, options):
        return model

    def decode(self, log_probs, options, quiet):
        return [greedy(x) for x in log_probs]

    def text(self, found):
        return "".join(self.labels[token] for token in found.tokens)


class Told:
    """A summary that says how many were kept, or that too few were."""

    def __init__(self, least=0):
        self.least, self.seen = least, 0

    def add(self, label):
        self.seen += 1

    def said(self, labels, kept):
        if kept.sum() < self.least:
            raise InputError("none of them is kept")
        return f"{kept.sum()} of {self.seen}"


@pytest.fixture
def label(tmp_path, monkeypatch):
    """Labels a manifest of six files; the fourth breaks off behind its header, the last line is a list."""
    monkeypatch.setattr(pseudo_labels, "_restore_ctc", lambda model, device: Speaks())
    monkeypatch.setattr(pseudo_labels, "CTCText", Speaks)
    monkeypatch.setattr(pseudo_labels, "TOGETHER", 3)
    (tmp_path / "model.nemo").write_bytes(b"weights")
    (tmp_path / "in").mkdir()
    for index in range(6):
        noise = np.random.default_rng(0).uniform(0.1, 0.9, 3200 + 800 * index)
        signal = noise if index % 2 else -noise
        soundfile.write(tmp_path / "in" / f"{index}.flac", signal, 16000)
    manifest = tmp_path / "in/speech.json"
    write_manifest(manifest, [{"audio_filepath": f"{index}.flac", "text": "b"} for index in range(6)])

    def run(output="out.json", **options):
        how = {"summary": Told()} | options
        return label_manifest(tmp_path / "model.nemo", manifest, tmp_path / output, DecodingOptions(), **how)

    return run


def test_labels_are_those_of_the_lines(label, tmp_path):
    """Paths hold where the output is; what is not kept is listed."""
    assert label(min_score=0.95) == "3 of 6"
    kept = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [line["text"] for line in kept] == ["a", "b", "a"]
    assert [line["score"] for line in kept] == [0.968, 0.96, 0.952]
    assert [line["reference"] for line in kept] == ["b"] * 3
    assert [Path(line["audio_filepath"]) for line in kept] == [tmp_path / "in" / f"{i}.flac" for i in range(3)]
    left = [json.loads(line) for line in (tmp_path / "out.json.skipped.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"]) for line in left] == [
        (n, "less sure than min_score=0.95") for n in (4, 5, 6)
    ]


def test_bad_lines_are_left_out(label, tmp_path):
    audio = tmp_path / "in/3.flac"
    audio.write_bytes(audio.read_bytes()[:3000])
    with open(tmp_path / "in/speech.json", "a") as file:
        file.write("[]\n")
    with pytest.raises(InputError, match=r"speech\.json:4: .*3\.flac"):
        label()
    assert label(skip_bad=True) == "5 of 5", "it goes on with the lines from the fourth on"
    left = [json.loads(line) for line in (tmp_path / "out.json.skipped.jsonl").read_text().splitlines()]
    assert [line["line"] for line in left] == [4, 7]


def test_thresholds_may_change_while_a_job_is_under_way(label, tmp_path, monkeypatch):
    """None was kept; nothing is recognized again. Another model is another job."""
    with pytest.raises(InputError, match="none of them is kept"):
        label(min_score=1, summary=Told(least=1))
    monkeypatch.setattr(Speaks, "forward", None)
    (tmp_path / "model.nemo").write_bytes(b"others")
    with pytest.raises(InputError, match=r'out\.json: its job was begun with another content of .*model\.nemo \("'):
        label(keep=1)
    (tmp_path / "model.nemo").write_bytes(b"weights")
    assert label(keep=1) == "6 of 6"


def test_memory_of_a_label():
    """Records of a corpus would not fit: 20 million utterances have 20 GB of them."""
    count = 5_000

    def summed_up():
        labels, told = Labels(), LabelSummary()
        for number in range(count):
            label = PseudoLabel({"audio_filepath": "a" * 200, "text": "a b"}, 10.0, "a c", number / count)
            labels.add(label)
            told.add(label)
        return told.said(labels, chosen(labels, keep=0.5))

    peak, said = traced_peak(summed_up)
    assert said.startswith("kept: 2500 of 5000 utterances, 6.94 h, scores 0.500 to 1.000, WER 50.0% of the 2500")
    assert peak < 80 * count


def test_an_empty_manifest(label, tmp_path):
    (tmp_path / "in/speech.json").write_text("")
    with pytest.raises(InputError, match=r"speech\.json: the manifest is empty"):
        label()


@pytest.mark.parametrize("record", [{}, {"text": ""}, {"text": " "}, {"text": None}])
def test_a_pseudo_label_is_never_a_transcript(record):
    first = PseudoLabel(record, 2.0, "hello wurld", 0.5).line()
    assert first["reference"] is None
    again = PseudoLabel(first, 2.0, "hello world", 0.9)
    assert again.transcript is None
    assert again.line()["reference"] is None


def test_a_transcript_stays_the_reference():
    first = PseudoLabel({"text": "hello world"}, 2.0, "hello wurld", 0.5).line()
    assert PseudoLabel(first, 2.0, "yellow", 0.1).line() == {
        "reference": "hello world",
        "text": "yellow",
        "score": 0.1,
    }
