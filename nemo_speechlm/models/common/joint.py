"""Figures of all processes together: losses divided by the counts of the joint batch, means of a validation.

With DistributedDataParallel each process computes a loss of its own batch, and their gradients are averaged. If each
divides its loss by its own count (of masked frames, say), the frames of a process that has few of them weigh more than
those of the others, and the gradient is not that of the joint batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class JointMean(NamedTuple):
    """A mean over the batches of all processes; all are () tensors.

    Attributes:
        loss: this process's part of it, to be differentiated: averaged over the processes, it is the mean.
        mean: the mean itself, the same in all processes, without a gradient; 0 where there is nothing in any of them.
        number: what it was taken over, in all of them.
    """

    loss: Tensor
    mean: Tensor
    number: Tensor


def joint_means(terms: Mapping[str, tuple[Tensor, Tensor | float]]) -> dict[str, JointMean]:
    """The means of some terms over the batches of all processes, by one all-reduce that no host waits for.

    The gradient is that of the joint batch, where each process divides by the count of all of them and multiplies by
    their number. With gradient accumulation this holds for each of the batches that make an update: the update is the
    plain mean over them, as it is in a single process.

    Args:
        terms: by name, a sum () and the number of things it was taken over. All processes must have the same names, in
            the same order.

    Returns:
        by name; 0 where there is nothing in any process.
    """
    sums = [total if total.is_floating_point() else total.float() for total, _ in terms.values()]
    counts = [_tensor(count, total.device) for total, count in terms.values()]
    world = _world_size()
    if world == 1:
        losses = [total / count.clamp(min=1) for total, count in zip(sums, counts, strict=True)]
        return {
            name: JointMean(loss, loss.detach(), count)
            for name, loss, count in zip(terms, losses, counts, strict=True)
        }
    both = torch.stack([torch.stack([s.detach().double() for s in sums]), torch.stack([c.double() for c in counts])])
    torch.distributed.all_reduce(both)
    joint_sums, joint_counts = both[0], both[1].clamp(min=1)
    means, divisors = joint_sums / joint_counts, joint_counts / world
    return {
        name: JointMean(total / divisor.to(total.dtype), mean.to(total.dtype), count)
        for name, total, divisor, mean, count in zip(terms, sums, divisors, means, both[1], strict=True)
    }


def joint_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    value = value.clone()
    if _world_size() > 1:
        torch.distributed.all_reduce(value)
    return value


def joint_average(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The weighted mean () in fp32 of the figures of the batches of all processes; NaN where all weigh nothing."""
    both = torch.stack([torch.stack(list(values)), torch.stack(list(weights)).to(values[0])])
    value, weight = both.to(_exact(both.device)).unbind(0)
    value = value.masked_fill(weight == 0, 0.0)
    total, weights_together = joint_sum(torch.stack([(value * weight).sum(), weight.sum()])).unbind(0)
    return (total / weights_together).float()


class ValidationMeans(Callback):
    """Means over all batches of a validation, and over all processes, from sums and counts in float64.

    A mean of the processes' means would weigh the examples of a process that has few of them more than others. Where
    it is one of the trainer's callbacks, it logs its figures when the validation ends, in all processes: each of them
    picks the best checkpoint by them.

    Attributes:
        means: what was logged when the last validation ended; a model finds them in its ``on_validation_epoch_end``.
    """

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | float, count: Tensor | float) -> None:
        """Add a batch's sum of a figure and what it was summed over."""
        device = value.device if isinstance(value, Tensor) else count.device if isinstance(count, Tensor) else None
        both = torch.stack([_tensor(number, device).detach().to(_exact(device)) for number in (value, count)])
        self._sums[name] = self._sums[name] + both if name in self._sums else both

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """The means () in fp32 of what was added in all processes, without those of nothing; then begin anew."""
        names = sorted(_of_all_processes(self._sums))
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=_exact(device), device=device)
        sums, counts = joint_sum(torch.stack([self._sums.get(name, nothing).to(device) for name in names])).unbind(1)
        self._sums = {}
        there = counts.tolist()
        return {
            name: (total / count).float()
            for name, total, count, number in zip(names, sums, counts, there, strict=True)
            if number
        }

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget a validation that was broken off."""
        self._sums = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        self.means = self.take(pl_module.device)
        pl_module.log_dict(self.means, sync_dist=True)


def _world_size() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _of_all_processes(names: Iterable[str]) -> set[str]:
    """The names that any process has."""
    gathered: list[list[str]] = [[]] * _world_size()
    if len(gathered) == 1:
        return set(names)
    torch.distributed.all_gather_object(gathered, list(names))
    return {name for own in gathered for name in own}


def _tensor(number: Tensor | float, device: Any) -> Tensor:
    if isinstance(number, Tensor):
        return number if device is None else number.to(device, non_blocking=True)
    return torch.full((), number, device=device)  # filled on the device: to copy it there would wait


def _exact(device: Any) -> torch.dtype:
    return torch.float32 if getattr(device, "type", None) == "mps" else torch.float64
