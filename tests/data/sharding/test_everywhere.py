"""Names that stand for several manifests, and manifests of shards, where commands read a manifest."""

import json
from pathlib import Path

import pytest

from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.manifests.shards import paired
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, make_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.probing.targets import ClassTargets
from nemo_speechlm.evaluation.space.alignment import read_spoken
from nemo_speechlm.evaluation.test_sets import read_utterances
from nemo_speechlm.evaluation.unit_quality import compare_manifests
from nemo_speechlm.inference.features.inputs import read_inputs
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.tokenizers.jobs.several import done_path, for_each
from nemo_speechlm.units.inventory import UnitInventory
from tests.functional.commands import run_example


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6)


@pytest.fixture(scope="module")
def shards(corpus):
    folder = corpus.speech.parent / "shards"
    division = Division(shards=3, shuffle=False)
    return make_shards(str(corpus.speech), folder, encoding=AudioEncoding(), division=division).names()


def texts(path: str | Path) -> list[str]:
    return [record["text"] for _, record in read_manifest(path)]


def test_evaluation_and_the_space_of_models(corpus, shards):
    manifests = shards["manifest_filepath"]
    utterances, skipped = read_utterances(manifests)
    assert [u.text for u in utterances] == texts(corpus.speech)
    assert skipped == []
    assert utterances[5].record["tar_filepath"] == str(corpus.speech.parent / "shards" / "audio_2.tar")
    inventory = UnitInventory.load(corpus.units)
    spoken = read_spoken([manifests, str(corpus.speech)], inventory)
    assert [len(each.frames) for each in spoken[:6]] == [len(each.frames) for each in spoken[6:]]
    found, _ = read_inputs([manifests.replace("__OP_0..2_CL_", "_2")])
    assert [u.record["text"] for u in found] == texts(corpus.speech)[4:]
    assert ClassTargets.learned(["text"], [manifests])["text"] == sorted(texts(corpus.speech))


def test_units_of_a_shard_are_compared_by_the_place_of_their_audio(corpus, shards, tmp_path):
    inventory = UnitInventory.load(corpus.units)
    shard = Path(shards["manifest_filepath"].replace("__OP_0..2_CL_", "_1"))
    records = [record for _, record in read_manifest(shard)]
    for record in records:
        record["tar_filepath"] = str(shard.parent / "audio_1.tar")
    write_manifest(tmp_path / "moved.json", records)
    _, common = compare_manifests(tmp_path / "moved.json", inventory, shard, inventory)
    assert common == 2


def test_a_command_makes_shards_and_another_works_on_each(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_manifest("text.json", [{"text": f"{word} one"} for word in ("two", "three", "four", "five", "six")])
    assert run_example("make_tarred.py", "manifest=text.json", "output=out", "shards=2", "workers=1") == 0
    assert "out: 2 shards, 5 written, 0 left out\nmanifest_filepath: out/manifest__OP_0..1_CL_.json\n" in (
        capsys.readouterr().out
    )
    options = ("units=units.json", "workers=1", "style=plain")
    source = "manifest=out/manifest__OP_0..1_CL_.json"
    assert run_example("tokenize_text.py", source, "output=one.json", *options) == 1
    said = capsys.readouterr().err
    assert "manifest names 2 files, output 1; expected as many, such as units__OP_0..1_CL_.json" in said
    assert run_example("tokenize_text.py", source, "output=units__OP_0..1_CL_.json", *options) == 0
    for shard in (0, 1):
        made = [record for _, record in read_manifest(f"units_{shard}.json")]
        assert [record["text"] for record in made] == texts(f"out/manifest_{shard}.json")
        assert all(record["units"].endswith("W AH N SIL") for record in made)
    assert not list(tmp_path.glob(".*"))


def test_a_manifest_of_shards_is_checked(corpus, shards, tmp_path):
    folder = corpus.speech.parent / "shards"
    (folder / "joined.json").write_text("".join((folder / f"manifest_{shard}.json").read_text() for shard in range(3)))
    options = ("corpus=manifest", f"source={folder}/joined.json", "decode=true", "workers=1")
    for output in (folder / "checked.json", tmp_path / "checked.json"):
        assert run_example("prepare_data.py", *options, f"output={output}") == 0
        assert texts(output) == texts(corpus.speech)
        tars = {audio_source(record, output, number).path for number, record in read_manifest(output)}
        assert tars == {str(folder / f"audio_{shard}.tar") for shard in range(3)}


def test_what_is_done_is_not_done_again(tmp_path):
    for name in "abc":
        write_manifest(tmp_path / f"{name}.json", [{"text": name}])
    manifests = [str(tmp_path / f"{name}.json") for name in "abc"]
    done: list[str] = []

    def work(source: str, output: str) -> str:
        if len(done) == 2:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(Path(source).stem)
        Path(output).write_text(json.dumps({"made of": source}))
        return output

    output = str(tmp_path / "out_{0..2}.json")
    with pytest.raises(KeyboardInterrupt):
        for_each(manifests, output, {"seed": 0}, work)
    said = for_each(manifests, output, {"seed": 0}, work)
    assert done == ["a", "b", "stopped", "c"]
    assert said.count("was made before the interruption") == 2
    assert not done_path(tmp_path / "out_0.json").exists()
    for_each(manifests[:2], str(tmp_path / "new_{0..1}.json"), {"seed": 0}, work)
    assert done[4:] == ["a", "b"]


def interrupted(manifests, options, files=(), **more):
    """Work on two manifests, until it is interrupted in the second; how many outputs were made."""
    done = []

    def work(source, made):
        if made.endswith("1.json"):
            raise KeyboardInterrupt
        done.append(source)
        Path(made).write_text("x")
        if more.get("skip_bad"):
            Path(f"{made}.skipped.jsonl").write_text("{}")
        return made

    with pytest.raises(KeyboardInterrupt):
        for_each(manifests, str(Path(manifests[0]).with_name("out_{0..1}.json")), options, work, files, **more)
    return len(done)


@pytest.fixture
def two_manifests(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        write_manifest(path, [{"text": path.stem}])
    return [str(path) for path in paths]


def test_an_output_that_lacks_bad_lines_is_not_done_where_they_are_wanted(two_manifests):
    made = [interrupted(two_manifests, {}, skip_bad=skip_bad) for skip_bad in (True, True, False, False, True)]
    assert made == [1, 0, 1, 0, 0]


def test_options_and_content_decide_whether_it_is_done(tmp_path, two_manifests):
    (tmp_path / "model").write_text("weights")

    def run(options):
        return interrupted(two_manifests, options, [tmp_path / "model"])

    assert run({"seed": 0}) == 1
    assert run({"seed": 0}) == 0
    assert run({"seed": 1}) == 1
    (tmp_path / "out_0.json").write_text("changed")
    assert run({"seed": 1}) == 1
    write_manifest(tmp_path / "a.json", [{"text": "new"}])
    assert run({"seed": 1}) == 1
    assert run({"seed": 1}) == 0
    (tmp_path / "model").write_text("others")
    assert run({"seed": 1}) == 1
    with pytest.raises(InputError, match="is also what manifest names"):
        for_each(two_manifests, two_manifests, {}, lambda source, made: "")


def test_pairs_of_names():
    assert paired("a.json", "b_{0..1}.json") == [("a.json", "b_{0..1}.json")]
    with pytest.raises(InputError, match="manifest names 3 files, output 2"):
        paired("a_{0..2}.json", "b_{0..1}.json")
