"""Extraction of features as a job: what cannot be used is listed, and the rest is what it would have been."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.features.extraction import extract
from nemo_speechlm.inference.features.inputs import read_inputs
from nemo_speechlm.inference.features.options import FeatureOptions
from nemo_speechlm.inference.features.shards import columns_of, join_pieces, write_shard
from nemo_speechlm.inference.features.work import FeatureItem, FeatureWork
from nemo_speechlm.models import SpeechLMEncoderModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpeechLMEncoderModel(OmegaConf.create(tiny_architecture())).eval()


@pytest.fixture
def utterances(tmp_path: Path):
    return read_inputs([tiny_corpus(tmp_path, n_speech=6, n_text=1).speech])[0]


def test_folders_behind_links_are_read(tmp_path):
    audio = tiny_corpus(tmp_path / "disk", n_speech=3, n_text=1).speech.parent / "audio"
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "linked").symlink_to(audio)
    assert len(read_inputs([tmp_path / "all"])[0]) == 3


def run(model, utterances, output, kind="npy", **options):
    how = FeatureOptions(format=kind, batch_duration=0)
    return extract(model, utterances, (), output, how, model_path={"model": "tiny"}, **options)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "features.jsonl").read_text().splitlines()]


def read(folder: Path, line: dict) -> np.ndarray:
    """(L, T, D)."""
    path = folder / line["features_filepath"]
    if path.suffix == ".npy":
        return np.load(path)
    parquet = pytest.importorskip("pyarrow.parquet")
    row = parquet.read_table(path).to_pylist()[line["features_row"]]
    return np.stack([row["layer_1"], row["layer_2"]]).astype(np.float32)


@pytest.mark.parametrize("kind", ["npy", "huggingface"])
def test_what_cannot_be_used_is_left_out(model, utterances, tmp_path, monkeypatch, kind):
    """One file is gone when its turn comes; the model fails at another utterance."""
    assert run(model, utterances, tmp_path / "all", kind) == (6, 6, 0)
    utterances[1].path.unlink()
    samples = round(utterances[4].duration * 16000)
    compute = model.extract_features

    def failing(audio, lengths, layers):
        if samples in lengths.tolist():
            raise ArithmeticError("of no use")
        return compute(audio, lengths, layers)

    monkeypatch.setattr(model, "extract_features", failing)
    with pytest.raises(
        InputError, match=r"\.wav: .*; skip_bad=true leaves such lines out|0001\.wav: no such audio file"
    ):
        run(model, utterances, tmp_path / "some", kind)
    made = run(model, utterances, tmp_path / "some", kind, skip_bad=True)
    assert (made.utterances, made.skipped) == (4, 2)
    whole, some = lines(tmp_path / "all"), lines(tmp_path / "some")
    assert [line["audio_filepath"] for line in some] == [whole[i]["audio_filepath"] for i in (0, 2, 3, 5)]
    for i, line in zip((0, 2, 3, 5), some, strict=True):
        np.testing.assert_array_equal(read(tmp_path / "some", line), read(tmp_path / "all", whole[i]))
        assert line["num_frames"] == whole[i]["num_frames"]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "some/skipped.jsonl").read_text().splitlines()]
    assert sum("0001.wav: no such audio file" in reason for reason in reasons) == 1
    assert sum("0004.wav: ArithmeticError: of no use (test_features.py:" in reason for reason in reasons) == 1
    left = [path.name for path in (tmp_path / "some").rglob("*") if path.name.startswith(".")]
    assert left == [], "no pieces, no job"


def test_pieces_make_the_shard_that_is_written_at_once(tmp_path: Path):
    pytest.importorskip("pyarrow")
    states = [torch.arange(2 * t * 3, dtype=torch.float32).view(2, t, 3) for t in (4, 1, 2)]
    records = [{"audio_filepath": f"{i}.wav", "duration": i / 2} for i in range(3)]
    records[1]["text"] = "spoken"
    columns = columns_of(records)
    assert columns == ["audio_filepath", "duration", "text"]
    write_shard(tmp_path / "whole", ["a", "b", "c"], records, states, [1, 2], columns)
    write_shard(tmp_path / "p1", ["a", "b"], records[:2], states[:2], [1, 2], columns)
    write_shard(tmp_path / "p2", ["c"], records[2:], states[2:], [1, 2], columns)
    join_pieces(tmp_path / "joined", [tmp_path / "p1", tmp_path / "p2"])
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()


def test_another_model_version_or_layer_is_refused(model, utterances, tmp_path, monkeypatch):
    run(model, utterances[:1], tmp_path / "out")
    with pytest.raises(InputError, match=r"was made with another model; give another output, or overwrite=true"):
        extract(
            model, utterances[:1], (), tmp_path / "out", FeatureOptions(batch_duration=0), model_path={"model": "b"}
        )
    with pytest.raises(InputError, match=r"was made with another utterances"):
        run(model, utterances[:2], tmp_path / "out")
    monkeypatch.setattr("nemo_speechlm.__version__", "99.0")
    with pytest.raises(InputError, match=r"was made with another version"):
        run(model, utterances[:1], tmp_path / "out")
    assert run(model, utterances[:1], tmp_path / "out", overwrite=True) == (1, 1, 0)


def test_no_list_names_features_of_two_models(model, utterances, tmp_path, monkeypatch):
    for name in ("replaced", "other"):
        run(model, utterances, tmp_path / name)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "extract_features", killed)
    os.utime(utterances[2].path, ns=(1, 1))
    with pytest.raises(KeyboardInterrupt):
        run(model, utterances, tmp_path / "replaced")
    with pytest.raises(KeyboardInterrupt):
        run(model, utterances[1:], tmp_path / "other", overwrite=True)
    assert not list(tmp_path.glob("*/features.jsonl"))


@pytest.mark.parametrize("kind", ["npy", "huggingface"])
def test_features_of_a_replaced_recording_are_made_anew(model, utterances, tmp_path, kind, capsys):
    if kind == "huggingface":
        pytest.importorskip("pyarrow")
    run(model, utterances, tmp_path / "out", kind)
    before = [read(tmp_path / "out", line) for line in lines(tmp_path / "out")]
    path = utterances[2].path
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
    os.utime(path, ns=(1, 1))  # copied with its time, which is an old one
    run(model, utterances, tmp_path / "out", kind)
    assert "features of 1 utterances are made anew" in capsys.readouterr().out
    run(model, utterances, tmp_path / "fresh", kind)
    after = [read(tmp_path / "out", line) for line in lines(tmp_path / "out")]
    for number, line in enumerate(lines(tmp_path / "fresh")):
        np.testing.assert_array_equal(after[number], read(tmp_path / "fresh", line))
        assert np.array_equal(after[number], before[number]) == (number != 2)
    assert run(model, utterances, tmp_path / "out", kind).now == 0
    assert "anew" not in capsys.readouterr().out


def test_shards_have_the_lines_of_now(model, utterances, tmp_path, capsys):
    """A transcript that was corrected, one that is new, and lines without any."""
    parquet = pytest.importorskip("pyarrow.parquet")

    def texts():
        return parquet.read_table(tmp_path / "out" / "data").to_pydict().get("text")

    def with_text(number, text):
        return replace(utterances[number], record={**utterances[number].record, "text": text})

    bare = [replace(u, record={k: v for k, v in u.record.items() if k != "text"}) for u in utterances]
    run(model, bare, tmp_path / "out", "huggingface")
    assert texts() is None
    for said in ("a word", "another"):
        run(model, [bare[0], with_text(1, said), *bare[2:]], tmp_path / "out", "huggingface")
        assert texts() == [None, said, *[None] * (len(bare) - 2)]
        assert "their recordings or lines have changed" in capsys.readouterr().out


def test_work_travels_without_its_model(tmp_path: Path):
    work = FeatureWork(dict, tmp_path, FeatureOptions(), [1], model=lambda: "cannot be pickled")
    assert pickle.loads(pickle.dumps(work)).model is None
    utterance = Utterance({"audio_filepath": "ä b.wav", "x": [1]}, Path("/ä b.wav"), 0.1, 1 / 3, "")
    item = FeatureItem(utterance, "0000000_ä b", "features/0000000_ä b.npy", 7, 2)
    assert FeatureItem.parse(item.line()) == item
    packed = replace(item, utterance=replace(utterance, path=TarAudio("a.tar", "ä b.wav", (0, 1024))))
    assert FeatureItem.parse(packed.line()) == packed
