"""Hidden units of speech from MFCC and from a model: what they are, that they stay the same, training that goes on."""

import functools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.unit_quality import quality_of_kmeans
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.tensor_file import TrainingProgress, progress_path
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest
from nemo_speechlm.tokenizers.jobs.speech import make_speech_units_work
from nemo_speechlm.tokenizers.kmeans import training
from nemo_speechlm.tokenizers.kmeans.centroids import nearest, save_kmeans
from nemo_speechlm.tokenizers.kmeans.teacher import make_teacher
from nemo_speechlm.tokenizers.kmeans.tokenizer import KMeansTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput
from tests.long_forms import LONG


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=24, n_text=2)


@pytest.fixture(scope="module")
def model(corpus):
    torch.manual_seed(0)
    path = corpus.units.parent / "model.nemo"
    SpeechLMModel(tiny_pretrain_config(corpus)).save_to(str(path))
    return str(path)


def how(corpus, **changes):
    values = {"clusters": 12, "first_frames": 600, "block_frames": 200, "save_seconds": 1e9, "restarts": 2}
    return training.KMeansTraining((str(corpus.speech),), **{**values, **changes})


@pytest.fixture(scope="module", params=["mfcc", "model"])
def trained(request, corpus, model):
    """The teacher, the centroids, and the path of their file."""
    teacher = make_teacher(*((model, 2) if request.param == "model" else (None, None)), device="cpu")
    path = corpus.units.parent / f"{request.param}.safetensors"
    kmeans, errors = how(corpus).run(teacher, path, "en")
    assert errors == []
    save_kmeans(path, kmeans)
    progress_path(path).unlink()
    return teacher, kmeans, path


def tokenize(corpus, path, output, shard=None, **options):
    tokenizing = KMeansTokenizing(str(path), **{"utterances": 5, "device": "cpu", **options})
    tokenize_manifest(
        corpus.speech, output, tokenizing,
        lambda prepared, target: functools.partial(make_speech_units_work, corpus.speech, target, prepared),
        settings={}, shard=shard, workers=1,
    )  # fmt: skip
    return output


def test_units_tell_the_tones(corpus, trained):
    """Each phone of the tiny corpus is a tone of its own: MFCC must know it, even a random network knows much."""
    teacher, kmeans, _ = trained
    quality = quality_of_kmeans(kmeans, teacher, corpus.speech, tiny_inventory())
    assert quality.pnmi > (0.6 if kmeans.source.kind == "mfcc" else 0.15)  # by chance 0.02
    statistics = kmeans.statistics
    assert statistics["utterances"] == 24
    assert statistics["used_clusters"] >= 10
    assert statistics["inertia_per_frame"] == min(statistics["inertia_of_restarts"])
    frames = torch.cat(teacher.features([u.samples for u in utterances(corpus)]))
    assert statistics["inertia_per_frame"] == pytest.approx(
        float(nearest(frames, kmeans.centroids)[1].mean()), rel=1e-3
    )


def utterances(corpus):
    from nemo_speechlm.data.audio.utterances import read_utterance

    for number, record in read_manifest(corpus.speech):
        yield SpeechInput(read_utterance(record, corpus.speech, number), None, record)


def test_units_fill_the_audio_and_are_those_of_each_utterance_alone(corpus, trained, tmp_path):
    teacher, kmeans, path = trained
    output = tokenize(corpus, path, tmp_path / "units.json")
    inventory = kmeans.inventory
    assert inventory.frame_rate == (100 if kmeans.source.kind == "mfcc" else 50)
    different = total = 0
    for (number, record), utterance in zip(read_manifest(output), utterances(corpus), strict=True):
        found = unit_sequence(record, inventory, output, number)  # checks their durations against the audio
        (alone,) = teacher.features([utterance.samples])
        expected = kmeans.assign(alone).numpy()
        assert found.num_frames == len(expected)
        different += int((found.expand() != expected).sum())
        total += len(expected)
    assert different <= total // 500  # rounding, at the border between two centroids


def test_the_same_bytes_in_shards(corpus, trained, tmp_path):
    """Batches are cut by the lines alone, so neither shards nor processes change a bit."""
    _, _, path = trained
    alone = tokenize(corpus, path, tmp_path / "a.json").read_bytes()
    for shard in ("0/2", "1/2", "join/2"):
        tokenize(corpus, path, tmp_path / "b.json", shard=shard)
    assert (tmp_path / "b.json").read_bytes() == alone


@pytest.fixture(scope="module")
def in_handfuls(corpus, trained, tmp_path_factory):
    """A training that reads several handfuls in two passes, and what comes of it undisturbed."""
    plan = replace(how(corpus, save_seconds=-1.0), passes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.ShuffledAudio, "size", 7)
        whole, _ = plan.run(trained[0], tmp_path_factory.mktemp("whole") / "whole.safetensors")
    return plan, whole


@pytest.mark.parametrize("stop", [0, 1, 2] if LONG else [0, 2])
def test_training_goes_on_after_a_kill(corpus, trained, in_handfuls, tmp_path, monkeypatch, stop):
    teacher, _, _ = trained
    plan, whole = in_handfuls
    monkeypatch.setattr(training.ShuffledAudio, "size", 7)

    class Killed(BaseException):
        pass

    save, saved = TrainingProgress.save, []

    def save_and_die(self, *arguments):
        save(self, *arguments)
        saved.append(arguments[1])
        if len(saved) == stop + 1:
            raise Killed

    with monkeypatch.context() as context:
        context.setattr(TrainingProgress, "save", save_and_die)
        with pytest.raises(Killed):
            plan.run(teacher, tmp_path / "cut.safetensors")
    features, asked = teacher.features, []
    monkeypatch.setattr(teacher, "features", lambda audio: asked.append(len(audio)) or features(audio))
    gone_on, _ = plan.run(teacher, tmp_path / "cut.safetensors")
    assert torch.equal(gone_on.centroids, whole.centroids)
    assert gone_on.statistics == whole.statistics
    assert len(asked) < 2 * 4 + 4, "it did not begin anew"
    with monkeypatch.context() as context:
        context.setattr(teacher, "how", {**teacher.how, "precision": "bfloat16"})
        with pytest.raises(InputError, match=r"begun with another precision \([^;]*, not \"bfloat16\"\)"):
            plan.run(teacher, tmp_path / "cut.safetensors")
    before = len(asked)
    replace(plan, manifests=(os.path.relpath(corpus.speech),)).run(teacher, tmp_path / "cut.safetensors")
    assert len(asked) < before + 4, "the same speech, named from another folder"
    with pytest.raises(InputError, match=r"begun with another seed \(0, not 1\); give that again to go on"):
        replace(plan, seed=1).run(teacher, tmp_path / "cut.safetensors")
    other, _ = replace(plan, seed=1).run(teacher, tmp_path / "cut.safetensors", overwrite=True)
    assert not torch.equal(other.centroids, whole.centroids), "settings decide"
    progress_path(tmp_path / "cut.safetensors").write_bytes(b"damaged")
    again, _ = plan.run(teacher, tmp_path / "cut.safetensors")
    assert torch.equal(again.centroids, whole.centroids)


def test_a_share_of_the_frames_and_of_the_speech(corpus, trained, tmp_path):
    teacher, kmeans, _ = trained
    part, _ = how(corpus, share=0.5).run(teacher, tmp_path / "a.safetensors")
    assert part.statistics["frames"] == pytest.approx(kmeans.statistics["frames"] / 2, rel=0.01)
    hours = sum(record["duration"] for _, record in read_manifest(corpus.speech)) / 3600
    less, _ = how(corpus, max_hours=hours / 2).run(teacher, tmp_path / "b.safetensors")
    assert less.statistics["frames"] == pytest.approx(kmeans.statistics["frames"] / 2, rel=0.15)


def test_very_short_audio(corpus, trained, tmp_path):
    teacher, kmeans, _ = trained
    features = teacher.features([np.zeros(n, dtype=np.float32) for n in (1, 100, 600, 16000)])
    seconds = [n / 16000 * kmeans.source.frame_rate for n in (1, 100, 600, 16000)]
    for found, expected in zip(features, seconds, strict=True):
        assert max(1, round(expected) - 1) <= len(found) <= max(1, round(expected))


def test_mistakes(corpus, trained, model, tmp_path):
    teacher, kmeans, path = trained
    with pytest.raises(InputError, match="frames are too few for 9999 centroids"):
        how(corpus, clusters=9999).run(teacher, tmp_path / "a.safetensors")
    for key, value in (("clusters", 0), ("share", 0), ("share", 1.5), ("restarts", "two"), ("passes", True)):
        with pytest.raises(InputError, match=f"{key} is {value!r}, expected"):
            how(corpus, **{key: value})
    with pytest.raises(InputError, match="utterances is 0"):
        KMeansTokenizing(str(path), utterances=0)
    own = KMeansTokenizing(str(path), device="cpu")
    with pytest.raises(InputError, match="kind is 'phoneme', but this tokenizer's is 'hidden'"):
        own.check(tiny_inventory(), corpus.units)
    others = replace(kmeans, centroids=kmeans.centroids.flip(0))
    assert others.inventory.symbols == kmeans.inventory.symbols
    with pytest.raises(InputError, match=r"^units\.json: its units are those of other centroids"):
        own.check(others.inventory, "units.json")
    if kmeans.source.kind == "mfcc":
        with pytest.raises(InputError, match="MFCC, which need no model"):
            KMeansTokenizing(str(path), model=model).check(kmeans.inventory, "units.json")
        return
    own.check(kmeans.inventory, "units.json")
    with pytest.raises(InputError, match=r"the teacher gone\.nemo is not there; give it as model="):
        KMeansTokenizing(str(path), model="gone.nemo").make()
    (tmp_path / "other.nemo").write_bytes(b"other")
    with pytest.raises(InputError, match=r"other\.nemo: is not the file that .* was made with"):
        KMeansTokenizing(str(path), model=str(tmp_path / "other.nemo")).check(kmeans.inventory, "units.json")
    with pytest.raises(InputError, match="layer is 3; the model has layers 1 to 2"):
        make_teacher(model, 3, device="cpu")
    with pytest.raises(InputError, match="layer is not given"):
        make_teacher(model, None, device="cpu")
    with pytest.raises(InputError, match="layer is 3, but there is no model"):
        make_teacher(None, 3)
    with pytest.raises(InputError, match=r"model\.nemo: normalize is of MFCC"):
        make_teacher(model, 1, normalize=True, device="cpu")
    assert make_teacher(model, -1, device="cpu").source.layer == 2


def test_bad_lines_are_left_out_on_demand(corpus, trained, tmp_path):
    teacher, _, _ = trained
    lines = [json.loads(line) for line in corpus.speech.read_text().splitlines()]
    lines = [line | {"audio_filepath": str(corpus.speech.parent / line["audio_filepath"])} for line in lines]
    write_manifest(tmp_path / "bad.json", [*lines, {"audio_filepath": "gone.wav"}])
    plan = replace(how(corpus), manifests=(str(tmp_path / "bad.json"),))
    with pytest.raises(InputError, match=r"bad\.json:25: .*gone\.wav: no such audio file"):
        plan.run(teacher, tmp_path / "a.safetensors")
    kmeans, errors = replace(plan, skip_bad=True).run(teacher, tmp_path / "a.safetensors")
    assert len(errors) == 1
    assert kmeans.statistics["utterances"] == 24
