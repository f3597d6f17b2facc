"""The precision that a trained model computes in."""

import torch

from nemo_speechlm.checks import check_choice

_KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context in which a model computes in ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InputError: if there is no such precision.
    """
    check_choice("precision", precision, tuple(_KINDS))
    return torch.autocast(device_type, _KINDS[precision], enabled=precision != "float32")
