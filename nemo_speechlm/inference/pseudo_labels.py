"""Pseudo labels: what a CTC model recognizes in speech, with how sure it is, as training data (self-training)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nemo.collections.asr.models import EncDecCTCModel

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import read_manifest, text_of
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.decoding.times import timed_words
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.ctc_text import CTCText, log_probabilities

TOGETHER = 2000
"""Utterances whose probabilities are in memory at once."""


class PseudoLabel(NamedTuple):
    """What was recognized in an utterance.

    Attributes:
        record: its line of the manifest.
        duration: seconds.
        text: its words; empty where none was found.
        score: mean confidence of the words, from 0 to 1; 0 without words.
    """

    record: Record
    duration: float
    text: str
    score: float

    def line(self) -> Record:
        """A line of a manifest with the text and the score; a transcript that was there is its ``reference``."""
        before = {} if self.transcript is None else {"reference": self.transcript}
        return {**self.record, **before, "text": self.text, "score": round(self.score, 4)}

    @property
    def transcript(self) -> str | None:
        """What is known to be said. The ``text`` of a line that has a ``reference`` is a pseudo label of before."""
        return self.record.get("reference") or self.record.get("text")


def pseudo_labels(
    model: EncDecCTCModel, utterances: Sequence[Utterance], options: DecodingOptions, **loading: object
) -> Iterator[PseudoLabel]:
    """Recognize utterances.

    Args:
        model: NeMo's or ours.
        utterances: their references are not looked at.
        options: how to decode, with a language model or without.
        loading: ``batch_duration``, ``num_workers`` and ``precision`` of :func:`log_probabilities`.
    """
    text = CTCText.of(model, options)
    rest = iter(utterances)
    while part := list(islice(rest, TOGETHER)):
        log_probs = log_probabilities(model, part, **loading)  # type: ignore[arg-type]
        decoded = text.decode(log_probs, options)
        for utterance, x_TV, found in zip(part, log_probs, decoded, strict=True):
            words = timed_words(x_TV, found.tokens, text.labels, len(x_TV) / utterance.duration)
            score = float(np.mean([word.confidence for word in words])) if words else 0.0
            yield PseudoLabel(utterance.record, utterance.duration, text.text(found), score)


def read_speech(manifest: str | Path) -> list[Utterance]:
    """The utterances of a manifest, with transcripts or without.

    Raises:
        InputError: at a line that cannot be used, or if there is none.
    """
    utterances = []
    for number, record in read_manifest(manifest):
        text_of(record, "audio_filepath", manifest, number)
        utterances.append(Utterance(record, *audio_part(record, manifest, number)))
    if not utterances:
        raise InputError("has no lines", manifest)
    return utterances


def chosen(labels: Sequence[PseudoLabel], min_score: float | None = None, keep: float | None = None) -> list[bool]:
    """Which labels become training data; never those without words.

    Args:
        labels: of all utterances.
        min_score: those with at least this score; None for any.
        keep: instead, the surest ones that make up at most this share of the hours.

    Raises:
        SpeechLMError: if both are given, or one has no sensible value.
    """
    if min_score is not None and keep is not None:
        raise SpeechLMError("min_score and keep are both given; expected one of them, or neither")
    if min_score is not None:
        check_number("min_score", min_score, 0, 1)
    if keep is None:
        return [bool(label.text) and label.score >= (min_score or 0.0) for label in labels]
    check_number("keep", keep, above=0, most=1)
    room = keep * sum(label.duration for label in labels)
    kept = [False] * len(labels)
    for number in sorted(range(len(labels)), key=lambda number: -labels[number].score):
        if labels[number].text and labels[number].duration <= room:
            kept[number] = True
            room -= labels[number].duration
    return kept
