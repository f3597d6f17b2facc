"""When a run saves its last checkpoint besides at validations, and how it is stopped from outside."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import _TunerExitException
from nemo.utils import logging
from nemo.utils.callbacks import NeMoModelCheckpoint
from omegaconf import DictConfig
from torch import Tensor, distributed

from nemo_speechlm.errors import SpeechLMError, Unfinished, first_line
from nemo_speechlm.training.checkpoint_io import SafeCheckpointIO

DEFAULT_SAVE_EVERY_MINUTES = 10

TIME_IS_UP = "the time of exp_manager.max_time_per_run is over"
_STOPPING = ("", TIME_IS_UP, "SIGUSR1 was received", "SIGTERM was received", "Ctrl-C was pressed")  # by strength
INTERRUPTED = _STOPPING[4]
_SIGNALS = {signal.SIGUSR1: 2, signal.SIGTERM: 3, signal.SIGINT: 4}


def _group_of_all() -> Any:
    """All processes of a training as a group that agrees on the CPU.

    Raises:
        SpeechLMError: where they do not reach one another by gloo, which looks for its network by itself.
    """
    try:
        return distributed.new_group(backend="gloo")
    except RuntimeError as error:
        raise SpeechLMError(
            f"the processes of this training cannot reach one another by gloo ({first_line(error)}); "
            "say which network interface leads from node to node, as in GLOO_SOCKET_IFNAME=eth0"
        ) from error


class Saver(Callback):
    """Saves the last checkpoint every few minutes. When the run is to stop, it saves once more and ends the run.

    A run is to stop when one of its processes gets SIGTERM, SIGUSR1 or Ctrl-C, or when the time of
    ``exp_manager.max_time_per_run`` is over. All processes save at the end of the same update, never between the
    batches of one. With several processes that is one update later, since they agree about it meanwhile: no update
    waits for it. During a validation it waits for the validation's end, or saves before it where the wish was known.
    A second Ctrl-C ends at once.

    To be given to the trainer by :meth:`attach`, after NeMo's ``exp_manager``. It acts after NeMo's own callbacks and
    those of the model. It replaces NeMo's timer and ``PreemptionCallback``, which stop in the middle of an update, or
    on GPUs alone.

    Args:
        cfg: a recipe: ``save_every_minutes`` (null: never; where it is missing: ``DEFAULT_SAVE_EVERY_MINUTES``) and
            ``exp_manager.max_time_per_run``, counted from now.

    Attributes:
        reason: why it stopped the training; empty if it did not.
        deadline: when the time is over, by ``time.monotonic()``; None: never.

    Raises:
        SpeechLMError: if the minutes are not a number above 0.
    """

    def __init__(self, cfg: DictConfig):
        minutes = cfg.get("save_every_minutes", DEFAULT_SAVE_EVERY_MINUTES)
        if minutes is not None and (not isinstance(minutes, int | float) or isinstance(minutes, bool) or minutes <= 0):
            raise SpeechLMError(f"save_every_minutes is {minutes!r}, expected a number above 0, or null for never")
        self.reason = ""
        self.deadline = _deadline((cfg.get("exp_manager") or {}).get("max_time_per_run"))
        self._interval = None if minutes is None else minutes * 60.0
        self._saved_at = time.monotonic()
        self._asked = 0
        self._stop_after_validation = 0
        self._phase = "starting"
        self._process = os.getpid()
        self._pending: tuple[Tensor, Any] | None = None
        self._group: Any = None
        self._best_before: dict[str, Any] = {}
        self._last_before = ""

    # --- signals

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the time of a block."""
        if threading.current_thread() is not threading.main_thread():  # Python's rule
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, which ends with its parent
            return
        again = self._asked == _SIGNALS[signal.SIGINT]
        if number == signal.SIGINT and (again or self._phase != "training"):
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        if self._phase == "starting":
            raise Unfinished(f"{name} was received before training began. Run the same command again to go on.")
        self._asked = max(self._asked, _SIGNALS[signal.Signals(number)])
        if self._phase == "training":
            more = "; press Ctrl-C again to end at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{name}: saving a checkpoint at the end of the running update{more}\n".encode())

    # --- callback

    def attach(self, trainer: Trainer) -> None:
        """Join the callbacks of a trainer; its checkpoints are written by :class:`SafeCheckpointIO`, unless it has
        another plugin for that.
        """
        trainer.callbacks.append(self)  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SafeCheckpointIO()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the last of the callbacks again: those of the model have come, and Lightning has put what saves
        checkpoints behind all.
        """
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen and to count."""
        callback = trainer.checkpoint_callback
        if isinstance(callback, NeMoModelCheckpoint):
            setattr(callback, "set_checkpoint_unfinished_marker", _set_marker)  # noqa: B010  # a static method
            if trainer.is_global_zero:
                _order_by_age(callback)
            _let_ties_in(callback)
            # All processes count the best checkpoints that the first one found in the folder.
            callback.__dict__.update(trainer.strategy.broadcast(_best(callback)))
        if trainer.world_size > 1:
            self._group = _group_of_all()
        self._saved_at = time.monotonic()
        self._phase = "training"
        self._listen()  # Lightning has put in its own handlers meanwhile

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """At the end of an update, save if it is time, and stop if that is asked for."""
        loop = trainer.fit_loop.epoch_loop
        # NeMo's loop passes over the validation of the first batch after a resume, not only that of the batch before
        loop._restarting = False
        if loop._should_accumulate():
            return
        stop, save = self._agreed()
        if 0 < trainer.max_steps <= trainer.global_step or not (stop or save):
            return
        self._drain()
        if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            if stop:
                self._stop_after_validation = stop
                self._save(trainer)
            return  # a validation saves by itself
        self._save(trainer)
        if stop:
            self._stop(stop)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which checkpoints there are."""
        self._remember(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """NeMo has saved; stop if that is asked for."""
        if self._phase != "training" or trainer.sanity_checking:
            return
        self._forget_failed(trainer)
        self._saved_at = time.monotonic()
        if self._stop_after_validation:
            self._stop(self._stop_after_validation)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is left to do takes seconds; it is not stopped."""
        self._phase = "ending"
        self._forget_failed(trainer)

    def _agreed(self) -> tuple[int, bool]:
        """Why to stop and whether to save, by all processes: with several, what they wished an update ago."""
        now = time.monotonic()
        stop = self._asked or int(self.deadline is not None and now >= self.deadline)
        save = self._interval is not None and now - self._saved_at >= self._interval
        if self._group is None:
            return stop, save
        wishes = torch.tensor([stop, int(save)])
        before = self._pending
        work = distributed.all_reduce(wishes, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (wishes, work)
        if before is None:
            return 0, False
        before[1].wait()
        return int(before[0][0]), bool(before[0][1])

    def _drain(self) -> None:
        """Forget wishes from before a save."""
        if self._pending is not None:
            self._pending[1].wait()
            if self._pending[0][0]:  # those to stop are still wanted
                self._asked = max(self._asked, int(self._pending[0][0]))
            self._pending = None

    def _save(self, trainer: Trainer) -> None:
        callback = _saves_last(trainer)
        self._saved_at = time.monotonic()
        if callback is None or (callback._last_global_step_saved == trainer.global_step and callback.last_model_path):
            return
        self._remember(trainer)
        saved = callback._last_global_step_saved
        progress = trainer.fit_loop.epoch_loop.batch_progress
        progress.increment_completed()  # Lightning does it after this hook; the checkpoint is to count the batch
        try:
            callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))
        finally:
            progress.current.completed -= 1
            progress.total.completed -= 1
            callback._last_global_step_saved = saved  # else a validation of the same step would not save its best
        self._forget_failed(trainer)
        self._saved_at = time.monotonic()

    def _stop(self, reason: int) -> None:
        self.reason = _STOPPING[reason]
        self._phase = "ending"
        raise _TunerExitException  # Lightning's way to end a fit without an error; NeMo's timer takes it too

    def _remember(self, trainer: Trainer) -> None:
        callback = trainer.checkpoint_callback
        if isinstance(callback, NeMoModelCheckpoint):
            self._best_before = dict(callback.best_k_models)
            self._last_before = callback.last_model_path

    def _forget_failed(self, trainer: Trainer) -> None:
        """Let NeMo's callback know what could not be written: it goes on with what was there before."""
        callback, plugin = trainer.checkpoint_callback, trainer.strategy.checkpoint_io
        if not isinstance(callback, NeMoModelCheckpoint) or not isinstance(plugin, SafeCheckpointIO):
            return
        failed = trainer.strategy.broadcast(list(plugin.failed))
        plugin.failed.clear()
        if not failed:
            return
        if callback.last_model_path in failed and not Path(callback.last_model_path).exists():
            callback.last_model_path = self._last_before
        callback._last_global_step_saved = -1
        callback.best_k_models = {**self._best_before, **callback.best_k_models}
        callback._remove_invalid_entries_from_topk()  # those that are not in the folder


def _deadline(limit: str | None) -> float | None:
    if limit is None:
        return None
    remaining = Timer(limit if isinstance(limit, str | dict | timedelta) else str(limit)).time_remaining()
    assert remaining is not None
    return time.monotonic() + remaining


def _saves_last(trainer: Trainer) -> NeMoModelCheckpoint | None:
    callback = trainer.checkpoint_callback
    return callback if isinstance(callback, NeMoModelCheckpoint) and callback.save_last else None


def _best(callback: NeMoModelCheckpoint) -> dict[str, Any]:
    names = ("best_k_models", "kth_best_model_path", "kth_value", "best_model_path", "best_model_score")
    return {name: getattr(callback, name) for name in names}


def _order_by_age(callback: NeMoModelCheckpoint) -> None:
    """Of several that are equally bad, the oldest is the first to go."""
    known = callback.best_k_models
    callback.best_k_models = {path: known[path] for path in sorted(known, key=_age)}
    if callback.best_k_models and len(known) == callback.save_top_k:
        worst = max if callback.mode == "min" else min
        callback.kth_best_model_path = worst(callback.best_k_models, key=callback.best_k_models.__getitem__)


def _age(path: str) -> tuple[int, str]:
    try:
        return Path(path).stat().st_mtime_ns, path
    except OSError:
        return 0, path


def _let_ties_in(callback: NeMoModelCheckpoint) -> None:
    """Let a checkpoint take the place of one that is kept and no better: it has learned for longer.

    Lightning keeps the first: of a model whose word error rate is still 100%, the one that has learned the least.
    """
    better = callback.check_monitor_top_k

    def check(trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is not None and not torch.isfinite(current).all():
            return False  # NaN is better than nothing for Lightning, and no name that NeMo can read
        if better(trainer, current):
            return True
        kept = callback.best_k_models.get(callback.kth_best_model_path)
        tie = current is not None and kept is not None and float(current) == float(kept)
        return trainer.strategy.reduce_boolean_decision(tie)

    setattr(callback, "check_monitor_top_k", check)  # noqa: B010


def _set_marker(checkpoint_path: str | Path, barrier_after: bool = False) -> None:
    """NeMo's marker of a checkpoint that is being written, except that a full disk is no error."""
    try:
        NeMoModelCheckpoint.set_checkpoint_unfinished_marker(checkpoint_path)
    except OSError as error:
        logging.warning(f"{checkpoint_path}: {error.strerror or error}")
    if barrier_after and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
