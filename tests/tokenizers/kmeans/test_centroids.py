"""Centroids: assignment against the slow way, the stream against Lloyd's own results, files that are damaged."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.kmeans.centroids import FeatureSource, KMeans, load_kmeans, nearest, save_kmeans
from nemo_speechlm.tokenizers.kmeans.stream import StreamKMeans


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_nearest_is_what_all_distances_say(frames, centroids, size, seed):
    generator = torch.Generator().manual_seed(seed)
    x, c = (torch.randn(n, size, generator=generator) * 3 + 1 for n in (frames, centroids))
    units, distances = nearest(x, c)
    all_distances = (x.double().unsqueeze(1) - c.double()).square().sum(2)
    torch.testing.assert_close(distances.double(), all_distances.min(1).values, rtol=1e-4, atol=1e-3)
    chosen = all_distances.gather(1, units.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, all_distances.min(1).values, rtol=1e-4, atol=1e-3)


def blobs(frames, clusters=12, size=8, seed=0):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(clusters, size)) * 10
    return torch.from_numpy(middles[rng.integers(clusters, size=frames)] + rng.normal(size=(frames, size))).float()


def stream(frames, **options):
    kmeans = StreamKMeans(12, first_frames=300, block_frames=200, **options)
    for part in frames.split(170):
        kmeans.add(part)
    kmeans.finish()
    return kmeans


def test_finds_clusters_that_are_there():
    frames = blobs(6000)
    kmeans = stream(frames, restarts=4)
    sums, counts = kmeans.inertia(frames)
    best = int(sums.argmin())
    assert sums[best] / len(frames) < 1.05 * 8  # each blob has variance 1 in 8 directions
    assert (counts[best] > 300).all()
    assert kmeans.frames_seen == 6000
    assert counts.sum(1).tolist() == [6000] * 4


def test_a_centroid_is_the_mean_of_what_it_was_given():
    """With one centroid nothing is a matter of luck."""
    frames = blobs(1000)
    kmeans = StreamKMeans(1, first_frames=100, block_frames=70)
    for part in frames.split(33):
        kmeans.add(part)
    kmeans.finish()
    torch.testing.assert_close(kmeans.centroids[0, 0], frames.mean(0), rtol=1e-4, atol=1e-4)


def test_as_good_as_lloyd_on_all_frames_at_once():
    from sklearn.cluster import KMeans as Lloyd

    frames = torch.randn(8000, 6, generator=torch.Generator().manual_seed(1))  # no clusters: the hard case
    sums, _ = stream(frames).inertia(frames)
    lloyd = Lloyd(12, n_init=1, random_state=0).fit(frames.numpy())
    assert float(sums[0]) < 1.05 * lloyd.inertia_


def test_a_seed_may_be_a_date():
    frames = blobs(400)
    first, other = (stream(frames, seed=seed).centroids for seed in (20261129, 20261130))
    assert torch.equal(first, stream(frames, seed=20261129).centroids)
    assert not torch.equal(first, other)


def test_starved_centroids_move():
    frames = blobs(4000)
    kmeans = StreamKMeans(12, first_frames=300, block_frames=200)
    kmeans.add(frames[:300])
    kmeans._centroids[0, 3] = 1e4  # nothing is near it
    kmeans._counts[0, 3] = 0
    for part in frames[300:].split(200):
        kmeans.add(part)
    assert kmeans.inertia(frames)[1][0, 3] > 0


@pytest.mark.parametrize("cut", [100, 250, 300, 555, 1999])
def test_goes_on_as_if_nothing_had_been(cut):
    frames = blobs(2000)
    whole, before = stream(frames, restarts=2), StreamKMeans(12, 2, 300, 200)
    before.add(frames[:cut])
    tensors, numbers = before.state()
    after = StreamKMeans(12, 2, 300, 200)
    after.restore(tensors, json.loads(json.dumps(numbers)), torch.device("cpu"))
    after.add(frames[cut:])
    after.finish()
    assert torch.equal(after.centroids, whole.centroids)
    assert after.frames_seen == whole.frames_seen == 2000


def test_too_few_frames():
    kmeans = StreamKMeans(12)
    kmeans.add(blobs(11))
    kmeans.finish()
    with pytest.raises(InputError, match="11 frames are too few for 12 centroids"):
        _ = kmeans.centroids
    exactly = StreamKMeans(12)
    exactly.add(blobs(12))
    exactly.finish()
    assert exactly.centroids.shape == (1, 12, 8)


def made(**changes):
    values = {"centroids": torch.randn(4, 3), "source": FeatureSource("mfcc", 100, 3), "language": "cs"}
    return KMeans(**{**values, "statistics": {"a": 1}, **changes})


def test_file(tmp_path):
    kmeans = made()
    save_kmeans(tmp_path / "k.safetensors", kmeans)
    again = load_kmeans(tmp_path / "k.safetensors")
    assert torch.equal(again.centroids, kmeans.centroids)
    assert (again.source, again.language, again.statistics) == (kmeans.source, "cs", {"a": 1})
    assert again.inventory.kind == "hidden"
    assert again.inventory.symbols == ("0", "1", "2", "3")
    assert again.inventory.frame_rate == 100
    assert [p.name for p in tmp_path.iterdir()] == ["k.safetensors"]


def test_files_that_are_none(tmp_path):
    path = tmp_path / "k.safetensors"
    with pytest.raises(InputError, match=r"no such file; examples/train_kmeans\.py"):
        load_kmeans(path)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="not a file of centroids"):
        load_kmeans(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(InputError, match="not one of centroids"):
        load_kmeans(path)
    save_kmeans(path, made(centroids=torch.full((4, 3), float("nan"))))
    with pytest.raises(InputError, match="expected finite float32"):
        load_kmeans(path)
    save_kmeans(path, made(centroids=torch.ones(4, 2)))
    with pytest.raises(InputError, match=r"centroids are \(4, 2\)"):
        load_kmeans(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="damaged"):
        load_kmeans(path)
