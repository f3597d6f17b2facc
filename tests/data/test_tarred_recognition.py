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
BUFFER = 4  # utterances that wait to be shuffled
PASS = UTTERANCES + 15  # utterances, by which the last one of a pass has left the buffer, too


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
        "shuffle_buffer_size": BUFFER,
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
def test_processes_and_workers_differ_and_each_pass_is_whole(tarred, texts, workers):
    size = max(1, workers) * PASS // 3
    ranks = [batches_of(build(tarred, rank, 2, num_workers=workers), size + 2) for rank in (0, 1)]
    everything = ranks[0] + ranks[1]
    assert len(set(everything)) == len(everything), "batches that more than one process or worker had"
    for batches in ranks:
        for worker in range(max(1, workers)):  # which take turns
            own = list(itertools.chain(*batches[worker :: max(1, workers)]))
            assert set(own[:PASS]) == texts
    assert batches_of(build(tarred, 1, 2, num_workers=workers), 4) == ranks[1][:4], "the order follows from the seed"
    assert batches_of(build(tarred, 1, 2, num_workers=workers, seed=1), 4) != ranks[1][:4]


def test_buckets(tarred, texts):
    options = {
        "use_bucketing": True,
        "num_buckets": 2,
        "bucket_buffer_size": 6,
        "batch_duration": 8,
        "batch_size": None,
    }
    one, other = (batches_of(build(tarred, rank, 2, **options), 40) for rank in (0, 1))
    assert one[:10] != other[:10]
    assert set(itertools.chain(*one)) == set(itertools.chain(*other)) == texts


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_does_not_start_over(tarred, workers):
    loader = build(tarred, num_workers=workers)
    first = batches_of(loader, 6)
    state = loader.state_dict()
    assert state == {"delivered": 6}
    resumed, again = (build(tarred, num_workers=workers) for _ in range(2))
    resumed.load_state_dict(state)
    again.load_state_dict(state)
    rest = batches_of(resumed, 6)
    assert not set(rest) & set(first)
    assert rest == batches_of(again, 6)
    assert resumed.state_dict() == {"delivered": 12}


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
