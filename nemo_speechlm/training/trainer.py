"""Lightning's trainer as a recipe describes it, and the strategies with which gradients come out right."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from nemo.utils import logging
from nemo.utils.trainer_utils import HalfPrecisionForAudio, resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

from nemo_speechlm.errors import SpeechLMError, first_line
from nemo_speechlm.kernels.cpu import multiplies_bfloat16
from nemo_speechlm.models.common.sharding import layers_left_out
from nemo_speechlm.training.trainer_options import check_trainer_options

FSDP2 = "fsdp2"
"""What ``trainer.strategy`` is called that divides the model among the GPUs."""

_BUILT = ("strategy", "plugins", "callbacks", "logger", "profiler")
_RIGHT = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)


def build_trainer(cfg: DictConfig, callbacks: Sequence[Callback]) -> Trainer:
    """Build the trainer of a recipe.

    Hydra builds ``strategy``, ``plugins``, ``callbacks``, ``logger`` and ``profiler`` where they are a mapping with
    ``_target_``, a list of such, or a mapping from names to such. ``strategy: fsdp2`` is :class:`ShardedStrategy`.
    ``precision: bf16-true`` leaves audio in fp32, as NeMo's own trainings do.

    Args:
        cfg: the recipe's ``trainer``.
        callbacks: go before the recipe's own.

    Raises:
        SpeechLMError: if one of these cannot be built, an option is of the wrong kind, or the strategy is one whose
            gradients would be wrong.
        MisconfigurationException: of Lightning.
    """
    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in _BUILT:
        if key in options:
            options[key] = _built(options[key], f"trainer.{key}")
    check_trainer_options(options)
    if isinstance(name := options.get("strategy"), str):
        if name == FSDP2:
            options["strategy"] = ShardedStrategy()
        elif name.startswith("fsdp"):
            raise SpeechLMError(_refusal(name))
    try:
        precision = resolve_trainer_cfg(OmegaConf.create({"precision": options.get("precision")}))
    except ValueError as error:
        raise SpeechLMError(f"trainer.precision: {error}") from error
    if "plugins" in precision:
        plugins = [
            HalfPrecisionOfBatches(plugin.precision) if isinstance(plugin, HalfPrecisionForAudio) else plugin
            for plugin in precision["plugins"]
        ]
        options |= {"precision": None, "plugins": [*_listed(options.get("plugins")), *plugins]}
    if options.get("min_steps") is not None and options.get("min_epochs") is None:
        options["min_epochs"] = 0  # Lightning's 1 would be waited for, and epochs have no end
    options["callbacks"] = [*callbacks, *_listed(options.get("callbacks"))]
    try:
        trainer = Trainer(**options)
    except (TypeError, ValueError) as error:  # of Lightning, about options that it does not know or cannot use
        raise SpeechLMError(f"trainer: {error}") from error
    if isinstance(trainer.strategy, ModelParallelStrategy) and not isinstance(trainer.strategy, ShardedStrategy):
        raise SpeechLMError(
            f"trainer.strategy: {type(trainer.strategy).__name__} writes checkpoints that are folders, and runs "
            f"here do not resume from those; say trainer.strategy={FSDP2}"
        )
    if not isinstance(trainer.strategy, _RIGHT):
        raise SpeechLMError(_refusal(type(trainer.strategy).__name__))
    return trainer


class HalfPrecisionOfBatches(HalfPrecisionForAudio):
    """NeMo's half precision, which leaves audio alone in dicts, for our batches too, which are named tuples."""

    def convert_input(self, data: Any) -> Any:
        """A batch as it is: its floating-point numbers are audio."""
        return data if isinstance(data, tuple) and hasattr(data, "_fields") else super().convert_input(data)


def choose_precision(trainer: DictConfig, begun_with: Callable[[], str | None] = lambda: None) -> None:
    """Turn ``precision: auto`` into a precision, so that the run's record holds one.

    A run that goes on keeps its own, on whatever device. A new one gets what the device is fastest with:
    ``bf16-mixed`` on GPUs and processors with instructions for bfloat16, and ``32-true`` on others.

    Args:
        trainer: the recipe's ``trainer``, which is changed.
        begun_with: gives the precision of the run that would be continued; None where there is none.
    """
    if trainer.get("precision") != "auto":
        return
    if (known := begun_with()) is not None:
        trainer.precision = known
        logging.info(f"trainer.precision: {known}, with which this run began")
        return
    on_cpu = trainer.get("accelerator") == "cpu" or not torch.cuda.is_available()
    fast = multiplies_bfloat16() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    trainer.precision = "bf16-mixed" if fast else "32-true"
    device = "the processor" if on_cpu else "the GPU"
    logging.info(f"trainer.precision: {trainer.precision}, which {device} is fastest with")


def _refusal(strategy: str) -> str:
    return (
        f"trainer.strategy: {strategy} would train with wrong gradients: the norm that they are clipped by is that of "
        f"a process's own part of them. Known to be right: auto, ddp and its variants, and {FSDP2}, which divides "
        "large models among GPUs"
    )


def _built(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            try:
                return instantiate(value)
            except (InstantiationException, TypeError, ValueError) as error:
                reason = first_line(error)
                raise SpeechLMError(f"{key}: {value['_target_']} cannot be built: {reason}") from error
        if not value or not all(isinstance(part, Mapping) for part in value.values()):
            raise SpeechLMError(f"{key} is {dict(value)}, expected a mapping with _target_")
        return [_built(part, f"{key}.{name}") for name, part in value.items()]
    if isinstance(value, list):
        return [_built(part, f"{key}[{place}]") for place, part in enumerate(value)]
    return value


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


# --- parameters without a gradient -----------------------------------------------------------------------------------


def expect_unused(trainer: Trainer, model: LightningModule) -> None:
    """Let DistributedDataParallel look for parameters without a gradient where a step may have some.

    That is so with layer drop, an encoder that is frozen at first, a stream of data that the run does not have, or
    tasks that change on the way (``model.unused_parameters()``, reasons in words). A strategy that says
    ``find_unused_parameters`` itself, either way, is left as it is.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or "find_unused_parameters" in strategy._ddp_kwargs:
        return
    reasons = layers_left_out(model)
    if steps := getattr(model, "freeze_encoder_steps", 0):
        reasons.append(f"freeze_encoder_steps={steps}")
    own = getattr(model, "unused_parameters", None)
    reasons += own() if own is not None else []
    if reasons:
        strategy._ddp_kwargs["find_unused_parameters"] = True
        logging.info(f"Some steps leave parameters without a gradient ({'; '.join(reasons)}): DDP looks for them")


def explain_unused(error: RuntimeError) -> SpeechLMError | None:
    """What to do about DistributedDataParallel's error over parameters without a gradient; None for other errors."""
    if "find_unused_parameters" not in str(error):
        return None
    return SpeechLMError(
        "DistributedDataParallel waits for gradients of parameters that a step did not use; set "
        "trainer.strategy=ddp_find_unused_parameters_true"
    )


# --- divided models --------------------------------------------------------------------------------------------------


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 with checkpoints that are single, whole files, as of any other run.

    The first process gathers and writes them: they have checksums and two generations like all others, go on with
    another number of GPUs or without this strategy, and become a ``.nemo`` file as any checkpoint does. Every process
    reads the file and keeps its part.

    Args:
        options: of Lightning's strategy: ``process_group_backend``, ``timeout``.
    """

    def __init__(self, **options: Any):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Divide among all processes; Lightning's default is a division among nodes.

        Before there is a model, when a run's folder is put in order, the processes only find each other.
        """
        if self.lightning_module is None:
            self._setup_distributed()
            return
        self._data_parallel_size = self.world_size
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes: from the checkpoint as it is when callbacks have changed it."""
        return True

    def load_checkpoint(self, checkpoint_path: Any) -> dict[str, Any]:
        """Read the file; nothing is restored yet."""
        return Strategy.load_checkpoint(self, checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's part of the weights."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's part of the moments."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
