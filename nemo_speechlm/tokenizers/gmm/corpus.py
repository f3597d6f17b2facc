"""What the aligner is trained on: a manifest's features, normalized per speaker, and graphs of its words."""

from collections.abc import Iterator
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
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record
from nemo_speechlm.pronouncing.word_pronouncer import WordPronouncer


class Failure(NamedTuple):
    """An utterance that is not used.

    Attributes:
        line: of the manifest.
        reason: why.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class CorpusSource:
    """What a corpus is made of.

    Args:
        manifest: transcribed speech.
        speaker_key: key of the manifest that names the speaker; without it, each utterance is a speaker of its own.
        channel: of the audio.
        max_hours: draw utterances until they last so long; None takes all.
        skip_bad: leave out bad lines and words without a pronunciation, instead of stopping.
        seed: of the drawing.
    """

    manifest: Path
    speaker_key: str = "speaker"
    channel: Channel = "mix"
    max_hours: float | None = None
    skip_bad: bool = False
    seed: int = 0


class TranscribedCorpus(NamedTuple):
    """A corpus, and the lines that its utterances came from.

    Attributes:
        corpus: what training needs.
        lines: of the manifest, one per utterance.
        failures: utterances that are not in it.
    """

    corpus: Corpus
    lines: list[int]
    failures: list[Failure]


def speaker_of(record: Record, key: str, number: int) -> str:
    """The speaker that the manifest names; where it names none, the line counts as one."""
    speaker = record.get(key)
    return f"line {number}" if speaker is None or isinstance(speaker, dict | list) else f"{speaker}"


def load_corpus(
    source: CorpusSource,
    pronouncer: WordPronouncer,
    topology: Topology,
    silence: str,
    silence_probability: float,
    mfcc: Mfcc,
    threads: int = 1,
) -> TranscribedCorpus:
    """Read a manifest's audio and transcripts.

    Raises:
        InputError: at bad lines, or listing the words that have no pronunciation (unless ``skip_bad``).
    """
    failures: list[Failure] = []
    chosen = _with_words(source, pronouncer, failures)
    _check_pronunciations(chosen, source, pronouncer, failures)
    graphs: list[Graph] = []
    features: list[torch.Tensor] = []
    lines: list[int] = []
    speakers: list[str] = []
    statistics: dict[str, SpeakerStatistics] = {}

    def read(item: tuple[int, Record, list[str]]) -> torch.Tensor | InputError:
        number, record, _ = item
        try:
            samples = read_utterance(record, source.manifest, number, SAMPLE_RATE, source.channel)
        except InputError as error:
            return error
        return mfcc(torch.from_numpy(samples))

    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(chosen), desc="reading", unit="utterance") as bar:
        for item, found in zip(chosen, _map(pool, read, chosen, 4 * threads), strict=True):
            bar.update()
            number, record, words = item
            if isinstance(found, InputError):
                if not source.skip_bad:
                    raise found
                failures.append(Failure(number, found.reason))
                continue
            graph = build_graph([pronouncer.variants(word) for word in words], topology, silence, silence_probability)
            reason = why_not(len(found), graph)
            if reason is not None:
                failures.append(Failure(number, str(reason)))
                continue
            speaker = speaker_of(record, source.speaker_key, number)
            statistics.setdefault(speaker, SpeakerStatistics(mfcc.size)).add(found)
            graphs.append(graph)
            features.append(found)
            lines.append(number)
            speakers.append(speaker)
    if not graphs:
        raise InputError(f"no utterance that could be used; the first: {failures[0].reason}", source.manifest)
    lengths = [len(x) for x in features]
    flat = torch.empty(sum(lengths), mfcc.size)
    begin = 0
    for position, (speaker, length) in enumerate(zip(speakers, lengths, strict=True)):
        flat[begin : begin + length] = statistics[speaker].normalize(features[position])
        features[position] = torch.empty(0)  # freed, so that the features are not in memory twice
        begin += length
    return TranscribedCorpus(Corpus(flat, lengths, graphs), lines, failures)


def _map(pool: ThreadPoolExecutor, work, items: list, ahead: int) -> Iterator:
    """Results in order; at most ``ahead`` items are in work at a time."""
    pending = [pool.submit(work, item) for item in items[:ahead]]
    for position in range(len(items)):
        if position + ahead < len(items):
            pending.append(pool.submit(work, items[position + ahead]))
        yield pending.pop(0).result()


def _with_words(
    source: CorpusSource, pronouncer: WordPronouncer, failures: list[Failure]
) -> list[tuple[int, Record, list[str]]]:
    """The utterances to use, with their words."""
    chosen = []
    for number, record in read_manifest(source.manifest, ["audio_filepath"]):
        text = record.get("text")
        try:
            if not isinstance(text, str):
                raise InputError("no text to align with", source.manifest, number)
            words = pronouncer.words(text)
            if not words:
                raise SkipItem("no words to align")
            chosen.append((number, record, words))
        except SkipItem as error:
            failures.append(Failure(number, str(error)))
        except InputError as error:
            if not source.skip_bad:
                raise
            failures.append(Failure(number, error.reason))
    return chosen if source.max_hours is None else _drawn(chosen, source)


def _drawn(chosen: list[tuple[int, Record, list[str]]], source: CorpusSource) -> list[tuple[int, Record, list[str]]]:
    left = (source.max_hours or 0) * 3600
    kept: list[int] = []
    for position in np.random.default_rng(source.seed).permutation(len(chosen)):
        duration = seconds_of(chosen[position][1], "duration", source.manifest, chosen[position][0])
        if duration is None:
            raise InputError("max_hours needs a duration in every line", source.manifest, chosen[position][0])
        left -= duration
        if left < 0 and kept:
            break
        kept.append(position)
    return [chosen[position] for position in sorted(kept)]


def _check_pronunciations(
    chosen: list[tuple[int, Record, list[str]]],
    source: CorpusSource,
    pronouncer: WordPronouncer,
    failures: list[Failure],
) -> None:
    unknown = set(pronouncer.unknown(word for _, _, words in chosen for word in words))
    if not unknown:
        return
    if not source.skip_bad:
        listed = ", ".join(sorted(unknown)[:20])
        raise InputError(
            f"{len(unknown)} words have no pronunciation: {listed}{', ...' if len(unknown) > 20 else ''}; add them to "
            "the lexicon, or leave their utterances out with skip_bad=true",
            source.manifest,
        )
    bad = [n for n, (_, _, words) in enumerate(chosen) if unknown.intersection(words)]
    for position in reversed(bad):
        number, _, words = chosen.pop(position)
        word = next(word for word in words if word in unknown)
        failures.append(Failure(number, f"no pronunciation of {word!r}"))
