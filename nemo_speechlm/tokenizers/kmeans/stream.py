"""K-means on a stream of frames: whatever their number, memory holds the centroids and two blocks of frames.

This is mini-batch k-means (D. Sculley, Web-scale k-means clustering, 2010) with k-means++ on the first block, several
times side by side. Scikit-learn, which draws the first centroids here, has it too, but cannot be checkpointed and
resumed.

Axis legend: N frames, D features, K centroids, R restarts.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.kmeans.centroids import nearest

STARVED = 0.01
"""A centroid with less than this share of the largest cluster's frames is moved, as in scikit-learn."""
_REVIVE_EVERY = 10
"""Frames per centroid between two searches for starved centroids."""


class StreamKMeans:
    """R sets of K centroids, each from its own random start, updated with the frames they are given.

    Args:
        clusters: K.
        restarts: R; compare them by :meth:`inertia`.
        first_frames: N of the first block, which the first centroids are drawn from.
        block_frames: N of the others.
        seed: of what is drawn.
    """

    def __init__(
        self, clusters: int, restarts: int = 1, first_frames: int = 50_000, block_frames: int = 10_000, seed: int = 0
    ):
        self.clusters, self.restarts, self.seed = clusters, restarts, seed
        self.first_frames, self.block_frames = max(first_frames, clusters), block_frames
        self.frames_seen = 0
        self.blocks_seen = 0
        self.recent_inertia = float("nan")
        self._since_revival = 0
        self._waiting: list[Tensor] = []
        self._centroids: Tensor | None = None  # (R, K, D)
        self._counts = torch.zeros(restarts, clusters, dtype=torch.float64)

    @property
    def centroids(self) -> Tensor:
        """(R, K, D).

        Raises:
            InputError: if there were fewer frames than centroids.
        """
        if self._centroids is None:
            raise InputError(f"{self._waiting_frames} frames are too few for {self.clusters} centroids")
        return self._centroids

    @property
    def _waiting_frames(self) -> int:
        return sum(map(len, self._waiting))

    def add(self, frames: Tensor, revive: bool = True) -> None:
        """Learn from frames (N, D) float32; they are kept until a block is full.

        Args:
            frames: in random order.
            revive: move starved centroids to random frames now and then. Stop doing so towards the end: moved
                centroids need frames to settle.
        """
        self._waiting.append(frames)
        while self._waiting_frames >= (size := self.first_frames if self._centroids is None else self.block_frames):
            waiting = torch.cat(self._waiting)
            self._waiting = [waiting[size:].clone()]
            self._learn(waiting[:size], revive)

    def finish(self) -> None:
        """Learn from what is left."""
        if self._waiting_frames >= (self.clusters if self._centroids is None else 1):
            waiting, self._waiting = torch.cat(self._waiting), []
            self._learn(waiting, revive=False)

    def inertia(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Of frames (N, D): summed squared distances (R,) and frames of each centroid (R, K)."""
        sums, counts = [], []
        for centroids in self.centroids:
            units, distances = nearest(frames, centroids)
            sums.append(distances.double().sum())
            counts.append(torch.bincount(units, minlength=self.clusters))
        return torch.stack(sums).cpu(), torch.stack(counts).cpu()

    def _learn(self, frames: Tensor, revive: bool) -> None:
        if self._centroids is None:
            self._begin(frames)
        rng = np.random.default_rng((self.seed, self.blocks_seen))
        self._since_revival += len(frames)
        revive = revive and self._since_revival >= _REVIVE_EVERY * self.clusters
        total = 0.0
        for centroids, counts in zip(self.centroids, self._counts, strict=True):
            units, distances = nearest(frames, centroids)
            total += float(distances.mean())
            found = torch.bincount(units, minlength=self.clusters)
            sums = torch.zeros_like(centroids).index_add_(0, units, frames)
            counts += found.cpu()
            # The mean of all frames that the centroid has had so far.
            step = (sums - found.unsqueeze(1) * centroids) / counts.clamp(min=1).to(sums).unsqueeze(1)
            centroids += step
            if revive:
                self._revive(centroids, counts, frames, rng)
        self._since_revival = 0 if revive else self._since_revival
        self.frames_seen += len(frames)
        self.blocks_seen += 1
        latest = total / self.restarts
        self.recent_inertia = latest if self.blocks_seen == 1 else 0.9 * self.recent_inertia + 0.1 * latest

    def _begin(self, frames: Tensor) -> None:
        from sklearn.cluster import kmeans_plusplus

        first = frames.cpu().numpy()
        drawn = [
            kmeans_plusplus(first, self.clusters, random_state=(self.seed * 1000 + restart) % 2**32)[0]
            for restart in range(self.restarts)
        ]
        self._centroids = torch.from_numpy(np.stack(drawn)).to(frames)

    def _revive(self, centroids: Tensor, counts: Tensor, frames: Tensor, rng: np.random.Generator) -> None:
        starved = torch.nonzero(counts < STARVED * counts.max()).squeeze(1)[: len(frames) // 2]
        if not len(starved):
            return
        kept = torch.ones(len(counts), dtype=torch.bool)
        kept[starved] = False
        chosen = torch.from_numpy(rng.choice(len(frames), size=len(starved), replace=False))
        centroids[starved.to(centroids.device)] = frames[chosen.to(frames.device)]
        counts[starved] = counts[kept].min()  # neither starved again at once, nor moved by every frame

    # --- saving and resuming -------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Tensors and numbers from which :meth:`restore` continues exactly."""
        tensors = {"counts": self._counts}
        if self._waiting_frames:
            tensors["waiting"] = torch.cat(self._waiting)
        if self._centroids is not None:
            tensors["centroids"] = self._centroids
        numbers = {
            "frames_seen": self.frames_seen,
            "blocks_seen": self.blocks_seen,
            "since_revival": self._since_revival,
            "recent_inertia": self.recent_inertia if self.blocks_seen else 0.0,
        }
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float], device: torch.device) -> None:
        """Continue from a :meth:`state`; the object must have been made with the same arguments."""
        self._counts = tensors["counts"]
        self._waiting = [tensors["waiting"].to(device)] if "waiting" in tensors else []
        self._centroids = tensors["centroids"].to(device) if "centroids" in tensors else None
        self.frames_seen, self.blocks_seen = int(numbers["frames_seen"]), int(numbers["blocks_seen"])
        self._since_revival = int(numbers["since_revival"])
        self.recent_inertia = float(numbers["recent_inertia"])
