"""What watches over the steps of every training: random numbers, losses that are not finite, figures to monitor."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from nemo.utils import logging
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from nemo_speechlm.errors import SpeechLMError, first_line
from nemo_speechlm.models.common.pretraining import PlaceInData
from nemo_speechlm.models.common.sharding import any_sharded, gradient_norm
from nemo_speechlm.training.options import COUNTS

DEFAULT_MAX_SKIPPED = 10

_BEST = {"min": "lowest", "max": "highest"}


def step_guards(cfg: DictConfig) -> list[Callback]:
    """The callbacks of this module for a recipe, and the one that keeps the place in the data.

    Args:
        cfg: ``seed``, and ``max_skipped_updates`` (where it is missing: ``DEFAULT_MAX_SKIPPED``).

    Raises:
        SpeechLMError: if ``max_skipped_updates`` is not a whole number of at least 1.
    """
    most = cfg.get("max_skipped_updates", DEFAULT_MAX_SKIPPED)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise SpeechLMError(f"max_skipped_updates is {most!r}, expected a whole number of at least 1")
    return [MonitorCheck(), BatchSeeds(cfg.seed), SkipNonFinite(most), PlaceInData()]


# --- random numbers ------------------------------------------------------------------------------------------------


class BatchSeeds(Callback):
    """Seeds Python, numpy and torch (all devices) before every batch of training.

    The state depends on the run's seed, the number of the batch in the run (counted through resumes) and the rank, and
    on nothing else. A resumed run draws what the run would have drawn without the interruption: masks, swaps, label
    offsets, dropout, dropped layers, NeMo's augmentations. Validation cannot change what training draws.

    Args:
        seed: of the run, at least 0.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._own: list[random.Random] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the generators that modules keep for themselves: some of NeMo's augmentations do."""
        own = (getattr(module, "_rng", None) for module in pl_module.modules())
        self._own = [generator for generator in own if isinstance(generator, random.Random)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed for the batch that is about to be trained on."""
        # total_batch_idx is in every checkpoint; batch_idx is one behind after those that were saved in a batch's end.
        self._seed((self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank))

    def _seed(self, key: tuple[int, ...]) -> None:
        python, numpys, torchs, *own = (
            np.random.SeedSequence(key).generate_state(3 + len(self._own), np.uint64).tolist()
        )
        random.seed(python)
        np.random.seed(numpys & 0xFFFFFFFF)  # noqa: NPY002 - the state that Lhotse and NeMo draw from
        torch.manual_seed(torchs)
        for generator, number in zip(self._own, own, strict=True):
            generator.seed(number)


# --- losses and gradients that are not finite ------------------------------------------------------------------------


_LOST, _BAD = 0.5, 1.0
"""Why an update is skipped: all examples of a batch were bad; a loss or gradient is not finite."""


class _Verdict(NamedTuple):
    """What was found of an update.

    Attributes:
        update: its number in the run, from 0.
        flags: (2,) on the host: why it is skipped, by all processes (0: it is not, ``_LOST``, ``_BAD``), and 1.0
            where a loss of this process was not finite.
        copied: when the flags are there; None: they are.
        batches: number in the run and ids of the examples of each of its batches in this process.
    """

    update: int
    flags: Tensor
    copied: torch.cuda.Event | None
    batches: list[tuple[int, list[str]]]


class SkipNonFinite(Callback):
    """Skips an update whose loss or gradient is not finite, in all processes, and stops after too many in a row.

    A skipped update changes neither weights nor the optimizer's state nor the statistics of batch norms. It counts as
    an update for the schedule, for ``trainer.max_steps``, so that a run always ends, and for the average of the
    weights (``ema_decay``). With gradient accumulation the whole update is skipped: the sum of its gradients is
    spoiled.

    The run's folder gets ``skipped_updates_rank<N>.jsonl``: for each skipped update a line with its number, its
    batches with the ids of their examples, and whether the losses of this process were finite (if so, it was the
    gradient, or another process). Where the disk is full, a warning says that they are not listed.
    ``skipped_updates`` is logged, counted over the whole run.

    Updates with a batch whose examples are all bad (``stand_in``: see :mod:`nemo_speechlm.data.bad_examples`) are
    skipped, too. They do not count as updates in a row; ``max_bad`` limits them.

    No step waits for the device: the flag stays there, fused optimizers of PyTorch heed it there (``found_inf``), and
    what it was is looked at one update later, when it has long been copied to the host. Other optimizers have no such
    flag, so the host must know whether to call them, and waits. On CPUs nothing has to be waited for.

    NeMo's own ``skip_nan_grad`` looks at gradients of its recognition models alone, waits for the device at every
    parameter, and neither counts nor stops.

    In 16-mixed, gradients that overflow are a part of searching the loss scale, and PyTorch's GradScaler skips them;
    they count here only when the scale has fallen below 1, where overflowing is no explanation any more.

    Args:
        most_in_a_row: so many skipped updates in a row end the training.
    """

    def __init__(self, most_in_a_row: int = DEFAULT_MAX_SKIPPED):
        self.most_in_a_row = most_in_a_row
        self.skipped = 0
        self.in_a_row = 0
        self._path = Path()
        self._rank = 0
        self._counted: Tensor | None = None
        self._loss_is_bad: Tensor | None = None
        self._lost = False
        self._told_of_list = False
        self._batches: list[tuple[int, list[str]]] = []
        self._pending: _Verdict | None = None
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, int]:
        """What goes into checkpoints. How many were skipped in a row does not: a resumed run may be a mended one."""
        self._settle()
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on counting."""
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the statistics of batch norms, which a forward pass changes before anybody sees its loss."""
        self._rank = trainer.global_rank
        self._path = Path(trainer.default_root_dir) / f"skipped_updates_rank{self._rank}.jsonl"
        self._counted = torch.tensor(float(self.skipped), device=pl_module.device)
        norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
        self._statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which examples the update is made of."""
        self._stop_where_hopeless()
        self._batches.append((trainer.fit_loop.total_batch_idx, batch_ids(batch)))
        self._lost = self._lost or getattr(batch, "stand_in", False)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at a loss."""
        bad = ~loss.detach().isfinite().all()
        self._loss_is_bad = bad if self._loss_is_bad is None else self._loss_is_bad | bad

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decide whether the optimizer may change anything."""
        self._settle()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        own = self._loss_is_bad if self._loss_is_bad is not None else torch.tensor(False, device=pl_module.device)
        bad = own
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if parameters and (scaler is None or scaler.get_scale() < 1):
            bad = bad | ~gradient_norm(parameters).isfinite()
        why = bad.float() * _BAD
        why = _in_any_process(why.clamp(min=_LOST) if self._lost else why)
        skip = why.ceil()
        self._restore_statistics(skip)
        assert self._counted is not None
        self._counted += skip
        pl_module.log("skipped_updates", self._counted.clone())
        fused = getattr(optimizer, "_step_supports_amp_scaling", False) and not any_sharded(parameters)
        if scaler is None and fused:
            optimizer.found_inf = skip  # type: ignore[attr-defined]
        elif skip.item():
            for parameter in parameters:
                parameter.grad = None  # optimizers pass over parameters without a gradient
        self._pending = _Verdict(trainer.global_step, *_to_host(torch.stack([why, own.float()])), self._batches)
        self._batches, self._loss_is_bad, self._lost = [], None, False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of the last update before it is judged by."""
        self._settle()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training that ends in the midst of skipped updates has not ended well."""
        self._settle()
        self._stop_where_hopeless()

    def _restore_statistics(self, skip: Tensor) -> None:
        for buffer, kept in self._statistics:
            buffer.copy_(torch.where(skip > 0, kept, buffer))
            kept.copy_(buffer)

    def _settle(self) -> None:
        """Count the update before, and tell of it if it was skipped."""
        verdict, self._pending = self._pending, None
        if verdict is None:
            return
        if verdict.copied is not None:
            verdict.copied.synchronize()
        why, own = verdict.flags.tolist()
        if not why:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += why == _BAD
        batches = [{"batch": number, "ids": ids} for number, ids in verdict.batches]
        self._list({"update": verdict.update, "loss_is_finite": not own, "lost": why == _LOST, "batches": batches})
        if self._rank == 0:
            reason = "its loss or gradient is not finite" if why == _BAD else "all examples of a batch are bad"
            logging.warning(
                f"update {verdict.update} is skipped, {reason} ({self.in_a_row} in a row, {self.skipped} in all); the "
                f"ids of its batches are in {self._path}"
            )

    def _list(self, record: dict[str, Any]) -> None:
        """Append a skipped update to the list; a training does not end because it cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._told_of_list:
                logging.warning(f"{self._path}: {error.strerror or error}; skipped updates are not listed")
            self._told_of_list = True

    def _stop_where_hopeless(self) -> None:
        if self.in_a_row >= self.most_in_a_row:
            raise SpeechLMError(
                f"{self.in_a_row} updates in a row had a loss or gradient that is not finite (max_skipped_updates="
                f"{self.most_in_a_row}). The ids of their batches are in {self._path}. If the audio is sound, lower "
                "model.optim.lr or set trainer.gradient_clip_val, and run the command again to go on from the last "
                "checkpoint"
            )


def batch_ids(batch: Any) -> list[str]:
    """The ids of a batch's examples, part by part; empty where it does not know them."""
    parts = (batch, *batch) if isinstance(batch, tuple) else (batch,)
    return [example for part in parts for example in getattr(part, "ids", ())]


def _in_any_process(flag: Tensor) -> Tensor:
    """The largest value of a flag () among all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return flag


def _to_host(flags: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Begin to copy flags to the host; returns the copy, and the event that tells when it is complete."""
    if not flags.is_cuda:
        return flags.cpu(), None
    host = torch.empty(flags.shape, pin_memory=True)
    host.copy_(flags, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


# --- figures to monitor ----------------------------------------------------------------------------------------------


class MonitorCheck(Callback):
    """Refuses, at the start of a training, to pick checkpoints, or to stop, by a figure that nothing will log.

    What is logged is what ``validation_metrics()`` of the model returns: names, with ``"min"`` or ``"max"`` for which
    end is the better one; and ``training_metrics()``: names of what its steps log. Models without
    ``validation_metrics()`` are not checked.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check all callbacks with a ``monitor``.

        Raises:
            SpeechLMError: naming the figures there are.
        """
        metrics = getattr(pl_module, "validation_metrics", None)
        if metrics is None or not trainer.limit_val_batches:
            return
        training = (*getattr(pl_module, "training_metrics", tuple)(), "skipped_updates")
        if getattr(pl_module, "_validation_dl", None) is None:
            logging.warning(
                "There is no validation data, so there will be no best checkpoint; the last weights are saved"
            )
            for callback in trainer.callbacks:
                if isinstance(callback, EarlyStopping) and callback.monitor not in training:
                    raise SpeechLMError(
                        f"EarlyStopping: without validation data {callback.monitor} is never logged, so training "
                        "would not be stopped early; give model.validation_ds.manifest_filepath, or set "
                        "exp_manager.create_early_stopping_callback=false"
                    )
            return
        sets = getattr(pl_module, "_validation_names", None) or []
        if twice := sorted({name for name in sets if sets.count(name) > 1}):
            raise SpeechLMError(
                f"model.validation_ds has several manifests called {twice[0].rstrip('_')}, whose figures would have "
                "one name; rename them"
            )
        known = _of_all_sets(metrics(), sets)
        for callback in trainer.callbacks:
            if hasattr(callback, "monitor"):
                _check_monitor(callback, known, training)


def _of_all_sets(metrics: Mapping[str, str], sets: list[str]) -> dict[str, str]:
    """Metrics by the names that they are logged under; NeMo puts the names of several validation sets before them."""
    several = sets if len(sets) > 1 else []
    prefixed = {f"{name}{metric}": end for name in several for metric, end in metrics.items()}
    return {**metrics, **prefixed}


def _check_monitor(callback: Any, known: Mapping[str, str], training: Sequence[str]) -> None:
    """Check a callback's ``monitor`` and ``mode`` against what validation, with its better ends, and training log."""
    owner, monitor, mode = type(callback).__name__, callback.monitor, getattr(callback, "mode", None)
    keeps = isinstance(callback, ModelCheckpoint)
    if keeps and monitor in (None, *COUNTS):  # null: the last checkpoint is kept
        return
    key = f"exp_manager.{'early_stopping' if isinstance(callback, EarlyStopping) else 'checkpoint'}_callback_params"
    if monitor not in known and monitor not in training:
        choice = ", ".join(f"{name} ({end})" for name, end in known.items()) or "none"
        raise SpeechLMError(
            f"{owner}: monitor is {monitor!r}, which this run does not log. Its validation logs: {choice}; its "
            f"training: {', '.join(training)}. Set {key}.monitor, and its mode as in brackets"
        )
    if mode is not None and mode != known.get(monitor, mode):
        raise SpeechLMError(
            f"{owner}: mode is {mode!r}, but the best {monitor} is the {_BEST[known[monitor]]} one; set "
            f"{key}.mode={known[monitor]}"
        )


def explain_monitor(error: Exception) -> SpeechLMError | None:
    """The error of a callback or a schedule that misses the figure it goes by, in our words; None if it is another."""
    told = re.search(r"monitor(?:ed)? key|conditioned on metric", str(error))
    return SpeechLMError(f"a figure to monitor is not logged: {first_line(error)}") if told else None
