"""How near the states of speech are to their own units, layer by layer (SpeechLM sections 3.3 and 5.3).

Before the shared transformer, a frame is compared with the unit embeddings. Behind each shared layer, it is compared
with what that layer makes of text: the mean state of each unit, over the utterances' units as if they had been text.
The nearest one is that of the largest cosine.

Axis legend: B utterances, T frames, L frames of the units, D width, N units that occur.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.utterances import AudioPart, audio_part
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.phones import NOT_SPOKEN, phones_of_units
from nemo_speechlm.evaluation.significance import ConfidenceInterval, confidence_interval
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.units.inventory import UnitInventory


class Spoken(NamedTuple):
    """An utterance with its units.

    Attributes:
        part: its audio.
        frames: (L,) unit of each frame, at the inventory's rate.
    """

    part: AudioPart
    frames: np.ndarray


@dataclass
class LayerScore:
    """How many frames are nearest to their own unit, and to one of their own phone.

    Attributes:
        name: of the layer.
        against: ``embedding`` or ``text``.
        units: of each utterance, frames and those that are nearest to another unit.
        phones: the same of phones.
    """

    name: str
    against: str
    units: list[ErrorCounts] = field(default_factory=list)
    phones: list[ErrorCounts] = field(default_factory=list)


def share(counts: Sequence[ErrorCounts], level: float, draws: int) -> tuple[float, ConfidenceInterval | None]:
    """The share of frames that are right, with its interval over utterances."""
    total = sum(counts, ErrorCounts())
    interval = confidence_interval(counts, None, level, draws) if draws else None
    flipped = None if interval is None else ConfidenceInterval(1 - interval.high, 1 - interval.low)
    return 1 - total.errors / max(total.length, 1), flipped


@dataclass
class Points:
    """States to be drawn, of length 1.

    Attributes:
        speech: (M, D) states of frames.
        units: (M,) their units.
        prototypes: (N, D) embeddings, or states of text.
        ids: (N,) units of these.
    """

    speech: np.ndarray
    units: np.ndarray
    prototypes: np.ndarray
    ids: np.ndarray


@dataclass
class Alignment:
    """What was found of a model.

    Attributes:
        title: of the model.
        inventory: its units.
        scores: of each layer.
        before: the speech transformer's output, and the embeddings.
        after: the shared transformer's outputs for speech and for text.
        most_frequent: the share that always saying the most frequent unit would have.
        swapping: probability of random swapping in pretraining.
    """

    title: str
    inventory: UnitInventory
    scores: list[LayerScore]
    before: Points
    after: Points
    most_frequent: float
    swapping: float


def read_spoken(manifest: str | Path | Sequence, inventory: UnitInventory, limit: int | None = None) -> list[Spoken]:
    """The first utterances of a manifest with units.

    Raises:
        InputError: naming the line whose units or audio do not fit.
    """
    found: list[Spoken] = []
    for path, number, record in read_manifests(manifest, ["audio_filepath", "units", "unit_durations"]):
        units = unit_sequence(record, inventory, path, number).expand()
        found.append(Spoken(audio_part(record, path, number), units))
        if len(found) == limit:
            break
    return found


def restore_with_units(path: str | Path, device: str = "auto") -> SpeechLMModel:
    """Restore a SpeechLM model that has embeddings of speech's units.

    Raises:
        InputError: if it is another model, or has none: it was trained without text and swapping, or text had units of
            its own.
    """
    model = restore_file(SpeechLMModel, path, device)
    if not isinstance(model, SpeechLMModel):
        raise InputError(f"is a {type(model).__name__}, expected a pretrained SpeechLMModel", path)
    if not model.uses_units_as_input:
        raise InputError("has no unit embedding: it was trained without text and without swapping", path)
    if model.text_inventory is not model.inventory:
        raise InputError("text has units of its own, so those of speech have no embedding", path)
    return model


@torch.inference_mode()
def align(
    model: SpeechLMModel, utterances: Sequence[Spoken], title: str, points: int = 60, seed: int = 0
) -> Alignment:
    """Score every layer of a model, and keep some states to be drawn.

    Args:
        model: in evaluation mode.
        utterances: with units of its inventory.
        title: of the model.
        points: states of each unit that are kept.
        seed: of which.
    """
    inventory, encoder = model.inventory, model.encoder
    ids, prototypes = _prototypes(model, utterances)
    phones = np.array(phones_of_units(inventory))
    silent = {i for i, s in enumerate(inventory.symbols) if phones[i] in NOT_SPOKEN or s == inventory.silence}
    n_speech = len(encoder.speech_transformer.layers)  # type: ignore[arg-type]
    scores = [
        LayerScore(
            f"speech {i + 1}" if i < n_speech else f"shared {i + 1 - n_speech}",
            "text" if i >= n_speech else "embedding",
        )
        for i in range(encoder.num_layers)
    ]
    kept = _Kept(points, np.random.default_rng(seed))
    counts = np.zeros(len(inventory), dtype=np.int64)
    for layers, units in tqdm(_speech(model, utterances), total=len(utterances), unit="utterance", desc=title):
        spoken = np.array([unit not in silent for unit in units], dtype=bool)
        if not spoken.any():
            continue
        own = units[spoken]
        counts += np.bincount(own, minlength=len(inventory))
        for number, (states, score) in enumerate(zip(layers, scores, strict=True)):
            table = prototypes[max(0, number - n_speech + 1)]
            cosines = F.normalize(states[torch.from_numpy(spoken)], dim=1) @ table.T
            nearest = ids[cosines.argmax(1).cpu().numpy()]
            wrong = int((nearest != own).sum()), int((phones[nearest] != phones[own]).sum())
            score.units.append(ErrorCounts(wrong[0], length=len(own)))
            score.phones.append(ErrorCounts(wrong[1], length=len(own)))
        kept.offer(own, *(F.normalize(layers[i][torch.from_numpy(spoken)], dim=1) for i in (n_speech - 1, -1)))
    if not counts.any():
        raise InputError("no frame of the utterances is speech: all units are silences")
    units_kept, before, after = kept.arrays()
    tables = [prototypes[i].cpu().numpy() for i in (0, -1)]
    return Alignment(
        title, inventory, scores,
        Points(before, units_kept, tables[0], ids), Points(after, units_kept, tables[1], ids),
        float(counts.max() / counts.sum()), float(model.swapping.prob),
    )  # fmt: skip


def _speech(model: SpeechLMModel, utterances: Sequence[Spoken]) -> Iterator[tuple[list[Tensor], np.ndarray]]:
    """The states (T, D) of each layer, and the unit (T,) of each frame, as far as there are units."""
    rate = int(model.cfg.sample_rate)
    for part, frames in utterances:
        audio = torch.from_numpy(read_audio(part.path, rate, part.offset, part.duration)).to(model.device)
        layers, lengths = model.extract_features(audio.unsqueeze(0), torch.tensor([len(audio)], device=model.device))
        index = (np.arange(int(lengths[0])) * model.label_ratio).astype(np.int64)
        index = index[index < len(frames)]
        yield [layer[0, : len(index)] for layer in layers], frames[index]


def _prototypes(model: SpeechLMModel, utterances: Sequence[Spoken]) -> tuple[np.ndarray, list[Tensor]]:
    """The units (N,) that occur; their embeddings (N, D), and their mean states behind each shared layer; length 1."""
    encoder = model.encoder
    ids = np.unique(np.concatenate([frames for _, frames in utterances]))
    place = np.full(len(model.inventory), -1)
    place[ids] = np.arange(len(ids))
    n_shared = len(encoder.shared_transformer.layers)  # type: ignore[arg-type]
    sums = torch.zeros(n_shared, len(ids), encoder.d_model, device=model.device)
    ratio = model.inventory.frame_rate / model.text_frame_rate
    for _, frames in utterances:
        index = (np.arange(int(len(frames) / ratio)) * ratio).astype(np.int64)
        if encoder.max_frames is not None:
            index = index[: encoder.max_frames]
        if not len(index):
            continue
        units = torch.from_numpy(frames[index]).to(model.device)
        padding = torch.zeros(1, len(units), dtype=torch.bool, device=model.device)
        _, layers = encoder.encode_shared(model.unit_embedding(units).unsqueeze(0), padding)
        rows = torch.from_numpy(place[frames[index]]).to(model.device)
        for total, states in zip(sums, layers, strict=True):
            total.index_add_(0, rows, states[0].float())
    embeddings = model.unit_embedding.weight[torch.from_numpy(ids).to(model.device)].float()
    return ids, [F.normalize(table, dim=1) for table in (embeddings, *sums)]


class _Kept:
    """At most so many states of each unit, drawn evenly from all (reservoir sampling)."""

    def __init__(self, most: int, rng: np.random.Generator):
        self._most, self._rng = most, rng
        self._seen: dict[int, int] = {}
        self._states: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def offer(self, units: np.ndarray, before: Tensor, after: Tensor) -> None:
        """Take some of the states (T, D) of units (T,)."""
        pairs = zip(units.tolist(), before.float().cpu().numpy(), after.float().cpu().numpy(), strict=True)
        for unit, one, other in pairs:
            own = self._states.setdefault(unit, [])
            self._seen[unit] = self._seen.get(unit, 0) + 1
            if len(own) < self._most:
                own.append((one, other))
            elif (place := int(self._rng.integers(self._seen[unit]))) < self._most:
                own[place] = one, other

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Units (M,), and both states (M, D)."""
        units = np.array([unit for unit, own in sorted(self._states.items()) for _ in own])
        pairs = [pair for _, own in sorted(self._states.items()) for pair in own]
        return units, np.stack([one for one, _ in pairs]), np.stack([other for _, other in pairs])
