"""Transcribed speech to phoneme units, by an aligner that was trained with ``train_aligner.py``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from tqdm import tqdm

from nemo_speechlm.alignment.aligner import Alignment
from nemo_speechlm.alignment.mfcc import SAMPLE_RATE, SpeakerStatistics
from nemo_speechlm.checks import check_number, is_number
from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record, iter_lines, parse_line
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon, read_lexicon
from nemo_speechlm.pronouncing.word_pronouncer import WordPronouncer
from nemo_speechlm.tokenizers.gmm.corpus import speaker_of
from nemo_speechlm.tokenizers.gmm.model_file import GmmModel, load_model
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizer, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory


@dataclass(frozen=True)
class GmmTokenizing(SpeechTokenizing):
    """How a trained aligner turns transcribed speech into units.

    Args:
        model: the aligner's file.
        lexicon: pronunciations to add or replace, in the phones that the aligner was trained with.
        speaker_seconds: how much of a speaker's speech is used to estimate the normalization of features.
        min_score: utterances with a lower log-likelihood per frame are left out; None keeps all.
        statistics: of the speakers; :meth:`prepared` fills them in.
    """

    model: str
    lexicon: str | None = None
    speaker_seconds: float = 120.0
    min_score: float | None = None
    statistics: Mapping[str, SpeakerStatistics] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_number("speaker_seconds", self.speaker_seconds, least=0)
        if self.min_score is not None:
            check_number("min_score", self.min_score)

    @cached_property
    def loaded(self) -> GmmModel:
        """The model, with the further pronunciations."""
        model = load_model(self.model)
        if self.lexicon is None:
            return model
        reader = read_lexicon if model.pronouncing.phonemizer == "english" else read_any_lexicon
        known = set(model.aligner.topology.phones)
        added = reader(self.lexicon)
        pronouncing = replace(model.pronouncing, lexicon={**model.pronouncing.lexicon, **added})
        unknown = sorted(set(pronouncing.acoustic_phones) - known)
        if unknown:
            raise InputError(f"phones that the aligner does not know: {', '.join(unknown)}", self.lexicon)
        return model._replace(pronouncing=pronouncing)

    def __getstate__(self) -> dict:  # each worker reads the file: sending the model would not be faster
        return {key: value for key, value in self.__dict__.items() if key != "loaded"}

    def inventory(self) -> UnitInventory:
        """The aligner's units."""
        return self.loaded.inventory.with_durations({})

    def make(self) -> "GmmTokenizer":
        """The tokenizer."""
        return GmmTokenizer(self)

    @property
    def libraries(self) -> Sequence[str]:
        """What the aligner is computed by."""
        return (*super().libraries, "torch")

    def files(self) -> Sequence[str]:
        """The model, and the lexicon where there is one."""
        return [path for path in (self.model, self.lexicon) if path is not None]

    def prepared(self, manifest: str | Path, output: str | Path, channel: Channel = "mix") -> Self:
        """Compute the statistics of each speaker's features.

        Lines that cannot be read are skipped here; the job reports them.
        """
        model = self.loaded
        wanted: dict[str, list[tuple[int, Record]]] = {}
        seconds: dict[str, float] = {}
        for number, line in iter_lines(manifest):
            try:
                record = parse_line(line, manifest, number)
            except InputError:
                continue
            if model.speaker_key not in record:
                continue
            speaker = speaker_of(record, model.speaker_key, number)
            if seconds.get(speaker, 0.0) < self.speaker_seconds:
                duration = record.get("duration")
                seconds[speaker] = seconds.get(speaker, 0.0) + (float(duration) if is_number(duration) else 5.0)
                wanted.setdefault(speaker, []).append((number, record))
        statistics: dict[str, SpeakerStatistics] = {}
        with tqdm(wanted.items(), desc="speakers", unit="speaker", disable=not wanted) as bar:
            for speaker, utterances in bar:
                found = SpeakerStatistics(model.aligner.mfcc.size)
                for number, record in utterances:
                    try:
                        samples = read_utterance(record, manifest, number, SAMPLE_RATE, channel)
                    except (InputError, KeyError):
                        continue
                    found.add(model.aligner.mfcc(torch.from_numpy(samples)))
                if found.frames:
                    statistics[speaker] = found
        return replace(self, statistics=statistics)


class GmmTokenizer(SpeechTokenizer):
    """Aligns utterances with their transcripts.

    Args:
        tokenizing: how.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, tokenizing: GmmTokenizing):
        self._how = tokenizing
        self._model = tokenizing.loaded
        self._pronouncer = WordPronouncer(self._model.pronouncing)

    def tokenize(self, utterance: SpeechInput) -> SpeechUnits:
        """The units of an utterance, with ``alignment_score``, the log-likelihood per frame."""
        if utterance.text is None:
            raise InputError(
                "no text to align with; speech_tokenizer=frame_classifier and (English) pocketsphinx need none"
            )
        aligner = self._model.aligner
        words = self._pronouncer.words(utterance.text)
        graph = aligner.graph([self._pronouncer.variants(word) for word in words])
        features = aligner.mfcc(torch.from_numpy(utterance.samples))
        if not len(features):
            raise SkipItem("the audio is too short for the words")
        statistics = self._how.statistics.get(speaker_of(utterance.record, self._model.speaker_key, 0))
        if statistics is None:
            statistics = SpeakerStatistics(aligner.mfcc.size)
            statistics.add(features)
        (path,) = aligner.align([statistics.normalize(features)], [graph])
        if not isinstance(path, Alignment):
            raise path
        if self._how.min_score is not None and path.score < self._how.min_score:
            raise SkipItem(f"aligned with a score of {path.score:.1f}")
        return SpeechUnits(
            [phone.label for phone in path.phones],
            [phone.frames for phone in path.phones],
            {"alignment_score": round(path.score, 3)},
        )
