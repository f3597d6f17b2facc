"""Predicting units from states."""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F


class UnitClassifier(NeuralModule):
    """Cosine classifier of masked unit prediction (SpeechLM section 3.3, equation 2; HuBERT equation 3).

    Args:
        d_model: width of the states.
        num_units: classes.
        final_dim: width of the space in which states and units are compared.
        temperature: the cosines are divided by it.
    """

    def __init__(self, d_model: int, num_units: int, final_dim: int = 256, temperature: float = 0.1):
        super().__init__()
        self.proj = nn.Linear(d_model, final_dim)
        self.unit_vectors = nn.Parameter(torch.empty(num_units, final_dim).uniform_())
        self.temperature = temperature

    def forward(self, states: Tensor) -> Tensor:
        """States (..., D) -> logits (..., num_units), fp32: bfloat16 would leave hundreds of cosines two digits."""
        projected = self.proj(states).float()
        with torch.autocast(states.device.type, enabled=False):
            units = F.normalize(self.unit_vectors.float(), dim=-1)
            return F.normalize(projected, dim=-1) @ units.t() / self.temperature
