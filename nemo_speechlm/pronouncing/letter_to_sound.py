"""Pronunciations of words that no lexicon has, predicted from their letters by g2p_en's model."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.pronouncing.lexicons import Pronunciation
from nemo_speechlm.units.phones import CONSONANTS, VOWELS

_PREDICTOR_LIMIT = 20


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
        phones, symbol = [], self._START_PHONE
        for _ in range(max(_PREDICTOR_LIMIT, len(letters))):
            state = _gru_step(self._decoder[symbol], self._decoder_hh @ state + self._decoder_bias, state)
            symbol = int(np.argmax(self._out @ state + self._out_bias))
            if symbol == self._END_PHONE:
                break
            if symbol >= self._FIRST_PHONE:
                phone = self._phones[symbol - self._FIRST_PHONE]
                phones.append("UW1" if phone == "UW" else phone)
        return tuple(phones)


def _gru_step(inputs: np.ndarray, hidden: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of a gated recurrent unit; ``inputs`` and ``hidden`` (3 H,) hold reset, update, new."""
    size = len(state)
    gates = 1 / (1 + np.exp(-(inputs[: 2 * size] + hidden[: 2 * size])))
    reset, update = gates[:size], gates[size:]
    new = np.tanh(inputs[2 * size :] + reset * hidden[2 * size :])
    return (1 - update) * new + update * state
