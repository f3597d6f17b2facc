"""Each pretraining recipe, with layers of its kind but fewer and narrower, takes training steps and validates."""

import copy
import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import (
    FrameClassifierModel,
    MAESTROModel,
    SLAMModel,
    SpeechLMCTCModel,
    SpeechLMEncDecModel,
    SpeechLMModel,
    SpeechLMRNNTModel,
    TextToUnitModel,
)
from nemo_speechlm.models.common.multitask.tasks import read_weights
from nemo_speechlm.models.maestro.tasks import TASKS as MAESTRO_TASKS
from nemo_speechlm.models.slam.tasks import TASKS
from nemo_speechlm.modules.front_end import WAV2VEC2_LAYERS
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_hidden_corpus
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.tokenizers import UnitInventory
from nemo_speechlm.training.step_guards import MonitorCheck
from tests.long_forms import LONG

RECIPES = sorted(path.stem for path in CONF.glob("speechlm_*.yaml"))
CONVOLUTIONS = [[32, kernel, stride] for _, kernel, stride in WAV2VEC2_LAYERS]
"""Those of the paper, but narrow."""
NARROW = [
    "model.encoder.d_model=48",
    *(f"model.encoder.{half}_transformer.n_layers=1" for half in ("speech", "shared")),
    "model.encoder.shared_transformer.d_ff=64",
    "model.train_ds.speech.batch_duration=6",
    "model.train_ds.text.batch_tokens=400",
    "model.train_ds.num_workers=0",
]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {"p": tiny_corpus(folder / "p", 16, 60), "h": tiny_hidden_corpus(folder / "h", 16, 60)}


def config_of(recipe, corpora, *overrides):
    """The recipe's config on the corpora that its name asks for."""
    kind = recipe.split("_")[1]
    speech, text = {"mixed": ("h", "p")}.get(kind, (kind, kind))
    given = [f"model.units={corpora[speech].units}", "output=none.nemo"]
    if kind == "mixed":
        given.append(f"model.text_units={corpora[text].units}")
    if not recipe.endswith(("small", "medium")):  # whose front end is NeMo's subsampling
        given += [f"+model.encoder.front_end.layers={CONVOLUTIONS}", "model.encoder.speech_transformer.d_ff=64"]
    for part in ("train_ds", "validation_ds"):
        given.append(f"model.{part}.speech.manifest_filepath={corpora[speech].speech}")
        given.append(f"model.{part}.text.manifest_filepath={corpora[text].text}")
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(recipe, [*given, *NARROW, *overrides])


def fit(config, steps=2):
    torch.manual_seed(0)
    trainer = tiny_trainer(steps, gradient_clip_val=config.trainer.gradient_clip_val)
    model = SpeechLMModel(config.model, trainer)
    trainer.fit(model)
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


TRAINED = sorted(
    path.stem
    for path in CONF.glob("*.yaml")
    if re.search(r"_(small|medium|base|large|\d+m)$", path.stem) and not path.stem.startswith(("ablation_", "probe_"))
)
"""Recipes of a training; ablations and probes have several, or none that NeMo manages."""


def metrics_of(model):
    """What a model of this config would log in validation, without making one."""
    if "refiner" in model:
        tasks = read_weights(model.tasks, MAESTRO_TASKS)
        return MAESTROModel.validation_metrics(SimpleNamespace(_cfg=model, tasks=tasks, all_tasks=MAESTRO_TASKS))
    if "joint" in model:
        return SpeechLMRNNTModel.validation_metrics(SimpleNamespace(compute_eval_loss=True))
    if "decoding" in model and "classes" in model:
        return FrameClassifierModel.validation_metrics(SimpleNamespace())
    if "phones" in model:
        return TextToUnitModel.validation_metrics(SimpleNamespace())
    if "tasks" in model:
        return SLAMModel.validation_metrics(
            SimpleNamespace(_cfg=model, tasks=read_weights(model.tasks, TASKS), all_tasks=TASKS)
        )
    if "masking" in model:
        return SpeechLMModel.validation_metrics(SimpleNamespace(_cfg=model, masking=SpanMask(**model.masking)))
    if "ctc_weight" in model:
        own = SimpleNamespace(cfg=model, ctc_branch=None)
        return SpeechLMEncDecModel.validation_metrics(own)
    return SpeechLMCTCModel.validation_metrics(SimpleNamespace(is_interctc_enabled=lambda: False))


@cache
def composed(recipe):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(recipe)


def check_monitor(recipe, *overrides):
    config = copy.deepcopy(composed(recipe))
    for override in overrides:
        key, _, value = override.partition("=")
        OmegaConf.update(config, key, yaml.safe_load(value))
    model = SimpleNamespace(validation_metrics=lambda: metrics_of(config.model), _validation_dl=[])
    params = config.exp_manager.checkpoint_callback_params
    saver = ModelCheckpoint(monitor=params.monitor, mode=params.mode)
    MonitorCheck().on_fit_start(SimpleNamespace(limit_val_batches=1.0, callbacks=[saver]), model)


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_monitor_is_what_the_recipe_logs(recipe):
    check_monitor(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_monitor_is_there_whatever_pretraining_is_given(recipe):
    check_monitor(recipe, "model.train_ds.speech=null", "model.validation_ds.speech=null")
    check_monitor(recipe, "model.train_ds.text=null", "model.validation_ds.text=null")
    check_monitor(recipe, "model.loss.uctc=0", "model.swapping.prob=0")
    check_monitor(recipe, "model.masking.prob=0", "model.masking.min_spans=0")
    monitor = "exp_manager.checkpoint_callback_params.monitor=val_umlm_shared"
    with pytest.raises(SpeechLMError, match="val_uctc"):
        check_monitor(recipe, "model.validation_ds.speech=null", monitor)
    with pytest.raises(SpeechLMError, match="Its validation logs: none"):
        check_monitor(recipe, "model.validation_ds.speech=null", "model.loss.uctc=0")


def test_the_monitor_of_the_other_task_is_refused():
    with pytest.raises(SpeechLMError, match=r"val_bleu \(max\)"):
        check_monitor("encdec_base", "model.task=translation")
    with pytest.raises(SpeechLMError, match=r"val_cer \(min\)"):
        check_monitor("st_base", "model.task=recognition")
    with pytest.raises(SpeechLMError, match="mode=max"):
        check_monitor("st_small", "exp_manager.checkpoint_callback_params.monitor=val_bleu")


TRAINED_ELSEWHERE = {"speechlm_h_base", "speechlm_mixed_small"}
"""By tests of their own below."""
BETWEEN = {"speechlm_p_medium", "speechlm_p_base"}
"""Of the sizes between, one has the front end of the smallest, one that of the largest."""


@pytest.mark.parametrize("recipe", [r for r in RECIPES if LONG or r not in TRAINED_ELSEWHERE | BETWEEN])
def test_recipe_trains(recipe, corpora):
    config = config_of(recipe, corpora)
    model, metrics = fit(config)
    for name in ("train_umlm_speech", "train_umlm_shared", "train_uctc", "val_umlm_shared", "val_uctc", "val_loss"):
        assert torch.tensor(metrics[name]).isfinite(), name
    assert (metrics["train_fraction_swapped"] > 0) is ("mixed" not in recipe)
    torch.manual_seed(0)
    before = SpeechLMModel(config.model).unit_embedding.weight
    assert not torch.equal(model.unit_embedding.weight, before)


def test_hidden_base_is_the_papers(corpora):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose("speechlm_h_base").model
        large = compose("speechlm_p_base").model
    assert cfg.encoder == large.encoder
    assert cfg.text_frame_rate is None, "the encoder's 50 Hz are the label rate"
    model, _ = fit(config_of("speechlm_h_base", corpora), steps=1)
    assert model.text_frame_rate == model.encoder.frame_rate == model.inventory.frame_rate == 50


def test_mixed_tokenizers_have_two_inventories(corpora, tmp_path):
    model, _ = fit(config_of("speechlm_mixed_small", corpora))
    assert model.inventory == UnitInventory.load(corpora["h"].units)
    assert model.text_inventory == UnitInventory.load(corpora["p"].units)
    assert len(model.unit_embedding.weight) == len(model.text_inventory)
    assert {len(c.unit_vectors) for c in model.unit_classifiers.values()} == {len(model.inventory)}
    model.save_to(str(tmp_path / "mixed.nemo"))
    restored = SpeechLMModel.restore_from(str(tmp_path / "mixed.nemo"), map_location="cpu")
    assert restored.inventory == model.inventory
    assert restored.text_inventory == model.text_inventory


def test_units_of_one_side_alone_cannot_be_swapped(corpora):
    with pytest.raises(SpeechLMError, match=r"model\.swapping\.prob=0"):
        SpeechLMModel(config_of("speechlm_mixed_small", corpora, "model.swapping.prob=0.4").model)
