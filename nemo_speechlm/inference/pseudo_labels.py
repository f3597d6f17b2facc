"""Pseudo labels: what a CTC model recognizes in speech, with how sure it is, as training data (self-training)."""

import functools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from nemo.collections.asr.models import EncDecCTCModel

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.audio.sources import moved_record
from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import check_manifests, is_transcribed
from nemo_speechlm.decoding.options import DecodingOptions, files_of_lm
from nemo_speechlm.decoding.times import timed_words
from nemo_speechlm.decoding.tokens import require_ctc
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, file_digest, parse_line
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.ctc_text import CTCText, log_probabilities
from nemo_speechlm.inference.recognition import check_lengths, restore
from nemo_speechlm.jobs.engines.executor import Executor
from nemo_speechlm.jobs.engines.local import LocalEngine
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.types import BatchWork, Result
from nemo_speechlm.models.common.hub import model_file

TOGETHER = 256
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
        """A line of a manifest with the text and the score; its ``reference`` is the transcript, or None."""
        return {**self.record, "reference": self.transcript, "text": self.text, "score": round(self.score, 4)}

    @property
    def transcript(self) -> str | None:
        """The known transcript. Where the line has a ``reference``, its ``text`` is an earlier pseudo label."""
        known = self.record.get("reference" if "reference" in self.record else "text")
        return known if is_transcribed({"text": known}) else None


@dataclass
class Labels:
    """What decides which of many utterances become training data, 17 bytes for each.

    Attributes:
        durations: seconds of each.
        scores: of each.
        has_words: 1 where words were found, 0 elsewhere.
    """

    durations: array = field(default_factory=lambda: array("d"))
    scores: array = field(default_factory=lambda: array("d"))
    has_words: bytearray = field(default_factory=bytearray)

    def add(self, label: PseudoLabel) -> None:
        """Add the next utterance."""
        self.durations.append(label.duration)
        self.scores.append(label.score)
        self.has_words.append(bool(label.text))

    def __len__(self) -> int:
        return len(self.scores)


class Summary(Protocol):
    """Says what became of the labels, whose texts are seen one after the other and not kept."""

    def add(self, label: PseudoLabel) -> None:
        """See the next label."""

    def said(self, labels: Labels, kept: np.ndarray) -> str:
        """Lines for people; it may raise. ``kept`` (N,) bool tells which of all labels become training data."""


@dataclass
class LabelWork:
    """Makes the work of a job that recognizes the lines of a manifest. It is picklable; a model is left behind.

    Attributes:
        remake: makes the CTC model, NeMo's or ours, in another process.
        manifest: the source.
        output: where its lines go.
        options: how to decode, with a language model or without.
        loading: ``batch_duration``, ``num_workers`` and ``precision`` of :func:`log_probabilities`.
        model: if there is one in this process.
    """

    remake: Callable[[], EncDecCTCModel]
    manifest: Path
    output: Path
    options: DecodingOptions
    loading: Mapping[str, Any]
    model: EncDecCTCModel | None = field(default=None, repr=False)
    _text: CTCText | None = field(default=None, init=False, repr=False)

    def __call__(self) -> BatchWork:
        """The work on a batch of lines."""
        self.model = self.model or self.remake()
        self._text = CTCText.of(self.model, self.options)
        return self._work

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None, "_text": None}

    def _work(self, lines: Sequence[tuple[int, str]]) -> Sequence[Result]:
        found: list[Any] = [self._read(number, line) for number, line in lines]
        good = [index for index, utterance in enumerate(found) if isinstance(utterance, Utterance)]
        try:
            labels = self._labels([found[index] for index in good])
        except InputError as error:  # of a file that breaks off
            if len(lines) > 1:
                raise  # to be asked for halves
            return [InputError(str(error), self.manifest, lines[0][0])]
        for index, label in zip(good, labels, strict=True):
            found[index] = {**label._asdict(), "record": moved_record(label.record, self.manifest, self.output)}
        return found

    def _read(self, number: int, line: str) -> Utterance | InputError:
        assert self.model is not None
        try:
            record = parse_line(line, self.manifest, number, ["audio_filepath"])
            utterance = Utterance(record, *audio_part(record, self.manifest, number))
            check_lengths(self.model, [utterance])
        except InputError as error:
            return error
        return utterance

    def _labels(self, utterances: Sequence[Utterance]) -> list[PseudoLabel]:
        assert self.model is not None
        assert self._text is not None
        text, loading = self._text, dict(self.loading)
        if len(utterances) <= 1:
            loading["num_workers"] = 0  # whose errors have no traceback in them
        log_probs = log_probabilities(self.model, utterances, quiet=True, **loading) if utterances else []
        decoded = text.decode(log_probs, self.options, quiet=True) if utterances else []
        labels = []
        for utterance, x_TV, found in zip(utterances, log_probs, decoded, strict=True):
            words = timed_words(x_TV, found.tokens, text.labels, len(x_TV) / utterance.duration)
            score = float(np.mean([word.confidence for word in words])) if words else 0.0
            labels.append(PseudoLabel(utterance.record, utterance.duration, text.text(found), score))
        return labels


def label_manifest(
    model: str | Path,
    manifest: str | Path,
    output: str | Path,
    options: DecodingOptions,
    *,
    min_score: float | None = None,
    keep: float | None = None,
    device: str = "auto",
    loading: Mapping[str, Any] | None = None,
    engine: Executor | None = None,
    workers: int | None = None,
    summary: Summary,
    **job: Any,
) -> str:
    """Write the lines of a manifest with what is recognized in them; a job, see :func:`run_job`.

    Which lines are chosen does not belong to the job: one that ended because none was chosen goes on with other
    thresholds, without recognizing anything again.

    Args:
        model: ``.nemo`` file of a CTC model.
        manifest: speech.
        output: the same lines with ``text`` and ``score``.
        options: how to decode.
        min_score: see :func:`chosen`.
        keep: see :func:`chosen`.
        device: of the model.
        loading: see :class:`LabelWork`.
        engine: where workers run; None is this machine.
        workers: of the engine; None is one, or as many as it has room for.
        summary: what is told of the labels.
        job: ``skip_bad`` and ``overwrite``.

    Returns:
        what the summary said.

    Raises:
        InputError: at a line that cannot be used, unless ``skip_bad``.
    """
    chosen(Labels(), min_score, keep)  # its errors before the work
    check_manifests(manifest, ["audio_filepath"], bool(job.get("skip_bad")))
    engine = engine or LocalEngine()
    remake = functools.partial(_restore_ctc, model, device)
    loading = dict(loading or {})
    work = LabelWork(remake, Path(manifest), Path(output), options, loading)
    if engine.in_this_process(workers):
        work.model = remake()
    said = []

    def place(records: Iterator[Record]) -> Iterator[str | None]:
        labels = Labels()
        for record in records:
            label = PseudoLabel(**record)
            labels.add(label)
            summary.add(label)
        kept = chosen(labels, min_score, keep)
        if len(labels):
            said.append(summary.said(labels, kept))
        below = f"less sure than min_score={min_score}" if min_score is not None else f"not among keep={keep}"
        reasons = ("no word was found in it", below)
        return (None if good else reasons[found] for good, found in zip(kept, labels.has_words, strict=True))

    decisive = {key: value for key, value in loading.items() if key != "num_workers"}
    run_job(
        manifest,
        output,
        work,
        settings={
            "decoding": repr(options),
            "content": {str(path): file_digest(path) for path in (model_file(model), *files_of_lm(options.lm))},
            "moved": Path(manifest).parent.resolve() != Path(output).parent.resolve(),
            **decisive,
        },
        libraries=("torch", "nemo_toolkit", "soundfile", "soxr"),
        batch_size=TOGETHER,
        most_workers=1,
        workers=workers,
        engine=engine,
        place=place,
        written=lambda record: PseudoLabel(**record).line(),
        description="pseudo labels",
        unit="utterance",
        **job,
    )
    return said[-1]


def _restore_ctc(model: str | Path, device: str) -> EncDecCTCModel:
    return require_ctc(restore(model, device))


def chosen(labels: Labels, min_score: float | None = None, keep: float | None = None) -> np.ndarray:
    """Which labels become training data, (N,) bool; never those without words.

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
    scores, has_words = np.asarray(labels.scores), np.frombuffer(labels.has_words, dtype=bool)
    if keep is None:
        return has_words & (scores >= (min_score or 0.0))
    check_number("keep", keep, above=0, most=1)
    room = (keep + 1e-10) * sum(labels.durations)  # keep=1 keeps all, though sums are rounded
    order = np.argsort(-scores, kind="stable")
    order = order[has_words[order]]
    kept = np.zeros(len(labels), dtype=bool)
    kept[order[np.cumsum(np.asarray(labels.durations)[order]) <= room]] = True
    return kept
