"""Forced alignment of English speech with its words, by the GMM-HMMs that come with pocketsphinx.

One Viterbi pass over a grammar of the utterance's words, each in all its pronunciations, with optional silences
between them. In its dictionary each unit is a word of its own, so what comes out is segmented into units.
pocketsphinx's own aligner finds the words first and their phones in a second pass. On 150 utterances of LibriSpeech it
took twice as long, and a small network learned to predict its labels no better.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pocketsphinx

from nemo_speechlm.data.audio.files import to_int16
from nemo_speechlm.errors import SkipItem
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.lexicons import Pronunciation
from nemo_speechlm.units.phones import SILENCE, base_phone, phoneme_inventory, word_units

SAMPLE_RATE = 16000
"""Of the audio that the acoustic model expects, in Hz."""
FRAME_RATE = 100
"""Frames a second in which pocketsphinx counts."""

MAX_VARIANTS = 4
"""Pronunciations of a word that are looked for in speech."""

_SILENCE_WORD = "<sil>"
_SILENCE_PROBABILITY = 0.1
_STATES = 3
"""Emitting states of a phone's HMM; none can be skipped, so a phone lasts as many frames at least."""
_BEAMS = (1e-64, 1e-120, 1e-200)


class UnitSegment(NamedTuple):
    """A unit with its number of frames."""

    unit: str
    frames: int


class PhoneAligner:
    """Aligns speech with phoneme units.

    Args:
        style: phoneme style of the units, ``position_stress`` or ``plain``.
        phonemizer: where pronunciations come from.
    """

    def __init__(self, style: str = "position_stress", phonemizer: EnglishPhonemizer | None = None):
        self.style = style
        self._phonemizer = phonemizer or EnglishPhonemizer()
        self._phones = {
            unit: base_phone(unit)
            for unit in phoneme_inventory(style).symbols
            if base_phone(unit) not in (SILENCE, "SPN")
        }
        self._decoders: dict[float, pocketsphinx.Decoder] = {}

    def align(self, samples: np.ndarray, words: Sequence[str]) -> list[UnitSegment]:
        """Align an utterance.

        Args:
            samples: speech at 16 kHz, shape (T,), between -1 and 1.
            words: what was said.

        Returns:
            Units in order, silences included, with at least one frame each; the frames sum up to ``T / 160``, rounded.

        Raises:
            InputError: at a word that cannot be pronounced.
            SkipItem: if there are no words, or no path through them in the audio.
        """
        if not words:
            raise SkipItem("no words to align")
        frames = round(len(samples) * FRAME_RATE / SAMPLE_RATE)
        variants = [self._variants(word) for word in words]
        if sum(min(map(len, word)) for word in variants) * _STATES > frames:
            raise SkipItem("the audio is too short for the words")
        pcm = to_int16(samples).tobytes()
        for beam in _BEAMS:
            segments = self._search(pcm, variants, beam)
            if segments:
                return fit_frames(segments, frames)
        raise SkipItem("no alignment found: the words do not fit the audio")

    def _variants(self, word: str) -> list[list[str]]:
        """A word's pronunciations in units; of those that differ in stress alone, the first."""
        variants: dict[Pronunciation, list[str]] = {}
        for phones in self._phonemizer.pronunciations(word):
            variants.setdefault(tuple(map(base_phone, phones)), word_units(phones, self.style))
            if len(variants) == MAX_VARIANTS:
                break
        return list(variants.values())

    def _search(self, pcm: bytes, variants: list[list[list[str]]], beam: float) -> list[UnitSegment] | None:
        decoder = self._decoders.get(beam) or self._make_decoder(beam)
        transitions, final = _grammar(variants)
        decoder.add_fsg("utterance", decoder.create_fsg("utterance", 0, final, transitions))
        decoder.activate_search("utterance")
        if not run_decoder(decoder, pcm):
            return None
        segments = [
            UnitSegment(SILENCE if s.word == _SILENCE_WORD else s.word, s.end_frame - s.start_frame + 1)
            for s in decoder.seg()
            if s.word == _SILENCE_WORD or s.word in self._phones
        ]
        # a search that lost the last word returns the best partial path
        return segments if _is_path([s.unit for s in segments if s.unit != SILENCE], variants) else None

    def _make_decoder(self, beam: float) -> pocketsphinx.Decoder:
        pocketsphinx.set_loglevel("FATAL")
        decoder = pocketsphinx.Decoder(
            lm=None,
            dict=None,
            fsgusefiller=False,  # it would allow silences within words
            bestpath=False,
            lw=1.0,
            maxhmmpf=-1,
            beam=beam,
            pbeam=beam,
            wbeam=beam,
        )
        for unit, phone in self._phones.items():
            decoder.add_word(unit, phone, False)
        self._decoders[beam] = decoder
        return decoder


def run_decoder(decoder: pocketsphinx.Decoder, pcm: bytes) -> bool:
    """Run the current search over an utterance of 16-bit samples; whether it found anything."""
    decoder.reinit_feat()  # else noise estimated from earlier utterances would change the result
    try:
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
    except RuntimeError:  # pocketsphinx gives no reason
        return False
    return decoder.hyp() is not None


def _grammar(variants: list[list[list[str]]]) -> tuple[list[tuple], int]:
    """Transitions (from, to, probability[, word]) from state 0, and the final state."""
    transitions: list[tuple] = []
    states = 1

    def silence(begin: int) -> int:
        nonlocal states
        end, states = states, states + 1
        transitions.append((begin, end, _SILENCE_PROBABILITY, _SILENCE_WORD))
        transitions.append((begin, end, 1 - _SILENCE_PROBABILITY))
        return end

    begin = 0
    for word in variants:
        begin = silence(begin)
        end, states = states, states + 1
        for units in word:
            inner = [*range(states, states + len(units) - 1)]
            states += len(inner)
            for position, (a, b, unit) in enumerate(zip([begin, *inner], [*inner, end], units, strict=True)):
                transitions.append((a, b, 1 / len(word) if position == 0 else 1.0, unit))
        begin = end
    return transitions, silence(begin)


def _is_path(units: Sequence[str], variants: list[list[list[str]]]) -> bool:
    """Whether units are one pronunciation of each word, in order."""
    reached = {0}
    for word in variants:
        reached = {
            begin + len(variant)
            for begin in reached
            for variant in word
            if units[begin : begin + len(variant)] == variant
        }
    return len(units) in reached


def fit_frames(segments: Sequence[UnitSegment], frames: int) -> list[UnitSegment]:
    """Make segments sum up to ``frames``: the last silence grows or shrinks, or one is put behind the last phone.

    pocketsphinx counts whole windows of 25.6 ms, so it ends a frame or two before the audio does.

    Raises:
        SkipItem: if there are not enough frames for all segments.
    """
    fitted = list(segments)
    missing = frames - sum(segment.frames for segment in fitted)
    if missing > _STATES and fitted[-1].unit != SILENCE:
        fitted.append(UnitSegment(SILENCE, missing))
    elif missing > 0:
        fitted[-1] = UnitSegment(fitted[-1].unit, fitted[-1].frames + missing)
    for position in reversed(range(len(fitted))):
        if missing >= 0:
            break
        unit, length = fitted[position]
        cut = min(length - 1, -missing)
        fitted[position] = UnitSegment(unit, length - cut)
        missing += cut
    if missing < 0:
        raise SkipItem("the audio is too short for the words")
    return fitted
