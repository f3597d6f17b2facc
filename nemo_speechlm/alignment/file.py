"""The aligner's file: safetensors, with all that is not a tensor as JSON in its header.

>>> import json, safetensors  # what is in one, without this package
>>> with safetensors.safe_open("aligner.safetensors", "pt") as file:  # doctest: +SKIP
...     print(json.loads(file.metadata()["aligner"]))
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nemo_speechlm.alignment.aligner import GmmAligner
from nemo_speechlm.alignment.graph import Topology
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.mixtures import Mixtures
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import partial_path

VERSION = 1
_KEY = "aligner"
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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mixtures = aligner.mixtures
    own = {
        "log_weights": mixtures.log_weights,
        "means": mixtures.means,
        "variances": mixtures.variances,
        "stay": aligner.stay,
    }
    header = {
        "version": VERSION,
        "topology": {key: value for key, value in asdict(aligner.topology).items() if not key.startswith("_")},
        "mfcc": asdict(aligner.mfcc),
        "silence": aligner.silence,
        "silence_probability": aligner.silence_probability,
        "extra": extra,
    }
    partial = partial_path(path)
    try:
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in {**(tensors or {}), **own}.items()}
        partial.write_bytes(save(content, {_KEY: json.dumps(header, ensure_ascii=False)}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_aligner(path: str | Path) -> SavedAligner:
    """Read an aligner.

    Raises:
        InputError: if the file is missing, damaged, or something else.
    """
    if not Path(path).is_file():
        raise InputError("no such file; examples/train_aligner.py makes an aligner", path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"not an aligner, or damaged: {error}", path) from error
    try:
        header = json.loads(metadata[_KEY])
        version = header["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a safetensors file, but not one of an aligner", path) from error
    if version != VERSION:
        raise InputError(f"an aligner of format {version}, expected {VERSION}; train it anew", path)
    try:
        topology = Topology(**{**header["topology"], "phones": tuple(header["topology"]["phones"])})
        mfcc = Mfcc(**header["mfcc"])
        own = {name: tensors.pop(name) for name in _SHAPES}
        _check(own, topology, mfcc)
        aligner = GmmAligner(
            topology,
            Mixtures(own["log_weights"], own["means"], own["variances"]),
            own["stay"],
            float(header["silence_probability"]),
            str(header["silence"]),
            mfcc,
        )
        return SavedAligner(aligner, header["extra"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a damaged aligner: {type(error).__name__}: {error}", path) from error
    except InputError as error:
        raise InputError(error.reason, path) from None


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
