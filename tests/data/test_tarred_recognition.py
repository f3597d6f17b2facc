"""Audio in tar files: processes and workers read batches of their own, passes are whole, a resumed run goes on."""

import itertools

import pytest
import torch

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.configs import tiny_tarred
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels

UTTERANCES = 24
NEMO = {"pad_min_duration": 0.1, "shuffle_buffer_size": 2 * UTTERANCES}
"""Options with which NeMo reads the data, not we; its buffer would be filled with 10,000 utterances."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=UTTERANCES)


@pytest.fixture(scope="module")
def tarred(corpus):
    return tiny_tarred(corpus.speech, corpus.speech.parent / "tarred")


@pytest.fixture(scope="module")
def texts(corpus):
    found = {record["text"] for _, record in read_manifest(corpus.speech)}
    assert len(found) == UTTERANCES
    return found


def build(tarred, rank=0, world_size=1, **options):
    config = {
        **tarred,
        "batch_size": 3,
        "shuffle": True,
        "endless": True,
        "seed": 0,
        **options,
    }
    return build_recognition_dataloader(config, tiny_labels(), global_rank=rank, world_size=world_size)


def batches_of(loader, count=None):
    """The texts of batches."""
    return [
        tuple(
            "".join(tiny_labels()[i] for i in row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)
        )
        for _, _, ids, lengths in itertools.islice(loader, count)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_take_turns_with_the_batches_of_one_order(tarred, texts, workers):
    alone = batches_of(build(tarred), 2 * UTTERANCES // 3)
    assert sorted(itertools.chain(*alone[: UTTERANCES // 3])) == sorted(texts), "each line once a pass"
    ranks = [batches_of(build(tarred, rank, 2, num_workers=workers), UTTERANCES // 3) for rank in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == alone
    assert batches_of(build(tarred, seed=1), 8) != alone[:8]


def test_buckets(tarred, texts):
    options = {"use_bucketing": True, "num_buckets": 2, "batch_duration": 8, "batch_size": None}
    one, other = (batches_of(build(tarred, rank, 2, **options), 40) for rank in (0, 1))
    assert one[:10] != other[:10]
    assert set(itertools.chain(*one, *other)) == texts


@pytest.mark.parametrize(("workers", "source"), [(0, "tarred"), (2, "tarred"), (2, "plain"), (0, "nemo"), (2, "nemo")])
def test_a_resumed_run_goes_on_with_the_next_batch(corpus, tarred, workers, source):
    data = {"manifest_filepath": str(corpus.speech)} if source == "plain" else tarred
    options = {"num_workers": workers, **(NEMO if source == "nemo" else {})}
    expected = batches_of(build(data, **options), 20)
    loader = build(data, **options)
    fetched = list(itertools.islice(loader, 7))
    loader.trained(fetched[5].number)  # Lightning fetches a batch ahead
    resumed = build(data, **options)
    resumed.load_state_dict(loader.state_dict())
    assert batches_of(resumed, 14) == expected[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_go_on_as_one(tarred, texts, workers):
    ranks = [build(tarred, rank, 2, num_workers=workers) for rank in (0, 1)]
    before = [batches_of(loader, 2) for loader in ranks]
    assert ranks[0].state_dict() == ranks[1].state_dict()
    alone = build(tarred)
    alone.load_state_dict(ranks[0].state_dict())
    rest = batches_of(alone, UTTERANCES // 3 - 4)
    assert sorted(itertools.chain(*before[0], *before[1], *rest)) == sorted(texts)


def test_what_nemo_reads_tells_that_its_place_is_lost(tarred, monkeypatch):
    said = []
    monkeypatch.setattr("nemo_speechlm.data.pretraining.loader.logging.warning", said.append)
    state = build(tarred, 0, 2, pad_min_duration=0.1).state_dict()
    build(tarred, 0, 2, pad_min_duration=0.1).load_state_dict(state)
    build(tarred, 0, 1).load_state_dict(state)
    assert said == []
    build(tarred, 0, 1, pad_min_duration=0.1).load_state_dict(state)
    assert "it had 1 workers in 2 processes, and now has 1 in 1" in said[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_ends_and_is_shared_out(tarred, texts, workers):
    options = {"endless": False, "shuffle": False, "num_workers": workers}
    ranks = [batches_of(build(tarred, rank, 2, **options), 100) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == UTTERANCES // 6
    assert sorted(itertools.chain(*ranks[0], *ranks[1])) == sorted(texts)


def test_lists_of_manifests_end_too(corpus, texts):
    config = {"manifest_filepath": [str(corpus.speech), str(corpus.speech)], "batch_size": 3, "shuffle": False}
    batches = batches_of(build_recognition_dataloader(config, tiny_labels()), 100)
    assert sorted(itertools.chain(*batches)) == sorted([*texts, *texts])


def test_texts_of_all_shards_are_checked(tarred):
    with pytest.raises(InputError, match=r"manifest_0\.json:1: 'k' \(U\+006B\) in .* is not among"):
        build_recognition_dataloader({**tarred, "batch_size": 1, "endless": True}, ["a"])


def test_seeds_are_numbers(tarred):
    with pytest.raises(InputError, match="shard_seed is 'trng', expected a whole number"):
        build(tarred, shard_seed="trng")
    with pytest.raises(InputError, match="seed is -1"):
        build(tarred, seed=-1)


def test_leaves_the_random_state_alone(tarred):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    loader = build(tarred)
    assert torch.rand(1) == expected
    batches_of(loader, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_read_apart_what_nemo_reads(tarred, workers):
    """With one order for all of them, a step of two processes would have the same batch twice."""
    ranks = [batches_of(build(tarred, rank, 2, num_workers=workers, **NEMO), 8) for rank in (0, 1)]
    assert not any(one == other for one, other in zip(*ranks, strict=True))
    for batches in ranks:
        assert workers == 0 or batches[::2] != batches[1::2]


@pytest.mark.parametrize(("done", "workers"), [(7, 2), (13, 0)])
def test_what_nemo_reads_goes_on_within_a_round_of_its_workers_and_in_a_later_pass(tarred, done, workers):
    options = {"num_workers": workers, **NEMO}
    expected = batches_of(build(tarred, **options), done + 4)
    loader = build(tarred, **options)
    loader.trained(list(itertools.islice(loader, done + 1))[done - 1].number)
    resumed = build(tarred, **options)
    resumed.load_state_dict(loader.state_dict())
    assert batches_of(resumed, 4) == expected[done:]
