"""The released implementation's tensors at tiny size, and its checkpoints converted into our models."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo.core.classes import ModelPT
from torch import Tensor

from nemo_speechlm.interop.convert import build
from nemo_speechlm.interop.plan import Options, Plan
from nemo_speechlm.interop.planning import make_plan
from nemo_speechlm.interop.reading.source import read_source

DATA = Path(os.environ.get("NEMO_SPEECHLM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
GOLDEN = DATA.parent / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the released code's tensors are not at {GOLDEN}")


@cache
def load(name: str) -> dict[str, Any]:
    """One of the golden files."""
    return torch.load(GOLDEN / name, weights_only=True)


@cache
def symbols(folder: str) -> dict[str, Any]:
    """``dictionaries.json`` of a folder."""
    return json.loads((GOLDEN / folder / "dictionaries.json").read_text())


_DICTIONARIES = {
    "unit_dictionary": ("text_src_dictionary", "dictionaries", "tgt_dict"),
    "label_dictionary": ("text_dictionary", "target_dictionary"),
    "phone_dictionary": ("src_dict",),
}


def dictionary_options(name: str, folder: Path) -> Options:
    """Options with the symbols in ``dictionaries.json`` as the files that fairseq would have, written to a folder."""
    given = {}
    for option, names in _DICTIONARIES.items():
        own = next((symbols(name)[key] for key in names if key in symbols(name)), None)
        if own is not None:
            own = own[0] if isinstance(own[0], list) else own
            given[option] = folder / f"{option}.txt"
            given[option].write_text("".join(f"{symbol} 1\n" for symbol in own[4:]), encoding="utf-8")
    return Options(**given)


@cache
def released(name: str) -> tuple[Any, Plan]:
    """A released checkpoint as a model of ours, and the plan by which it was made; do not change the model."""
    if name.endswith("_real_structure.pt"):
        return converted(name)
    with tempfile.TemporaryDirectory() as folder:
        return converted(name, dictionary_options(name.split("/")[0], Path(folder)))


def converted(name: str, options: Options | None = None) -> tuple[ModelPT, Plan]:
    """A released checkpoint as a model of ours in evaluation mode, and the plan by which it was made."""
    options = options or Options()
    plan = make_plan(read_source(GOLDEN / name), options)
    with tempfile.TemporaryDirectory() as folder:
        return build(plan, Path(folder), options), plan


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def ours_of(plan: Plan, theirs: str, value: Tensor) -> tuple[str, Tensor]:
    """Our name of a released parameter, and a tensor of its shape (a gradient) in our order of classes."""
    (ours,) = (ours for ours, name in plan.names.items() if name == theirs)
    return ours, value.roll(-1, dims=0) if ours.endswith(("linear.weight", "linear.bias")) else value


@dataclass(frozen=True)
class Value:
    """What our model has for a value of a golden file.

    Attributes:
        ours: the value.
        where: the entries that are compared, where others are padding, whose values mean nothing.
        tolerance: of the largest difference, relative to the largest value; whole numbers must be equal.
        floor: the largest value counts as at least this (for gradients that are zero but for rounding).
        theirs: turns the golden value into our form.
    """

    ours: Any
    where: Tensor | None = None
    tolerance: float = 1e-5
    floor: float = 0.0
    theirs: Callable[[Any], Any] = lambda value: value

    def difference(self, golden: Any) -> str:
        """What is wrong, or nothing."""
        if isinstance(golden, str):
            return "" if self.ours == self.theirs(golden) else f"{self.ours}, expected {self.theirs(golden)}"
        ours, theirs = torch.as_tensor(self.ours).detach(), torch.as_tensor(self.theirs(golden))
        if self.where is not None and ours.shape == theirs.shape:
            ours, theirs = ours[self.where], theirs[self.where]
        if ours.shape != theirs.shape:
            return f"of shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
        if not theirs.is_floating_point():
            return "" if torch.equal(ours.to(theirs.dtype), theirs) else f"{ours}, expected {theirs}"
        assert theirs.numel(), "nothing to compare"
        error = float((ours.double() - theirs.double()).abs().max())
        allowed = self.tolerance * max(float(theirs.abs().max()), self.floor)
        return "" if error <= allowed else f"off by {error:.3g}, allowed {allowed:.3g}"


Reproduced = dict[str, Value]


def collect(found: dict[str, Tensor], name: str, of_input: bool = False) -> Callable[..., None]:
    """A forward hook (or pre-hook) that keeps a module's output (or input) under a name."""

    def keep(_module: Any, inputs: Any, *output: Any) -> None:
        value = inputs[0] if of_input else output[0]
        found[name] = value[0] if isinstance(value, tuple) else value

    return keep


def without_gradient(plan: Plan, model: ModelPT) -> Callable[[str], str]:
    """Turns the released list of parameters that got no gradient into the part of it that disagrees with ours."""
    ours = {theirs: name for name, theirs in plan.names.items()}
    parameters = dict(model.named_parameters())
    with_gradient = {theirs for theirs, name in ours.items() if parameters[name].grad is not None}
    return lambda names: " ".join(sorted(set(names.split()) & with_gradient))
