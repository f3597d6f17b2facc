"""Hidden units for speech: a teacher's features, and the nearest centroid of each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import file_digest
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.tokenizers.kmeans.centroids import KMeans, load_kmeans
from nemo_speechlm.tokenizers.kmeans.teacher import Teacher, make_teacher
from nemo_speechlm.tokenizers.speech import SpeechBatchTokenizer, SpeechInput, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence


@dataclass(frozen=True)
class KMeansTokenizing(SpeechTokenizing):
    """How speech becomes hidden units.

    Args:
        kmeans: file of centroids (``train_kmeans.py``).
        model: the teacher's file, or ``user/name`` of the hub, the same file as in training; None: where it was then.
        utterances: given to a worker at once, so that batches hold utterances of similar length. Units near the border
            between two centroids may depend on the batch by rounding; the batches do not depend on the workers.
        batch_seconds: of audio in a batch of the teacher, padding included.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.
        precision: of the teacher: ``float32``, or under autocast ``bfloat16`` or ``float16``.
    """

    kmeans: str
    model: str | None = None
    utterances: int = 32
    batch_seconds: float = 120.0
    device: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_whole("utterances", self.utterances, 1)
        check_number("batch_seconds", self.batch_seconds)

    def inventory(self) -> UnitInventory:
        """Of the centroids."""
        return load_kmeans(self.kmeans).inventory

    def make(self) -> "KMeansTokenizer":
        """The tokenizer."""
        return KMeansTokenizer(self)

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Also raise unless the teacher is that of the centroids."""
        super().check(inventory, path)
        kmeans = load_kmeans(self.kmeans)
        if (model := self._model(kmeans)) is not None and file_digest(model) != kmeans.source.digest:
            raise InputError(f"is not the file that {self.kmeans} was made with ({kmeans.source.model})", model)

    @property
    def libraries(self) -> Sequence[str]:
        """What the teacher is computed by."""
        return (*super().libraries, "torch", "nemo_toolkit")

    def files(self) -> Sequence[str]:
        """The centroids; their file names the teacher."""
        return [self.kmeans]

    @property
    def batch_size(self) -> int:
        """Utterances."""
        return self.utterances

    @property
    def max_workers(self) -> int | None:
        """One on a GPU; on CPUs one per core, of one thread each: results do not depend on the number of workers."""
        on_gpu = torch.cuda.is_available() if self.device == "auto" else self.device != "cpu"
        return 1 if on_gpu else None

    def teacher(self, kmeans: KMeans) -> Teacher:
        """What makes the features of the centroids.

        Raises:
            InputError: if the model is not there.
        """
        source = kmeans.source
        model = self._model(kmeans)
        return make_teacher(model, source.layer, source.normalize, self.batch_seconds, self.device, self.precision)

    def _model(self, kmeans: KMeans) -> str | None:
        if kmeans.source.kind == "mfcc":
            if self.model is not None:
                raise InputError("was made of MFCC, which need no model", self.kmeans)
            return None
        model = kmeans.source.model if self.model is None else str(model_file(self.model))
        if model is None or not Path(model).is_file():
            raise InputError(f"the teacher {model} is not there; give it as model=...", self.kmeans)
        return model


class KMeansTokenizer(SpeechBatchTokenizer):
    """Assigns each frame of an utterance to its centroid.

    Args:
        tokenizing: how.
    """

    def __init__(self, tokenizing: KMeansTokenizing):
        self._kmeans = load_kmeans(tokenizing.kmeans)
        self.sample_rate = self._kmeans.source.sample_rate
        torch.set_num_threads(1)  # one process per core, and sums that do not depend on how many cores there are
        self._teacher = tokenizing.teacher(self._kmeans)

    def tokenize_batch(self, utterances: Sequence[SpeechInput]) -> list[SpeechUnits | InputError | SkipItem]:
        """The units of each utterance, run-length coded."""
        found: list[SpeechUnits | InputError | SkipItem] = []
        for frames in self._teacher.features([utterance.samples for utterance in utterances]):
            ids, durations = UnitSequence.from_frames(self._kmeans.assign(frames).cpu().numpy())
            found.append(SpeechUnits(list(map(str, ids)), durations))
        return found
