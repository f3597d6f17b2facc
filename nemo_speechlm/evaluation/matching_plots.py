"""Pictures of a MAESTRO model: a lattice with its best path, text beside speech, durations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch.nn import functional as F

from nemo_speechlm.evaluation.matching import Matcher
from nemo_speechlm.evaluation.plots import STYLE, save_figure
from nemo_speechlm.evaluation.shared_space import Example, padded
from nemo_speechlm.kernels.lattice import best_path, occupation


@torch.inference_mode()
def plot_lattice(matcher: Matcher, example: Example, output: str | Path) -> None:
    """Draw how probable it is that each phone is the last one written at each frame, and the best path.

    Args:
        matcher: the model.
        example: an utterance.
        output: the picture; its ending says the format.
    """
    model = matcher.model
    speech = matcher.speech(example)
    phones, lengths = padded([model.phone_encoder(example.text)], model.device)
    lattice = model.phones.lattice(speech.encoded, phones)
    path = best_path(*lattice, speech.lengths, lengths)[0].cpu().numpy()
    blank, _ = occupation(*lattice, speech.lengths, lengths)
    rate = model.encoder.frame_rate
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        panel = figure.subplots()
        shown = blank[0, : int(speech.lengths)].T.cpu().numpy()
        panel.imshow(shown, aspect="auto", origin="lower", cmap="Blues", extent=_extent(shown, rate), vmin=0, vmax=1)
        panel.step(path / rate, np.arange(1, len(path) + 1), where="post", color="C1", label="best path")
        panel.set_yticks(
            np.arange(len(path)) + 1, [model.phone_encoder.symbols[phone] for phone in phones[0]], fontsize=6
        )
        panel.set_xlabel("seconds")
        panel.set_title(example.text[:80])
        panel.legend(loc="upper left")
        panel.grid(visible=False)
        save_figure(figure, output)


@torch.inference_mode()
def plot_similarity(matchers: Sequence[tuple[str, Matcher]], example: Example, output: str | Path) -> None:
    """Draw the cosine of each state of the text, repeated as aligned, with each state of the speech.

    Args:
        matchers: models, each with its title: before and after matching, say.
        example: an utterance.
        output: the picture; its ending says the format.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(matchers), 4), layout="constrained")
        panels = figure.subplots(1, len(matchers), squeeze=False)[0]
        for panel, (title, matcher) in zip(panels, matchers, strict=True):
            model = matcher.model
            speech = matcher.speech(example)
            states = matcher.matched(speech, [model.phone_encoder(example.text)])
            one, other = (F.normalize(x[0], dim=1) for x in states)
            shown = (one @ other.T).cpu().numpy()
            rate = model.encoder.frame_rate
            extent = (0, shown.shape[1] / rate, 0, shown.shape[0] / rate)
            picture = panel.imshow(shown, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1, extent=extent)
            panel.set_title(title)
            panel.set_xlabel("speech, seconds")
            panel.set_ylabel("text, seconds")
            panel.grid(visible=False)
        figure.colorbar(picture, ax=list(panels), label="cosine")
        save_figure(figure, output)


@torch.inference_mode()
def plot_durations(matcher: Matcher, examples: Sequence[Example], output: str | Path) -> None:
    """Draw the frames that the duration model gives each phone over those that it was aligned with.

    Args:
        matcher: the model.
        examples: utterances.
        output: the picture; its ending says the format.
    """
    aligned: list[int] = []
    predicted: list[float] = []
    for example in examples:
        phones, lengths = padded([matcher.model.phone_encoder(example.text)], matcher.model.device)
        aligned += matcher.durations(matcher.speech(example), phones, lengths)[0].tolist()
        predicted += matcher.predicted([phones[0].tolist()])[0].tolist()
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.4, 0.4, len(aligned))
    with rc_context(STYLE):
        figure = Figure(figsize=(4.5, 4.2), layout="constrained")
        panel = figure.subplots()
        panel.plot(np.array(aligned) + jitter, predicted, ".", markersize=2, alpha=0.4)
        most = max(*aligned, *predicted, 1)
        panel.plot([0, most], [0, most], color="C6", linewidth=0.8)
        panel.set_xlabel("aligned, frames")
        panel.set_ylabel("predicted, frames")
        panel.set_title(f"{len(aligned)} phones")
        save_figure(figure, output)


def _extent(shown: np.ndarray, rate: float) -> tuple[float, float, float, float]:
    return 0.0, shown.shape[1] / rate, -0.5, shown.shape[0] - 0.5
