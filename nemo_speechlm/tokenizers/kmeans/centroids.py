"""Hidden units: the nearest of K centroids for each frame of some features, and the file that holds them.

The file is safetensors, with all that is not a tensor as JSON in its header (key ``kmeans``).

Axis legend: N frames, D features, K centroids.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.kernels.packed import packed_product
from nemo_speechlm.tensor_file import TensorFile
from nemo_speechlm.units.inventory import UnitInventory

VERSION = 1
_FILE = TensorFile(
    "kmeans",
    VERSION,
    "examples/train_kmeans.py makes centroids",
    "a file of centroids",
    "centroids",
    "train them anew",
)
_CHUNK = 1024
"""How many frames are multiplied with the centroids at once; more would not fit the cache."""


@dataclass(frozen=True)
class FeatureSource:
    """Which features the centroids are centroids of.

    Args:
        kind: ``"mfcc"``, or ``"model"`` for the states of a layer.
        frame_rate: frames per second.
        size: D.
        sample_rate: of the audio, in Hz.
        normalize: of MFCC: mean 0 and variance 1 in each utterance.
        layer: counted from 1, of a model.
        model: where the model's file was.
        digest: SHA-256 of that file.
    """

    kind: Literal["mfcc", "model"]
    frame_rate: float
    size: int
    sample_rate: int = 16000
    normalize: bool = False
    layer: int | None = None
    model: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class KMeans:
    """Centroids with what they were made of.

    Args:
        centroids: (K, D) float32.
        source: of the features.
        language: of the speech, ISO 639-1.
        statistics: of training, in plain values.
    """

    centroids: Tensor
    source: FeatureSource
    language: str = "en"
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def inventory(self) -> UnitInventory:
        """Units ``0`` to ``K - 1``."""
        symbols = tuple(map(str, range(len(self.centroids))))
        values = self.centroids.detach().cpu().contiguous().numpy()
        digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16]
        return UnitInventory("hidden", self.language, self.source.frame_rate, symbols, made_by=digest)

    def assign(self, frames: Tensor) -> Tensor:
        """The unit (N,) of each frame (N, D)."""
        return nearest(frames, self.centroids.to(frames.device))[0]


def nearest(frames: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each frame.

    ``|x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)``, so it is a matrix product and a maximum.

    Args:
        frames: (N, D).
        centroids: (K, D), on the same device.

    Returns:
        (N,) int64, and (N,) the squared distances.
    """
    frames, rows = frames.detach(), min(len(frames), _CHUNK)
    product = packed_product(centroids, centroids.square().sum(1) / -2, rows)
    units = torch.empty(len(frames), dtype=torch.int64, device=frames.device)
    distances = torch.empty(len(frames), device=frames.device)
    for start in range(0, len(frames), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        scores, units[chunk] = product(frames[chunk]).max(1)
        torch.sub(torch.linalg.vecdot(frames[chunk], frames[chunk]), scores, alpha=2, out=distances[chunk])
    return units, distances.clamp_(min=0)


def save_kmeans(path: str | Path, kmeans: KMeans) -> None:
    """Write the file, under a temporary name until all is written."""
    header = {
        "features": asdict(kmeans.source),
        "inventory": kmeans.inventory.to_dict(),
        "statistics": kmeans.statistics,
    }
    _FILE.save(path, header, {"centroids": kmeans.centroids.float()})


def load_kmeans(path: str | Path) -> KMeans:
    """Read the file.

    Raises:
        InputError: if it is missing, damaged, or something else.
    """
    header, tensors = _FILE.load(path)
    try:
        source, centroids = FeatureSource(**header["features"]), tensors["centroids"]
        kmeans = KMeans(centroids, source, header["inventory"]["language"], header["statistics"])
        whole = centroids.ndim == 2 and centroids.dtype == torch.float32 and bool(torch.isfinite(centroids).all())
        if not whole or centroids.shape[1] != source.size:
            raise InputError(
                f"damaged: centroids are {tuple(centroids.shape)} {centroids.dtype}, expected finite float32 of "
                f"(K, {source.size})",
                path,
            )
        if UnitInventory.from_dict(header["inventory"], path).to_dict() != kmeans.inventory.to_dict():
            raise InputError("damaged: its inventory is not that of its centroids", path)
        return kmeans
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"damaged: {type(error).__name__}: {error}", path) from error
