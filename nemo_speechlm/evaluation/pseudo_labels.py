"""What became of pseudo labels: how many hours are kept, and how good they are where that is known."""

from array import array

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import word_errors
from nemo_speechlm.inference.pseudo_labels import Labels, PseudoLabel

_UNKNOWN = -1


class LabelSummary:
    """Hours, scores, and word error rates of what has a transcript: 8 bytes for each label."""

    def __init__(self) -> None:
        self._errors, self._words = array("i"), array("i")

    def add(self, label: PseudoLabel) -> None:
        """Count the errors of the next label."""
        counts = word_errors(label.transcript, label.text) if label.transcript else None
        self._errors.append(_UNKNOWN if counts is None else counts.errors)
        self._words.append(_UNKNOWN if counts is None else counts.length)

    def said(self, labels: Labels, kept: np.ndarray) -> str:
        """Two lines: of the labels that are kept, (N,) bool, and of the others.

        Raises:
            InputError: if nothing is kept.
        """
        scores, durations = np.asarray(labels.scores), np.asarray(labels.durations)
        if not kept.any():
            raise InputError(f"none of {len(labels)} utterances is kept; the highest score is {scores.max():.3f}")
        errors, words = np.asarray(self._errors), np.asarray(self._words)
        lines = []
        for name, own in (("kept", kept), ("left out", ~kept)):
            count = int(np.count_nonzero(own))
            line = f"{name}: {count} of {len(labels)} utterances, {durations[own].sum() / 3600:.2f} h"
            if count:
                line += f", scores {scores[own].min():.3f} to {scores[own].max():.3f}"
            known = own & (words != _UNKNOWN)
            if total := int(words[known].sum()):
                rate = int(errors[known].sum()) / total
                line += f", WER {rate:.1%} of the {np.count_nonzero(known)} with a transcript"
            lines.append(line)
        return "\n".join(lines)
