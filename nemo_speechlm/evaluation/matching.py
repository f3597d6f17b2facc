"""How well a MAESTRO model matches text with speech: its alignments, its durations, and which text is the nearest.

Axis legend: P phones, T frames, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.evaluation.aligner import AlignmentAccuracy, TimedPhone, alignment_accuracy
from nemo_speechlm.evaluation.shared_space import Example, Share, check_enough, nearest_in_length, padded
from nemo_speechlm.models.maestro.matching import shared_input
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.text_branch import resample, token_frames
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import SILENCE, phone_of_unit


class EncodedSpeech(NamedTuple):
    """Speech as the model takes it in.

    Attributes:
        states: (1, T, D) what text is matched with.
        encoded: (1, T, D) output of the shared encoder.
        lengths: (1,) frames.
    """

    states: Tensor
    encoded: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Matcher:
    """A model that is asked about single utterances.

    Attributes:
        model: in evaluation mode.
    """

    model: MAESTROModel

    @torch.inference_mode()
    def speech(self, example: Example) -> EncodedSpeech:
        """Encode an utterance."""
        model, rate = self.model, int(self.model.cfg.sample_rate)
        audio = torch.from_numpy(read_audio(example.path, rate, example.offset, example.duration)).to(model.device)
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        length = torch.tensor([len(audio)], device=model.device)
        speech = model.speech_of(PairBatch(audio.unsqueeze(0), length, nothing, nothing[0]))
        padding = padding_mask(speech.lengths, speech.states.shape[1])  # mel frames may be one more than the audio's
        encoded, _ = model.encoder.encode_shared(speech.states, padding)
        return EncodedSpeech(shared_input(model.encoder, speech.states), encoded, speech.lengths)

    @torch.inference_mode()
    def durations(self, speech: EncodedSpeech, phones: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, P) of each phone of texts (B, P), each by its best path through the utterance."""
        many = len(phones)
        frames = speech.lengths.expand(many)
        path = self.model.phones.align(speech.encoded.expand(many, -1, -1), frames, phones, lengths)
        return token_frames(path, frames, lengths)

    @torch.inference_mode()
    def distances(self, speech: EncodedSpeech, texts: Sequence[Sequence[int]]) -> list[float]:
        """The mean square between the states of an utterance and those of texts, as :meth:`matched` has them."""
        refined, target = self.matched(speech, texts)
        return (refined - target).square().mean((1, 2)).tolist()

    @torch.inference_mode()
    def matched(self, speech: EncodedSpeech, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """States of texts (B, T, D), each aligned with an utterance first, and the utterance's own (1, T, D).

        Both are normalized to mean 0 and variance 1 over their width.
        """
        model = self.model
        phones, lengths = padded(texts, model.device)
        refined = model.refiner(
            *resample(model.text_encoder(phones, lengths), self.durations(speech, phones, lengths))
        )
        target = speech.states[:, : refined.shape[1]]
        return F.layer_norm(refined, refined.shape[-1:]), F.layer_norm(target, target.shape[-1:])

    @torch.inference_mode()
    def predicted(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The frames (B, P) that the duration model gives phones, as real numbers."""
        phones, lengths = padded(texts, self.model.device)
        states = self.model.text_encoder(phones, lengths)
        return self.model.duration_model(states, lengths).exp() - 1


def retrieval(
    matcher: Matcher, examples: Sequence[Example], texts: Sequence[Sequence[int]], candidates: int = 20
) -> Share:
    """How often the right text is the nearest one among those of about its length.

    Args:
        matcher: the model.
        examples: utterances whose texts differ.
        texts: the phones of each.
        candidates: how many texts there are to choose from, the right one included.

    Raises:
        InputError: if there are fewer examples than candidates.
    """
    check_enough(examples, candidates)
    lengths = np.array([len(text) for text in texts])
    right = 0
    for number, example in enumerate(tqdm(examples, unit="utterance")):
        nearest = nearest_in_length(lengths, number, candidates - 1)
        distances = matcher.distances(matcher.speech(example), [texts[n] for n in (number, *nearest)])
        right += distances[0] < min(distances[1:])
    return Share(right, len(examples))


class AlignmentReport(NamedTuple):
    """Alignments and durations beside those of an aligner.

    Attributes:
        accuracy: of the boundaries between phones.
        correlation: Pearson's, of predicted durations with those of the aligner, silences left out.
        own_correlation: the same with the durations of the model's own alignments.
        phones: that correlations are of.
        utterances: that were aligned.
        alike: those of them in which the aligner's phones are the model's: correlations are of these.
    """

    accuracy: AlignmentAccuracy
    correlation: float
    own_correlation: float
    phones: int
    utterances: int
    alike: int


def alignment_report(
    matcher: Matcher, manifest: str | Path, inventory: UnitInventory, limit: int | None = None, tolerance: float = 0.06
) -> AlignmentReport:
    """Compare a model's alignments with those of an aligner.

    The aligner's silences between words count as part of the phone before them: the model has silences at both ends
    alone.

    Args:
        matcher: the model.
        manifest: speech with ``text``, and with the aligner's ``units`` and ``unit_durations``.
        inventory: of these units.
        limit: utterances that are compared.
        tolerance: seconds that a boundary may be off.
    """
    model = matcher.model
    write, rate = model.phone_encoder, model.encoder.frame_rate
    pairs, predicted, aligned, own, alike = [], [], [], [], 0
    for number, (line, record) in enumerate(read_manifest(manifest, ["audio_filepath", "text", "units"])):
        if number == limit:
            break
        place = audio_source(record, manifest, line)
        example = Example(place, record["text"], record.get("offset") or 0.0, record.get("duration"))
        phones = write(record["text"], manifest, line)
        ids, lengths = padded([phones], model.device)
        frames = matcher.durations(matcher.speech(example), ids, lengths)[0].tolist()
        names = [model.phone_encoder.symbols[phone] for phone in phones]
        ends = np.cumsum(frames) / rate
        found = [TimedPhone(name, float(end)) for name, end in zip(names, ends, strict=True)]
        true = _reference(record, manifest, line, inventory)
        pairs.append((found, true))
        if [phone.phone for phone in true] == names:
            alike += 1
            true_ends = np.array([phone.end for phone in true])
            spoken = [place for place, name in enumerate(names) if name != SILENCE]
            predicted += np.array(matcher.predicted([phones])[0].tolist())[spoken].tolist()
            aligned += np.diff(true_ends, prepend=0.0)[spoken].tolist()
            own += np.array(frames)[spoken].tolist()
    beside_aligner, beside_own = (_correlation(predicted, other) for other in (aligned, own))
    accuracy = alignment_accuracy(pairs, tolerance)
    return AlignmentReport(accuracy, beside_aligner, beside_own, len(predicted), len(pairs), alike)


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one else float("nan")


def _reference(record: dict, manifest: str | Path, line: int, inventory: UnitInventory) -> list[TimedPhone]:
    sequence = unit_sequence(record, inventory, str(manifest), line)
    ends = np.cumsum(sequence.durations) / inventory.frame_rate
    segments: list[TimedPhone] = []
    last = len(ends) - 1
    for number, (unit, end) in enumerate(zip(sequence.ids, ends, strict=True)):
        name = phone_of_unit(inventory.symbols[unit], inventory.language)  # as the model's phones
        if name == SILENCE and 0 < number < last:
            segments[-1] = segments[-1]._replace(end=float(end))
        else:
            segments.append(TimedPhone(name, float(end)))
    return segments
