"""K-means for hidden units: memory and quality on a stream of frames, and assignment beside faiss's.

    python benchmarks/kmeans.py                     # 10 million frames of 768, 500 centroids
    python benchmarks/kmeans.py --frames 0          # assignment alone

Needs faiss (pip install -c constraints.txt -e '.[benchmarks]'). The frames are made as they are asked for: 2,000
clusters of unequal size and width in a random basis, so that no two dimensions are independent. Both libraries assign
the same frames to the same centroids in turns, with as many threads. Faiss's own k-means cannot follow a stream; it is
given the 256 frames per centroid that it takes by default, and both results are scored on frames that neither has
seen.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import faiss
import numpy as np
import torch
from common import alternate, measure_ceiling, report
from torch import Tensor
from tqdm import tqdm

from nemo_speechlm.tokenizers.kmeans.centroids import nearest
from nemo_speechlm.tokenizers.kmeans.stream import StreamKMeans

PACKAGES = ("torch", "faiss-cpu", "scikit-learn", "numpy")


class Frames:
    """A mixture to draw frames from.

    Args:
        size: D.
        clusters: of the mixture.
    """

    def __init__(self, size: int, clusters: int = 2000):
        generator = torch.Generator().manual_seed(0)
        self.middles = torch.randn(clusters, size, generator=generator)
        self.widths = 0.3 + torch.rand(clusters, 1, generator=generator)
        self.basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0] * torch.linspace(2, 0.2, size)
        self.shares = 1 / torch.arange(1, clusters + 1) ** 0.7
        self.middles = self.middles @ self.basis

    def draw(self, count: int, seed: int) -> Tensor:
        """Frames (count, D)."""
        generator = torch.Generator().manual_seed(seed)
        cluster = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.middles.shape[1], generator=generator) * self.widths[cluster]
        return torch.addmm(self.middles[cluster], noise, self.basis)

    def stream(self, count: int, block: int = 10_000) -> Iterator[Tensor]:
        """So many frames, block by block."""
        for number in range(count // block):
            yield self.draw(block, number + 1)


def peak_gib() -> float:
    """Memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(frames: Frames, count: int, clusters: int) -> None:
    kmeans = StreamKMeans(clusters)
    start, making = time.perf_counter(), 0.0
    before = time.perf_counter()
    for number, block in enumerate(tqdm(frames.stream(count), total=count // 10_000, unit="block")):
        making += time.perf_counter() - before
        kmeans.add(block, revive=number < 0.9 * count / 10_000)
        before = time.perf_counter()
    kmeans.finish()
    seconds, peak = time.perf_counter() - start - making, peak_gib()
    unseen = frames.draw(100_000, 0)
    sums, counts = kmeans.inertia(unseen)
    rows = [_row("stream", count, clusters, seconds, peak, float(sums[0]) / len(unseen), int((counts[0] > 0).sum()))]
    taken = torch.cat(list(frames.stream(256 * clusters // 10_000 * 10_000))).numpy()
    start = time.perf_counter()
    peer = faiss.Kmeans(taken.shape[1], clusters, niter=25, seed=0)
    peer.train(taken)
    seconds = time.perf_counter() - start
    units, distances = nearest(unseen, torch.from_numpy(peer.centroids))
    rows.append(
        _row(
            "faiss, 25 rounds", len(taken), clusters, seconds, peak_gib(), float(distances.mean()), len(units.unique())
        )
    )
    report("kmeans_training", rows, PACKAGES)


def _row(name: str, frames: int, clusters: int, seconds: float, peak: float, inertia: float, used: int) -> dict:
    return {
        "what": name,
        "frames": frames,
        "clusters": clusters,
        "seconds": seconds,
        "frames_per_second": frames / seconds,
        "peak_GiB": peak,
        "inertia_of_unseen_frames": inertia,
        "used": used,
    }


def assign(frames: Frames, count: int, clusters: int, rounds: int) -> None:
    given = frames.draw(count, 0)
    centroids = frames.draw(clusters, 1)
    index = faiss.IndexFlatL2(given.shape[1])
    index.add(centroids.numpy())
    array = given.numpy()
    timings = alternate(
        {"ours": lambda: nearest(given, centroids), "faiss": lambda: index.search(array, 1)}, rounds=rounds
    )
    theirs = index.search(array, 1)[1][:, 0]
    agree = float(np.mean(nearest(given, centroids)[0].numpy() == theirs))
    ceiling = measure_ceiling()
    operations = 2.0 * count * clusters * given.shape[1]
    rows = [
        {
            "what": name,
            "frames": count,
            "clusters": clusters,
            "size": given.shape[1],
            **timing.row(),
            "frames_per_second": count / timing.median,
            "of_matrix_product": operations / timing.median / ceiling.flops,
            "times_faiss": timings["faiss"].median / timing.median,
            "same_as_faiss": agree,
        }
        for name, timing in timings.items()
    ]
    report("kmeans_assignment", rows, PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000_000, help="of the stream; 0 leaves training out")
    parser.add_argument("--assigned", type=int, default=100_000, help="frames that are assigned")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    frames = Frames(arguments.size)
    if arguments.frames:  # first, so that the peak is its own
        train(frames, arguments.frames, arguments.clusters)
    assign(frames, arguments.assigned, arguments.clusters, arguments.rounds)


if __name__ == "__main__":
    main()
