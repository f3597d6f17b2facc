"""Models whose weights, gradients and moments are divided among GPUs (PyTorch's FSDP2), layer by layer."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from nemo_speechlm.errors import SpeechLMError

_STEPS = ("training_step", "validation_step", "test_step")
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has divided the model."""
    return isinstance(model, FSDPModule)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the weights of a model among the processes of a mesh; each layer is gathered where it is computed.

    A layer is a member of a module list called ``layers``, as in our transformers and NeMo's. What is in none is
    gathered for the whole of a step. All processes must have the same weights.

    Args:
        model: computes its steps in the methods of a Lightning module.
        mesh: with one dimension.

    Raises:
        SpeechLMError: if layers are left out at random: processes that wait for one another would leave out others.
    """
    if is_sharded(model):
        return
    if dropping := layers_left_out(model):
        raise SpeechLMError(
            f"trainer.strategy=fsdp2: {', '.join(dropping)}: each process would drop other layers and so keep the "
            "others waiting for its part of the weights; set it to 0, or trainer.strategy=ddp"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "layers":
            for layer in module:
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for step in _STEPS:
        register_fsdp_forward_method(model, step)


def layers_left_out(model: nn.Module) -> list[str]:
    """The modules that leave out layers at random in training, each with the option that says how often."""
    found = []
    for name, module in model.named_modules():
        if getattr(module, "layerdrop", 0.0):
            found.append(f"{name}.layerdrop={module.layerdrop}")
        if any(getattr(module, "layer_drop_probs", ())):  # NeMo's Conformer
            found.append(f"{name}.stochastic_depth_drop_prob={max(module.layer_drop_probs)}")  # type: ignore[arg-type, type-var]
    return found


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm () of all gradients together, also where each process has a part of them."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def full_weights(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model, on the CPU; of a divided one only the first process gets it, and all must ask."""
    return get_model_state_dict(model, options=_FULL)


def take_full_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Load a state dict that every process has as a whole."""
    if is_sharded(model):
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(weights)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Let ``model.state_dict()`` give whole weights to the first process within a block, which all must enter."""
    if not is_sharded(model):
        yield
        return
    weights = full_weights(model)
    model.state_dict = lambda *args, **kwargs: weights  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del model.state_dict


def any_sharded(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether a process has only its part of some of these."""
    return any(isinstance(p, DTensor) for p in parameters)
