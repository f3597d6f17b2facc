"""The precision that a trained model computes in."""

import torch

from nemo_speechlm.checks import PRECISIONS, check_choice


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context in which a model computes in ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InputError: if there is no such precision.
    """
    check_choice("precision", precision, PRECISIONS)
    return torch.autocast(device_type, getattr(torch, precision), enabled=precision != "float32")
