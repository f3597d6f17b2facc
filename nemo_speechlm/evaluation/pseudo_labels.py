"""What became of pseudo labels: how many hours are kept, and how good they are where that is known."""

from collections.abc import Sequence

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, word_errors
from nemo_speechlm.inference.pseudo_labels import PseudoLabel


def summary(labels: Sequence[PseudoLabel], kept: Sequence[bool]) -> str:
    """Lines for people: hours, scores, and word error rates of what has a transcript.

    Raises:
        InputError: if nothing is kept.
    """
    if not any(kept):
        best = max(label.score for label in labels)
        raise InputError(f"none of {len(labels)} utterances is kept; the highest score is {best:.3f}")
    lines = []
    for name, wanted in (("kept", True), ("left out", False)):
        own = [label for label, good in zip(labels, kept, strict=True) if good == wanted]
        hours = sum(label.duration for label in own) / 3600
        line = f"{name}: {len(own)} of {len(labels)} utterances, {hours:.2f} h"
        if own:
            line += f", scores {min(label.score for label in own):.3f} to {max(label.score for label in own):.3f}"
        known = [(label.transcript, label.text) for label in own if label.transcript]
        counts = sum((word_errors(transcript, text) for transcript, text in known), ErrorCounts())
        if counts.rate is not None:
            line += f", WER {counts.rate:.1%} of the {len(known)} with a transcript"
        lines.append(line)
    return "\n".join(lines)
