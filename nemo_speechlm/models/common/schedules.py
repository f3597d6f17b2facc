"""Learning-rate schedules that NeMo does not have, by name in its registry once this module is imported.

Polynomial decay after a linear warm-up (SpeechLM's pretraining) is NeMo's ``PolynomialDecayAnnealing`` with
``warmup_steps``; linear decay after a hold is its ``WarmupHoldAnnealLinear``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nemo.core.config.schedulers import SchedulerParams
from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS, register_scheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class TriStageParams(SchedulerParams):
    """What ``optim.sched`` takes for :class:`TriStage`."""

    max_steps: int = 0
    phase_ratio: tuple[float, float, float] = (0.1, 0.4, 0.5)
    init_lr_scale: float = 0.01
    final_lr_scale: float = 0.05


class TriStage(LRScheduler):
    """Linear warm-up, a plateau, exponential decay: how wav2vec 2.0 and SpeechLM fine-tune (arXiv 1904.08779).

    Args:
        optimizer: its ``lr`` is the plateau's.
        max_steps: of the three stages together; afterwards the rate stays at its last value.
        phase_ratio: shares of warm-up, plateau and decay; they sum to 1.
        init_lr_scale: the warm-up starts at this times ``lr``.
        final_lr_scale: the decay ends at this times ``lr``.
        last_epoch: step to go on from, -1 for the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_steps: int,
        phase_ratio: Sequence[float] = (0.1, 0.4, 0.5),
        init_lr_scale: float = 0.01,
        final_lr_scale: float = 0.05,
        last_epoch: int = -1,
    ):
        if len(phase_ratio) != 3 or min(phase_ratio) < 0 or not math.isclose(sum(phase_ratio), 1.0, abs_tol=1e-6):
            raise ValueError(f"TriStage: phase_ratio is {list(phase_ratio)}, expected three shares that sum to 1")
        if final_lr_scale <= 0 or init_lr_scale < 0:
            raise ValueError("TriStage: final_lr_scale must be positive and init_lr_scale not negative")
        self.warmup_steps = int(max_steps * phase_ratio[0])
        self.hold_steps = int(max_steps * phase_ratio[1])
        self.decay_steps = max(1, int(max_steps * phase_ratio[2]))
        self.init_lr_scale = init_lr_scale
        self.decay_rate = -math.log(final_lr_scale) / self.decay_steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group at the current step."""
        return [lr * self._scale(self.last_epoch) for lr in self.base_lrs]

    def _scale(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.init_lr_scale + (1 - self.init_lr_scale) * step / self.warmup_steps
        decayed = min(max(0, step - self.warmup_steps - self.hold_steps), self.decay_steps)
        return math.exp(-self.decay_rate * decayed)


if "TriStage" not in AVAILABLE_SCHEDULERS:
    register_scheduler("TriStage", TriStage, TriStageParams)
