"""Shards are read back: by the loaders of all streams, with exact resume, and wherever a manifest may stand."""

import itertools

import numpy as np
import pytest
import torch

from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.utterances import audio_part, read_utterance
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, make_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.units.inventory import UnitInventory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=12)


@pytest.fixture(scope="module")
def shards(corpus):
    """Data configs of speech and of text in shards."""
    folder = corpus.speech.parent
    speech = make_shards(
        str(corpus.speech), folder / "speech", encoding=AudioEncoding(), division=Division(shards=3, shuffle=False)
    )
    text = make_shards(str(corpus.text), folder / "text", encoding=None, division=Division(shards=2))
    return speech.names(), text.names()


def pretraining(corpus, speech, text, **options):
    config = {
        "speech": {**speech, "batch_size": 3, "truncate_duration": 0.8},
        "text": {**text, "batch_size": 4},
        "seed": 3,
        **options,
    }
    inventory = UnitInventory.load(corpus.units)
    streams = [SpeechStream(inventory), UnitTextStream(inventory, tiny_labels(), 50)]
    return build_pretrain_dataloader(config, streams)


def taken(loader, count):
    return list(itertools.islice(loader, count))


def same(ones, others):
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one.speech.audio, other.speech.audio, rtol=0, atol=0)
        torch.testing.assert_close(one.speech.units, other.speech.units, rtol=0, atol=0)
        torch.testing.assert_close(one.text.units, other.text.units, rtol=0, atol=0)


@pytest.mark.parametrize("named", [False, True], ids=["lines say their tars", "the config names the tars"])
def test_pretraining_has_the_same_batches_as_from_plain_files_and_resumes(corpus, shards, named):
    """A small corpus is one chapter, so the order is that of one manifest; FLAC of 16 bits is exact."""
    speech, text = shards
    speech = speech if named else {"manifest_filepath": speech["manifest_filepath"]}
    plain = {"manifest_filepath": str(corpus.speech)}
    loader = pretraining(corpus, speech, text)
    batches = taken(loader, 10)
    same(batches, taken(pretraining(corpus, plain, text), 10))
    before = pretraining(corpus, speech, text)
    last = taken(before, 4)[-2]
    before.trained(last.number)
    resumed = pretraining(corpus, speech, text)
    resumed.load_state_dict(before.state_dict())
    same(taken(resumed, 7), batches[3:])


@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_recognition(corpus, shards, endless, named):
    speech = shards[0] if named else {"manifest_filepath": shards[0]["manifest_filepath"]}
    options = {"batch_size": 4, "shuffle": endless, "endless": endless, "seed": 1}

    def batches(data):
        return taken(build_recognition_dataloader({**data, **options}, tiny_labels()), 3)

    for one, other in zip(batches(speech), batches({"manifest_filepath": str(corpus.speech)}), strict=True):
        for x, y in zip(one[:4], other[:4], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_an_utterance_is_read_wherever_a_record_may_stand(corpus, shards, tmp_path):
    records = dict(read_manifest(corpus.speech))
    manifest = shards[0]["manifest_filepath"].replace("__OP_0..2_CL_", "_1")
    for number, record in read_manifest(manifest):
        original = records[4 + number]
        np.testing.assert_array_equal(
            read_utterance(record, manifest, number), read_utterance(original, corpus.speech, 4 + number)
        )
        part = audio_part(record, manifest, number)
        assert part.duration == original["duration"]
        assert str(part.path).endswith(f"speech/audio_1.tar/{record['audio_filepath']}")


def test_a_manifest_beside_another_tar_is_told(corpus, shards, tmp_path):
    manifest = shards[0]["manifest_filepath"].replace("__OP_0..2_CL_", "_1")
    _, record = next(read_manifest(manifest))
    tar = manifest.replace("manifest_1.json", "audio_2.tar")
    write_manifest(tmp_path / "m.json", [{**record, "tar_filepath": tar}])
    with pytest.raises(InputError, match=r"m\.json:1: .*audio_2\.tar: has '0008-.*does the manifest belong to this"):
        read_utterance({**record, "tar_filepath": tar}, tmp_path / "m.json", 1)
    with pytest.raises(InputError, match="ends at byte"):
        read_utterance({**record, "tar_span": [1 << 20, 1 << 21]}, manifest, 1)
    for span in (3, [5, 9], ["a", 2]):
        with pytest.raises(InputError, match=r"m\.json:1: tar_span is .*, expected"):
            audio_source({**record, "tar_span": span, "tar_filepath": tar}, tmp_path / "m.json", 1)
