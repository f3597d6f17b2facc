"""What the aligner is trained on: manifests' features, normalized per speaker, and graphs of its words."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from nemo_speechlm.alignment.aligner import why_not
from nemo_speechlm.alignment.graph import Graph, Topology, build_graph
from nemo_speechlm.alignment.mfcc import SAMPLE_RATE, Mfcc, SpeakerStatistics
from nemo_speechlm.alignment.training import Corpus
from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.audio.utterances import read_utterance, seconds_of
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.manifests.shards import label
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record
from nemo_speechlm.pronouncing.word_pronouncer import WordPronouncer


class Failure(NamedTuple):
    """An utterance that is not used.

    Attributes:
        file: the manifest.
        line: of the manifest.
        reason: why.
    """

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class CorpusSource:
    """What a corpus is made of.

    Args:
        manifests: transcribed speech, a manifest or several; see :func:`expand_shards`.
        speaker_key: key of the manifest that names the speaker; without it, each utterance is a speaker of its own.
        channel: of the audio.
        max_hours: draw utterances until they last so long; None takes all.
        skip_bad: leave out bad lines and words without a pronunciation, instead of stopping.
        seed: of the drawing.
    """

    manifests: str | Path | Sequence
    speaker_key: str = "speaker"
    channel: Channel = "mix"
    max_hours: float | None = None
    skip_bad: bool = False
    seed: int = 0


class CorpusUtterance(NamedTuple):
    """A line of a manifest, with the words of its transcript."""

    manifest: str
    line: int
    record: Record
    words: list[str]

    def failed(self, reason: object) -> Failure:
        """Why it is not used."""
        return Failure(self.manifest, self.line, str(reason))


class TranscribedCorpus(NamedTuple):
    """A corpus, and the lines that its utterances came from.

    Attributes:
        corpus: what training needs.
        utterances: their lines.
        failures: utterances that are not in it.
    """

    corpus: Corpus
    utterances: list[CorpusUtterance]
    failures: list[Failure]


def speaker_of(record: Record, key: str, line: object) -> str:
    """The speaker that the manifest names; where it names none, the line counts as one."""
    speaker = record.get(key)
    return f"line {line}" if speaker is None or isinstance(speaker, dict | list) else f"{speaker}"


def load_corpus(
    source: CorpusSource,
    pronouncer: WordPronouncer,
    topology: Topology,
    silence: str,
    silence_probability: float,
    mfcc: Mfcc,
    threads: int = 1,
) -> TranscribedCorpus:
    """Read manifests' audio and transcripts.

    Raises:
        InputError: at bad lines, or listing the words that have no pronunciation (unless ``skip_bad``).
    """
    failures: list[Failure] = []
    chosen = _with_words(source, pronouncer, failures)
    _check_pronunciations(chosen, source, pronouncer, failures)
    graphs: list[Graph] = []
    features: list[torch.Tensor] = []
    used: list[CorpusUtterance] = []
    speakers: list[str] = []
    statistics: dict[str, SpeakerStatistics] = {}

    def read(item: CorpusUtterance) -> torch.Tensor | InputError:
        try:
            samples = read_utterance(item.record, item.manifest, item.line, SAMPLE_RATE, source.channel)
        except InputError as error:
            return error
        return mfcc(torch.from_numpy(samples))

    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(chosen), desc="reading", unit="utterance") as bar:
        for item, found in zip(chosen, _map(pool, read, chosen, 4 * threads), strict=True):
            bar.update()
            if isinstance(found, InputError):
                if not source.skip_bad:
                    raise found
                failures.append(item.failed(found.reason))
                continue
            graph = build_graph(
                [pronouncer.variants(word) for word in item.words], topology, silence, silence_probability
            )
            reason = why_not(len(found), graph)
            if reason is not None:
                failures.append(item.failed(reason))
                continue
            speaker = speaker_of(item.record, source.speaker_key, f"{item.line} of {item.manifest}")
            statistics.setdefault(speaker, SpeakerStatistics(mfcc.size)).add(found)
            graphs.append(graph)
            features.append(found)
            used.append(item)
            speakers.append(speaker)
    if not graphs:
        raise InputError(f"no utterance that could be used; the first: {failures[0].reason}", label(source.manifests))
    lengths = [len(x) for x in features]
    flat = torch.empty(sum(lengths), mfcc.size)
    begin = 0
    for position, (speaker, length) in enumerate(zip(speakers, lengths, strict=True)):
        flat[begin : begin + length] = statistics[speaker].normalize(features[position])
        features[position] = torch.empty(0)  # freed, so that the features are not in memory twice
        begin += length
    return TranscribedCorpus(Corpus(flat, lengths, graphs), used, failures)


def _map(pool: ThreadPoolExecutor, work, items: list, ahead: int) -> Iterator:
    """Results in order; at most ``ahead`` items are in work at a time."""
    pending = [pool.submit(work, item) for item in items[:ahead]]
    for position in range(len(items)):
        if position + ahead < len(items):
            pending.append(pool.submit(work, items[position + ahead]))
        yield pending.pop(0).result()


def _with_words(source: CorpusSource, pronouncer: WordPronouncer, failures: list[Failure]) -> list[CorpusUtterance]:
    """The utterances to use, with their words."""
    chosen = []
    for manifest, number, record in read_manifests(source.manifests, ["audio_filepath"]):
        text = record.get("text")
        try:
            if not isinstance(text, str):
                raise InputError("no text to align with", manifest, number)
            words = pronouncer.words(text)
            if not words:
                raise SkipItem("no words to align")
            chosen.append(CorpusUtterance(manifest, number, record, words))
        except SkipItem as error:
            failures.append(Failure(manifest, number, str(error)))
        except InputError as error:
            if not source.skip_bad:
                raise
            failures.append(Failure(manifest, number, error.reason))
    return chosen if source.max_hours is None else _drawn(chosen, source)


def _drawn(chosen: list[CorpusUtterance], source: CorpusSource) -> list[CorpusUtterance]:
    left = (source.max_hours or 0) * 3600
    kept: list[int] = []
    for position in np.random.default_rng(source.seed).permutation(len(chosen)):
        manifest, number, record, _ = chosen[position]
        duration = seconds_of(record, "duration", manifest, number)
        if duration is None:
            raise InputError("max_hours needs a duration in every line", manifest, number)
        left -= duration
        if left < 0 and kept:
            break
        kept.append(position)
    return [chosen[position] for position in sorted(kept)]


def _check_pronunciations(
    chosen: list[CorpusUtterance], source: CorpusSource, pronouncer: WordPronouncer, failures: list[Failure]
) -> None:
    unknown = set(pronouncer.unknown(word for utterance in chosen for word in utterance.words))
    if not unknown:
        return
    if not source.skip_bad:
        listed = ", ".join(sorted(unknown)[:20])
        raise InputError(
            f"{len(unknown)} words have no pronunciation: {listed}{', ...' if len(unknown) > 20 else ''}; add them to "
            "the lexicon, or leave their utterances out with skip_bad=true",
            label(source.manifests),
        )
    bad = [n for n, utterance in enumerate(chosen) if unknown.intersection(utterance.words)]
    for position in reversed(bad):
        utterance = chosen.pop(position)
        word = next(word for word in utterance.words if word in unknown)
        failures.append(utterance.failed(f"no pronunciation of {word!r}"))
