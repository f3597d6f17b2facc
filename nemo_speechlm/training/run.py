"""From a recipe to a trained ``.nemo`` file: trainer, experiment folder, resuming, the last word on the output."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Timer, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from nemo.core.classes import ModelPT
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError, Unfinished
from nemo_speechlm.files import partial_path, refuse_overwrite
from nemo_speechlm.training.continuation import Continuation
from nemo_speechlm.training.step_guards import step_guards


def train(cfg: DictConfig, build_model: Callable[[DictConfig, Trainer], ModelPT]) -> Path:
    """Train the model of a recipe and write it to ``cfg.output``.

    A run goes on from the last checkpoint in its experiment folder where ``exp_manager.resume_if_exists`` is true and
    config, start file and data are those that it was begun with (:class:`Continuation`). The output is written when
    training has reached its end: ``trainer.max_steps``, or where early stopping ends it.

    Args:
        cfg: a recipe with ``model``, ``trainer`` (arguments of Lightning's), ``exp_manager`` (NeMo's), ``output``,
            ``overwrite``, ``save`` (``best``: the checkpoint that ``exp_manager`` found best; or ``last``), ``seed``,
            and, to go on in spite of differences, ``accept_changes``.
        build_model: makes the model from ``cfg.model`` and the trainer.

    Returns:
        the path of the ``.nemo`` file.

    Raises:
        InputError: if the output exists already or is not called ``.nemo``; or if the checkpoints in the run's folder
            are another run's.
        SpeechLMError: if a key of the trainer or of ``exp_manager`` has no sensible value.
        Unfinished: if training ended before its end, as by ``exp_manager.max_time_per_run``; its checkpoint is kept.
    """
    output = Path(cfg.output)
    if output.suffix != ".nemo":
        raise InputError("the output must end in .nemo", output)
    if cfg.save not in ("best", "last"):
        raise InputError(f"save is {cfg.save!r}, expected best or last")
    refuse_overwrite(output, cfg.overwrite)
    _check_length(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    continuation = Continuation(cfg)
    callbacks: list[Callback] = [
        *([StepProgressBar()] if cfg.trainer.get("enable_progress_bar", True) else []),
        continuation,
        *step_guards(cfg),
    ]
    try:
        trainer = Trainer(**{**_plain(cfg.trainer), "callbacks": callbacks})
        continuation.check(trainer)
        exp_manager(trainer, cfg.get("exp_manager"))
    except MisconfigurationException as error:
        raise SpeechLMError(f"trainer and exp_manager: {error}") from error
    model = build_model(cfg.model, trainer)
    try:
        trainer.fit(model)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    _check_ended(trainer)
    if cfg.save == "best":
        _load_best(model, trainer)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(output)
    model.save_to(str(partial))
    if trainer.is_global_zero:
        partial.replace(output)
    logging.info(f"Wrote {output}")
    return output


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, which counts up to ``max_steps`` where the data have no end."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches until the bar is full."""
        total = super().total_train_batches
        if total == float("inf") and self.trainer.max_steps > 0:
            return self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return total


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
    if manager.get("max_time_per_run") is not None:
        keeps = manager.get("create_checkpoint_callback", True)
        if not keeps or not (manager.get("checkpoint_callback_params") or {}).get("save_last", True):
            raise SpeechLMError(
                "exp_manager.max_time_per_run needs exp_manager.create_checkpoint_callback=true and "
                "exp_manager.checkpoint_callback_params.save_last=true: else there is nothing to go on from"
            )


def _check_ended(trainer: Trainer) -> None:
    """Raise :class:`Unfinished` unless training came to its end, or early stopping ended it."""
    steps, epochs = trainer.max_steps, trainer.max_epochs or -1
    if 0 < steps <= trainer.global_step or 0 < epochs <= trainer.current_epoch:
        return
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    time_is_up = any((remaining := timer.time_remaining()) is not None and remaining <= 0 for timer in timers)
    if trainer.should_stop and trainer.early_stopping_callbacks and not time_is_up:
        return
    if not trainer.is_global_zero:  # another status than 0, and Lightning kills the first process before it has ended
        sys.exit(0)
    why = "the time of exp_manager.max_time_per_run is over" if time_is_up else "training was stopped"
    kept = getattr(trainer.checkpoint_callback, "last_model_path", "") or "no checkpoint"
    raise Unfinished(
        f"{why} at step {trainer.global_step} of {steps}; {kept} is kept and nothing else written. "
        "Run the same command again to go on."
    )


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _load_best(model: ModelPT, trainer: Trainer) -> None:
    callback = trainer.checkpoint_callback
    path = getattr(callback, "best_model_path", "")
    if not path:
        logging.warning("There was no validation, so no best checkpoint; the last weights are saved.")
        return
    score = getattr(callback, "best_model_score", None)
    logging.info(
        f"Best checkpoint: {Path(path).name}" + ("" if score is None else f" ({callback.monitor} {score:.4f})")
    )
    # The file is this run's own, and holds configs beside tensors.
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False)["state_dict"])
