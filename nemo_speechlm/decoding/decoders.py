"""Decoders of CTC log probabilities: greedy, beam, beam with an n-gram of tokens, beam over a lexicon.

Axis legend: B utterances, T frames, V labels without the blank; the blank is class V.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nemo_speechlm.decoding.options import Decoded, Decoder, DecodingOptions

if TYPE_CHECKING:
    import torch


class GreedyDecoder:
    """The best label of each frame, without repetitions and blanks."""

    def decode(
        self, log_probs: Sequence[np.ndarray], options: DecodingOptions, progress: Callable[[int], object]
    ) -> list[Decoded]:
        """See :class:`Decoder`."""
        decoded = []
        for frames in log_probs:
            decoded.append(greedy(frames))
            progress(1)
        return decoded


def greedy(log_probs: np.ndarray) -> Decoded:
    """Greedy decoding of (T, V + 1).

    >>> greedy(np.log([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])).tokens
    [0, 0]
    """
    best = log_probs.argmax(axis=1)
    first = np.ones(len(best), dtype=bool)
    first[1:] = best[1:] != best[:-1]
    blank = log_probs.shape[1] - 1
    return Decoded(best[first & (best != blank)].tolist(), float(log_probs.max(axis=1).sum()))


def make_decoder(
    options: DecodingOptions,
    labels: Sequence[str],
    spell: Callable[[str], list[int]],
    device: "torch.device | str | None" = None,
) -> Decoder:
    """Make the decoder that options name, its language model loaded.

    Args:
        options: see there.
        labels: the V labels.
        spell: turns a word into label ids; raises an ``InputError`` where it cannot be spelled.
        device: where beams are searched; None: a GPU where there is one.

    Raises:
        SpeechLMError: if the options do not go together, or the model cannot be read.
    """
    options.check()
    if options.kind == "greedy":
        return GreedyDecoder()
    if options.kind == "lexicon":
        from nemo_speechlm.decoding.lexicon import LexiconDecoder  # flashlight is an extra

        assert options.lm is not None
        return LexiconDecoder(options.lm, labels, spell)
    from nemo_speechlm.decoding.fusion import FusionDecoder, load_ngram

    return FusionDecoder(len(labels), None if options.lm is None else load_ngram(options.lm, labels), device)
