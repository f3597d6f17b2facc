"""From a recipe to a trained ``.nemo`` file: trainer, experiment folder, resuming, the last word on the output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from nemo.core.classes import ModelPT
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import partial_path, refuse_overwrite
from nemo_speechlm.step_guards import step_guards


def train(cfg: DictConfig, build_model: Callable[[DictConfig, Trainer], ModelPT]) -> Path:
    """Train the model of a recipe and write it to ``cfg.output``.

    A run goes on from the last checkpoint in its experiment folder where ``exp_manager.resume_if_exists`` is true.

    Args:
        cfg: a recipe with ``model``, ``trainer`` (arguments of Lightning's), ``exp_manager`` (NeMo's), ``output``,
            ``overwrite``, ``save`` (``best``: the checkpoint that ``exp_manager`` found best; or ``last``), ``seed``.
        build_model: makes the model from ``cfg.model`` and the trainer.

    Returns:
        the path of the ``.nemo`` file.

    Raises:
        InputError: if the output exists already or is not called ``.nemo``.
    """
    output = Path(cfg.output)
    if output.suffix != ".nemo":
        raise InputError("the output must end in .nemo", output)
    if cfg.save not in ("best", "last"):
        raise InputError(f"save is {cfg.save!r}, expected best or last")
    refuse_overwrite(output, cfg.overwrite)
    seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = Trainer(**{"callbacks": [StepProgressBar(), *step_guards(cfg)], **_plain(cfg.trainer)})
    exp_manager(trainer, cfg.get("exp_manager"))
    model = build_model(cfg.model, trainer)
    try:
        trainer.fit(model)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt
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
