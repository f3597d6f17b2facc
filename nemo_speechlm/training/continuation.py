"""Continuing a training run: only by the command that began it, and with that command's settings.

What a checkpoint restores besides weights would otherwise override the command in silence: the schedule of learning
rates with its horizon, the optimizer's settings, the patience of early stopping, a half-filled update.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from nemo.utils import logging
from nemo.utils.exp_manager import get_log_dir
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nemo_speechlm import __version__
from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.training.peers import check_same_checkpoint
from nemo_speechlm.training.run_record import NAME, RunRecord

_OWN_FOLDER = "give this run a folder of its own (name=... or exp_manager.exp_dir=...)"
_STOPPING = "exp_manager.early_stopping_callback_params"
_THRESHOLDS = ("stopping_threshold", "divergence_threshold", "check_finite")
"""Of early stopping: where one of them is met, training ends at once."""


class Continuation(Callback):
    """Lets a run go on from a checkpoint only if it is the same run; what it goes on with is what the command says.

    To be among the trainer's callbacks before ``fit``, and to be asked (:meth:`check`) before NeMo's ``exp_manager``,
    which moves and removes files of an earlier run.

    Args:
        cfg: a recipe, as for :func:`~nemo_speechlm.training.run.train`. With ``accept_changes`` a run goes on in spite
            of what is different.
        interrupted: whether a signal or the time limit stops the training now, so that a later run goes on with it.
    """

    def __init__(self, cfg: DictConfig, interrupted: Callable[[], bool] = lambda: False):
        self._interrupted = interrupted
        self._config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        self._accept: bool = cfg.get("accept_changes", False)
        self._record: RunRecord | None = None
        self._differs = False
        self._checkpoint: dict[str, Any] | None = None

    def check(self, trainer: Trainer) -> None:
        """Compare the run with the one whose checkpoints it would continue, on the first of all processes.

        Raises:
            InputError: if data, start file or a deciding setting differ, or the checkpoints do not say what their run
                was begun with; unless ``accept_changes`` is true.
        """
        if trainer.global_rank:  # the first process speaks for all
            return
        batches = trainer.num_devices * trainer.num_nodes * trainer.accumulate_grad_batches
        folder = _folder_to_continue(trainer, self._config.get("exp_manager") or {})
        known = RunRecord.read(folder) if folder is not None else None
        now = RunRecord.of(self._config, batches, known)
        if folder is None:
            self._record = now
            return
        if known is None:
            changes = [f"there is no {NAME} that says what it was begun with (an earlier version made none)"]
        else:
            changes = known.differences(now)
            self._differs = bool(changes)
            now = replace(now, accepted=known.accepted)
        if changes:
            listed = "".join(f"\n  {line}" for line in changes)
            if not self._accept:
                raise InputError(
                    f"the run here is not the one that this command begins:{listed}\n{_OWN_FOLDER}; or go on from its "
                    "last checkpoint in spite of that with accept_changes=true",
                    folder,
                )
            logging.warning(f"{folder}: the run goes on with changes:{listed}")
            now = replace(now, accepted=(*now.accepted, {"version": __version__, "changes": changes}))
        for line in known.free_changes(now) if known is not None else ():
            logging.info(f"The run goes on with {line}")
        self._record = now

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that all processes go on from the same checkpoint, before they read it."""
        check_same_checkpoint(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is past the end of the run, and keep it for :meth:`on_fit_start`.

        Where early stopping has ended the run, by the command's patience or thresholds, nothing more is trained.
        """
        step, end = checkpoint["global_step"], trainer.max_steps
        if 0 <= end < step:
            raise InputError(
                f"its run is at step {step}, and trainer.max_steps={end} ends before that; give at least {step}, or "
                f"{_OWN_FOLDER}",
                trainer.ckpt_path,
            )
        stopped = _stopped_early(trainer.early_stopping_callbacks, checkpoint)  # type: ignore[arg-type]
        longer = stopped or "a larger trainer.max_steps"
        if (step == end or stopped) and self._differs:
            raise InputError(
                f"its run is complete at step {step}: with the changes that accept_changes=true accepts nothing would "
                f"be trained; give {longer}, or {_OWN_FOLDER}",
                trainer.ckpt_path,
            )
        if stopped:
            logging.info(f"Early stopping has ended this run at step {step}; {stopped} lets it go on")
            trainer.should_stop = True  # which Lightning forgets from one command to the next
        begin_with_whole_update(checkpoint, trainer.accumulate_grad_batches)
        log_from_this_step(checkpoint)
        self._checkpoint = checkpoint
        if trainer.optimizers:  # strategies that restore weights after they have set up the optimizers
            self.on_fit_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep by which thresholds early stopping has ended the run; its own state tells of its patience alone."""
        if trainer.should_stop and not self._interrupted():
            checkpoint[_STOPPING] = {
                stopping.state_key: [getattr(stopping, name) for name in _THRESHOLDS]  # type: ignore[attr-defined]
                for stopping in trainer.early_stopping_callbacks
                if not _out_of_patience(stopping.wait_count, stopping.patience)  # type: ignore[attr-defined]
            }

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the command's optimizer settings and schedules into the checkpoint, before they are restored from it."""
        if self._checkpoint is not None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            put_settings_into(self._checkpoint, trainer.optimizers, schedulers)  # type: ignore[arg-type]
            self._checkpoint = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the record where the checkpoints will be; a training does not end because it cannot be written."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if self._record is None or folder is None:
            return
        try:
            self._record.write(folder)
        except (OSError, OutputError) as error:
            why = error.reason if isinstance(error, OutputError) else error.strerror or error
            logging.warning(
                f"{Path(folder) / NAME}: {why}; the run has no record of its settings and files, so the next command "
                "that goes on with it cannot tell whether they have changed"
            )


def _stopped_early(callbacks: Sequence[EarlyStopping], checkpoint: dict[str, Any]) -> str:
    """What would let a run go on that early stopping has ended by the command's settings; "" where it has not."""
    for stopping in callbacks:
        state = checkpoint.get("callbacks", {}).get(stopping.state_key)
        if state is None:
            continue
        state["patience"] = stopping.patience
        if _out_of_patience(state["wait_count"], stopping.patience):
            return f"a larger {_STOPPING}.patience"
        thresholds = [getattr(stopping, name) for name in _THRESHOLDS]
        if checkpoint.get(_STOPPING, {}).get(stopping.state_key) == thresholds:
            return f"another {_STOPPING}.stopping_threshold, divergence_threshold or check_finite"
    return ""


def _out_of_patience(waited: int, patience: int) -> bool:
    return waited >= max(patience, 1)


def put_settings_into(
    checkpoint: dict[str, Any], optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler]
) -> None:
    """Let a checkpoint restore how far a run has come, but nothing that its config decides.

    Each schedule is replayed from its start to the checkpoint's step, so the learning rate of every further step is
    that of a run which was begun with these settings. Of the optimizer's groups, ``lr``, ``betas``, ``weight_decay``
    and what else its constructor takes come from the optimizer; moments and step counts stay the checkpoint's.
    A ``ReduceLROnPlateau`` is restored as it was: the figures that it acted on are not kept.

    Args:
        checkpoint: Lightning's, which is changed.
        optimizers: new ones, as the config makes them; the rates in their groups are moved to the checkpoint's step.
        schedulers: new ones, of these optimizers; they are moved as well.
    """
    following = {id(s.optimizer) for s in schedulers if isinstance(s, ReduceLROnPlateau)}
    for scheduler, saved in zip(schedulers, checkpoint.get("lr_schedulers", []), strict=False):
        if isinstance(scheduler, ReduceLROnPlateau):
            continue
        with warnings.catch_warnings():  # that no optimizer stepped meanwhile
            warnings.simplefilter("ignore")
            for _ in range(saved["last_epoch"] - scheduler.last_epoch):
                scheduler.step()
        saved.clear()
        saved.update(scheduler.state_dict())
    for optimizer, saved in zip(optimizers, checkpoint.get("optimizer_states", []), strict=False):
        settings = {*optimizer.defaults, "lr", "initial_lr"} - ({"lr"} if id(optimizer) in following else set())
        for group, old in zip(optimizer.param_groups, saved.get("param_groups", []), strict=False):
            old.update({key: value for key, value in group.items() if key in settings})


def begin_with_whole_update(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Let a run that accumulates gradients go on with the first batch of an update.

    Lightning counts the batches of an update from the count of all batches that a checkpoint restores. A checkpoint in
    the middle of an update, or one of a run that accumulated another number of batches, would make the first update
    one of fewer batches, since gradients are not in it. The data loader, too, begins with that batch.

    Args:
        checkpoint: Lightning's, which is changed.
        accumulate: batches per update of each device.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
    if progress is None or progress.get("is_last_batch"):  # the end of an epoch completes its last update
        return
    again = progress["current"]["completed"] % accumulate
    for counts in (progress["current"], progress["total"]):  # what is drawn for a batch depends on the total
        whole = counts["completed"] - again
        counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), whole))


def log_from_this_step(checkpoint: dict[str, Any]) -> None:
    """Let loggers go on with the step of a checkpoint; Lightning counts it after its validation is saved.

    Args:
        checkpoint: Lightning's, which is changed.
    """
    state = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict")
    if state is not None:
        state["_batches_that_stepped"] = checkpoint["global_step"]


def log_folder(trainer: Trainer, settings: dict[str, Any]) -> Path:
    """Where NeMo's ``exp_manager`` will put the logs of a run that may be resumed."""
    places = {key: settings.get(key) for key in ("exp_dir", "name", "version", "explicit_log_dir")}
    return get_log_dir(trainer, **places, resume_if_exists=True)[0]


def checkpoint_folder(trainer: Trainer, settings: dict[str, Any]) -> Path:
    """Where NeMo's ``exp_manager`` will put the checkpoints of a run that may be resumed."""
    given = (settings.get("checkpoint_callback_params") or {}).get("dirpath")
    return Path(given) if given else log_folder(trainer, settings) / "checkpoints"


def recorded_precision(cfg: DictConfig) -> str | None:
    """``trainer.precision`` of the run that a recipe would continue, before there is a trainer.

    None where it would begin anew, where nothing was recorded, and with a logger of the recipe's own, which decides
    the folder and is not built yet.
    """
    if cfg.trainer.get("logger"):
        return None
    settings: dict[str, Any] = OmegaConf.to_container(cfg.get("exp_manager") or {}, resolve=True)  # type: ignore
    folder = _folder_to_continue(SimpleNamespace(logger=None), settings)  # type: ignore[arg-type]
    record = RunRecord.read(folder) if folder is not None else None
    return record.settings.get("trainer.precision") if record is not None else None


def _folder_to_continue(trainer: Trainer, settings: dict[str, Any]) -> Path | None:
    """The folder of the checkpoints that NeMo's ``exp_manager`` would go on from; None if it would begin anew."""
    if settings.get("resume_if_exists"):
        folder = checkpoint_folder(trainer, settings)
        # Any checkpoint: even without a last one NeMo counts them among the best of a run that begins anew.
        if any(Path(folder).rglob("*.ckpt")) or any(Path(folder).glob("*-last/")):
            return Path(folder)
    if settings.get("resume_from_checkpoint"):
        return Path(settings["resume_from_checkpoint"]).parent
    return None
