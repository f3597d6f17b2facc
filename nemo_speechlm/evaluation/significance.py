"""Is a difference in error rates more than chance? Bootstrap over utterances (Bisani and Ney, 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.files import Record

_CHUNK = 256
"""Resamplings drawn at once, to bound memory."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """A confidence interval of a rate."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A paired bootstrap test of system B against system A.

    Attributes:
        difference: rate of B minus rate of A; negative if B is better.
        interval: of the difference.
        p_value: two-sided: how often resampled differences, centred, are at least as large as the one found.
        better: share of resamplings in which B has the lower rate.
    """

    difference: float
    interval: ConfidenceInterval
    p_value: float
    better: float


def groups_drawn(
    records: Sequence[Record], draw_by: str | None, what: str = "line of the manifest", path: str | Path | None = None
) -> list[str] | None:
    """What the bootstrap draws as a whole, for each utterance.

    Args:
        records: of the utterances.
        draw_by: the key of it in them, such as the speaker; None draws utterances.
        what: a record is, for the message.
        path: of the records, for the message.

    Returns:
        the ``groups`` of :func:`confidence_interval` and :func:`compare`.

    Raises:
        InputError: if a record lacks the key, or has null there: what it belongs to is not known.
    """
    if draw_by is None:
        return None
    if lacking := sum(record.get(draw_by) is None for record in records):
        some = f"no {what} has" if lacking == len(records) else f"{lacking} of {len(records)} lack"
        raise InputError(f"draw_by: {some} {draw_by!r}", path)
    return [str(record[draw_by]) for record in records]


def confidence_interval(
    counts: Sequence[ErrorCounts], groups: Sequence[object] | None = None, level: float = 0.95, draws: int = 1000
) -> ConfidenceInterval | None:
    """Interval of the error rate over all utterances.

    Args:
        counts: of each utterance.
        groups: what is resampled as a whole, such as each utterance's speaker; None: single utterances.
        level: of confidence.
        draws: resamplings.

    Returns:
        None where there is nothing to divide by, or one group alone, which says nothing of others.
    """
    errors, lengths = _grouped([(c.errors, c.length) for c in counts], groups)
    if not lengths.sum() or len(lengths) < 2:
        return None
    rates = _resampled(errors, lengths, draws)
    return _interval(rates, level) if len(rates) else None


def compare(
    a: Sequence[ErrorCounts],
    b: Sequence[ErrorCounts],
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 10000,
) -> Comparison:
    """Test two systems on the same utterances.

    Args:
        a: counts of system A.
        b: counts of system B, of the same utterances in the same order.
        groups: see :func:`confidence_interval`.
        level: of confidence.
        draws: resamplings.

    Raises:
        ValueError: if there are no reference words, or less than two of what is drawn.
    """
    differences = [(y.errors - x.errors, x.length) for x, y in zip(a, b, strict=True)]
    errors, lengths = _grouped(differences, groups)
    if not lengths.sum():
        raise ValueError("there are no reference words to compare on")
    if len(lengths) < 2:
        raise ValueError(
            f"a test draws among at least two {'utterances' if groups is None else 'groups'}, here is one"
        )
    difference = float(errors.sum() / lengths.sum())
    resampled = _resampled(errors, lengths, draws)
    if not len(resampled):
        raise ValueError(f"no resampling has reference words to compare on (draws={draws})")
    extreme = np.abs(resampled - difference) >= abs(difference) - 1e-12
    p_value = (extreme.sum() + 1) / (len(resampled) + 1)
    return Comparison(difference, _interval(resampled, level), float(p_value), float((resampled < 0).mean()))


def _grouped(values: Sequence[tuple[int, int]], groups: Sequence[object] | None) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(values, dtype=np.int64).reshape(-1, 2)
    if groups is not None:
        names: dict[object, int] = {}
        index = np.array([names.setdefault(group, len(names)) for group in groups])
        table = np.stack([np.bincount(index, column, len(names)) for column in table.T], axis=1)
    return table[:, 0].astype(float), table[:, 1].astype(float)


def _resampled(errors: np.ndarray, lengths: np.ndarray, draws: int) -> np.ndarray:
    """Rates of resamplings, (draws,) or fewer; always the same ones.

    A resampling without reference words has no rate and is left out.
    """
    rng = np.random.default_rng(0)
    rates = []
    for start in range(0, draws, _CHUNK):
        picks = rng.integers(len(errors), size=(min(_CHUNK, draws - start), len(errors)))
        wrong, words = errors[picks].sum(1), lengths[picks].sum(1)
        rates.append(wrong[words > 0] / words[words > 0])
    return np.concatenate(rates)


def _interval(rates: np.ndarray, level: float) -> ConfidenceInterval:
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(float(low), float(high))
