"""From a recipe to a trained ``.nemo`` file: trainer, experiment folder, resuming, the last word on the output."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from nemo.core.classes import ModelPT
from nemo.utils import logging
from nemo.utils.exceptions import NeMoBaseException
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError, Unfinished, first_line
from nemo_speechlm.files import sync, whole_file
from nemo_speechlm.models.common.sharding import gathered, take_full_weights
from nemo_speechlm.training.averaging import ExponentialAverage, average_of, mean_of_checkpoints
from nemo_speechlm.training.building import blaming, check_optimizer
from nemo_speechlm.training.checkpoint_io import damage
from nemo_speechlm.training.continuation import Continuation, recorded_precision
from nemo_speechlm.training.curves import one_curve
from nemo_speechlm.training.folder import prepare_folder
from nemo_speechlm.training.options import check_recipe
from nemo_speechlm.training.peers import one_message, own_rank, until_the_first_is_done
from nemo_speechlm.training.recovery import step_of
from nemo_speechlm.training.saving import INTERRUPTED, Saver
from nemo_speechlm.training.step_guards import explain_monitor, step_guards
from nemo_speechlm.training.trainer import FSDP2, build_trainer, choose_precision, expect_unused, explain_unused


def train(cfg: DictConfig, build_model: Callable[[DictConfig, Trainer], ModelPT]) -> Path:
    """Train the model of a recipe and write it to ``cfg.output``.

    A run goes on from the last checkpoint in its experiment folder where ``exp_manager.resume_if_exists`` is true and
    config, start file and data are those that it was begun with (:class:`Continuation`). The output is written when
    training has reached its end: ``trainer.max_steps``, or where early stopping ends it.

    Args:
        cfg: a recipe with ``model``, ``trainer`` (arguments of Lightning's), ``exp_manager`` (NeMo's), ``output``,
            ``overwrite``, ``save`` (``best``: the checkpoint that ``exp_manager`` found best; ``average``: the mean of
            the best ones that it keeps; or ``last``), ``seed``, ``save_every_minutes`` (:class:`Saver`) and, as far as
            they are wanted, ``ema_decay`` (:class:`ExponentialAverage`) and ``accept_changes``: to go on in spite of
            differences.
        build_model: makes the model from ``cfg.model`` and the trainer.

    Returns:
        the path of the ``.nemo`` file.

    Raises:
        InputError: if the output exists already or is not called ``.nemo``; if the checkpoints in the run's folder are
            another run's, or none of them can be read; or if another process works in that folder.
        SpeechLMError: if a key of the trainer or of ``exp_manager`` has no sensible value, or a figure to monitor is
            not logged.
        Unfinished: if training ended before its end, by ``exp_manager.max_time_per_run``, SIGTERM or SIGUSR1; its
            checkpoint is kept.
        KeyboardInterrupt: after Ctrl-C; a checkpoint is kept here too, unless it was pressed twice.
    """
    with ExitStack() as held:
        return _train(cfg, build_model, held)


def _train(cfg: DictConfig, build_model: Callable[[DictConfig, Trainer], ModelPT], held: ExitStack) -> Path:
    check_recipe(cfg)
    if "optim" in cfg.model:
        check_optimizer(cfg.model.optim, cfg.trainer.get("max_steps", -1))
    output = Path(cfg.output)
    seed_everything(cfg.seed, workers=True, verbose=False)
    choose_precision(cfg.trainer, lambda: recorded_precision(cfg))
    saver = _saver(cfg)
    continuation = Continuation(cfg, interrupted=lambda: bool(saver.reason))
    held.enter_context(saver.listening())
    callbacks: list[Callback] = [
        *([StepProgressBar()] if cfg.trainer.get("enable_progress_bar", True) else []),
        continuation,
        *step_guards(cfg),
        *([] if cfg.get("ema_decay") is None else [ExponentialAverage(cfg.ema_decay)]),
    ]
    try:
        trainer = build_trainer(cfg.trainer, callbacks)
        _check_sharded(trainer, cfg)
        held.enter_context(own_rank(trainer))
        prepare_folder(trainer, cfg, continuation, held)
        folder = exp_manager(trainer, _without_its_stopping(cfg))
    except (MisconfigurationException, NeMoBaseException) as error:
        raise SpeechLMError(f"trainer and exp_manager: {error}") from error
    if folder is not None:
        logging.info(f"{folder}: log, curves and checkpoints")
    one_curve(trainer, step_of(trainer.ckpt_path) if trainer.ckpt_path and trainer.is_global_zero else 0)
    saver.attach(trainer)
    with one_message(trainer):
        with blaming("model"):
            model = build_model(cfg.model, trainer)
        _check_divisible(trainer, model)
        expect_unused(trainer, model)
        try:
            trainer.fit(model)
        except RuntimeError as error:
            if (explained := explain_unused(error) or explain_monitor(error)) is not None:
                raise explained from error
            raise
        except MisconfigurationException as error:
            raise (explain_monitor(error) or SpeechLMError(f"trainer: {first_line(error)}")) from error
        except SystemExit:  # how Lightning ends after Ctrl-C
            if not trainer.interrupted:
                raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    _check_ended(trainer, saver.reason)
    with until_the_first_is_done(trainer):
        chosen = cfg.save != "last" and _load_best(model, trainer, 1 if cfg.save == "best" else None)
        if not chosen and (average := average_of(trainer)) is not None:
            average.put_into(model)
        _write(model, output, trainer)
    logging.info(f"Wrote {output}")
    return output


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar on stderr, which counts up to ``max_steps`` where the data have no end.

    It shows the loss as often as it is logged. What models log for Lightning's bar (``prog_bar``) would be asked of
    the device after every step, which then waits for it. Rate and remaining time are those of the steps since this
    process began, not of those before a resume.
    """

    _loss: float | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; those before the first one that is seen were another process's."""
        if not self.train_progress_bar.n:
            self.train_progress_bar.initial = batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown = super().get_metrics(trainer, pl_module)
        if self._loss is None or trainer.global_step % max(1, trainer.log_every_n_steps) == 0:
            known = trainer.callback_metrics
            loss = known.get("loss", known.get("train_loss"))
            self._loss = None if loss is None else float(loss)
        return shown if self._loss is None else {**shown, "loss": f"{self._loss:.3g}"}

    def init_sanity_tqdm(self) -> Any:
        """The bar of the validation before training."""
        with redirect_stdout(sys.stderr):
            return super().init_sanity_tqdm()

    def init_train_tqdm(self) -> Any:
        """The bar of training."""
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Any:
        """The bar of a validation."""
        with redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    @property
    def total_train_batches(self) -> int | float:
        """Batches until the bar is full."""
        total = super().total_train_batches
        if total == float("inf") and self.trainer.max_steps > 0:
            return self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return total


def _check_sharded(trainer: Trainer, cfg: DictConfig) -> None:
    """Refuse what a divided model cannot do."""
    if isinstance(trainer.strategy, ModelParallelStrategy) and cfg.get("ema_decay") is not None:
        raise SpeechLMError(f"ema_decay is not possible with trainer.strategy={FSDP2}; set it to null")


def _check_divisible(trainer: Trainer, model: ModelPT) -> None:
    """Refuse to divide a model that has no way of it."""
    if isinstance(trainer.strategy, ModelParallelStrategy) and not is_overridden("configure_model", model):
        raise SpeechLMError(
            f"trainer.strategy={FSDP2} is not possible with a {type(model).__name__}, which cannot be divided; "
            "set it to ddp"
        )


def _check_ended(trainer: Trainer, reason: str) -> None:
    """Raise :class:`Unfinished` unless training came to its end, or early stopping ended it."""
    steps, epochs = trainer.max_steps, trainer.max_epochs or -1
    if 0 < steps <= trainer.global_step or 0 < epochs <= trainer.current_epoch:
        return
    if trainer.should_stop and trainer.early_stopping_callbacks and not reason:
        return
    if not trainer.is_global_zero:  # another status than 0, and Lightning kills the first process before it has ended
        sys.exit(0)
    if reason == INTERRUPTED:
        raise KeyboardInterrupt
    why = reason or "training was stopped"
    kept = getattr(trainer.checkpoint_callback, "last_model_path", "") or "no checkpoint"
    raise Unfinished(
        f"{why} at step {trainer.global_step} of {steps}; {kept} is kept and nothing else written. "
        "Run the same command again to go on."
    )


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _saver(cfg: DictConfig) -> Saver:
    try:
        return Saver(cfg)
    except MisconfigurationException as error:
        raise SpeechLMError(f"exp_manager.max_time_per_run: {error}") from error


def _without_its_stopping(cfg: DictConfig) -> DictConfig | None:
    """NeMo's part of a recipe without the two ways of stopping that :class:`Saver` has instead."""
    if not cfg.get("exp_manager"):
        return None
    own = {"max_time_per_run": None, "create_preemption_callback": False}
    return OmegaConf.create({**_plain(cfg.exp_manager), **own})


def _write(model: ModelPT, output: Path, trainer: Trainer) -> None:
    """Write the model; the file takes its name when all of it is on the disk."""
    try:
        with gathered(model):
            if not trainer.is_global_zero:
                return
            with whole_file(output) as partial:
                model.save_to(str(partial))
                sync(partial)
            sync(output.parent)
    except RuntimeError as error:  # of torch.save into the folder for temporary files, which is full
        if "PytorchStreamWriter" not in str(error):
            raise
        raise InputError(
            f"cannot be written: {tempfile.gettempdir()}, where it is put together, has no room. Make room or set "
            "TMPDIR, and run the same command again: training is complete and not repeated",
            output,
        ) from error


def _load_best(model: ModelPT, trainer: Trainer, most: int | None) -> bool:
    """Load the best checkpoint, or the mean of the best ones that can be read; False where there is none.

    Of several that are equally good, the last one is the best: it has learned for longer.

    Args:
        model: what they are loaded into.
        trainer: whose checkpoint callback knows them.
        most: of how many; None for all that are kept.
    """
    callback = trainer.checkpoint_callback
    known = {path: float(score) for path, score in getattr(callback, "best_k_models", {}).items()}
    if not known:
        logging.warning("There was no validation, so no best checkpoint; the last weights are saved.")
        return False
    later_first = list(known)[::-1]
    ranked = sorted(later_first, key=known.__getitem__, reverse=getattr(callback, "mode", "min") == "max")
    sound: list[str] = []
    for path in ranked:
        if (reason := damage(Path(path))) is not None:
            logging.warning(f"{path}: {reason}; it is passed over for the next best checkpoint")
            continue
        sound.append(path)
        if len(sound) == most:
            break
    if not sound:
        logging.warning("No best checkpoint can be read; the last weights are saved.")
        return False
    scores = [f"{callback.monitor} {known[path]:.4f}" for path in sound]  # type: ignore[union-attr]
    told = Path(sound[0]).name if len(sound) == 1 else f"the mean of {len(sound)}"
    logging.info(f"Best checkpoint: {told}" + (f" ({', '.join(scores)})" if scores else ""))
    take_full_weights(model, mean_of_checkpoints(sound))
    return True
