"""Settings of fairseq's fine-tuned checkpoints, read and written."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from nemo_speechlm.interop.parts.encoder_config import number

_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")


def take_fine_tuning(encoder: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Replace pretraining's masking and dropout by those of fine-tuning, as fairseq does.

    Args:
        encoder: config of our encoder, which is changed.
        settings: ``cfg.model`` of the checkpoint; empty where it was not fine-tuned.

    Raises:
        InputError: if one of these is no number.
    """
    names = ("mask_prob", "mask_length", "mask_channel_prob", "mask_channel_length")
    if settings.get("apply_mask", False):
        encoder |= {name: number(settings, name, 0) for name in names if settings.get(name) is not None}
    if settings.get("dropout_input") is not None:
        encoder["dropout_input"] = number(settings, "dropout_input", 0)
    for name in _DROPOUTS:
        if settings.get(name) is not None:
            encoder["speech_transformer"][name] = number(settings, name, 0)


def fine_tuning_settings(cfg: DictConfig, pretraining: dict[str, Any], final_dropout: float) -> dict[str, Any]:
    """What ``cfg.model`` of all fine-tuned checkpoints holds.

    Args:
        cfg: config of our model.
        pretraining: ``cfg`` of a checkpoint of its encoder alone.
        final_dropout: on the encoder's output.
    """
    encoder = cfg.encoder
    speech = encoder.speech_transformer
    return {
        "w2v_path": None,
        "no_pretrained_weights": False,
        "w2v_args": pretraining,
        "normalize": pretraining["task"]["normalize"],
        "dropout_input": encoder.get("dropout_input", 0.1),
        "final_dropout": final_dropout,
        "dropout": speech.get("dropout", 0.1),
        "attention_dropout": speech.get("attention_dropout", 0.1),
        "activation_dropout": speech.get("activation_dropout", 0.0),
        "layerdrop": speech.get("layerdrop", 0.0),
        "apply_mask": bool(encoder.get("mask_prob", 0.0)),
        "mask_prob": encoder.get("mask_prob", 0.0),
        "mask_length": encoder.get("mask_length", 10),
        "mask_channel_prob": encoder.get("mask_channel_prob", 0.0),
        "mask_channel_length": encoder.get("mask_channel_length", 64),
        "freeze_finetune_updates": 0,
        "feature_grad_mult": 0.0 if cfg.get("freeze_front_end") else encoder.front_end.get("gradient_scale", 1.0),
    }


def fine_tuned_checkpoint(settings: dict[str, Any], task: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint in the form that fairseq loads; it wants a training state even where it does not train."""
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": {"model": settings, "task": task},
        "model": weights,
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": {},
    }
