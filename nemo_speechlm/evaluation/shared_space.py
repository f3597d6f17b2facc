"""How much of a space speech and text share in a SLAM model, measured on transcribed speech that it has not seen.

A model may tell texts apart by their length alone, or guess words from the words around them, without using the
speech. So we also measure mismatched texts of the same length, texts with one word changed, and whole masked words
beside the speech of another utterance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.pretraining.batch import SpeechBatch
from nemo_speechlm.data.text.pieces import WORD_START
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.models.slam.pairs import match_logits

MEASURES = {
    "matching_accuracy": "the right text said to match, and one of another utterance not to",
    "retrieval_random": "the right text has the highest score among random ones",
    "retrieval_same_length": "the same among the texts nearest in length",
    "word_replaced": "the right text has a higher score than the same with a word replaced",
    "word_replaced_other_speech": "the same with the speech of another utterance: what the words alone give away",
    "masked_word": "tokens of a word that is masked as a whole, guessed with its speech",
    "masked_word_other_speech": "the same with the speech of another utterance",
    "masked_text": "tokens of a text that is masked as a whole, guessed with its speech",
}


class Share(NamedTuple):
    """How many answers were right."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.right / max(self.of, 1)


@dataclass(frozen=True)
class Example:
    """An utterance with its text.

    Attributes:
        path: its audio.
        text: its words.
        offset: seconds into the file.
        duration: seconds; None for all.
    """

    path: Path | TarAudio
    text: str
    offset: float = 0.0
    duration: float | None = None


class Space(Protocol):
    """What is measured."""

    labels: Sequence[str]

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...

    def speech(self, example: Example) -> tuple[Tensor, Tensor]:
        """What :meth:`scores` and :meth:`guesses` need of an utterance."""
        ...

    def scores(self, speech: tuple[Tensor, Tensor], texts: Sequence[Sequence[int]]) -> list[float]:
        """How surely each text belongs to an utterance: above 0 where it does."""
        ...

    def guesses(self, speech: tuple[Tensor, Tensor], tokens: Sequence[int], masked: Sequence[int]) -> list[int]:
        """The likeliest tokens at the masked places of a text, given an utterance."""
        ...


class SLAMSpace:
    """The space of a SLAM model.

    Raises:
        SpeechLMError: if it was trained without TLM or without STM.
    """

    def __init__(self, model: SLAMModel):
        if missing := {"tlm", "stm"} - model.tasks.keys():
            raise SpeechLMError(f"the model was trained without {' and '.join(sorted(missing))}")
        assert model.text_encoder is not None
        self.model, self.tokens = model.eval(), model.text_encoder
        self.labels = model.text_encoder.labels

    @torch.inference_mode()
    def speech(self, example: Example) -> tuple[Tensor, Tensor]:
        """The speech encoder's states (1, T, D) and their length (1,)."""
        rate = int(self.model.cfg.sample_rate)
        audio = torch.from_numpy(read_audio(example.path, rate, example.offset, example.duration))
        batch = SpeechBatch(audio.unsqueeze(0).to(self.model.device), torch.tensor([len(audio)]).to(self.model.device))
        frames = self.model.embed(batch)
        return self.model.encode_speech(frames), frames.lengths

    @torch.inference_mode()
    def scores(self, speech: tuple[Tensor, Tensor], texts: Sequence[Sequence[int]]) -> list[float]:
        """The logits of STM."""
        states, lengths = speech
        tokens, sizes = padded(texts, states.device)
        many = states.expand(len(texts), -1, -1), lengths.expand(len(texts))
        return match_logits(self.model, *many, tokens, sizes).tolist()

    @torch.inference_mode()
    def guesses(self, speech: tuple[Tensor, Tensor], tokens: Sequence[int], masked: Sequence[int]) -> list[int]:
        """Those of TLM."""
        states, lengths = speech
        seen = torch.tensor([tokens], device=states.device)
        places = torch.tensor(masked, device=states.device)
        seen[0, places] = self.model.text_embedding.mask
        text = self.model.text_embedding(seen, torch.tensor([len(tokens)], device=states.device))
        _, encoded = self.model.join(states, lengths, *text)
        return self.model.text_embedding.logits(encoded[0, 1:][places]).argmax(-1).tolist()


def read_examples(manifest: str | Path | Sequence, limit: int | None = None) -> list[Example]:
    """The first utterances of a manifest or of several, one for each text that it has."""
    examples: dict[str, Example] = {}
    for path, number, record in read_manifests(manifest, ["audio_filepath", "text"]):
        if record["text"].strip() and record["text"] not in examples:
            part = audio_part(record, path, number)
            examples[record["text"]] = Example(part.path, record["text"], part.offset, part.duration)
        if len(examples) == limit:
            break
    return list(examples.values())


def best_threshold(space: Space, examples: Sequence[Example], seed: int = 0) -> float:
    """The score above which texts are best said to match, for :func:`measure` with other utterances.

    A model's own threshold is 0: as likely as not. One that has learned from texts that differ by a word says no too
    often where texts differ as a whole.

    Args:
        space: what is measured.
        examples: utterances to choose on, with texts that differ; each is scored with its own text and another's.
        seed: of the other texts.

    Returns:
        the middle of the range of scores that tell most of them right.

    Raises:
        InputError: if there are fewer than two examples.
    """
    check_enough(examples, 2)
    rng = np.random.default_rng(seed)
    texts = [space.tokens(example.text) for example in examples]
    scores = np.empty((len(texts), 2))
    for number, example in enumerate(tqdm(examples, unit="utterance")):
        other = rng.choice(np.delete(np.arange(len(texts)), number))
        scores[number] = space.scores(space.speech(example), [texts[number], texts[other]])
    places = np.unique(scores)
    between = (places[:-1] + places[1:]) / 2
    right = [(scores[:, 0] > place).sum() + (scores[:, 1] <= place).sum() for place in between]
    if not right or max(right) <= len(texts):  # no better than to say the same of all
        return 0.0
    best = between[np.asarray(right) == max(right)]
    return float(best[len(best) // 2])


def measure(
    space: Space, examples: Sequence[Example], candidates: int = 20, seed: int = 0, threshold: float = 0.0
) -> dict[str, Share]:
    """Every one of ``MEASURES``.

    Args:
        space: what is measured.
        examples: utterances whose texts differ.
        candidates: texts among which the right one is looked for.
        seed: of other texts, words and utterances.
        threshold: the score above which a text is said to match; see :func:`best_threshold`.

    Raises:
        InputError: if there are fewer examples than candidates.
    """
    check_enough(examples, candidates)
    rng = np.random.default_rng(seed)
    texts = [space.tokens(example.text) for example in examples]
    lengths = np.array([len(text) for text in texts])
    vocabulary = sorted({word for example in examples for word in example.text.split()})
    right, asked = dict.fromkeys(MEASURES, 0), dict.fromkeys(MEASURES, 0)

    def count(name: str, good: int, of: int = 1) -> None:
        right[name] += good
        asked[name] += of

    for number, example in enumerate(tqdm(examples, unit="utterance")):
        speech, own = space.speech(example), texts[number]
        others = np.delete(np.arange(len(texts)), number)
        drawn = rng.permutation(others)[: candidates - 1]
        nearest = nearest_in_length(lengths, number, candidates - 1)
        for name, chosen in (("retrieval_random", drawn), ("retrieval_same_length", nearest)):
            scores = space.scores(speech, [own, *(texts[other] for other in chosen)])
            count(name, scores[0] > max(scores[1:]))
            if name == "retrieval_random":
                count("matching_accuracy", (scores[0] > threshold) + (scores[1] <= threshold), 2)
        replaced = space.tokens(with_a_word_replaced(example.text, vocabulary, rng))
        words = word_places(own, space.labels)
        masked, everything = words[rng.integers(len(words))], list(range(len(own)))
        other = space.speech(examples[rng.choice(others)])
        for name, spoken in (("word_replaced", speech), ("word_replaced_other_speech", other)):
            scores = space.scores(spoken, [own, replaced])
            count(name, scores[0] > scores[1])
        for name, spoken, places in (
            ("masked_word", speech, masked),
            ("masked_word_other_speech", other, masked),
            ("masked_text", speech, everything),
        ):
            guessed = zip(space.guesses(spoken, own, places), places, strict=True)
            # A sign that stands alone for the beginning of a word can be guessed without any speech.
            told = [guess == own[place] for guess, place in guessed if space.labels[own[place]] != WORD_START]
            count(name, sum(told), len(told))
    return {name: Share(right[name], asked[name]) for name in MEASURES}


def check_enough(examples: Sequence[Example], candidates: int) -> None:
    """Check that there are as many texts as the right one is to be found among.

    Raises:
        InputError: if there are fewer.
    """
    if len(examples) < max(candidates, 2):
        raise InputError(f"there are {len(examples)} utterances of different texts; expected {candidates} at least")


def nearest_in_length(lengths: np.ndarray, number: int, count: int) -> np.ndarray:
    """Indices of the ``count`` other texts that are closest in length to text ``number``."""
    others = np.delete(np.arange(len(lengths)), number)
    return others[np.argsort(np.abs(lengths[others] - lengths[number]), kind="stable")][:count]


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Texts as (B, U), 0 where padded, and their lengths (B,)."""
    lengths = torch.tensor([len(text) for text in texts], device=device)
    rows = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64, device=device)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = torch.tensor(text, device=device)
    return rows, lengths


def with_a_word_replaced(text: str, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """A text with one of its words replaced by another one of the vocabulary."""
    words = text.split()
    place = rng.integers(len(words))
    words[place] = rng.choice([word for word in vocabulary if word != words[place]])
    return " ".join(words)


def word_places(tokens: Sequence[int], labels: Sequence[str]) -> list[list[int]]:
    """The places of each word's tokens: a word begins with a token that begins with ``WORD_START``."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if not words or labels[token].startswith(WORD_START):
            words.append([])
        words[-1].append(place)
    return words
