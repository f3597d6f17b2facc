"""Pictures of the shared space: states and units before and after the shared layers, and the alignment of layers."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.evaluation.phones import phones_of_units
from nemo_speechlm.evaluation.plots import STYLE, save_figure
from nemo_speechlm.evaluation.space.alignment import Alignment, Points, share

Projection = Callable[[np.ndarray], np.ndarray]
"""Vectors (M, D) to points (M, 2)."""


def pca(vectors: np.ndarray) -> np.ndarray:
    """The two directions in which vectors (M, D) vary most, as points (M, 2)."""
    centred = vectors - vectors.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return centred @ directions.T


def umap(vectors: np.ndarray) -> np.ndarray:
    """UMAP (McInnes et al., 2018), by cosine; the package ``umap-learn`` is no dependency of ours.

    Raises:
        SpeechLMError: if it is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise SpeechLMError(
            "projection=umap needs the package umap-learn: pip install umap-learn; or take pca"
        ) from error
    return UMAP(metric="cosine", random_state=0).fit_transform(vectors)


PROJECTIONS: dict[str, Projection] = {"pca": pca, "umap": umap}


def plot_space(alignments: Sequence[Alignment], project: Projection, phones: int, output: str | Path) -> None:
    """Draw frames of speech as dots and units as letters, coloured by phone: a row of two panels for each model.

    Args:
        alignments: of the models.
        project: one of ``PROJECTIONS``.
        phones: how many, the most frequent ones.
        output: the picture; its ending says the format.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.0 * len(alignments)), layout="constrained")
        rows = figure.subplots(len(alignments), 2, squeeze=False)
        for row, found in zip(rows, alignments, strict=True):
            names = np.array(phones_of_units(found.inventory))
            chosen = [name for name, _ in Counter(names[found.before.units].tolist()).most_common(phones)]
            swapping = f"swapping {found.swapping:g}" if found.swapping else "no swapping"
            for panel, points, place in zip(row, (found.before, found.after), ("before", "after"), strict=True):
                _space(panel, points, names, chosen, project)
                panel.set_title(f"{found.title} ({swapping}): {place} the shared layers", fontsize=8)
        save_figure(figure, output)


def _space(panel, points: Points, names: np.ndarray, chosen: Sequence[str], project: Projection) -> None:
    speech, units = np.isin(names[points.units], chosen), np.isin(names[points.ids], chosen)
    places = project(np.concatenate([points.speech[speech], points.prototypes[units]]))
    dots, letters = np.split(places, [int(speech.sum())])
    own, others = names[points.units[speech]], names[points.ids[units]]
    for number, name in enumerate(chosen):
        colour = colormaps["tab20"](number % 20)
        panel.plot(*dots[own == name].T, ".", markersize=3, alpha=0.5, color=colour)
        for x, y in letters[others == name]:
            panel.text(x, y, name, ha="center", va="center", fontsize=8, weight="bold", color=colour)
    panel.update_datalim(letters)
    panel.autoscale_view()
    panel.set_xticks([])
    panel.set_yticks([])


def plot_alignment_scores(alignments: Sequence[Alignment], level: float, draws: int, output: str | Path) -> None:
    """Draw the share of frames that are nearest to their own unit, layer by layer, with what chance would give.

    Args:
        alignments: of the models.
        level: of the bands' confidence.
        draws: resamplings; 0 leaves the bands out.
        output: the picture; its ending says the format.
    """
    names = list(dict.fromkeys(score.name for found in alignments for score in found.scores))
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.5, 0.6 * len(names) + 1.5), 3.2), layout="constrained")
        panel = figure.subplots()
        for number, found in enumerate(alignments):
            places = [names.index(score.name) for score in found.scores]
            values = [share(score.units, level, draws) for score in found.scores]
            panel.plot(places, [value for value, _ in values], marker="o", color=f"C{number}", label=found.title)
            if all(interval is not None for _, interval in values):
                low, high = zip(*((i.low, i.high) for _, i in values if i is not None), strict=True)
                panel.fill_between(places, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
        chance = max(found.most_frequent for found in alignments)
        panel.axhline(chance, color="#555555", linewidth=0.8, linestyle="--", label="most frequent unit")
        panel.set_xticks(range(len(names)), names, rotation=45, ha="right")
        panel.set_ylabel("nearest to the own unit")
        panel.set_ylim(0, 1)
        panel.legend()
        save_figure(figure, output)
