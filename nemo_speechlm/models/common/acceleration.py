"""What training on a GPU gains without a change of numbers: compiled layers, fused optimizers."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import ModelParallelStrategy
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from nemo.utils import logging
from omegaconf import DictConfig

from nemo_speechlm.models.common.sharding import gradient_norm, shard
from nemo_speechlm.modules.encoder import SpeechLMEncoder

if TYPE_CHECKING:
    from nemo.core.classes import ModelPT as _Host  # as types are checked, a mixin of NeMo's classes
else:
    _Host = object

_APEX = "fused_adam"
"""What NeMo calls apex's optimizer, which it knows where apex is installed."""


class Accelerated(_Host):
    """Mixin for models with an ``encoder``; goes before NeMo's class among the bases.

    - ``cfg.compile: true`` compiles each layer of the encoder's transformers when a training begins, for inputs of any
      length; a step of another length is not compiled anew.
    - An optimizer called ``adamw`` becomes apex's fused one on GPUs where apex is installed, and PyTorch's fused one
      where it is not. The config keeps saying ``adamw``.
    - ``optim_param_groups`` leaves no parameter out.
    """

    encoder: SpeechLMEncoder

    def on_fit_start(self) -> None:
        """Compile what is to be compiled."""
        super().on_fit_start()
        if self.cfg.get("compile", False):
            compile_layers(self.encoder)

    def configure_model(self) -> None:
        """Divide the model among GPUs where the trainer's strategy has a mesh of them (``trainer.strategy=fsdp2``)."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None:
            shard(self, mesh["data_parallel"])

    def setup_optimizer_param_groups(self) -> None:
        """Make NeMo's groups (``optim_param_groups``); parameters of none of them have the optimizer's own settings.

        NeMo knows a group's parameters by how their names begin, and would leave ``encoder_proj`` untrained where
        there is a group ``encoder``.
        """
        super().setup_optimizer_param_groups()
        groups: list[dict[str, Any]] = self._optimizer_param_groups
        grouped = {id(parameter) for group in groups for parameter in group["params"]}
        left_out = [parameter for parameter in self.parameters() if id(parameter) not in grouped]
        if not left_out:
            return
        if groups[0].keys() != {"params"}:
            groups.insert(0, {"params": []})
        groups[0]["params"] += left_out

    def setup_optimization(
        self, optim_config: DictConfig | dict | None = None, optim_kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See :class:`ModelPT`."""
        config = self._optim_config_copy(optim_config)
        if config is None or config.get("name") != "adamw" or not _on_gpu(self._trainer):
            return super().setup_optimization(config, optim_kwargs)
        divided = isinstance(self._trainer.strategy, ModelParallelStrategy)  # apex's does not know parts of tensors
        if _APEX in AVAILABLE_OPTIMIZERS and not divided:
            config.name = _APEX
        elif self._trainer.precision != "16-mixed":  # there, gradients are clipped before PyTorch's would unscale them
            optim_kwargs = {"fused": True, **(optim_kwargs or {})}
        made = super().setup_optimization(config, optim_kwargs)
        if self._cfg.get("optim") is not None:
            self._cfg.optim.name = "adamw"
        return made

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told to, and log the norm before that; it is computed once.

        Lightning's own clipping refuses fused optimizers in bf16-mixed, for what they do in 16-mixed alone: there they
        would take the loss scale out of the gradients only after the clipping.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = gradient_norm(parameters)
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self.log("grad_norm", norm)


def compile_layers(encoder: SpeechLMEncoder) -> None:
    """Let each layer of both transformers be compiled when it is first called, and log how many they are.

    Layers of a kind share their graphs, so that this takes the time of a few, not of the whole encoder.
    """
    layers = [
        layer for half in (encoder.speech_transformer, encoder.shared_transformer) for layer in half.layers  # type: ignore[union-attr]
    ]  # fmt: skip
    for layer in layers:
        layer.compile(dynamic=True)
    logging.info(f"torch.compile: {len(layers)} layers")


def _on_gpu(trainer: Any) -> bool:
    return trainer is not None and isinstance(trainer.accelerator, CUDAAccelerator)
