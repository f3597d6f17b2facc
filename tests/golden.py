"""The released implementation's tensors at tiny size, and its checkpoints converted into our models."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo.core.classes import ModelPT
from torch import Tensor

from nemo_speechlm.interop.convert import build
from nemo_speechlm.interop.plan import Options, Plan, make_plan
from nemo_speechlm.interop.source import read_source

DATA = Path(os.environ.get("NEMO_SPEECHLM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GOLDEN = DATA.parent / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the released code's tensors are not at {GOLDEN}")


@cache
def load(name: str) -> dict[str, Any]:
    """One of the golden files."""
    return torch.load(GOLDEN / name, weights_only=True)


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
