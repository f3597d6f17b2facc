"""The values of the paper's recipes, as the configurations and scripts of the released code have them.

Source: microsoft/SpeechT5, folder SpeechLM; the configuration inside the released Base checkpoint. Samples are seconds
times 16,000, frames are samples / 320.
"""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF

ADAM = {"model.optim.betas": [0.9, 0.98], "model.optim.eps": 1e-6, "model.optim.weight_decay": 0.01}
ADAM_FINE_TUNING = {"model.optim.betas": [0.9, 0.98], "model.optim.eps": 1e-8, "model.optim.weight_decay": 0.0}
ADAM_DEFAULTS = {"model.optim.betas": [0.9, 0.999], "model.optim.eps": 1e-8, "model.optim.weight_decay": 0.0}
POLYNOMIAL = {"model.optim.sched.name": "PolynomialDecayAnnealing", "model.optim.sched.power": 1.0}
SPEECH, SHARED = "model.encoder.speech_transformer", "model.encoder.shared_transformer"
OVERRIDES = "model.encoder_overrides"
TRI_STAGE = {
    "model.optim.sched.name": "TriStage",
    "model.optim.sched.phase_ratio": [0.1, 0.4, 0.5],
    "model.optim.sched.final_lr_scale": 0.05,
}
PRETRAINING = {
    **ADAM,
    **POLYNOMIAL,
    "model.optim.sched.warmup_steps": 32000,
    "trainer.max_steps": 400000,
    "model.masking": {"prob": 0.8, "length": 10, "min_spans": 2},
    "model.text_masking": {"prob": 0.8, "length": 10, "min_spans": 2},
    "model.swapping": {"prob": 0.4, "length": 5},
    "model.unit_classifier": {"final_dim": 256, "temperature": 0.1},
    "model.loss.uctc": 0.1,
    "model.loss.feature_penalty": 10.0,
    "model.loss.umlm_unmasked": 0.0,
    "model.train_ds.speech.truncate_duration": 250_000 / 16000 - 0.025,  # whole tenths of a second
    "model.train_ds.text.max_tokens": 2800,
}

PAPER = {
    "speechlm_p_base": {
        **PRETRAINING,
        "model.train_ds.speech.batch_duration": 1_400_000 / 16000,
        "model.train_ds.text.batch_tokens": 1_400_000 // 320,
        "model.text_frame_rate": 100,
        "model.optim.lr": 5e-4,
        "trainer.gradient_clip_val": 10.0,
        "trainer.accumulate_grad_batches": 1,
        f"{SPEECH}.n_layers": 6,
        f"{SHARED}.n_layers": 6,
        f"{SPEECH}.n_heads": 8,
        f"{SPEECH}.d_ff": 3072,
        f"{SPEECH}.pre_norm": False,
        f"{SPEECH}.dropout": 0.1,
        f"{SPEECH}.attention_dropout": 0.1,
        f"{SPEECH}.activation_dropout": 0.0,
        f"{SPEECH}.layerdrop": 0.1,
        f"{SHARED}.layerdrop": 0.1,
        "model.encoder.d_model": 768,
        "model.encoder.dropout_input": 0.1,
        "model.encoder.front_end.gradient_scale": 0.1,
    },
    "speechlm_p_large": {
        **PRETRAINING,
        "model.train_ds.speech.batch_duration": 900_000 / 16000,
        "model.train_ds.text.batch_tokens": 900_000 // 320,
        "model.text_frame_rate": 100,  # the same text for Base and Large
        "model.optim.lr": 1e-3,
        "trainer.gradient_clip_val": 1.0,
        "trainer.accumulate_grad_batches": 4,
        "trainer.val_check_interval": 4 * 5000,
        f"{SPEECH}.n_layers": 12,
        f"{SHARED}.n_layers": 12,
        f"{SPEECH}.n_heads": 16,
        f"{SPEECH}.d_ff": 4096,
        f"{SPEECH}.pre_norm": True,
        f"{SPEECH}.dropout": 0.0,
        f"{SPEECH}.layerdrop": 0.0,
        "model.encoder.d_model": 1024,
        "model.encoder.front_end.gradient_scale": 1.0,
    },
    "ctc_base": {
        **ADAM_FINE_TUNING,
        **TRI_STAGE,
        "model.optim.lr": 1e-5,
        "model.train_ds.batch_duration": 1_600_000 / 16000,
        "trainer.devices": 8,
        "trainer.max_steps": 30000,
        "trainer.gradient_clip_val": 0.0,
        "trainer.accumulate_grad_batches": 1,
        "model.reuse_ctc_head": True,
        "model.freeze_front_end": True,
        f"{OVERRIDES}.mask_prob": 0.65,
        f"{OVERRIDES}.mask_channel_prob": 0.5,
        f"{OVERRIDES}.mask_channel_length": 64,
        f"{OVERRIDES}.speech_transformer.layerdrop": 0.1,
        f"{OVERRIDES}.speech_transformer.activation_dropout": 0.1,
        "exp_manager.checkpoint_callback_params.monitor": "val_wer",
    },
    "ctc_large": {
        **ADAM_FINE_TUNING,
        **TRI_STAGE,
        "model.optim.lr": 1e-5,
        "model.train_ds.batch_duration": 900_000 / 16000,
        "trainer.devices": 8,
        "trainer.max_steps": 200000,
        "trainer.gradient_clip_val": 0.0,
        "trainer.accumulate_grad_batches": 4,
        "trainer.val_check_interval": 4 * 5000,
        "model.reuse_ctc_head": True,
        "model.freeze_front_end": True,
        f"{OVERRIDES}.mask_prob": 0.5,
        f"{OVERRIDES}.mask_channel_prob": 0.25,
        f"{OVERRIDES}.mask_channel_length": 64,
        f"{OVERRIDES}.speech_transformer.activation_dropout": 0.1,
        f"{SPEECH}.layerdrop": 0.0,
    },
    "rnnt_slam": {
        "model.optim.lr": 1e-3,
        "model.optim_param_groups": {"encoder": {"lr": 3e-4}},
        "model.decoder.prednet.pred_rnn_layers": 2,
        "model.freeze_front_end": False,
    },
    "st_slam": {
        "model.task": "translation",
        "model.decoder.n_layers": 4,
        "model.decoder.d_model": 384,
        "model.decoder.d_ff": 1536,
        "model.decoder.n_heads": 4,
        "model.optim_param_groups": {"encoder": {"lr": 3e-4}},
    },
    "st_base": {
        **ADAM_DEFAULTS,
        **POLYNOMIAL,
        "model.optim.sched.warmup_steps": 5000,
        "model.optim.lr": 1e-4,
        "model.train_ds.batch_duration": 1_600_000 / 16000,
        "model.train_ds.batch_size": 16,
        "trainer.devices": 8,
        "trainer.max_steps": 50000,
        "trainer.gradient_clip_val": 1.0,
        "trainer.accumulate_grad_batches": 2,
        "trainer.val_check_interval": 2 * 1000,
        "model.freeze_front_end": False,
        f"{OVERRIDES}.front_end.gradient_scale": 1.0,
        f"{OVERRIDES}.mask_prob": 0.5,
        f"{OVERRIDES}.speech_transformer.layerdrop": 0.1,
        f"{OVERRIDES}.speech_transformer.attention_dropout": 0.1,
        f"{OVERRIDES}.speech_transformer.activation_dropout": 0.0,
        "model.decoder.n_layers": 6,
        "model.decoder.n_heads": 12,
        "model.decoder.dropout": 0.0,
        "model.decoder.layerdrop": 0.1,
        "model.label_smoothing": 0.1,
        "model.decoding.beam_size": 5,
    },
    "text_to_unit": {
        **ADAM_DEFAULTS,
        "model.optim.sched.name": "TriStage",
        "model.optim.sched.phase_ratio": [0.3, 0.0, 0.7],
        "model.optim.lr": 5e-4,
        "model.train_ds.batch_frames": 20000,
        "trainer.max_steps": 10000,
        "trainer.gradient_clip_val": 5.0,
        "model.encoder.n_layers": 4,
        "model.decoder.n_layers": 4,
        "model.encoder.n_heads": 2,
        "model.encoder.d_ff": 1024,
        "model.encoder.kernel": 9,
        "model.encoder.dropout": 0.1,
        "model.encoder.attention_dropout": 0.1,
        "model.loss.label_smoothing": 0.1,
    },
}


def recipe_of(name):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name)


@pytest.mark.parametrize("recipe", PAPER)
def test_values_are_the_papers(recipe):
    cfg = recipe_of(recipe)
    found = {key: OmegaConf.select(cfg, key) for key in PAPER[recipe]}
    found = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in found.items()}
    for key, expected in PAPER[recipe].items():
        value = found[key]
        assert value == (pytest.approx(expected, abs=1e-9) if isinstance(expected, float) else expected), key


def test_hidden_units_have_the_encoders_frame_rate():
    assert recipe_of("speechlm_h_base").model.text_frame_rate is None
    assert recipe_of("speechlm_h_base").model.encoder == recipe_of("speechlm_p_base").model.encoder


@pytest.mark.parametrize("name", ["text_to_unit_small", "st_small", "st_base", "ctc_small"])
def test_schedules_have_their_own_keys_only(name):
    keys = {
        "TriStage": {"name", "phase_ratio", "init_lr_scale", "final_lr_scale"},
        "PolynomialDecayAnnealing": {"name", "power", "warmup_steps", "min_lr"},
    }
    schedule = recipe_of(name).model.optim.sched
    assert set(schedule) == keys[schedule.name]


def test_translation_decoder_can_be_built():
    for recipe, width in (("st_base", 768), ("st_slam", 384)):
        assert instantiate(recipe_of(recipe).model.decoder, vocab_size=8).encoder_dim == width
