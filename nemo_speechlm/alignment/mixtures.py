"""Mixtures of Gaussians with diagonal covariances, one for each HMM state: scoring, estimation, growth.

Axes: F frames, P states, M components (as many as the largest mixture has), D features.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_speechlm.alignment.graph import IMPOSSIBLE

_CHUNK = 2048
"""Frames that are scored together: their scores for all components should stay in a core's cache."""
_SPREAD = 0.2
"""Standard deviations by which the halves of a component are moved apart."""
_LEAST_COUNT = 10.0
"""Frames that a component must stand for."""
_POWER = 0.25
"""Of a state's frames, to which its share of all components is proportional (Kaldi's choice)."""
VARIANCE_FLOOR = 0.02
"""Of a component, in shares of the variance of all frames."""


@dataclass
class Mixtures:
    """One mixture per state.

    Args:
        log_weights: (P, M); IMPOSSIBLE where a mixture has no such component.
        means: (P, M, D).
        variances: (P, M, D).
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def flat(cls, states: int, mean: Tensor, variance: Tensor) -> "Mixtures":
        """All states alike, of one component with mean and variance (D,)."""
        return cls(
            torch.zeros(states, 1, device=mean.device),
            mean.float().expand(states, 1, -1).clone(),
            variance.float().expand(states, 1, -1).clone(),
        )

    @property
    def num_components(self) -> int:
        """Of all states together."""
        return int(self._present.sum())

    @property
    def _present(self) -> Tensor:
        return self.log_weights > IMPOSSIBLE / 2

    def to(self, device: torch.device | str) -> "Mixtures":
        """The same on another device."""
        return Mixtures(self.log_weights.to(device), self.means.to(device), self.variances.to(device))

    def score(self, features: Tensor) -> Tensor:
        """Log-likelihoods (F, P) of normalized features (F, D) in every state."""
        states, components, _ = self.means.shape
        matrix, constant = self._linear_form()
        scores = features.new_empty(len(features), states)
        for begin in range(0, len(features), _CHUNK):
            x = features[begin : begin + _CHUNK]
            each = torch.addmm(constant, torch.cat([x, x.square()], dim=1), matrix.T).view(len(x), states, components)
            scores[begin : begin + _CHUNK] = each[..., 0] if components == 1 else each.logsumexp(2)
        return scores

    def score_state(self, state: int, features: Tensor) -> Tensor:
        """Joint log-likelihoods (F, M) of features (F, D) with each component of one state."""
        matrix, constant = self._linear_form(state)
        return torch.addmm(constant, torch.cat([features, features.square()], dim=1), matrix.T)

    def _linear_form(self, state: int | None = None) -> tuple[Tensor, Tensor]:
        """Log-likelihoods as a matrix (P M, 2 D) times features and their squares, plus constants (P M,)."""
        chosen = slice(None) if state is None else slice(state, state + 1)
        means, variances = self.means[chosen].flatten(0, 1), self.variances[chosen].flatten(0, 1)
        precision = variances.reciprocal()
        constant = -0.5 * (math.log(2 * math.pi) + variances.log() + means.square() * precision).sum(1)
        matrix = torch.cat([means * precision, -0.5 * precision], dim=1)
        return matrix, (constant + self.log_weights[chosen].flatten()).clamp(min=IMPOSSIBLE)

    def estimate(self, features: Tensor, states: Tensor, floor: Tensor) -> tuple["Mixtures", float]:
        """One step of EM within each state.

        Args:
            features: (F, D), normalized.
            states: (F,) the state of each frame.
            floor: (D,) least variance.

        Returns:
            New mixtures, and the mean log-likelihood per frame of the old ones. States without frames stay as they
            are. A component with too few frames is dropped, but never a state's last one.
        """
        device = self.means.device
        order = torch.argsort(states, stable=True)
        counts = torch.bincount(states, minlength=len(self.means)).tolist()
        new = Mixtures(self.log_weights.clone(), self.means.clone(), self.variances.clone())
        total, begin = 0.0, 0
        for state, count in enumerate(counts):
            rows = order[begin : begin + count]
            begin += count
            if count:
                total += self._estimate_state(state, features, rows, floor.to(device), new)
        return new, total / max(len(states), 1)

    def _estimate_state(self, state: int, features: Tensor, rows: Tensor, floor: Tensor, new: "Mixtures") -> float:
        device, (_, components, size) = self.means.device, self.means.shape
        occupancy = torch.zeros(components, dtype=torch.float64, device=device)
        first = torch.zeros(components, size, dtype=torch.float64, device=device)
        second = torch.zeros_like(first)
        total = 0.0
        for part in rows.split(1 << 16):
            x = features[part.to(features.device)].to(device)
            joint = self.score_state(state, x)
            evidence = joint.logsumexp(1, keepdim=True)
            shares = (joint - evidence).exp()
            total += float(evidence.double().sum())
            occupancy += shares.double().sum(0)
            first += (shares.T @ x).double()
            second += (shares.T @ x.square()).double()
        kept = occupancy >= min(_LEAST_COUNT, float(occupancy.max()))
        count = occupancy.clamp(min=1e-10)[:, None]
        mean = first / count
        variance = torch.maximum(second / count - mean.square(), floor.double())
        # A variance estimated from few frames is unreliable, so it is mixed with that of all frames.
        few = _LEAST_COUNT / (count + _LEAST_COUNT)
        variance = torch.where(count < 10 * _LEAST_COUNT, (1 - few) * variance + few, variance)
        new.means[state] = torch.where(kept[:, None], mean.float(), self.means[state])
        new.variances[state] = torch.where(kept[:, None], variance.float(), self.variances[state])
        weights = torch.where(kept, occupancy, 0.0)
        new.log_weights[state] = (weights / weights.sum()).log().float().clamp(min=IMPOSSIBLE)
        return total

    def grow(self, counts: Tensor, target: int) -> "Mixtures":
        """Split the largest components until there are about ``target`` of them.

        Args:
            counts: (P,) frames of each state; states share the target by their fourth root.
            target: components of all states together. A state has no more than its frames can feed.
        """
        share = counts.double().clamp(min=0).pow(_POWER)
        wanted = (share / share.sum().clamp(min=1e-10) * target).round()
        wanted = torch.minimum(wanted, (counts / (2 * _LEAST_COUNT)).floor()).clamp(min=1).long()
        present = self._present
        size = max(int(torch.maximum(wanted.to(present.device), present.sum(1)).max()), 1)
        states, _, width = self.means.shape
        weights = self.log_weights.new_full((states, size), IMPOSSIBLE)
        means, variances = self.means.new_zeros(states, size, width), self.means.new_ones(states, size, width)
        for state in range(states):
            mine = present[state].nonzero()[:, 0]
            n = len(mine)
            weights[state, :n] = self.log_weights[state, mine]
            means[state, :n], variances[state, :n] = self.means[state, mine], self.variances[state, mine]
            for new in range(n, int(wanted[state])):
                old = int(weights[state, :new].argmax())
                weights[state, old] -= math.log(2)
                weights[state, new] = weights[state, old]
                step = _SPREAD * variances[state, old].sqrt()
                means[state, new] = means[state, old] + step
                means[state, old] -= step
                variances[state, new] = variances[state, old]
        return Mixtures(weights, means, variances)
