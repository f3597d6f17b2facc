import json
import os
import threading
import time
from multiprocessing import get_context

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining import chapters, loader, plans, sequence
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.plans import Plan, PlannedBatch, Plans
from nemo_speechlm.data.pretraining.sequence import BatchSequence
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.errors import InputError
from nemo_speechlm.locks import only_writer
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels

RANKS = 8
STREAMS = [SpeechStream(tiny_inventory()), UnitTextStream(tiny_inventory(), tiny_labels(), 50)]
BUCKETS = {"use_bucketing": True, "num_buckets": 3, "bucket_buffer_size": 60, "num_cuts_for_bins_estimate": 100}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=24, n_text=60)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Plans in a folder of the test, of chapters of a pass each."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(chapters, "FEWEST_LINES", 24)


def config(corpus, **changes):
    speech = {"manifest_filepath": str(corpus.speech), "batch_duration": 3, "speeds": [0.9, 1.0], **BUCKETS}
    text = {"manifest_filepath": str(corpus.text), "batch_tokens": 300, **BUCKETS}
    return {"speech": speech, "text": text, "num_workers": 0, "seed": 0} | changes


def build(config, rank, streams=STREAMS, **options):
    return build_pretrain_dataloader(config, streams, rank, RANKS, **options)


def first(made, count):
    items = iter(made)
    return [next(items) for _ in range(count)]


def same(some, others):
    for one, other in zip(some, others, strict=True):
        assert (one.read, one.bad) == (other.read, other.bad)
        for a, b in ((one.speech, other.speech), (one.text, other.text)):
            if a is None and b is None:
                continue
            assert a.ids == b.ids
            for x, y in zip(a, b, strict=True):
                assert not isinstance(x, torch.Tensor) or torch.equal(x, y)


@pytest.fixture
def unplanned(monkeypatch):
    """Makes the first batches of a rank without plans."""

    def unplanned(config, rank, count):
        with monkeypatch.context() as patch:
            patch.setattr(loader, "PLANNED_FROM", RANKS + 1)
            made = build(config, rank)
            return first(made, count), made.state_dict()

    return unplanned


@pytest.mark.parametrize(("workers", "ranks"), [(0, (0, 5)), (2, (5,))])
def test_batches_are_those_without_plans(corpus, unplanned, workers, ranks):
    given = config(corpus, num_workers=workers)
    for rank in ranks:
        expected, state = unplanned(given, rank, 8)
        made = build(given, rank)
        assert all(each.decided_by is not None for each in made.steps.sequences.values())
        same(first(made, 8), expected)
        assert made.state_dict() == state
        assert state["positions"]["speech"][0] > 2, "in several chapters"


def test_a_resumed_run_goes_on_with_what_would_have_come_next(corpus, unplanned):
    expected, _ = unplanned(config(corpus), 3, 6)
    before = build(config(corpus), 3)
    same(first(before, 3), expected[:3])
    after = build(config(corpus), 3)
    after.load_state_dict(before.state_dict())
    same(first(after, 3), expected[3:])


def counting(function, calls):
    return lambda *arguments: calls.append(arguments) or function(*arguments)


def test_only_its_own_lines_are_read_once_there_are_plans(corpus, monkeypatch):
    monkeypatch.setattr(plans, "AHEAD", 1)
    shares = []
    for rank in range(2):
        made = build(config(corpus), rank)
        read = []
        for each in made.steps.sequences.values():
            (reader,) = each.readers
            reader._read = counting(reader._read, read)
        batches = first(made, 8)
        shares.append(len(read) / sum(len(batch.speech.ids) + len(batch.text.ids) for batch in batches))
    assert shares[0] > 5, "it plans, and reads its own"
    assert shares[1] < 3, "the first chapter is not planned"


def spoil(corpus, folder):
    """The corpus with two lines that cannot be used, one of them because of its audio."""
    records = [record for _, record in read_manifest(corpus.speech)]
    for record in records:
        record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
    records[3]["units"] = ["nonsense"]
    broken = folder / "broken.wav"
    soundfile.write(broken, np.zeros(4000, dtype="float32"), 16000)
    records[7]["audio_filepath"] = str(broken)
    write_manifest(folder / "speech.json", records)
    return folder / "speech.json"


def test_bad_lines_are_counted_once_by_all_ranks(corpus, tmp_path, unplanned):
    given = config(corpus, on_bad="skip", max_bad=1.0, text=None)
    given["speech"]["manifest_filepath"] = str(spoil(corpus, tmp_path))
    found = 0
    for rank in range(RANKS):
        expected, state = unplanned(given, rank, 3)
        made = build(given, rank)
        same(first(made, 3), expected)
        assert made.state_dict() == state
        found += state["examples"][1]
    passes = state["positions"]["speech"][0]
    assert 2 * passes <= found <= 2 * passes + 2


def test_an_error_is_raised_when_training_comes_to_it(corpus, tmp_path, monkeypatch):
    """Not when its chapter is planned."""
    path = spoil(corpus, tmp_path)
    lines = path.read_text().splitlines()
    bad = lines.pop(3)
    lines = (lines[:6] + lines[7:]) * 9
    lines[150] = bad
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(sequence.ManifestReader, "_survey", lambda self: None)
    given = config(corpus)
    given["speech"] |= {"manifest_filepath": str(path), "shuffle": False}
    done = {}
    for planned_from in (RANKS, RANKS + 1):
        monkeypatch.setattr(loader, "PLANNED_FROM", planned_from)
        made = build(given, 0)
        made.steps.sequences["speech"].cut_chapters(chapters.Cut(20))
        done[planned_from] = []
        with pytest.raises(InputError, match=r"speech\.json:151: .*nonsense"):
            done[planned_from].extend(batch.speech.ids for batch in made)
    assert done[RANKS] == done[RANKS + 1] != []


def test_another_seed_or_manifest_has_other_plans(corpus, tmp_path):
    def keys(**changes):
        made = build(config(corpus, **changes), 0)
        return [each._key() for each in made.steps.sequences.values()]

    first_keys = keys()
    assert keys() == first_keys == keys(num_workers=2)
    assert not set(first_keys) & set(keys(seed=1))
    lines = corpus.text.read_text().splitlines()
    other = tmp_path / "text.json"
    other.write_text("\n".join(lines))
    changed = config(corpus)["text"] | {"manifest_filepath": str(other)}
    before = keys(text=changed)
    other.write_text("\n".join(lines[1:]))
    assert before[1] != keys(text=changed)[1]
    made = build(config(corpus), 0)
    made.steps.sequences["text"].cut_chapters(chapters.Cut(10))
    assert made.steps.sequences["text"]._key() != first_keys[1]


def test_what_may_depend_on_the_order_of_reading_is_not_planned(corpus):
    sampler = build(config(corpus), 0).steps.sequences["speech"].sampler
    (cuts,) = sampler.cuts

    def planned():
        return BatchSequence(sampler, True, True, "speech", {}).decided_by is not None

    assert planned()
    for other in (cuts.perturb_speed(0.9), CutSet.mux(cuts, cuts), cuts.repeat(2), cuts.mix(cuts)):
        sampler.cuts = (other,)
        assert not planned()
    sampler.cuts = (cuts,)
    sampler.map(lambda batch: batch)  # as for rooms
    assert not planned()


# --- the folder of plans ---------------------------------------------------------------------------------------------

PLAN = Plan([PlannedBatch([(0, 1), (2, 3)], [BadExample("a", 1, "b")]), PlannedBatch([(0, 5)], [])], [])


def test_round_trip():
    for plan in (PLAN, Plan(None, []), Plan([], [BadExample("ä", None, "ö")])):
        assert Plan.parse(plan.dump()) == plan


def test_each_chapter_is_planned_once(tmp_path):
    made = []
    for _ in range(3):  # three workers, one after the other
        each = Plans("key", lambda chapter: made.append(chapter) or PLAN, tmp_path / "plans")
        for chapter in range(4):
            assert each.of(chapter) == PLAN
            each.make_ahead(chapter)
    assert made == list(range(13)), "where it is done, the next ones"
    assert each.at_hand(12) == PLAN
    assert each.at_hand(13) is None


def test_old_plans_are_removed(tmp_path):
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    for chapter in range(200):
        each.of(chapter)
    assert len(list((tmp_path / "plans/key").iterdir())) < 100


def test_plans_of_runs_that_ended_long_ago_are_removed(tmp_path):
    for name in ("old", "own", "young"):
        Plans(name, lambda _: PLAN, tmp_path).of(0)
    for name, days in (("old", 8), ("own", 8), ("young", 6)):
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    made = Plans("own", pytest.fail, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "young"}
    assert made.of(0) == PLAN


@pytest.fixture
def another(tmp_path):
    """Another process that makes a plan of the first chapter, without batches, and ends when it is told to."""
    path = tmp_path / "plans/key/00000000.json"
    held, done = get_context("fork").Event(), get_context("fork").Event()

    def hold():
        with only_writer(path):
            held.set()
            done.wait(30)
            path.write_text(Plan([], []).dump())

    process = get_context("fork").Process(target=hold)
    process.start()
    assert held.wait(30)
    yield done
    done.set()
    process.join(30)


def test_another_process_makes_it_and_is_waited_for(tmp_path, another):
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    threading.Timer(0.3, another.set).start()
    assert each.of(0) == Plan([], []), "the other one's"


@pytest.mark.usefixtures("another")
def test_one_that_takes_for_ever_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_PATIENCE", 0.3)
    monkeypatch.setattr(plans, "AHEAD", 1)
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    assert each.of(0) == PLAN


@pytest.mark.parametrize("content", ["", "[]", "{}", "[[1], []]", '[[[[0, 1], [["a"]]]], []]'])
def test_a_damaged_plan_is_made_anew(tmp_path, content):
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    path = tmp_path / "plans/key/00000000.json"
    path.write_text(content)
    assert each.at_hand(0) is None
    assert each.of(0) == PLAN
    assert Plan.parse(path.read_text()) == PLAN


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "plans").write_text("a file")
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    assert [each.of(chapter) for chapter in range(3)] == [None] * 3
    each.make_ahead(3)


def test_plans_of_another_user_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    each = Plans("key", lambda chapter: PLAN, tmp_path / "plans")
    (tmp_path / "plans/key").mkdir(parents=True, exist_ok=True)
    (tmp_path / "plans/key/00000000.json").write_text(json.dumps([[], []]))
    assert each.of(0) is None
