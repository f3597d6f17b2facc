"""How an aligner learned, and how well it aligns where the true times are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from nemo_speechlm.alignment.training import PassReport


def plot_passes(reports: Sequence["PassReport"], output: str | Path) -> None:
    """Draw the log-likelihood per frame of each pass, with the number of Gaussians below."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from nemo_speechlm.evaluation.plots import STYLE, save_figure

    numbers = [report.number for report in reports]
    with rc_context(STYLE):
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        likelihood, components = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        likelihood.plot(numbers, [report.log_likelihood for report in reports], marker=".")
        realigned = [report for report in reports if report.realigned]
        likelihood.plot(
            [r.number for r in realigned], [r.log_likelihood for r in realigned], "o", color="C1", label="aligned anew"
        )
        likelihood.set_title("log-likelihood per frame")
        if realigned:
            likelihood.legend()
        components.plot(numbers, [report.components for report in reports], color="C2")
        components.set_title("Gaussians")
        components.set_ylim(bottom=0)
        components.set_xlabel("pass")
        save_figure(figure, output)


class TimedPhone(NamedTuple):
    """A phone with its end time.

    Attributes:
        phone: its name.
        end: where it ends, in seconds; it begins where the one before it ends.
    """

    phone: str
    end: float


class AlignmentAccuracy(NamedTuple):
    """How well segments fit the true ones; a share of nothing is NaN.

    Attributes:
        frames: share of frames of 10 ms with the right phone.
        boundaries: share of the true boundaries that were found within the tolerance.
        matched_boundaries: the same share of those whose phones on both sides were found as neighbours.
        mean_error: of the latter, in seconds.
        mean_delay: the same, but less than 0 for those that were found too early.
        count: of frames.
        true_boundaries: how many there are.
        neighbours: those of them whose phones were found as neighbours.
    """

    frames: float
    boundaries: float
    matched_boundaries: float
    mean_error: float
    mean_delay: float
    count: int  # type: ignore[assignment]
    true_boundaries: int
    neighbours: int


def alignment_accuracy(
    pairs: Sequence[tuple[Sequence[TimedPhone], Sequence[TimedPhone]]], tolerance: float = 0.02
) -> AlignmentAccuracy:
    """Compare found segments with true ones.

    Boundaries are compared between phones that an alignment of the two phone sequences matches: a boundary counts if
    the true phones on both its sides are matched by neighbours. All other true boundaries count as missed.

    Args:
        pairs: (found, true) segments of each utterance.
        tolerance: seconds that a boundary may be off.
    """
    right = frames = good = boundaries = 0
    delays: list[float] = []
    for found, true in pairs:
        count = round(100 * true[-1].end)
        middles = (np.arange(count) + 0.5) / 100
        right += int((_labels(found, middles) == _labels(true, middles)).sum())
        frames += count
        own = _boundary_delays(found, true)
        boundaries += len(true) - 1
        delays += own
        good += sum(abs(delay) <= tolerance + 1e-9 for delay in own)
    shares = _share(right, frames), _share(good, boundaries), _share(good, len(delays))
    means = _share(sum(map(abs, delays)), len(delays)), _share(sum(delays), len(delays))
    return AlignmentAccuracy(*shares, *means, frames, boundaries, len(delays))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")


def _labels(segments: Sequence[TimedPhone], times: np.ndarray) -> np.ndarray:
    at = np.searchsorted([segment.end for segment in segments], times, side="right")
    return np.array([segment.phone for segment in segments])[np.minimum(at, len(segments) - 1)]


def _boundary_delays(found: Sequence[TimedPhone], true: Sequence[TimedPhone]) -> list[float]:
    matched = _matches([s.phone for s in found], [s.phone for s in true])
    return [
        found[matched[n]].end - true[n].end
        for n in range(len(true) - 1)
        if n in matched and matched.get(n + 1) == matched[n] + 1
    ]


def _matches(found: Sequence[str], true: Sequence[str]) -> dict[int, int]:
    """Position in ``true`` -> position in ``found``, of equal phones on the cheapest alignment of the two."""
    cost = np.zeros((len(found) + 1, len(true) + 1), dtype=int)
    cost[:, 0], cost[0] = np.arange(len(found) + 1), np.arange(len(true) + 1)
    for i in range(1, len(found) + 1):
        for j in range(1, len(true) + 1):
            substitution = cost[i - 1, j - 1] + (0 if found[i - 1] == true[j - 1] else 2)
            cost[i, j] = min(substitution, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    matched, i, j = {}, len(found), len(true)
    while i and j:
        if found[i - 1] == true[j - 1] and cost[i, j] == cost[i - 1, j - 1]:
            matched[j - 1] = i - 1
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return matched
