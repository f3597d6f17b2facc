"""The picture of a probe's layer weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from nemo_speechlm.evaluation.plots import STYLE, save_figure


def plot_layer_weights(weights: Mapping[str, Mapping[str, float]], output: str | Path) -> None:
    """Draw the share of each layer, side by side for several probes.

    Args:
        weights: by what stands in the legend, the weight of each layer by its name; each sums to 1.
        output: the picture; its ending says the format.
    """
    names = list(dict.fromkeys(name for own in weights.values() for name in own))
    width = 0.8 / len(weights)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.0, 0.5 * len(names) + 1), 3.0), layout="constrained")
        panel = figure.subplots()
        for number, (title, own) in enumerate(weights.items()):
            places = np.array([names.index(name) for name in own]) + (number - (len(weights) - 1) / 2) * width
            panel.bar(places, list(own.values()), width, label=title)
        panel.axhline(1 / len(names), color="#555555", linewidth=0.8, linestyle="--")
        panel.set_xticks(range(len(names)), names, rotation=45, ha="right")
        panel.set_ylabel("weight")
        panel.grid(visible=False, axis="x")
        panel.legend()
        save_figure(figure, output)
