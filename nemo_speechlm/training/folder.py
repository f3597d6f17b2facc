"""The folder of a run before training begins in it: held by one run, its checkpoints in order, known to all ranks."""

from contextlib import ExitStack
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.locks import only_writer
from nemo_speechlm.training.continuation import Continuation, checkpoint_folder, log_folder
from nemo_speechlm.training.recovery import put_in_order

_REFUSAL = (
    "another run works in this folder ({holder}); wait until that has ended, or give this one a folder of its own "
    "(name=... or exp_manager.exp_dir=...)"
)


def prepare_folder(trainer: Trainer, cfg: DictConfig, continuation: Continuation, held: ExitStack) -> None:
    """Lock the folder, compare the run with the one that began it, and put its checkpoints in order.

    The first process does it for all, and holds the locks; the others wait for it.

    Args:
        trainer: without loggers and checkpoint callback yet.
        cfg: a recipe.
        continuation: what compares.
        held: lets go of the locks when it is closed; the system does if the process is killed.

    Raises:
        InputError: if another process holds the folder or makes the same output; if the run is another one; or if
            none of its checkpoints can be read.
    """
    if trainer.global_rank == 0:
        held.enter_context(only_writer(cfg.output))
        settings: dict[str, Any] = OmegaConf.to_container(cfg.get("exp_manager") or DictConfig({}), resolve=True)  # type: ignore[assignment]
        folder = None
        if settings.get("resume_if_exists"):  # otherwise NeMo takes a folder with a new name
            folder, logs = checkpoint_folder(trainer, settings), log_folder(trainer, settings).resolve()
            held.enter_context(only_writer(logs, refusal=_REFUSAL))  # beside it: NeMo moves files that are in it
            if logs not in folder.resolve().parents:
                held.enter_context(only_writer(folder.resolve(), refusal=_REFUSAL))
        continuation.check(trainer)
        if folder is not None:
            put_in_order(folder)
    _wait_for_the_first(trainer)


def _wait_for_the_first(trainer: Trainer) -> None:
    """Let all processes see the folder as the first one has left it.

    Where Lightning starts the others itself, it does so later, and they are not waited for.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)  # a single device has none
    if trainer.world_size == 1 or environment is None or isinstance(environment, LightningEnvironment):
        return
    trainer.strategy.setup_environment()
    trainer.strategy.barrier("the run's folder is in order")
