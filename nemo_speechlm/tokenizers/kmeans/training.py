"""Train centroids: k-means on the stream of a teacher's features; an interrupted run can be resumed."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.data.audio.files import Channel, check_channel
from nemo_speechlm.data.audio.shuffled import Handful, ShuffledAudio
from nemo_speechlm.files import file_digest
from nemo_speechlm.tensor_file import TrainingProgress
from nemo_speechlm.tokenizers.kmeans.centroids import KMeans
from nemo_speechlm.tokenizers.kmeans.stream import StreamKMeans
from nemo_speechlm.tokenizers.kmeans.teacher import Teacher

_SETTLE = 0.9
"""After this share of the stream, starved centroids are no longer moved."""


@dataclass(frozen=True)
class KMeansTraining:
    """How centroids are trained; its fields are keys of ``conf/train_kmeans.yaml``.

    Args:
        manifests: speech.
        clusters: centroids.
        restarts: random starts that are trained side by side.
        share: of the frames, drawn at random.
        first_frames: frames that the first centroids are drawn from.
        block_frames: frames between two updates.
        passes: over the speech.
        max_hours: of speech, drawn at random; None takes all.
        score_utterances: drawn at random to choose among restarts and to report on.
        channel: of files with several.
        seed: of all that is drawn.
        skip_bad: leave out what cannot be read.
        num_workers: processes that read audio.
        save_seconds: seconds between two savings of the progress.
    """

    manifests: tuple[str, ...]
    clusters: int = 500
    restarts: int = 1
    share: float = 1.0
    first_frames: int = 50_000
    block_frames: int = 10_000
    passes: int = 1
    max_hours: float | None = None
    score_utterances: int = 500
    channel: Channel = "mix"
    seed: int = 0
    skip_bad: bool = False
    num_workers: int = 0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("clusters", "restarts", "first_frames", "block_frames", "passes", "score_utterances"):
            check_whole(name, getattr(self, name), 1)
        check_number("share", self.share, above=0, most=1)
        check_whole("seed", self.seed)
        check_number("save_seconds", self.save_seconds)
        check_channel(self.channel)
        if self.max_hours is not None:
            check_number("max_hours", self.max_hours, above=0)

    def run(
        self, teacher: Teacher, output: str | Path, language: str = "en", overwrite: bool = False
    ) -> tuple[KMeans, list[str]]:
        """Train.

        Args:
            teacher: makes the features.
            output: the file that will be made. What has been learned so far is kept in its
                :func:`~nemo_speechlm.tensor_file.progress_path`, which the caller removes when all is done.
            language: of the speech.
            overwrite: begin anew where an interrupted training had other settings.

        Returns:
            the centroids with statistics, and what was left out in the first pass.

        Raises:
            InputError: at what cannot be read, unless ``skip_bad``; if there are too few frames; or if an interrupted
                training had other settings, unless ``overwrite``.
        """
        stream = ShuffledAudio(
            self.manifests,
            teacher.source.sample_rate,
            self.seed,
            channel=self.channel,
            max_hours=self.max_hours,
            skip_bad=self.skip_bad,
        )
        kmeans = StreamKMeans(self.clusters, self.restarts, self.first_frames, self.block_frames, self.seed)
        progress = TrainingProgress(output, self._settings(teacher))
        done, errors = _resume(progress.load(overwrite), kmeans, teacher.device)
        turns = self.passes * len(stream)
        saved = time.monotonic()
        with tqdm(
            total=self.passes * stream.utterances,
            initial=done // len(stream) * stream.utterances + done % len(stream) * stream.size,
            desc="k-means",
            unit="utterance",
            smoothing=0.1,
        ) as bar:
            for turn, handful in enumerate(self._loader(stream, range(done, turns)), start=done):
                if handful.audio:
                    kmeans.add(self._drawn(teacher.features(handful.audio), turn), revive=turn < _SETTLE * turns)
                if turn < len(stream):
                    errors += [str(error) for error in handful.errors]
                bar.set_postfix(inertia=f"{kmeans.recent_inertia:.4g}", refresh=False)
                bar.update(len(handful.audio) + len(handful.errors))
                if time.monotonic() - saved > self.save_seconds:
                    _save(progress, kmeans, turn + 1, errors)
                    saved = time.monotonic()
        kmeans.finish()
        centroids = kmeans.centroids  # fails before anything is written if there were too few frames
        _save(progress, kmeans, turns, errors)
        statistics = {"frames": kmeans.frames_seen, "utterances": stream.utterances - len(errors)}
        best, scores = self._best(kmeans, teacher, stream)
        return KMeans(centroids[best].cpu(), teacher.source, language, statistics | scores), errors

    def _loader(self, stream: ShuffledAudio, turns: range) -> DataLoader:
        return DataLoader(
            stream,
            batch_size=None,
            sampler=[turn % len(stream) for turn in turns],
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # the default makes tensors of all arrays
            num_workers=self.num_workers,
            multiprocessing_context="spawn" if self.num_workers else None,
        )

    def _drawn(self, features: Sequence[Tensor], turn: int) -> Tensor:
        """The chosen share of a handful's frames, in random order."""
        frames = torch.cat(list(features))
        order = np.random.default_rng((self.seed, turn)).permutation(len(frames))
        return frames[torch.from_numpy(order[: max(1, round(self.share * len(order)))]).to(frames.device)]

    def _best(self, kmeans: StreamKMeans, teacher: Teacher, stream: ShuffledAudio) -> tuple[int, dict[str, Any]]:
        """The restart with the least inertia, and what it scores, on the first utterances of the stream."""
        handfuls = min(len(stream), -(-self.score_utterances // stream.size))
        inertia, counts, frames = torch.zeros(self.restarts), torch.zeros(self.restarts, self.clusters), 0
        for handful in tqdm(self._loader(stream, range(handfuls)), total=handfuls, desc="score", unit="batch"):
            for features in teacher.features(handful.audio):
                sums, found = kmeans.inertia(features)
                inertia, counts, frames = inertia + sums, counts + found, frames + len(features)
        best = int(inertia.argmin())
        shares = counts[best] / counts[best].sum()
        entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum()
        return best, {
            "scored_frames": frames,
            "inertia_per_frame": float(inertia[best] / frames),
            "inertia_of_restarts": [float(value / frames) for value in inertia],
            "used_clusters": int((counts[best] > 0).sum()),
            "perplexity": float(entropy.exp()),
        }

    def _settings(self, teacher: Teacher) -> dict[str, Any]:
        elsewhere = ("manifests", "num_workers", "save_seconds")
        own = {key: value for key, value in asdict(self).items() if key not in elsewhere}
        features = asdict(teacher.source)
        del features["model"]
        content = {"manifest": [file_digest(path) for path in self.manifests], "model": features.pop("digest")}
        return own | features | dict(teacher.how) | {"content": content}


def _as_it_is(handful: Handful) -> Handful:
    return handful


def _save(progress: TrainingProgress, kmeans: StreamKMeans, done: int, errors: list[str]) -> None:
    tensors, numbers = kmeans.state()
    progress.save({"numbers": numbers, "done": done, "errors": errors}, tensors)


def _resume(
    saved: tuple[dict[str, Any], dict[str, Tensor]] | None, kmeans: StreamKMeans, device: torch.device
) -> tuple[int, list[str]]:
    """Handfuls that are done, and what was left out."""
    if saved is None:
        return 0, []
    values, tensors = saved
    kmeans.restore(tensors, values["numbers"], device)
    return int(values["done"]), list(values["errors"])
