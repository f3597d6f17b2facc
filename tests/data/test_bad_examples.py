"""Bad examples in data loaders: named where they stop a run, left out and listed where they do not."""

import json
import multiprocessing
import time
from itertools import islice

import numpy as np
import pytest
import torch

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.bad_examples import LIST_NAME, BadCount, BadExample, BadRule
from nemo_speechlm.data.pretraining import utterance_audio
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader, build_validation_dataloaders
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream
from nemo_speechlm.data.recognition.batch import is_repeated
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.configs import tiny_tarred
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels
from tests.faults import AUDIO, FAULTS, LINES, spoil
from tests.long_forms import LONG

SKIP = {"on_bad": "skip", "max_bad": 1.0}
STREAMS = [SpeechStream(tiny_inventory())]


def pretraining(corpus, folder=None, streams=STREAMS, **changes):
    part = {"manifest_filepath": str(corpus.speech), "batch_duration": 8}
    return build_pretrain_dataloader({streams[0].name: part, **changes}, streams, folder=folder)


def transcripts(corpus, folder=None, **changes):
    config = {"manifest_filepath": str(corpus.speech), "batch_duration": 8, "shuffle": True, "endless": True}
    return build_recognition_dataloader({**config, **changes}, tiny_labels(), folder=folder)


def listed(folder):
    return [json.loads(line) for line in (folder / LIST_NAME).read_text().splitlines()]


def spoiled(folder, faults, n_speech=24):
    """A corpus with one fault in every second line, and which line has which."""
    corpus = tiny_corpus(folder, n_speech=n_speech, n_text=4)
    lines = {2 * place + 2: fault for place, fault in enumerate(faults)}
    for number, fault in lines.items():
        spoil(corpus.speech, number, fault)
    return corpus, lines


def rows_of(batches):
    """Each utterance of batches by its name: its audio."""
    return [
        {
            name: row[:length].tolist()
            for name, row, length in zip(part.ids, part.audio, part.audio_lengths, strict=True)
        }
        for part in (batch.speech or batch.pairs for batch in batches)
    ]


# --- one fault stops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_with_its_line(tmp_path, fault, num_workers):
    if num_workers and not (LONG or fault in ("truncated", "fifo")):
        pytest.skip("with workers where LONG_TESTS=1")
    corpus, _ = spoiled(tmp_path, [fault], n_speech=4)
    others = multiprocessing.active_children()
    with pytest.raises(InputError, match=FAULTS[fault]) as error:
        list(islice(pretraining(corpus, num_workers=num_workers), 8))
    assert set(multiprocessing.active_children()) <= set(others)  # its workers have ended, though the error is there
    assert str(error.value).startswith(f"{corpus.speech}:2: ")
    assert "Traceback" not in str(error.value)
    if fault in AUDIO or fault == "not JSON":
        with pytest.raises(InputError) as error:
            list(islice(transcripts(corpus, num_workers=num_workers), 8))
        assert str(error.value).startswith(f"{corpus.speech}:2: ")


# --- all faults are skipped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_faults_are_left_out_and_listed_once(tmp_path, num_workers):
    corpus, lines = spoiled(tmp_path / "c", FAULTS)
    loader = pretraining(corpus, tmp_path, num_workers=num_workers, **SKIP)
    found = [name for rows in rows_of(islice(loader, 30)) for name in rows]
    assert {int(name.rsplit(":", 1)[1]) for name in found} == set(range(1, 25)) - set(lines)
    list(islice(pretraining(corpus, tmp_path, **SKIP), 30))  # another process, another run
    records = listed(tmp_path)
    assert {record["line"]: record["manifest"] for record in records} == dict.fromkeys(lines, str(corpus.speech))
    assert len(records) == len(lines)
    for record in records:
        assert any(words in record["reason"] for words in FAULTS[lines[record["line"]]].split("|"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transcripts_and_validation_do_the_same(tmp_path, num_workers):
    faults = [*AUDIO, "not JSON"]
    corpus, lines = spoiled(tmp_path / "c", faults, n_speech=20)
    options = {"num_workers": num_workers, **SKIP}
    list(islice(transcripts(corpus, tmp_path / "train", **options), 30))
    batches = list(transcripts(corpus, tmp_path / "valid", **options, endless=False, shuffle=False))
    assert sum(len(batch.ids) for batch in batches) == 20 - len(faults)
    config = {"speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8}, **options}
    (loader,) = build_validation_dataloaders(config, STREAMS, folder=tmp_path / "pretraining")
    for _ in range(2):  # each validation counts anew
        rows = [name for rows in rows_of(loader) for name in rows]
        assert (loader.count.read, loader.count.bad, len(rows)) == (20, 9, 11)
    for folder in ("train", "valid", "pretraining"):
        assert {record["line"] for record in listed(tmp_path / folder)} == set(lines)
        assert len(listed(tmp_path / folder)) == len(lines)


def test_tarred_audio(tmp_path):
    corpus = tiny_corpus(tmp_path / "c", n_speech=12, n_text=4)
    tarred = tiny_tarred(corpus.speech, tmp_path / "tarred")
    (tmp_path / "tarred" / "audio_2.tar").write_bytes(b"")
    part = {**tarred, "batch_duration": 8}
    with pytest.raises(InputError, match=r"manifest_2\.json:\d+: .*audio_2\.tar: not a tar file"):
        list(islice(build_pretrain_dataloader({"speech": part}, STREAMS), 30))
    loader = build_pretrain_dataloader({"speech": part, **SKIP}, STREAMS, folder=tmp_path)
    names = {name for rows in rows_of(islice(loader, 30)) for name in rows}
    assert len(names) == 9
    records = listed(tmp_path)
    assert {record["manifest"] for record in records} == {str(tmp_path / "tarred" / "manifest_2.json")}
    assert sorted(record["line"] for record in records) == [1, 2, 3]


# --- the order stays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_rest_comes_as_it_would_and_after_a_resume(tmp_path, num_workers):
    clean = tiny_corpus(tmp_path / "c", n_speech=24, n_text=4)
    undisturbed = list(islice(pretraining(clean), 30))
    expected = rows_of(undisturbed)
    spoiled(tmp_path / "c", AUDIO)
    loader = pretraining(clean, tmp_path, num_workers=num_workers, **SKIP)
    batches = []
    for batch in islice(loader, 30):
        loader.trained(batch.number)
        batches.append(batch)
        if batch.number == 10:
            state = loader.state_dict()
    bad = {f"{clean.speech}:{record['line']}" for record in listed(tmp_path)}
    assert len(bad) == len(AUDIO)
    for batch, rows, others in zip(batches, rows_of(batches), expected, strict=True):
        if not batch.stand_in:
            assert rows == {name: row for name, row in others.items() if name not in bad}
        else:
            assert others.keys() <= bad
    counts = loader.count.read, loader.count.bad
    names = [name for batch in undisturbed for name in batch.speech.ids]  # one may be in a batch twice
    assert counts == (len(names), sum(name in bad for name in names))

    resumed = pretraining(clean, tmp_path, num_workers=2 - num_workers, **SKIP)
    resumed.load_state_dict(state)
    again = list(islice(resumed, 19))
    assert rows_of(again) == rows_of(batches[11:])
    assert (resumed.count.read, resumed.count.bad) == counts
    assert len(listed(tmp_path)) == len(AUDIO)


def test_counts_of_lines_are_exact_after_a_resume(tmp_path):
    corpus, _ = spoiled(tmp_path / "c", LINES)
    loader = pretraining(corpus, tmp_path, num_workers=2, **SKIP)
    states = []
    for batch in islice(loader, 12):
        loader.trained(batch.number)
        states.append(loader.state_dict())
    resumed = pretraining(corpus, tmp_path, **SKIP)
    resumed.load_state_dict(states[6])
    for batch, state in zip(resumed, states[7:], strict=False):
        resumed.trained(batch.number)
        assert resumed.state_dict()["examples"] == state["examples"]
    assert states[-1]["examples"][1] > 4


def test_processes_share_the_count_of_bad_lines(tmp_path):
    """All read all lines, and each its own batches: each of them would count all bad lines."""
    corpus, _ = spoiled(tmp_path / "c", ["not JSON"] * 4, n_speech=40)
    config = {"speech": {"manifest_filepath": str(corpus.speech), "batch_size": 2}, **SKIP}
    training, validation = [], []
    for rank in range(3):
        training.append(build_pretrain_dataloader(config, STREAMS, rank, 3, tmp_path))
        validation += build_validation_dataloaders(config, STREAMS, rank, 3)
        list(islice(training[-1], 18))
        list(validation[-1])
    for loaders in (training, validation):
        read, bad = sum(each.count.read for each in loaders), sum(each.count.bad for each in loaders)
        assert bad / read == pytest.approx(0.1, abs=0.01)
    assert len(listed(tmp_path)) == 4


def test_a_batch_that_loses_all_is_made_up(tmp_path):
    corpus = tiny_corpus(tmp_path / "c", n_speech=4, n_text=4)
    for number in (1, 2, 3):
        spoil(corpus.speech, number, "nan")
    one_each = {"batch_size": 1, "batch_duration": None}
    part = {"manifest_filepath": str(corpus.speech), **one_each}
    loader = build_pretrain_dataloader({"speech": part, **SKIP}, STREAMS)
    for batch in islice(loader, 8):
        assert batch.stand_in == (not batch.speech.ids)
        assert batch.speech.audio.isfinite().all()
        if batch.stand_in:
            assert batch.speech.audio.shape == (1, 48000)
            assert batch.speech.units.shape == (1, 300)
    batches = list(islice(transcripts(corpus, **SKIP, **one_each), 8))
    assert {batch.stand_in for batch in batches} == {True, False}
    assert all(is_repeated(batch) == batch.stand_in for batch in batches)
    pairs = [PairStream(labels=tiny_labels())]  # of which a batch needs two
    loader = build_pretrain_dataloader({"pairs": {**part, "batch_size": 2}, **SKIP}, pairs)
    for batch in islice(loader, 8):
        assert batch.stand_in
        assert batch.pairs.tokens.shape == (2, 1)


# --- the limit and the list ------------------------------------------------------------------------------------------


def test_too_many_stop(tmp_path):
    corpus, _ = spoiled(tmp_path / "c", ["nan"] * 3, n_speech=6)
    with pytest.raises(InputError, match=r"[67] of \d+ examples cannot be used, more than max_bad=0\.005"):
        list(islice(pretraining(corpus, tmp_path, on_bad="skip", max_bad=0.005), 100))
    corpus, _ = spoiled(tmp_path / "d", ["no units"] * 3, n_speech=6)
    with pytest.raises(InputError, match=r"3 of 6 examples cannot be used, more than max_bad=0\.002"):
        pretraining(corpus, tmp_path, on_bad="skip", max_bad=0.002)  # the survey sees it
    broken, _ = spoiled(tmp_path / "e", ["not JSON"] * 3, n_speech=6)
    with pytest.raises(InputError, match="3 of 6 examples cannot be used"):
        transcripts(broken, on_bad="skip", max_bad=0.002)
    alone, _ = spoiled(tmp_path / "f", [])
    for number in range(1, 25):
        spoil(alone.speech, number, "no units")
    with pytest.raises(InputError, match=r"none of 24 lines can be used\. The first: no key 'units'"):
        pretraining(alone, on_bad="skip")


@pytest.mark.parametrize(("key", "value"), [("on_bad", "ignore"), ("max_bad", 2), ("max_bad", "all"), ("timeout", -1)])
def test_wrong_values(tmp_path, key, value):
    corpus = tiny_corpus(tmp_path, n_speech=2, n_text=2)
    for build in (pretraining, transcripts):
        with pytest.raises(InputError, match=f"data config: {key} is"):
            build(corpus, **{key: value})


def append_all(folder, start):
    count = BadCount(BadRule("skip", 1.0), folder)
    for number in range(200):
        count.add(1, [BadExample("m.json", (start + number) % 200 + 1, "bad " * 50)])


def test_processes_write_one_list(tmp_path):
    (tmp_path / LIST_NAME).write_text('{"manifest": "m.json", "line": 3, "reason": "x"}\n{"manifest": "m.j')  # killed
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_all, args=(tmp_path, 50 * i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    first, broken, *others = (tmp_path / LIST_NAME).read_text().splitlines()
    assert (json.loads(first)["line"], broken) == (3, '{"manifest": "m.j')
    assert sorted(json.loads(line)["line"] for line in others) == [1, 2, *range(4, 201)]


# --- what hangs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [pretraining, transcripts])
def test_a_worker_that_hangs_is_an_error(tmp_path, monkeypatch, build):
    corpus = tiny_corpus(tmp_path, n_speech=6, n_text=2)

    def read(path, *arguments, **options):
        if str(path).endswith("0003.wav"):
            time.sleep(600)
        return read_audio(path, *arguments, **options)

    monkeypatch.setattr(utterance_audio, "read_audio", read)
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"speech\.json:4 \(.*0003\.wav\): has been read for 1 s without an end"):
        list(islice(build(corpus, num_workers=1, timeout=1), 20))
    assert time.monotonic() - begun < 60


def test_a_worker_that_is_slow_does_not_hang(tmp_path, monkeypatch):
    corpus = tiny_corpus(tmp_path, n_speech=6, n_text=2)

    def read(*arguments, **options):
        time.sleep(0.4)
        return read_audio(*arguments, **options)

    monkeypatch.setattr(utterance_audio, "read_audio", read)
    loader = pretraining(corpus, num_workers=1, timeout=1)  # a batch takes longer than that
    assert len(list(islice(loader, 2))) == 2


def test_audio_without_faults_is_as_it_was(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=6, n_text=2)
    stop, skip = (list(islice(pretraining(corpus, **options), 5)) for options in ({}, SKIP))
    for a, b in zip(stop, skip, strict=True):
        assert a.speech.ids == b.speech.ids
        assert torch.equal(a.speech.audio, b.speech.audio)
        assert (a.read, a.bad, b.bad) == (0, (), ())
    assert np.isfinite(stop[0].speech.audio).all()
