"""What every model that learns from streams of data shares: loaders, the place in the data, throughput."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.pretraining.batch import PretrainBatch
from nemo_speechlm.data.pretraining.loader import (
    PretrainLoader,
    build_pretrain_dataloader,
    build_validation_dataloaders,
)
from nemo_speechlm.data.pretraining.streams import Stream
from nemo_speechlm.models.common.acceleration import Accelerated
from nemo_speechlm.models.common.monitoring import Throughput
from nemo_speechlm.models.common.run_folder import run_folder
from nemo_speechlm.models.common.trained_model import TrainedModel


class PretrainingModel(Accelerated, TrainedModel):
    """Base of models that are trained on a :class:`PretrainBatch` a step.

    A subclass names its :meth:`streams` and computes ``training_step`` and ``validation_step``.

    Args:
        cfg: with ``sample_rate``, and ``train_ds`` and ``validation_ds`` as
            :mod:`nemo_speechlm.data.pretraining.loader` has them.
        trainer: Lightning trainer, for training.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg=cfg, trainer=trainer)
        self.throughput = Throughput()

    @abstractmethod
    def streams(self) -> list[Stream]:
        """The streams that the model can learn from, in the order of their validation loaders."""

    def unused_parameters(self) -> list[str]:
        """Why a step may leave parameters without a gradient; empty where none does."""
        data = self._cfg.get("train_ds") or {}
        return [f"no {stream.name} in model.train_ds" for stream in self.streams() if not data.get(stream.name)]

    # --- data ----------------------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the loader of ``cfg.train_ds``: a batch of each stream in it a step."""
        self._train_dl = build_pretrain_dataloader(**self._loader_arguments(train_data_config))

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build the loaders of ``cfg.validation_ds``, one for each stream in it; each is passed once."""
        self._validation_dl = build_validation_dataloaders(**self._loader_arguments(val_data_config))

    def _loader_arguments(self, config: DictConfig | dict) -> dict[str, Any]:
        own = DictConfig(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
        own.pop("defer_setup", None)
        ranks = {"global_rank": self.global_rank, "world_size": self.world_size}
        return {"config": own, "streams": self.streams(), "folder": run_folder(self), **ranks}

    @cached_property
    def _on_host(self) -> dict[str, tuple[str, ...]]:
        """Fields that stay on the host, by stream. Asked once: streams are not made anew for every batch."""
        return {stream.name: stream.on_host for stream in self.streams() if stream.on_host}

    # --- batches -------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: PretrainBatch, dataloader_idx: int) -> PretrainBatch:
        """Count the audio while its lengths are still on the host: later that would wait for the device."""
        if self.training and isinstance(batch, PretrainBatch) and not batch.stand_in:
            lengths = [part.audio_lengths for part in (batch.speech, batch.pairs) if part is not None]
            self.throughput.add(float(sum(length.sum() for length in lengths)) / self._cfg.sample_rate)
        return batch

    def transfer_batch_to_device(
        self, batch: PretrainBatch, device: torch.device, dataloader_idx: int
    ) -> PretrainBatch:
        """Leave on the host what a stream wants there: bringing it back would wait for the device."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if not isinstance(moved, PretrainBatch):
            return moved
        for name, fields in self._on_host.items():
            part = getattr(batch, name)
            if part is not None:
                kept = {field: getattr(part, field) for field in fields}
                moved = moved._replace(**{name: getattr(moved, name)._replace(**kept)})
        return moved

    def configure_callbacks(self) -> list[Callback]:
        """Keep the loader's place in the data up to date.

        Lightning puts these callbacks behind the trainer's own. A place that is kept there already must stay before
        what saves checkpoints.
        """
        kept = any(isinstance(callback, PlaceInData) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [*([] if kept else [PlaceInData()]), *super().configure_callbacks()]

    # --- figures -------------------------------------------------------------------------------------------------

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log; those of systems add their own."""
        return _SPEED

    def log_speed(self) -> None:
        """Log the learning rate, and the audio that all processes pass per hour, if they have as much as this one."""
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({name: rate * self.trainer.world_size for name, rate in self.throughput.rates().items()})


_SPEED = ("lr", "audio_hours_per_hour", "grad_norm")


class PlaceInData(Callback):
    """Tells the loader of each update: its state in a checkpoint is the place behind the batches of the last one.

    Gradients that are not accumulated to the end are in no checkpoint, so a resumed run needs their batches again.

    Where bad examples are left out, it logs how many this process has met so far, as ``bad_examples``.

    A callback and not a method of the model, since Lightning saves checkpoints of a step before it calls the model's.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the loader wait for what it is told."""
        if isinstance(loader := getattr(pl_module, "_train_dl", None), PretrainLoader):
            loader.is_told = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mark the batch, where it ends an update."""
        loader = getattr(pl_module, "_train_dl", None)
        number = getattr(batch, "number", None)
        if isinstance(loader, PretrainLoader) and number is not None:
            if not trainer.fit_loop.epoch_loop._should_accumulate():
                loader.trained(number)
            if loader.count.rule.skips:
                pl_module.log("bad_examples", float(loader.count.bad))
