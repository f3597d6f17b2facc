"""Pictures: training curves from TensorBoard logs, and an utterance with its units."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"]),
}


_NOT_BY_UPDATE = ("hp_metric", "validation_step_timing")
"""Not counted in updates: Lightning's placeholder at step 0 of each file, NeMo's times of validation batches."""


def _begun(path: Path) -> tuple[int, int]:
    """When an event file was begun: its name has the second, and copies another time of change."""
    changed = path.stat().st_mtime_ns
    begun = re.search(r"tfevents\.(\d+)\.", path.name)
    return int(begun[1]) if begun else changed // 10**9, changed


def read_scalars(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read all scalars of the TensorBoard event files in a folder and its subfolders.

    Returns:
        tag -> (steps, values), each (N,), by step. Where a run was resumed or begun anew, a later file of the folder
        replaces what those before have from its first step on.

    Raises:
        InputError: if there are no event files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(Path(folder).rglob("*tfevents*"), key=_begun)
    if not files:
        raise InputError("no TensorBoard event files in it", folder)
    points: dict[str, dict[int, tuple[float, Path]]] = {}
    for path in files:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        begin = min((s[0].step for tag, s in found.items() if s and not tag.startswith(_NOT_BY_UPDATE)), default=0)
        for values in points.values():
            for step in [step for step, (_, folder) in values.items() if step >= begin and folder == path.parent]:
                del values[step]
        for tag, scalars in found.items():
            points.setdefault(tag, {}).update((event.step, (event.value, path.parent)) for event in scalars)
    return {
        tag: (np.array(sorted(values)), np.array([values[step][0] for step in sorted(values)]))
        for tag, values in points.items()
        if values
    }


def plot_curves(tensorboard_dirs: Mapping[str, str | Path], tags: Sequence[str], output: str | Path) -> None:
    """Draw one panel per tag with one line per run.

    Curves of more than 100 points are drawn faintly, with a running mean over 2% of the steps on top. A run without a
    tag is left out of its panel.

    Args:
        tensorboard_dirs: name of a run -> folder with its event files.
        tags: scalars to draw, such as ``"val_wer"``.
        output: the picture; its ending says the format (``.png``, ``.pdf``, ``.svg``).

    Raises:
        InputError: if a folder has no event files, or no run has one of the tags.
    """
    runs = {name: read_scalars(folder) for name, folder in tensorboard_dirs.items()}
    known = sorted({tag for scalars in runs.values() for tag in scalars})
    for tag in tags:
        if tag not in known:
            raise InputError(
                f"no run logs {tag!r}; they log {', '.join(known)}", next(iter(tensorboard_dirs.values()))
            )
    columns = 2 if len(tags) == 4 else min(len(tags), 3)
    rows = -(-len(tags) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel, tag in zip(panels.flat, tags, strict=False):
            limits = [
                _curve(panel, *scalars[tag], colour=f"C{number % 7}")
                for number, scalars in enumerate(runs.values())
                if tag in scalars
            ]
            low, high = np.min(limits), np.max(limits)
            if np.isfinite([low, high]).all() and high > low:
                panel.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            panel.set_title(tag)
            panel.set_xlabel("update")
        for panel in panels.flat[len(tags) :]:
            panel.set_visible(False)
        lines = [Line2D([], [], color=f"C{number % 7}", label=name) for number, name in enumerate(runs)]
        if len(lines) > 1:
            figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(lines)))
        save_figure(figure, output)


def _curve(panel: Any, steps: np.ndarray, values: np.ndarray, colour: str) -> tuple[float, float]:
    """Draw a curve; returns the least and the greatest value to show of it."""
    if len(values) <= 100:
        panel.plot(steps, values, color=colour, marker="o" if len(values) < 3 else None)
        return np.nanmin(values), np.nanmax(values)
    kernel = np.ones(max(3, len(values) // 50))
    finite = np.isfinite(values)
    mean = np.convolve(np.where(finite, values, 0.0), kernel, "same") / np.convolve(finite, kernel, "same").clip(1)
    panel.plot(steps, values, color=colour, alpha=0.2)
    panel.plot(steps, mean, color=colour)
    # The first values are often very large and would flatten the rest of the curve.
    return np.nanmin(mean), min(np.nanmax(values), 1.3 * np.nanpercentile(mean, 98))


def plot_alignment(
    audio: np.ndarray, sample_rate: int, unit_sequence: UnitSequence, inventory: UnitInventory, output: str | Path
) -> None:
    """Draw an utterance's waveform and spectrogram with the boundaries and symbols of its units.

    Args:
        audio: (S,) samples in [-1, 1].
        sample_rate: samples per second.
        unit_sequence: its units, with durations in frames of the inventory.
        inventory: what the units are.
        output: the picture; its ending says the format.
    """
    seconds = len(audio) / sample_rate
    ends = np.cumsum(unit_sequence.durations) / inventory.frame_rate
    starts = np.concatenate([[0.0], ends[:-1]])
    symbols = inventory.decode(unit_sequence.ids)
    # As wide as the narrowest units need for their symbols, within reason.
    width = float(np.clip(len(symbols) * 0.3, 8, 40))
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(width, 4.2), layout=ConstrainedLayoutEngine(h_pad=0.01, hspace=0.0))
        wave, spectrogram, units = figure.subplots(3, 1, sharex=True, height_ratios=[1, 4, 1])
        times = np.arange(len(audio)) / sample_rate
        wave.plot(times, audio, linewidth=0.4, color="#333333")
        wave.set_axis_off()
        spectrogram.pcolormesh(*_spectrogram(audio, sample_rate), cmap="magma", shading="auto", rasterized=True)
        spectrogram.set_ylabel("kHz")
        spectrogram.vlines(ends, 0, sample_rate / 2000, color="white", linewidth=0.6, alpha=0.6)
        units.set_ylim(0, 1)
        units.set_yticks([])
        for number, (start, end, symbol) in enumerate(zip(starts, ends, symbols, strict=True)):
            silent = symbol == inventory.silence
            units.axvspan(
                start, end, facecolor="#dddddd" if silent else f"C{number % 2}", alpha=0.35, edgecolor="white"
            )
            wide = (end - start) / max(seconds, 1e-3) * width > 0.085 * len(symbol)
            units.text(
                (start + end) / 2, 0.5, symbol, ha="center", va="center", fontsize=8, rotation=0 if wide else 90
            )
        units.set_xlim(0, max(seconds, ends[-1] if len(ends) else 0.0))
        units.set_xlabel("seconds")
        save_figure(figure, output)


def _spectrogram(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (T,) in seconds, frequencies (F,) in kHz, and power (F, T) in dB, cut off 70 dB below the loudest."""
    size, hop = int(0.025 * sample_rate), max(1, int(0.005 * sample_rate))
    padded = np.pad(np.asarray(audio, dtype=np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), n=2 * size)).T ** 2
    decibels = 10 * np.log10(power + 1e-12)
    times = np.arange(len(frames)) * hop / sample_rate
    frequencies = np.fft.rfftfreq(2 * size, 1 / sample_rate) / 1000
    return times, frequencies, np.maximum(decibels, decibels.max() - 70)


def save_figure(figure: Figure, output: str | Path) -> None:
    """Write a figure to a file, making its folder."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
