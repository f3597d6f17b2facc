"""Checks of a recipe that need neither PyTorch nor NeMo, so that a wrong option is answered at once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.checks import check_choice, check_files, check_number, check_whole
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import FILE_KEYS, refuse_overwrite

_READ = ("manifest_filepath", "units", "text_units", "init_from_pretrained", "lexicon")
"""Keys below ``model`` that name files of the user's."""


def check_recipe(cfg: DictConfig) -> None:
    """Check a recipe before anything is loaded.

    Args:
        cfg: as for :func:`nemo_speechlm.training.run.train`, which checks it too.

    Raises:
        InputError: if the output exists already or is not called ``.nemo``, or a file that is to be read is missing.
        SpeechLMError: if a key has no sensible value.
    """
    output = Path(cfg.output)
    if output.suffix != ".nemo":
        raise InputError("the output must end in .nemo", output)
    check_choice("save", cfg.save, ("best", "average", "last"))
    refuse_overwrite(output, cfg.overwrite)
    check_whole("seed", cfg.seed)
    if not isinstance(cfg.trainer, DictConfig) or not isinstance(cfg.model, DictConfig):
        raise SpeechLMError("trainer and model must be mappings, such as trainer.max_steps=100")
    _check_length(cfg)
    _check_average(cfg)
    _check_mean(cfg)
    _check_trainer(cfg.trainer)
    _check_checkpoints(cfg)
    for part in ("train_ds", "validation_ds"):
        if isinstance(cfg.model.get(part), DictConfig):
            _check_data(OmegaConf.to_container(cfg.model[part], resolve=True), f"model.{part}")
        elif part == "train_ds":
            raise SpeechLMError(f"model.train_ds is {cfg.model.get(part)!r}, expected a mapping: data and batches")
    model: Any = OmegaConf.to_container(cfg.model, resolve=True)
    _check_paths(model, "model")
    if "sample_rate" in model:
        check_whole("model.sample_rate", model["sample_rate"], 1)
    if not isinstance(labels := model.get("labels"), list | str | None):
        raise SpeechLMError(f"model.labels is {labels!r}, expected a list: model.labels=[...]")
    _check_heads(model, "model")
    for name in _files(model):
        check_files(name)


def _check_paths(values: Any, name: str) -> None:
    """Refuse numbers where files or folders are named."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            _check_paths(value, f"{name}.{key}")
        elif key in FILE_KEYS:
            every = value if isinstance(value, list) else [value]
            names = [each[0] if isinstance(each, list) and each else each for each in every]  # [path, weight]
            if any(isinstance(each, bool | int | float) for each in names):
                own = f"{name}.{key}"
                raise SpeechLMError(
                    f"{own} is {value!r}, expected a path (one like a number in two pairs of quotes: {own}='\"5\"')"
                )


def _check_heads(values: Any, name: str) -> None:
    """Refuse layers whose width cannot be divided among their heads: NeMo's have an assertion without words."""
    if not isinstance(values, Mapping):
        return
    width, heads = values.get("d_model"), values.get("n_heads")
    if type(width) is int and type(heads) is int:  # and no truth values
        check_whole(f"{name}.n_heads", heads, 1)
        check_whole(f"{name}.d_model", width, 1)
        if width % heads:
            raise SpeechLMError(f"{name}.n_heads is {heads}, expected a divisor of {name}.d_model, which is {width}")
    for key, value in values.items():
        _check_heads(value, f"{name}.{key}")


def _files(values: Any) -> Iterator[str]:
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if key in _READ:
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))
        else:
            yield from _files(value)


_REFUSED = {
    "fast_dev_run": "it keeps no checkpoints, and a few updates would count as the whole training; "
    "to try a recipe, set trainer.max_steps to a few updates and give an output of its own",
    "barebones": "it logs nothing, so no checkpoint could be chosen; set it to false",
    "overfit_batches": "batches have no end, so there is no first part of them to repeat; "
    "to learn a few utterances by heart, give a manifest of these alone",
}
"""Options of Lightning that do not fit a run that can be resumed on data without an end; and what to do instead."""


def _check_trainer(trainer: DictConfig) -> None:
    """Refuse what does not fit our runs, and check the numbers that Lightning divides by later."""
    for key, why in _REFUSED.items():
        if trainer.get(key):
            raise SpeechLMError(f"trainer.{key} is {trainer[key]!r}: {why}")
    part = trainer.get("limit_train_batches")
    if isinstance(part, float) and part != 1:
        raise SpeechLMError(
            f"trainer.limit_train_batches is {part}: batches have no end, so there is no share of them; expected a "
            "whole number of batches, or 1.0 for no limit"
        )
    for key, least in {"accumulate_grad_batches": 1, "log_every_n_steps": 1, "num_nodes": 1}.items():
        if trainer.get(key) is not None:
            check_whole(f"trainer.{key}", trainer[key], least)
    for key, least in {"max_epochs": -1, "num_sanity_val_steps": -1}.items():
        if trainer.get(key) is not None:
            check_whole(f"trainer.{key}", trainer[key], least)
    for key in ("limit_train_batches", "limit_val_batches", "gradient_clip_val"):
        if trainer.get(key) is not None:
            check_number(f"trainer.{key}", trainer[key], least=0)
    if isinstance(interval := trainer.get("val_check_interval"), int | float):
        check_number("trainer.val_check_interval", interval, above=0)


COUNTS = ("step", "epoch")
"""What Lightning's checkpoints can be chosen by without anybody logging it."""


def _check_checkpoints(cfg: DictConfig) -> None:
    """Refuse what would give a checkpoint the figure of another one."""
    key = "exp_manager.checkpoint_callback_params"
    monitor = OmegaConf.select(cfg, f"{key}.monitor")
    is_figure = monitor not in (None, *COUNTS, "global_step")
    for name in ("every_n_train_steps", "train_time_interval"):
        if is_figure and OmegaConf.select(cfg, f"{key}.{name}"):
            raise SpeechLMError(
                f"{key}.{name} is set: such a checkpoint would count as one with the {monitor} of the validation "
                "before it; use save_every_minutes, or trainer.val_check_interval"
            )
    manager = cfg.get("exp_manager") or {}
    folder = Path(str(manager.get("exp_dir") or "")).absolute() / str(manager.get("name") or "")
    if is_figure and isinstance(monitor, str) and monitor.isidentifier() and monitor in str(folder):
        raise SpeechLMError(
            f"{folder}: the run's folder has {monitor} in its name, which NeMo looks for in the names of checkpoints, "
            "so the run could not be continued; give another name or exp_manager.exp_dir"
        )


_DATA = {
    "batch_duration": {"above": 0},
    "batch_tokens": {"above": 0},
    "batch_frames": {"above": 0},
    "min_duration": {"least": 0},
    "max_duration": {"above": 0},
    "truncate_duration": {"above": 0},
}
_DATA_WHOLE = {"num_workers": 0, "max_tokens": 1, "min_frames": 0, "max_frames": 1, "batch_size": 1}


def _check_data(values: Any, name: str) -> None:
    """Check what a part of the data says of lengths and batches, and the streams in it."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_data(value, f"{name}.{key}")
        elif value is not None and key in _DATA:
            check_number(f"{name}.{key}", value, **_DATA[key])
        elif value is not None and key in _DATA_WHOLE:
            check_whole(f"{name}.{key}", value, _DATA_WHOLE[key])
    if values.get("use_bucketing") and values.get("num_buckets") is not None:
        check_whole(f"{name}.num_buckets", values["num_buckets"], 2)


def _check_length(cfg: DictConfig) -> None:
    """Refuse lengths of training that are none, and limits of time that leave nothing to go on from."""
    steps, epochs = cfg.trainer.get("max_steps", -1), cfg.trainer.get("max_epochs")
    if steps == -1:
        if epochs is None or epochs < 1:
            raise SpeechLMError(f"trainer.max_steps is {steps} and trainer.max_epochs {epochs}: training has no end")
    elif not isinstance(steps, int) or steps < 1:
        raise SpeechLMError(f"trainer.max_steps is {steps!r}, expected a whole number of at least 1")
    if cfg.trainer.get("max_time") is not None:
        raise SpeechLMError(
            "trainer.max_time counts the time of all runs together and keeps no checkpoint; say how long one run may "
            "last with exp_manager.max_time_per_run=DD:HH:MM:SS"
        )
    manager = cfg.get("exp_manager") or {}
    if manager and cfg.trainer.get("logger") is True:
        raise SpeechLMError(
            "trainer.logger is true, expected false: exp_manager makes the loggers "
            "(exp_manager.create_tensorboard_logger=true, create_wandb_logger, create_mlflow_logger, ...)"
        )
    if not isinstance(folder := manager.get("exp_dir"), str | None):
        raise SpeechLMError(f"exp_manager.exp_dir is {folder!r}, expected a folder")
    if "checkpoint_callback_params" in manager and manager["checkpoint_callback_params"] is None:
        raise SpeechLMError("exp_manager.checkpoint_callback_params is null, expected a mapping with monitor and mode")
    if manager.get("max_time_per_run") is not None:
        keeps = manager.get("create_checkpoint_callback", True)
        if not keeps or not (manager.get("checkpoint_callback_params") or {}).get("save_last", True):
            raise SpeechLMError(
                "exp_manager.max_time_per_run needs exp_manager.create_checkpoint_callback=true and "
                "exp_manager.checkpoint_callback_params.save_last=true: otherwise there would be nothing to go on from"
            )


def _check_mean(cfg: DictConfig) -> None:
    """Refuse a mean of one checkpoint."""
    key = "exp_manager.checkpoint_callback_params.save_top_k"
    if cfg.save == "average" and OmegaConf.select(cfg, key, default=1) in (0, 1):
        raise SpeechLMError(
            f"save=average is the mean of the best checkpoints, and {key} keeps one; set it to 2 or more, or save=best"
        )


def _check_average(cfg: DictConfig) -> None:
    """Refuse NeMo's average of the weights, which cannot be resumed (:mod:`nemo_speechlm.training.averaging`)."""
    if OmegaConf.select(cfg, "exp_manager.ema.enable", default=False):
        raise SpeechLMError(
            "exp_manager.ema.enable: a run with NeMo's average of the weights cannot be resumed; set it to false, and "
            "ema_decay=0.999 for ours"
        )
