"""Averages of weights over a training: exponential, along the way; or of the best checkpoints, at the end.

NeMo's ``EMA`` callback is not used. It reads its checkpoints in a way that PyTorch refuses since 2.6, so no run with
it can be resumed. Its average is in files of its own, beside the checkpoints that a run chooses from. And after a
thousand updates, a third of its average with a decay of 0.999 is the weights that the training began with.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from nemo_speechlm.checks import check_number
from nemo_speechlm.models.common.multitask.average import WeightAverage
from nemo_speechlm.modules.moving_average import follow

KEY = "averaged_weights"
"""Of the average in a checkpoint: parameters by name, and the number of updates."""


class ExponentialAverage(Callback):
    """Keeps an exponential average of the parameters, which is validated in their place, and can be written.

    After the n-th update, the average moves towards the parameters by 1 - min(decay, (n + 1) / (n + 10)): while there
    are few updates, the average is over few of them. Buffers are not averaged. Each checkpoint has the parameters and
    the average, so a resumed run goes on with both.

    Args:
        decay: share of the old average, from 0 (the parameters themselves) to 1.

    Attributes:
        updates: that the average has seen.

    Raises:
        SpeechLMError: if ``decay`` is none.
    """

    def __init__(self, decay: float):
        check_number("ema_decay", decay, 0, 1)
        self.decay = decay
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._step = 0
        self._trained: dict[str, Tensor] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the average of the checkpoint, where it has one."""
        if KEY in checkpoint:
            self._average, self.updates = checkpoint[KEY]["weights"], checkpoint[KEY]["updates"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average beside the parameters."""
        if self._average:
            checkpoint[KEY] = {"weights": self._average, "updates": self.updates}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the parameters as they are, unless the run goes on."""
        own = dict(_averaged(pl_module))
        kept = self._average if self._average.keys() >= own.keys() else own
        self._average = {
            name: kept[name].detach().to(value.device, torch.promote_types(value.dtype, torch.float32), copy=True)
            for name, value in own.items()
        }
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Move the average, where the batch was the last of an update."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self.updates += 1
        follow(list(self._average.values()), [value for _, value in _averaged(pl_module)], self.decay, self.updates)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the validation see the average."""
        if self._average and not self._trained:
            self._trained = {name: value.detach().clone() for name, value in _averaged(pl_module)}
            _replace(pl_module, self._average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training the parameters."""
        if self._trained:
            _replace(pl_module, self._trained)
            self._trained = {}

    def put_into(self, model: nn.Module) -> None:
        """Replace a model's parameters by the average, for good."""
        _replace(model, self._average)


@torch.no_grad()
def _replace(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in _averaged(model):
        parameter.copy_(values[name])


def _averaged(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters but for those that are an average already: MAESTRO's own."""
    within = [f"{name}." for name, module in model.named_modules() if isinstance(module, WeightAverage)]
    return ((name, value) for name, value in model.named_parameters() if not name.startswith(tuple(within)))


def average_of(trainer: Trainer) -> ExponentialAverage | None:
    """The average that a trainer keeps, None where it keeps none."""
    found = (callback for callback in trainer.callbacks if isinstance(callback, ExponentialAverage))  # type: ignore[attr-defined]
    return next(found, None)


def judged_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint of a run's own that its validation has seen: with the average, where it has one.

    The average names a tied matrix once, as ``named_parameters`` does; here it stands under each of its names.
    """
    content = torch.load(path, map_location="cpu", weights_only=False)  # it holds configs beside tensors
    weights, average = content["state_dict"], content.get(KEY, {}).get("weights", {})
    averaged = {_place(weights[name]): value for name, value in average.items()}
    return {name: averaged.get(_place(value), value) for name, value in weights.items()}


def _place(value: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies and how: equal for two names of one tensor; a part of a tensor has another shape."""
    return value.data_ptr(), value.shape, value.stride()


def mean_of_checkpoints(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """The mean of the weights of checkpoints; what is not a floating-point number is that of the first.

    Args:
        paths: at least one; of the same model.
    """
    first = judged_weights(paths[0])
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for path in paths[1:]:
        weights = judged_weights(path)
        for name, total in sums.items():
            total += weights[name].double()
    return {**first, **{name: (total / len(paths)).to(first[name].dtype) for name, total in sums.items()}}
