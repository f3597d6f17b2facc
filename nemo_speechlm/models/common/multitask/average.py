"""An exponential average of weights that takes part in training: what it predicts are targets, or choices.

NeMo's ``EMA`` callback keeps an average beside the optimizer, and swaps it in as a whole for validation. Here it
has to compute beside the model within a step.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nemo_speechlm.checks import check_number
from nemo_speechlm.modules.full_width import FullWidth, is_half
from nemo_speechlm.modules.moving_average import follow


class WeightAverage(FullWidth):
    """Averaged copies of some parts of a model, always in evaluation mode and without gradients.

    They stay in fp32 where the model is in bf16 (``trainer.precision=bf16-true``), which would round the steps of an
    average away. Compute with them under :func:`in_precision_of`.

    After the n-th update, the average moves towards the weights by 1 - min(decay, (n + 1) / (n + 10)): while there are
    few updates, the average is over few of them.

    Args:
        parts: of the model, by name.
        decay: share of the old average, from 0 (the weights themselves) to 1.

    Raises:
        SpeechLMError: if ``decay`` is none.
    """

    updates: Tensor

    def __init__(self, parts: Mapping[str, nn.Module], decay: float):
        super().__init__()
        check_number("model.average.decay", decay, 0, 1)
        self.decay = decay
        self.parts = nn.ModuleDict({name: deepcopy(part).requires_grad_(False) for name, part in parts.items()})
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._number: int | None = 0  # the same on the host: to ask the device would wait for it
        self.train(False)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._number = None

    def __getitem__(self, name: str) -> Any:
        """The average of a part."""
        return self.parts[name]

    def train(self, mode: bool = True) -> "WeightAverage":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, parts: Mapping[str, nn.Module]) -> None:
        """Move the average towards the weights of the parts, and take over their buffers."""
        self._number = (int(self.updates) if self._number is None else self._number) + 1
        self.updates += 1
        for name, average in self.parts.items():
            follow(list(average.parameters()), parts[name].parameters(), self.decay, self._number)
            for buffer, source in zip(average.buffers(), parts[name].buffers(), strict=True):
                buffer.copy_(source)


def in_precision_of(module: nn.Module) -> AbstractContextManager[Any]:
    """A context in which weights in fp32 compute as those of a module do, which may be in bf16."""
    weight = next(module.parameters())
    return torch.autocast(weight.device.type, weight.dtype) if is_half(weight) else nullcontext()
