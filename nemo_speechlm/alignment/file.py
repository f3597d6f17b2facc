"""The aligner's file: safetensors, with everything that is not a tensor as JSON in the header.

>>> import json, safetensors  # what is in one, without this package
>>> with safetensors.safe_open("aligner.safetensors", "pt") as file:  # doctest: +SKIP
...     print(json.loads(file.metadata()["aligner"]))
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nemo_speechlm.alignment.aligner import GmmAligner
from nemo_speechlm.alignment.graph import Topology
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.mixtures import Mixtures
from nemo_speechlm.errors import InputError
from nemo_speechlm.tensor_file import TensorFile

VERSION = 1
_FILE = TensorFile(
    "aligner", VERSION, "examples/train_aligner.py makes an aligner", "an aligner", "an aligner", "train it anew"
)
_SHAPES = {"log_weights": 2, "means": 3, "variances": 3, "stay": 1}


class SavedAligner(NamedTuple):
    """What a file holds.

    Attributes:
        aligner: the aligner.
        extra: what was saved with it, in plain values.
        tensors: further tensors that were saved with it.
    """

    aligner: GmmAligner
    extra: dict[str, Any]
    tensors: dict[str, Tensor]


def save_aligner(
    path: str | Path, aligner: GmmAligner, extra: dict[str, Any], tensors: dict[str, Tensor] | None = None
) -> None:
    """Write an aligner, under a temporary name until all is written.

    Args:
        path: the file.
        aligner: the aligner.
        extra: plain values to keep with it.
        tensors: tensors to keep with it, under other names than the aligner's own.
    """
    header, own = content_of(aligner)
    _FILE.save(path, {**header, "extra": extra}, {**(tensors or {}), **own})


def content_of(aligner: GmmAligner) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An aligner as plain values and tensors."""
    mixtures = aligner.mixtures
    tensors = {
        "log_weights": mixtures.log_weights,
        "means": mixtures.means,
        "variances": mixtures.variances,
        "stay": aligner.stay,
    }
    header = {
        "topology": {key: value for key, value in asdict(aligner.topology).items() if not key.startswith("_")},
        "mfcc": asdict(aligner.mfcc),
        "silence": aligner.silence,
        "silence_probability": aligner.silence_probability,
    }
    return header, tensors


def load_aligner(path: str | Path) -> SavedAligner:
    """Read an aligner.

    Raises:
        InputError: if the file is missing, damaged, or something else.
    """
    header, tensors = _FILE.load(path)
    try:
        aligner = aligner_of(header, tensors)
    except InputError as error:
        raise InputError(error.reason, path) from None
    others = {name: tensor for name, tensor in tensors.items() if name not in _SHAPES}
    return SavedAligner(aligner, header.get("extra", {}), others)


def aligner_of(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GmmAligner:
    """The aligner that :func:`content_of` took apart; there may be other values and tensors beside its own.

    Raises:
        InputError: if something is missing or damaged.
    """
    try:
        topology = Topology(**{**values["topology"], "phones": tuple(values["topology"]["phones"])})
        mfcc = Mfcc(**values["mfcc"])
        own = {name: tensors[name] for name in _SHAPES}
        _check(own, topology, mfcc)
        return GmmAligner(
            topology,
            Mixtures(own["log_weights"], own["means"], own["variances"]),
            own["stay"],
            float(values["silence_probability"]),
            str(values["silence"]),
            mfcc,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a damaged aligner: {type(error).__name__}: {error}") from error


def _check(own: dict[str, Tensor], topology: Topology, mfcc: Mfcc) -> None:
    states, components = topology.num_states, own["log_weights"].shape[-1] if own["log_weights"].ndim else 0
    expected = {
        "log_weights": (states, components),
        "means": (states, components, mfcc.size),
        "variances": (states, components, mfcc.size),
        "stay": (states,),
    }
    for name, shape in expected.items():
        tensor = own[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise InputError(
                f"a damaged aligner: {name} is {tuple(tensor.shape)} {tensor.dtype}, expected finite float32 of "
                f"shape {shape}"
            )
