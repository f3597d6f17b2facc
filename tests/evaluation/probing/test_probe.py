"""The whole way of a probe, in process, on tones."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.probing import upstream
from nemo_speechlm.evaluation.probing.run import run_probe
from nemo_speechlm.evaluation.probing.s3prl_upstream import nemo_speechlm_local
from nemo_speechlm.evaluation.probing.upstream import FBANK, RANDOM, FrozenEncoder, UpstreamSpec
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.models.encoder import SpeechLMEncoderModel
from nemo_speechlm.testing import tiny_corpus, tiny_pretrain_config
from nemo_speechlm.testing.slam import tiny_slam_architecture
from nemo_speechlm.training.run import train
from tests.functional.commands import run_example

CPU = ["trainer.accelerator=cpu", "device=cpu"]
QUIET = [*CPU, "+trainer.enable_progress_bar=false"]
LSTM = ("hidden", "n_layers", "dropout")
QUIET += ["exp_manager.create_tensorboard_logger=false", "trainer.accumulate_grad_batches=1", "draws=200"]


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose("probe", overrides=[*QUIET, *overrides])


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Manifests of tones: low, middle or high ("label"), with or without a second one behind ("action")."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for name, size in (("train", 24), ("valid", 6), ("test", 12)):
        records = []
        for number in range(size):
            label, action = number % 3, (number // 3) % 2
            pitch = np.repeat([300 * 2**label, 2400 if action else 300 * 2**label], 4000)
            audio = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + 0.01 * rng.standard_normal(8000)
            path = folder / f"{name}{number}.wav"
            soundfile.write(path, audio.astype(np.float32), 16000)
            records.append(
                {"audio_filepath": path.name, "duration": 0.5, "speaker": f"s{number % 4}",
                 "label": ("low", "middle", "high")[label], "action": action, "text": "abc"[label] + "d" * action}
            )  # fmt: skip
        write_manifest(folder / f"{name}.json", records)
    return [*(f"{part}={folder}/{part}.json" for part in ("train", "valid", "test")), f"cache={folder}/features"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    model = SpeechLMModel(tiny_pretrain_config(tiny_corpus(folder, 2, 2), train_ds=None, validation_ds=None))
    model.save_to(str(folder / "model.nemo"))
    return folder / "model.nemo"


def steps(number: int, rate: float = 1e-2) -> list[str]:
    return [f"trainer.max_steps={number}", f"trainer.val_check_interval={number}", f"optim.lr={rate}"]


@pytest.mark.parametrize("model", [FBANK, RANDOM])
def test_the_command_takes_baselines_that_are_no_file(tones, pretrained, tmp_path, model, capfd):
    options = ["task=keyword", f"model={model}", f"recipe={pretrained if model == RANDOM else 'null'}", *steps(1)]
    assert run_example("probe.py", *options, *tones, f"output={tmp_path}", *CPU) == 0, capfd.readouterr().err
    assert "keyword, " in capfd.readouterr().out
    assert run_example("probe.py", "task=keyword", "model=mel", *tones, f"output={tmp_path}") == 1
    assert "mel: no such file" in capfd.readouterr().err


def test_classes_of_mel_features(tones, tmp_path):
    cfg = config("task=intent", "label_keys=[label,action]", "model=fbank", *tones, f"output={tmp_path}/a", *steps(40))
    result = run_probe(cfg, train)
    assert result["error"] == 0.0
    assert result["accuracy"] == 1.0
    assert result["error_interval"] == [0.0, 0.0]
    assert result["layer_weights"] == {"mel": 1.0}
    assert result["head_parameters"] == 1 + (240 + 1) * 256 + (256 + 1) * 5
    lines = [record for _, record in read_manifest(tmp_path / "a" / "utterances.jsonl")]
    assert [line["text"] for line in lines[:4]] == ["low 0", "middle 0", "high 0", "low 1"]
    assert [line["pred_text"] for line in lines] == [line["text"] for line in lines]
    assert (tmp_path / "a" / "layer_weights.png").stat().st_size > 1000
    with pytest.raises(InputError, match="exists already"):
        run_probe(cfg, train)


def test_several_manifests_are_one(tones, tmp_path):
    folder = Path(tones[0].partition("=")[2]).parent
    records = [record for _, record in read_manifest(folder / "train.json")]
    parts = [[r for r in records if (r["label"] == "low") == low] for low in (True, False)]
    for number, part in enumerate(parts):
        write_manifest(folder / f"part_{number}.json", part)
    several = [f"train=[{folder}/part_0.json,{folder}/part_1.json]", f"test=[{folder}/test.json]", *tones[1:2]]
    own = config("task=keyword", "model=fbank", *several, f"cache={tmp_path}/c", f"output={tmp_path}/a", *steps(1))
    result = run_probe(own, train)
    assert result["train"] == [f"{folder}/part_0.json", f"{folder}/part_1.json"]
    assert {r["text"] for _, r in read_manifest(tmp_path / "a" / "utterances.jsonl")} == {"low", "middle", "high"}


def test_layers_from_the_cache_and_a_test_against_another(tones, pretrained, tmp_path):
    common = ["task=keyword", *tones, f"cache={tmp_path}/features", "batch_size=24"]
    poor = ["model=random", f"recipe={pretrained}", f"output={tmp_path}/poor", *steps(1, 1e-7)]
    run_probe(config(*common, *poor), train)
    cfg = config(*common, f"model={pretrained}", f"output={tmp_path}/good", f"against=[{tmp_path}/poor]", *steps(80))
    result = run_probe(cfg, train)
    assert result["error"] == 0.0
    assert list(result["layer_weights"]) == ["input", "speech 1", "shared 1"]
    weights = list(result["layer_weights"].values())
    assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert max(weights) - min(weights) > 0.01
    folders = sorted((tmp_path / "features").iterdir())
    assert len([folder for folder in folders if folder.name.startswith("model_")]) == 3
    assert np.load(next(folders[0].glob("features/*.npy"))).shape[0] == 3
    test = json.loads((tmp_path / "good" / "against_poor.json").read_text())
    assert test["rate_b"] == 0 < test["rate_a"]
    assert test["difference"] == -test["rate_a"]
    assert test["p_value"] < 0.05


def test_features_of_the_cache_are_those_computed(tones, pretrained, tmp_path):
    """A run with and one without a cache reach the same weights."""
    found = []
    for name, more in (("online", ["cache=null"]), ("cached", [f"cache={tmp_path}/features"])):
        cfg = config(
            "task=keyword",
            *tones,
            f"model={pretrained}",
            f"output={tmp_path}/{name}",
            *more,
            "batch_size=4",
            *steps(2, 0.1),
        )
        found.append(list(run_probe(cfg, train)["layer_weights"].values()))
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[0] != pytest.approx([1 / 3] * 3, abs=1e-3)


def test_characters(tones, tmp_path):
    """Each tone is a letter, so mel features spell them."""
    head = ["head._target_=nemo_speechlm.evaluation.probing.FrameHead", *(f"~head.{key}" for key in LSTM)]
    head += ["spec_augment=null", "batch_size=24"]
    cfg = config("task=characters", "model=fbank", *tones, *head, f"output={tmp_path}/a", *steps(50))
    result = run_probe(cfg, train)
    assert result["measure"] == "wer"
    assert result["cer"] < 0.3
    assert result["cer_interval"][0] <= result["cer"] <= result["cer_interval"][1]
    lines = [record for _, record in read_manifest(tmp_path / "a" / "utterances.jsonl")]
    wrong = ("substitutions", "insertions", "deletions")
    errors = sum(sum(line["characters"][kind] for kind in wrong) for line in lines)
    assert result["cer"] == errors / sum(len(line["text"]) for line in lines)


def test_only_the_same_run_is_tested(tones, pretrained, tmp_path):
    """A probe whose test failed is not tested with the name of another model, or of other settings."""
    given = ["task=keyword", *tones, f"output={tmp_path}/a"]
    run_probe(config(*given, "model=fbank", *steps(2)), train)
    (tmp_path / "a" / "result.json").unlink()
    assert run_probe(config(*given, "model=fbank", *steps(4)), train)["steps"] == 4
    (last,) = (tmp_path / "a" / "run").rglob("*-last.ckpt")
    assert torch.load(last, weights_only=False)["global_step"] == 4  # trained further, not just called so
    for other, message in (
        ([f"model={pretrained}", *steps(4)], "model.upstream.model"),
        (["model=fbank", *steps(4, 1e-3)], "model.optim.lr: 0.01 before, 0.001 now"),
    ):
        (tmp_path / "a" / "result.json").unlink(missing_ok=True)
        with pytest.raises(InputError, match=message):
            run_probe(config(*given, *other), train)


def test_a_probe_without_its_run_is_kept(tones, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "probe.nemo").write_text("mine")
    cfg = config("task=keyword", "model=fbank", *tones, f"output={tmp_path}/a", *steps(1))
    with pytest.raises(InputError, match="exists already"):
        run_probe(cfg, train)
    assert (tmp_path / "a" / "probe.nemo").read_text() == "mine"


def test_random_weights(pretrained, monkeypatch):
    first, same, other = (UpstreamSpec("random", str(pretrained), seed).restore("cpu") for seed in (1, 1, 2))
    audio, length = torch.randn(1, 8000), torch.tensor([8000])
    states = [model.extract_features(audio, length)[0][2] for model in (first, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2])
    assert first.encoder.frame_rate == 50
    named = UpstreamSpec("random", "speechlm_p_small").restore("cpu")
    assert named.names == ["input", *(f"speech {i}" for i in (1, 2, 3)), *(f"shared {i}" for i in (1, 2, 3))]
    before, other_recipe = UpstreamSpec("random", "speechlm_p_small").identity(), upstream._recipe("speechlm_h_base")
    assert before == UpstreamSpec("random", "speechlm_p_small").identity()
    monkeypatch.setattr(upstream, "_recipe", lambda name: other_recipe)
    assert before != UpstreamSpec("random", "speechlm_p_small").identity(), "features of another architecture"
    monkeypatch.undo()
    with pytest.raises(SpeechLMError, match=r"has no no_such_recipe\.yaml"):
        UpstreamSpec("random", "no_such_recipe").restore("cpu")
    with pytest.raises(SpeechLMError, match="needs recipe="):
        UpstreamSpec("random").restore("cpu")


def test_the_layers_are_the_models(pretrained):
    """What enters the speech transformer goes before the layers of ``extract_features``."""
    frozen = UpstreamSpec(str(pretrained)).restore("cpu")
    audio, length = torch.randn(2, 9600), torch.tensor([9600, 6400])
    states, frames = frozen.extract_features(audio, length)
    own, own_frames = frozen.model.extract_features(audio, length)
    assert frames.tolist() == own_frames.tolist()
    for x, y in zip(states[1:], own, strict=True):
        torch.testing.assert_close(x, y)
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())


def test_the_layers_of_a_conformer():
    torch.manual_seed(0)
    model = SpeechLMEncoderModel(OmegaConf.create(tiny_slam_architecture()))
    frozen = FrozenEncoder(model)
    audio, length = torch.randn(2, 9600), torch.tensor([9600, 6400])
    states, frames = frozen.extract_features(audio, length)
    own, own_frames = model.extract_features(audio, length)
    assert frames.tolist() == own_frames.tolist()
    assert frozen.names == ["input", "speech 1", "shared 1"]
    for x, y in zip(states[1:], own, strict=True):
        torch.testing.assert_close(x, y)


def test_the_upstream_of_s3prl(pretrained):
    upstream = nemo_speechlm_local(str(pretrained), model_config=None, refresh=False).train()
    wavs = [torch.randn(9600), torch.randn(6400)]
    found = upstream(wavs)["hidden_states"]
    assert upstream.get_downsample_rates("hidden_states") == 320
    assert len(found) == 3
    assert {x.shape for x in found} == {(2, 29, 32)}
    alone = upstream(wavs[1:])["last_hidden_state"]
    torch.testing.assert_close(found[-1][1:, :19], alone, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in upstream.parameters())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=wav2vec"], "no such file; model is the .nemo file of a model, fbank or random"),
        (["model=nothing.nemo"], "no such file"),
        (["model=fbank", "label_keys=[weather]"], "weather"),
        (["model=fbank", "label_keys=[]"], "label_keys is empty"),
        (["model=fbank", "+head.hidden=3"], "head: .*unexpected keyword argument 'hidden'"),
        (["model=fbank", "task=characters", "crop_seconds=8"], "crop_seconds is 8, and the answers are characters of"),
        (["model=fbank", "head._target_=nemo_speechlm.evaluation.probing.FrameHead"], "does not fit kind=classes"),
    ],
)
def test_wrong_settings(tones, tmp_path, overrides, message):
    with pytest.raises(SpeechLMError, match=message):
        run_probe(config("task=keyword", *tones, f"output={tmp_path}/a", *steps(1), *overrides), train)


def test_a_run_with_a_cache_goes_on(tones, tmp_path):
    """The cache, which the run itself has filled, is none of the data that a run is known by."""
    common = ["task=keyword", "model=fbank", *tones, f"cache={tmp_path}/features", f"output={tmp_path}/a"]
    run_probe(config(*common, *steps(2)), train)
    for name in ("probe.nemo", "result.json"):
        (tmp_path / "a" / name).unlink()
    assert run_probe(config(*common, *steps(4)), train)["steps"] == 4
