"""Pronunciations of words that no lexicon has, predicted from their letters by g2p_en's model."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.pronouncing.lexicons import Pronunciation
from nemo_speechlm.units.phones import CONSONANTS, VOWELS

_PREDICTOR_LIMIT = 20
_MARGIN = 1e-2
"""Between the two best phones' scores: if it is smaller, the last digits of a product of many words might decide."""


class LetterToSound:
    """g2p_en's recurrent letter-to-sound network (Park and Kim, 2019), greedy.

    An encoder GRU reads the letters, a decoder GRU writes phones from its last state. The input half of each GRU step
    depends on one symbol alone, so it is tabulated once.
    """

    _END_LETTER, _START_PHONE, _END_PHONE, _FIRST_LETTER, _FIRST_PHONE = 2, 2, 3, 3, 4

    def __init__(self) -> None:
        spec = find_spec("g2p_en")
        folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
        try:
            with np.load(folder / "checkpoint20.npz") as weights:
                w = {name: weights[name] for name in weights.files}
        except OSError as error:
            raise SpeechLMError(
                f"words outside the lexicon need the package g2p_en==2.1.0 (pip install): {error}"
            ) from error
        self._encoder = w["enc_emb"] @ w["enc_w_ih"].T + w["enc_b_ih"]
        self._decoder = w["dec_emb"] @ w["dec_w_ih"].T + w["dec_b_ih"]
        self._encoder_hh, self._encoder_bias = np.ascontiguousarray(w["enc_w_hh"]), w["enc_b_hh"]
        self._decoder_hh, self._decoder_bias = np.ascontiguousarray(w["dec_w_hh"]), w["dec_b_hh"]
        self._out, self._out_bias = np.ascontiguousarray(w["fc_w"]), w["fc_b"]
        # the network's output order: CMUdict's symbols sorted, with a lone UW without stress among them
        self._phones = sorted((*CONSONANTS, "UW", *(vowel + stress for vowel in VOWELS for stress in "012")))

    def __call__(self, letters: str) -> Pronunciation:
        """The phones of a word of a to z."""
        state = np.zeros(self._encoder_hh.shape[1], dtype=np.float32)
        inputs = [ord(letter) - ord("a") + self._FIRST_LETTER for letter in letters]
        for symbol in (*inputs, self._END_LETTER):
            state = _gru_step(self._encoder[symbol], self._encoder_hh @ state + self._encoder_bias, state)
        symbols, symbol = [], self._START_PHONE
        for _ in range(max(_PREDICTOR_LIMIT, len(letters))):
            state = _gru_step(self._decoder[symbol], self._decoder_hh @ state + self._decoder_bias, state)
            symbol = int(np.argmax(self._out @ state + self._out_bias))
            if symbol == self._END_PHONE:
                break
            symbols.append(symbol)
        return self._named(symbols)

    def words(self, words: Sequence[str]) -> list[Pronunciation]:
        """The phones of several words of a to z, computed together; the same as word by word.

        Sums of a product of many words may differ in their last digits from those of one. A word that comes so close
        to another phone that this could matter is predicted again by itself.
        """
        order = sorted(range(len(words)), key=lambda i: -len(words[i]))
        state_NH = self._encoded([words[i] for i in order])
        limits = np.array([max(_PREDICTOR_LIMIT, len(words[i])) for i in order])
        alive = np.arange(len(order))  # rows of words that go on
        symbols = np.full(len(order), self._START_PHONE)
        found: list[list[int]] = [[] for _ in order]
        doubtful: set[int] = set()
        step = 0
        while len(alive):
            step += 1
            hidden = state_NH @ self._decoder_hh.T + self._decoder_bias
            state_NH = _gru_step(self._decoder[symbols], hidden, state_NH)
            scores = state_NH @ self._out.T + self._out_bias
            symbols = scores.argmax(1)
            best = np.partition(scores, -2, axis=1)
            unsure = best[:, -1] - best[:, -2] < _MARGIN
            doubtful.update(alive[unsure].tolist())
            goes_on = (symbols != self._END_PHONE) & ~unsure
            for row, symbol in zip(alive[goes_on].tolist(), symbols[goes_on].tolist(), strict=True):
                found[row].append(symbol)
            goes_on &= limits[alive] > step
            alive, symbols, state_NH = alive[goes_on], symbols[goes_on], state_NH[goes_on]
        made: dict[int, Pronunciation] = {}
        for row, place in enumerate(order):
            made[place] = self(words[place]) if row in doubtful else self._named(found[row])
        return [made[place] for place in range(len(words))]

    def _encoded(self, words: Sequence[str]) -> np.ndarray:
        """The encoder's last states (N, H) of words, the longest first."""
        letters = np.full((len(words), len(words[0]) + 1 if words else 0), self._END_LETTER)
        for row, word in enumerate(words):
            letters[row, : len(word)] = np.frombuffer(word.encode(), dtype=np.uint8) - (ord("a") - self._FIRST_LETTER)
        lengths = np.array([len(word) + 1 for word in words])
        state_NH = np.zeros((len(words), self._encoder_hh.shape[1]), dtype=np.float32)
        for position in range(letters.shape[1]):
            some = slice(0, int((lengths > position).sum()))
            hidden = state_NH[some] @ self._encoder_hh.T + self._encoder_bias
            state_NH[some] = _gru_step(self._encoder[letters[some, position]], hidden, state_NH[some])
        return state_NH

    def _named(self, symbols: Sequence[int]) -> Pronunciation:
        """The phones of the network's output symbols."""
        phones = [self._phones[symbol - self._FIRST_PHONE] for symbol in symbols if symbol >= self._FIRST_PHONE]
        return tuple("UW1" if phone == "UW" else phone for phone in phones)


def _gru_step(inputs: np.ndarray, hidden: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of a gated recurrent unit; ``inputs`` and ``hidden`` (..., 3 H) hold reset, update, new."""
    size = state.shape[-1]
    gates = 1 / (1 + np.exp(-(inputs[..., : 2 * size] + hidden[..., : 2 * size])))
    reset, update = gates[..., :size], gates[..., size:]
    new = np.tanh(inputs[..., 2 * size :] + reset * hidden[..., 2 * size :])
    return (1 - update) * new + update * state
