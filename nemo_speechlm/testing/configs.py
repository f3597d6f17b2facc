"""Tiny builders for tests, ours and those of users: an inventory, a model, a corpus of tones with learnable units."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.testing.corpora import TinyCorpus, tiny_hidden_inventory, tiny_inventory, tiny_labels


def tiny_architecture() -> dict[str, Any]:
    """``preprocessor``, ``encoder`` and ``sample_rate`` of a model config: waveforms, 1 + 1 layers of 32, 50 Hz."""
    layer = {
        "_target_": "nemo_speechlm.modules.RelativeTransformer",
        "n_layers": 1,
        "d_model": 32,
        "n_heads": 2,
        "d_ff": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "max_distance": 16,
    }
    return {
        "sample_rate": 16000,
        "preprocessor": {"_target_": "nemo_speechlm.modules.WaveformPreprocessor", "normalize": True},
        "encoder": {
            "_target_": "nemo_speechlm.modules.SpeechLMEncoder",
            "d_model": 32,
            "dropout_input": 0.0,
            "front_end": {
                "_target_": "nemo_speechlm.modules.ConvFrontEnd",
                "layers": [[24, 40, 20], [24, 4, 4], [24, 4, 4]],
            },
            "speech_transformer": {**layer, "position": "conv", "conv_kernel": 9, "conv_groups": 4},
            "shared_transformer": {**layer, "position": "learned", "max_frames": 1000},
        },
    }


def tiny_pretrain_config(corpus: "TinyCorpus", **overrides: Any) -> DictConfig:
    """Config of a :class:`SpeechLMModel` of :func:`tiny_architecture` on a tiny corpus; ``overrides`` replace keys."""
    masking = {"prob": 0.4, "length": 3, "min_spans": 1}
    data = {
        "speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8},
        "text": {"manifest_filepath": str(corpus.text), "batch_tokens": 400},
    }
    config = {
        "units": str(corpus.units),
        "labels": tiny_labels(),
        **tiny_architecture(),
        "unit_classifier": {"final_dim": 16, "temperature": 0.1},
        "masking": masking,
        "swapping": {"prob": 0.4, "length": 2},
        "text_masking": masking,
        "ctc_head": {"dropout": 0.1},
        "loss": {"umlm": 1.0, "umlm_unmasked": 0.0, "uctc": 1.0, "feature_penalty": 0.0},
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})


def tiny_recipe(folder: str | Path, model: Mapping[str, Any], steps: int, **trainer: Any) -> DictConfig:
    """A recipe for :func:`nemo_speechlm.training.run.train` whose run and ``out.nemo`` are in a folder; on the CPU.

    Args:
        folder: of both.
        model: the model's config.
        steps: updates, after which it validates.
        trainer: further arguments of Lightning's, or other values of these.
    """
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler"),
        False,
    )
    validation = {"val_check_interval": steps, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    length = {"max_steps": steps, "max_epochs": -1, "accumulate_grad_batches": 1}
    return OmegaConf.create(
        {
            "output": str(Path(folder) / "out.nemo"),
            "overwrite": False,
            "save": "last",
            "seed": 0,
            "name": "run",
            "model": model,
            "trainer": {"accelerator": "cpu", "devices": 1, **length, **validation, **quiet, **trainer},
            "exp_manager": {
                "exp_dir": str(Path(folder) / "runs"),
                "name": "${name}",
                "use_datetime_version": False,
                "resume_if_exists": True,
                "resume_ignore_no_checkpoint": True,
                "create_tensorboard_logger": False,
                "checkpoint_callback_params": {
                    "monitor": "val_loss",
                    "mode": "min",
                    "save_top_k": 1,
                    "save_last": True,
                    "always_save_nemo": False,
                    "save_nemo_on_train_end": False,
                },
            },
        }
    )


def tiny_frame_classifier_config(corpus: "TinyCorpus", **overrides: Any) -> DictConfig:
    """Config of a :class:`FrameClassifierModel` of one layer of 32 on a tiny corpus; ``overrides`` replace keys."""
    data = {"speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8}}
    config = {
        "units": str(corpus.units),
        "classes": {"ignore": None, "parts": 3},
        "decoding": {"min_duration": 3, "lm_weight": 1.0, "prior_weight": 0.5, "penalty": 0.0},
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 40,
            "n_fft": 512,
            "normalize": "per_feature",
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 40,
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "subsampling": "stacking",
            "subsampling_factor": 2,
            "conv_kernel_size": 5,
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
        },
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 5e-3},
    }
    return OmegaConf.create({**config, **overrides})


def tiny_tarred(manifest: str | Path, folder: str | Path, shards: int = 4) -> dict[str, str]:
    """Put the audio of a manifest into tar files, dealt out in turn, as NeMo's tarred datasets have it.

    Returns:
        ``manifest_filepath`` and ``tarred_audio_filepaths`` for a data config.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for _, record in read_manifest(manifest, ["audio_filepath"])]
    for shard in range(shards):
        own = [{**record, "shard_id": shard} for record in records[shard::shards]]
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as tar:
            for record in own:
                path = Path(manifest).parent / record["audio_filepath"]
                tar.add(path, arcname=path.name)
                record["audio_filepath"] = path.name
        write_manifest(folder / f"manifest_{shard}.json", own)
    span = f"_OP_0..{shards - 1}_CL_"
    return {
        "manifest_filepath": str(folder / f"manifest_{span}.json"),
        "tarred_audio_filepaths": str(folder / f"audio_{span}.tar"),
    }


def tiny_text_to_unit_config(folder: str | Path, **overrides: Any) -> DictConfig:
    """Config of a :class:`TextToUnitModel` with blocks of 16; its two inventories are written to ``folder``."""
    phones, units = Path(folder) / "phones.json", Path(folder) / "hidden_units.json"
    tiny_inventory().save(phones)
    tiny_hidden_inventory().save(units)
    stack = {
        "_target_": "nemo_speechlm.modules.FFTransformer",
        "n_layers": 1,
        "n_heads": 2,
        "d_ff": 32,
        "kernel": 3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    config = {
        "phones": str(phones),
        "units": str(units),
        "d_model": 16,
        "encoder": stack,
        "decoder": stack,
        "duration_predictor": {
            "_target_": "nemo_speechlm.modules.DurationPredictor",
            "d_hidden": 8,
            "kernel": 3,
            "dropout": 0.0,
        },
        "loss": {"label_smoothing": 0.1, "duration": 1.0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})
