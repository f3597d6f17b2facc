"""What all models of our own share that are trained: loaders made late, figures of validation over all ranks."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from nemo.core.classes import ModelPT, PretrainedModelInfo
from omegaconf import DictConfig
from torch import Tensor

from nemo_speechlm.models.common.joint import ValidationMeans
from nemo_speechlm.nemo_targets import name_publicly


class TrainedModel(ModelPT):
    """Base of models whose loaders are made when a training begins, and whose validation is a mean over all ranks.

    A subclass has ``setup_training_data``, ``setup_validation_data``, ``training_step`` and ``validation_step``.

    Args:
        cfg: with ``train_ds`` and ``validation_ds`` where the model is trained; it is changed.
        trainer: Lightning trainer, for training.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        for name in ("train_ds", "validation_ds"):
            if cfg.get(name) is not None:
                cfg[name].defer_setup = True  # the loaders need what the constructor has yet to make
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)
        self.validation_means = ValidationMeans()

    def setup_multiple_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """As ``setup_validation_data``, which makes all the loaders there are."""
        self.setup_validation_data(val_data_config)

    def used_batches(self) -> int:
        """Batches that each process has been trained on: where the next epoch, or a resumed run, goes on."""
        if self._trainer is None:
            return 0
        steps, each = self._trainer.global_step, self._trainer.accumulate_grad_batches
        epoch = self._trainer.limit_train_batches
        if not isinstance(epoch, int):  # the data have no end, and neither has their epoch
            return steps * each
        epochs, steps = divmod(steps, -(-epoch // each))  # the last update of an epoch may have fewer batches
        return epochs * epoch + steps * each

    def configure_callbacks(self) -> list[Callback]:
        """Log the means of validations."""
        return [*super().configure_callbacks(), self.validation_means]

    def log_mean(self, name: str, value: Tensor, count: Tensor | int, summed: bool = True) -> None:
        """Log a figure of validation as its mean over all batches and ranks, when the validation ends.

        Args:
            name: of the figure.
            value: () its sum over the batch, or its mean where ``summed`` is False.
            count: what it was summed over; nothing is logged where it is 0 in all batches.
            summed: see ``value``.
        """
        self.validation_means.add(name, value if summed else value * count, count)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """:class:`ValidationMeans` logs what the steps gave to :meth:`log_mean`."""
        return {}

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """There are none to download; released checkpoints are converted."""
        return []
