"""Shards at an address: written to a real S3 server, and read back from it by ranges."""

import itertools
import logging

import pytest
import torch

from nemo_speechlm import storage
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.sharding import work
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, make_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.units.inventory import UnitInventory
from tests.data.sharding.s3 import s3_server
from tests.functional.commands import run_example

THREE = Division(shards=3, seed=1)


@pytest.fixture(scope="module")
def bucket():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=9)


@pytest.fixture(scope="module")
def sets(corpus, bucket, tmp_path_factory):
    """The same shards in a folder and at an address, as data configs."""
    folder = tmp_path_factory.mktemp("sets")
    options = {"encoding": AudioEncoding(), "division": THREE}
    here = make_shards(str(corpus.speech), folder / "speech", **options)
    there = make_shards(str(corpus.speech), f"{bucket}/speech", job_folder=folder / "job", **options)
    text = make_shards(
        str(corpus.text), f"{bucket}/text/", encoding=None, division=THREE, gzipped=True, job_folder=folder / "job2"
    )
    return folder, here.names(), there.names(), text.names()


def content(address):
    with storage.open_url(address) as file:
        return file.read()


def test_the_same_files_are_written(bucket, sets):
    folder, _, there, text = sets
    assert there == {
        "manifest_filepath": f"{bucket}/speech/manifest__OP_0..2_CL_.json",
        "tarred_audio_filepaths": f"{bucket}/speech/audio__OP_0..2_CL_.tar",
    }
    assert text == {"manifest_filepath": f"{bucket}/text/manifest__OP_0..2_CL_.json.gz"}
    names = [path.name for path in (folder / "speech").iterdir()]
    assert len(names) == 3 * 4 + 1
    for name in names:
        assert content(f"{bucket}/speech/{name}") == (folder / "speech" / name).read_bytes(), name


def test_training_from_an_address_is_exact(corpus, sets, monkeypatch):
    ranges = []
    read = storage.read_range
    monkeypatch.setattr("nemo_speechlm.data.audio.tar_members.read_range", lambda *a: ranges.append(a) or read(*a))
    _, here, there, text = sets
    inventory = UnitInventory.load(corpus.units)
    streams = [SpeechStream(inventory), UnitTextStream(inventory, tiny_labels(), 50)]

    def build(speech):
        config = {"speech": {**speech, "batch_size": 2}, "text": {**text, "batch_size": 3}, "seed": 2}
        return build_pretrain_dataloader(config, streams)

    expected = list(itertools.islice(build(here), 7))
    lines = {"manifest_filepath": there["manifest_filepath"]}
    loader = build(lines)
    fetched = list(itertools.islice(loader, 4))
    loader.trained(fetched[2].number)
    resumed = build(there)
    resumed.load_state_dict(loader.state_dict())
    for one, other in zip([*fetched[:3], *itertools.islice(resumed, 4)], expected, strict=True):
        torch.testing.assert_close(one.speech.audio, other.speech.audio, rtol=0, atol=0)
        torch.testing.assert_close(one.text.units, other.text.units, rtol=0, atol=0)
    assert ranges
    assert max(size for _, _, size in ranges) < 80_000, "an utterance is read without the rest of its tar"


def test_fine_tuning_and_commands(sets):
    _, here, there, _ = sets
    options = {"batch_size": 3, "shuffle": False}
    manifests = {"manifest_filepath": there["manifest_filepath"]}
    for one, other in zip(
        build_recognition_dataloader({**manifests, **options}, tiny_labels()),
        build_recognition_dataloader({**here, **options, "endless": False}, tiny_labels()),
        strict=True,
    ):
        torch.testing.assert_close(one[2], other[2])
    manifest = there["manifest_filepath"].replace("__OP_0..2_CL_", "_0")
    number, record = next(read_manifest(manifest))
    assert len(read_utterance(record, manifest, number)) == round(record["duration"] * 16000)


def test_what_is_wrong_is_told(corpus, bucket, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"s3://speech/none\.json: no such file"):
        list(read_manifest(f"{bucket}/none.json"))
    with pytest.raises(InputError, match=r"s3://elsewhere/a\.json: no such file"):
        list(read_manifest("s3://elsewhere/a.json"))
    with pytest.raises(InputError, match=r"ftp:// is not known; expected s3, gs, azure, http or https"):
        list(read_manifest("ftp://a/b.json"))
    with pytest.raises(InputError, match="s3://speech/x: an output at an address needs job_folder"):
        make_shards(str(corpus.text), f"{bucket}/x", encoding=None)
    with pytest.raises(InputError, match="shards cannot be written there; expected a folder, or s3, gs"):
        make_shards(str(corpus.text), "https://a/b", encoding=None, job_folder=tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._client.cache_clear()
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *a, **k: 0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match=r"s3://speech/a\.json: cannot be read: .*127\.0\.0\.1:9"):
        list(read_manifest(f"{bucket}/a.json"))
    storage._client.cache_clear()


def test_a_broken_upload_leaves_no_shard_and_the_job_goes_on(corpus, bucket, tmp_path, monkeypatch):
    sent = []

    def breaks(path, address):
        if len(sent) == 6:
            raise InputError("cannot be written: the line is down", address)
        sent.append(address.rpartition("/")[2])
        storage.upload(path, address)

    monkeypatch.setattr(work, "upload", breaks)
    options = {"encoding": AudioEncoding(), "division": THREE, "job_folder": tmp_path / "job"}
    with pytest.raises(InputError, match="the line is down"):
        make_shards(str(corpus.speech), f"{bucket}/broken", **options)
    assert sent[3] == "manifest_0.json"
    assert not storage.exists(f"{bucket}/broken/manifest_1.json")
    assert not storage.exists(f"{bucket}/broken/shards.jsonl")
    monkeypatch.undo()
    before = []
    monkeypatch.setattr(work, "upload", lambda path, address: before.append(address) or storage.upload(path, address))
    make_shards(str(corpus.speech), f"{bucket}/broken", **options)
    assert len(before) == 8, "the first shard is not sent again"
    assert storage.exists(f"{bucket}/broken/shards.jsonl")
    with pytest.raises(InputError, match="has shards already"):
        make_shards(str(corpus.speech), f"{bucket}/broken", **options)


def test_the_command_and_shards_of_shards(corpus, bucket, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, _, there, _ = sets
    arguments = f"manifest={there['manifest_filepath']}", f"output={bucket}/new", "shards=2", "workers=1"
    assert run_example("make_tarred.py", *arguments) == 1
    assert "needs job_folder=FOLDER" in capsys.readouterr().err
    assert run_example("make_tarred.py", *arguments, "job_folder=job") == 0
    assert f"{bucket}/new: 2 shards, 9 written, 0.00 h, 0 left out" in capsys.readouterr().out
    new = [r for i in range(2) for _, r in read_manifest(f"{bucket}/new/manifest_{i}.json")]
    old = [r for i in range(3) for _, r in read_manifest(f"{bucket}/speech/manifest_{i}.json")]
    assert {r["text"] for r in new} == {r["text"] for r in old}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["shards.jsonl"]
    manifest = f"{bucket}/new/manifest_1.json"
    _, record = next(read_manifest(manifest))
    del record["shard_id"]
    with pytest.raises(InputError, match="lies beside a manifest at an address, where only audio in tars is read"):
        read_utterance(record, manifest, 1)
