"""The trainer of a recipe; and a model divided among two processes against one that each of two has as a whole."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.pretraining.batch import PretrainBatch, SpeechBatch
from nemo_speechlm.errors import SpeechLMError, Unfinished
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.models.common.pretrained import read_pretrained
from nemo_speechlm.models.common.sharding import is_sharded
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.training import run as training
from nemo_speechlm.training import trainer as trainer_module
from nemo_speechlm.training.trainer import HalfPrecisionOfBatches, build_trainer, choose_precision, expect_unused
from tests.long_forms import LONG

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def build(**trainer):
    own = DeviceStatsMonitor()
    made = build_trainer(OmegaConf.create({**QUIET, "devices": 1, **trainer}), [own])
    assert made.callbacks[0] is own
    return made


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "gpu", "processor", "expected"),
    [
        ("auto", None, True, "bf16-mixed"),
        ("auto", None, False, "32-true"),
        ("auto", True, False, "bf16-mixed"),
        ("auto", False, True, "32-true"),
        ("cpu", True, False, "32-true"),
    ],
)
def test_auto_precision_is_what_the_device_is_fastest_with(accelerator, gpu, processor, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.setattr(trainer_module, "multiplies_bfloat16", lambda: processor)
    for asked, got in (("auto", expected), ("16-mixed", "16-mixed")):
        cfg = OmegaConf.create({"accelerator": accelerator, "precision": asked})
        choose_precision(cfg)
        assert cfg.precision == got


@pytest.mark.parametrize("began", ["32-true", "bf16-mixed"])
def test_auto_precision_of_a_run_that_goes_on_is_its_own(began, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trainer_module, "multiplies_bfloat16", lambda: began == "32-true")
    for asked, got in (("auto", began), ("16-mixed", "16-mixed")):
        cfg = OmegaConf.create({"precision": asked})
        choose_precision(cfg, lambda: began)
        assert cfg.precision == got


# --- what Hydra builds -----------------------------------------------------------------------------------------------

MONITOR = {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor", "logging_interval": "step"}


@pytest.mark.parametrize("callbacks", [MONITOR, [MONITOR], {"rates": MONITOR}])
def test_callbacks(callbacks):
    (found,) = (c for c in build(callbacks=callbacks).callbacks if isinstance(c, LearningRateMonitor))
    assert found.logging_interval == "step"


def test_strategies_and_plugins():
    strategy = {"_target_": "lightning.pytorch.strategies.DDPStrategy", "gradient_as_bucket_view": True}
    plugin = {"_target_": "lightning.pytorch.plugins.MixedPrecision", "precision": "bf16-mixed", "device": "cpu"}
    made = build(strategy=strategy, plugins=[plugin])
    assert isinstance(made.strategy, DDPStrategy)
    assert made.strategy._ddp_kwargs == {"gradient_as_bucket_view": True}
    assert isinstance(made.precision_plugin, MixedPrecision)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"callbacks": [{"_target_": "no.such.Thing"}]}, r"trainer\.callbacks\[0\]: no\.such\.Thing cannot be built"),
        ({"callbacks": {"rates": {**MONITOR, "x": 1}}}, r"trainer\.callbacks\.rates: lightning\.\S+ cannot be built"),
        ({"strategy": {"gradient_as_bucket_view": True}}, r"trainer\.strategy is .* expected a mapping with _target_"),
        (
            {"strategy": {"_target_": "lightning.pytorch.strategies.ModelParallelStrategy"}, "accelerator": "cuda"},
            r"trainer\.strategy: ModelParallelStrategy writes checkpoints that are folders.*=fsdp2",
        ),
        ({"strategy": "fsdp"}, r"trainer\.strategy: fsdp would train with wrong gradients: .*fsdp2"),
        (
            {"strategy": {"_target_": "lightning.pytorch.strategies.FSDPStrategy"}, "accelerator": "cuda"},
            r"trainer\.strategy: FSDPStrategy would train with wrong gradients",
        ),
    ],
)
def test_what_cannot_be_built(trainer, message, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.parse_devices", lambda devices: [0])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SpeechLMError, match=message):
        build(**trainer)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("benchmark", "x", "true, false or null"),
        ("deterministic", "x", "true, false, 'warn' or null"),
        ("deterministic", 1, "true, false, 'warn' or null"),
        ("detect_anomaly", "x", "true or false"),
        ("val_check_interval", "x", "a number or null"),
        ("min_steps", 1.5, "a whole number or null"),
        ("min_steps", True, "a whole number or null"),
        ("gradient_clip_algorithm", 5, "a text or null"),
        ("default_root_dir", 5, "a text or null"),
        ("devices", 1.5, "a list, a text or a whole number"),
        ("devices", None, "a list, a text or a whole number"),
        ("accelerator", 5, "a text or a mapping with _target_ (Accelerator)"),
        ("logger", "x", "a mapping with _target_ (Logger), a list, true, false or null"),
    ],
)
def test_options_of_a_wrong_kind(option, value, expected):
    with pytest.raises(SpeechLMError) as error:
        build(**{option: value})
    assert str(error.value) == f"trainer.{option} is {value!r}, expected {expected}"


def test_options_of_a_right_kind():
    made = build(detect_anomaly=False, val_check_interval=3, gradient_clip_val=1, min_steps=None)
    assert (made.val_check_interval, made.num_devices, made.gradient_clip_val) == (3, 1, 1)
    assert build(devices="1", val_check_interval=0.5, limit_val_batches=2, max_epochs=None).limit_val_batches == 2


# --- parameters without a gradient -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=16, n_text=60)


@pytest.mark.parametrize("strategy", ["ddp", "ddp_find_unused_parameters_false"])
@pytest.mark.parametrize("reason", [None, "layer drop", "speech alone", "frozen at first"])
def test_ddp_looks_for_unused_parameters_where_there_may_be_some(strategy, reason, corpus):
    cfg = tiny_pretrain_config(corpus)
    if reason == "layer drop":
        cfg.encoder.speech_transformer.layerdrop = 0.1
    if reason == "speech alone":
        cfg.train_ds.text = None
    trainer = build(strategy=strategy, devices=2)
    model = SpeechLMModel(cfg)
    if reason == "frozen at first":
        model.freeze_encoder_steps = 10
    expect_unused(trainer, model)
    expected = False if strategy.endswith("false") else None if reason is None else True
    assert trainer.strategy._ddp_kwargs.get("find_unused_parameters") is expected


def test_half_precision_leaves_audio_alone():
    plugin = HalfPrecisionOfBatches("bf16-true")
    batch = PretrainBatch(SpeechBatch(torch.randn(1, 10), torch.tensor([10])))
    assert plugin.convert_input(batch) is batch
    assert plugin.convert_input(torch.randn(2)).dtype == torch.bfloat16
    made = build(precision="bf16-true")
    assert isinstance(made.precision_plugin, HalfPrecisionOfBatches)


# --- two processes ---------------------------------------------------------------------------------------------------

STEPS = 4
RESUMED = {"resumed": "fsdp2"} | ({"undivided_at_last": "ddp", "divided": None} if LONG else {})
"""Runs that begin divided, and how each goes on; None: it is not stopped."""


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def recipe(corpus, folder, name, **changes):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose("speechlm_p_small", [f"output={folder / name}.nemo", f"name={name}"])
    OmegaConf.set_struct(cfg, False)
    cfg.model = OmegaConf.merge({"optim": cfg.model.optim}, tiny_pretrain_config(corpus))
    cfg.exp_manager.exp_dir = str(folder / "runs")
    cfg.exp_manager.create_tensorboard_logger = False
    cfg.trainer.update({**QUIET, "devices": 2, "max_steps": STEPS, "val_check_interval": 2, "num_sanity_val_steps": 0})
    cfg.trainer.update({"enable_model_summary": False, **changes})
    return cfg


def train(cfg, stop=None):
    """In one of two processes."""

    def model(cfg, trainer):
        if stop is not None:
            trainer.callbacks.append(StopAt(stop))
        made = SpeechLMModel(cfg=cfg, trainer=trainer)
        trainer.callbacks.append(Divided(made, trainer))
        return made

    try:
        training.train(cfg, model)
    except (Unfinished, SystemExit):  # the latter in the second process
        assert stop is not None


class Divided(Callback):
    """Each process has half of the weights, where the strategy says so."""

    def __init__(self, model, trainer):
        self.expected = trainer.strategy.__class__.__name__ == "ShardedStrategy"

    def on_train_start(self, trainer, model):
        assert is_sharded(model) is self.expected
        if self.expected:
            weight = model.encoder.speech_transformer.layers[0].fc1.weight
            assert weight.to_local().numel() * 2 == weight.numel()


def weights(folder, name):
    return read_pretrained(folder / f"{name}.nemo").weights


@pytest.mark.timeout(400)
def test_a_divided_model_learns_what_a_whole_one_does(corpus, tmp_path):
    assert run_in_processes(_all, 2, corpus, tmp_path) == [0, 0]
    expected = weights(tmp_path, "whole")
    for name in RESUMED:
        found = weights(tmp_path, name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    # the rates of a resumed run are the command's, and its moments are there
    last = {name: next((tmp_path / "runs" / name).rglob("*-last.ckpt")) for name in ("whole", "resumed")}
    states = {name: torch.load(path, weights_only=False) for name, path in last.items()}
    assert states["resumed"]["lr_schedulers"] == states["whole"]["lr_schedulers"]
    one, other = (states[name]["optimizer_states"][0] for name in ("whole", "resumed"))
    assert [len(group["params"]) for group in one["param_groups"]] == [len(g["params"]) for g in other["param_groups"]]
    for number, moments in one["state"].items():
        torch.testing.assert_close(other["state"][number]["exp_avg"], moments["exp_avg"], rtol=1e-3, atol=1e-6)


def _all(rank, corpus, folder):
    train(recipe(corpus, folder, "whole", strategy="ddp"))
    for name, strategy in RESUMED.items():
        train(recipe(corpus, folder, name, strategy="fsdp2"), stop=2 if strategy else None)
        assert (folder / f"{name}.nemo").exists() is (strategy is None), "both go on when the first has written it"
        if strategy is not None:
            train(recipe(corpus, folder, name, strategy=strategy))


def test_a_model_that_drops_layers_is_not_divided(corpus):
    cfg = tiny_pretrain_config(corpus)
    cfg.encoder.speech_transformer.layerdrop = 0.1
    model = SpeechLMModel(cfg)
    model._device_mesh = {"data_parallel": None}
    with pytest.raises(SpeechLMError, match=r"encoder\.speech_transformer\.layerdrop=0\.1: each process"):
        model.configure_model()


def test_the_average_of_weights_is_refused(corpus, tmp_path):
    cfg = recipe(corpus, tmp_path, "average", strategy="fsdp2", devices=1)
    cfg.ema_decay = 0.9
    with pytest.raises(SpeechLMError, match=r"ema_decay is not possible with trainer\.strategy=fsdp2; set it to null"):
        training.train(cfg, lambda model, trainer: SpeechLMModel(cfg=model, trainer=trainer))
    assert isinstance(build(), Trainer)
