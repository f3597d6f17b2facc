"""Features that hidden units are made of: MFCC, or the states of a layer of any of our models.

Axis legend: B utterances, S samples, T frames, D features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.alignment.mfcc import FRAME_RATE, SAMPLE_RATE, Mfcc, SpeakerStatistics
from nemo_speechlm.checks import check_number
from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import file_digest
from nemo_speechlm.models.common.batching import depends_on_padding
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.precision import autocast
from nemo_speechlm.models.common.restore import restore_extractor
from nemo_speechlm.tokenizers.kmeans.centroids import FeatureSource


class Teacher(ABC):
    """Turns audio into frames of features.

    Attributes:
        source: which features it makes.
        device: where the features are.
        how: what else decides their last digits.
    """

    source: FeatureSource
    device: torch.device
    how: Mapping[str, Any]

    @abstractmethod
    def features(self, utterances: Sequence[np.ndarray]) -> list[Tensor]:
        """Features (T, D) float32 of each utterance (S,), in their order.

        T follows from the audio's own length; frames of silence that was added are cut off.
        """

    def _frames(self, samples: int, made: int) -> int:
        """Frames of an utterance, given that ``made`` frames were computed from its padded audio."""
        return max(1, min(made, round(samples / self.source.sample_rate * self.source.frame_rate)))


class MfccTeacher(Teacher):
    """13 cepstra with first and second differences, 100 frames a second: HuBERT's first iteration.

    Args:
        normalize: to mean 0 and variance 1 in each utterance.
    """

    def __init__(self, normalize: bool = False):
        self.mfcc = Mfcc()
        self.how = {}
        self.device = torch.device("cpu")
        self.source = FeatureSource("mfcc", FRAME_RATE, self.mfcc.size, SAMPLE_RATE, normalize)

    def features(self, utterances: Sequence[np.ndarray]) -> list[Tensor]:
        """See :class:`Teacher`."""
        found = []
        for samples in utterances:
            (filled,), _ = collate_audio([samples], SAMPLE_RATE)
            made = self.mfcc(filled)
            if self.source.normalize:
                statistics = SpeakerStatistics(self.mfcc.size)
                statistics.add(made)
                made = statistics.normalize(made)
            found.append(made[: self._frames(len(samples), len(made))])
        return found


class ModelTeacher(Teacher):
    """The states of a layer of a model that has ``extract_features``, in batches of similar length.

    Args:
        path: ``.nemo`` file, or ``user/name`` of the hub: a converted HuBERT, or a model of ours.
        layer: counted from 1, as papers do; -1 is the last.
        batch_seconds: of audio in a batch, padding included. Models whose features depend on the padding of their
            batch (``released_padding``) take utterances one by one.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.
        precision: ``bfloat16`` and ``float16`` run the model under autocast.

    Raises:
        InputError: if the file is not one of such a model, or the model has no such layer.
    """

    def __init__(
        self,
        path: str | Path,
        layer: int,
        batch_seconds: float = 120.0,
        device: str = "auto",
        precision: str = "float32",
    ):
        path = model_file(path)
        self.model = restore_extractor(path, device)
        encoder = self.model.encoder
        count = encoder.num_layers
        number = layer if not isinstance(layer, int) or layer > 0 else count + 1 + layer
        if not isinstance(number, int) or not 1 <= number <= count:
            raise InputError(f"layer is {layer!r}; the model has layers 1 to {count}", path)
        sample_rate = int(self.model.cfg.get("sample_rate", 16000))
        self.layer = number - 1
        self.source = FeatureSource(
            "model",
            encoder.frame_rate,
            encoder.d_model,
            sample_rate,
            layer=number,
            model=str(Path(path).absolute()),
            digest=file_digest(path),
        )
        self.device = self.model.device
        self._batch_samples = 1 if depends_on_padding(self.model) else max(1, round(batch_seconds * sample_rate))
        autocast(self.device.type, precision)  # a wrong name is an error now, not at the first batch
        self._precision = precision
        self.how = {"precision": precision, "batch_seconds": batch_seconds}

    @torch.inference_mode()
    def features(self, utterances: Sequence[np.ndarray]) -> list[Tensor]:
        """See :class:`Teacher`."""
        found: list[Tensor] = [torch.empty(0)] * len(utterances)
        for batch in batches_by_length([len(samples) for samples in utterances], self._batch_samples):
            audio, lengths = collate_audio([utterances[i] for i in batch], self.source.sample_rate)
            with autocast(self.device.type, self._precision):
                (states,), frames = self.model.extract_features(
                    audio.to(self.device), lengths.to(self.device), [self.layer]
                )
            for i, own, made in zip(batch, states.float(), frames.tolist(), strict=True):
                found[i] = own[: self._frames(len(utterances[i]), made)]
        return found


def make_teacher(
    model: str | Path | None,
    layer: int | None,
    normalize: bool = False,
    batch_seconds: float = 120.0,
    device: str = "auto",
    precision: str = "float32",
) -> Teacher:
    """A :class:`ModelTeacher` of a file, or where ``model`` is None an :class:`MfccTeacher`.

    Raises:
        InputError: if the model cannot be used, or an option has no sensible value.
    """
    check_number("batch_seconds", batch_seconds, above=0)
    if model is None and layer is not None:
        raise InputError(f"layer is {layer}, but there is no model; without one, units are made of MFCC")
    if model is None:
        return MfccTeacher(normalize)
    if normalize:
        raise InputError("normalize is of MFCC; the states of a model are taken as they are: leave it out", model)
    if layer is None:
        raise InputError("layer is not given; 9 of 12 is HuBERT Base's for SpeechLM's hidden units", model)
    return ModelTeacher(model, layer, batch_seconds, device, precision)
