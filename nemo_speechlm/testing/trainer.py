"""A trainer for tests."""

from typing import Any

from lightning.pytorch import Trainer


def tiny_trainer(steps: int, **options: Any) -> Trainer:
    """A Lightning trainer for some steps on the CPU, which prints nothing and writes nothing.

    Args:
        steps: updates, after which it validates.
        options: further ones of Lightning's, or other values of these.
    """
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    data = {"use_distributed_sampler": False, "val_check_interval": steps, "check_val_every_n_epoch": None}
    return Trainer(**{"max_steps": steps, **quiet, **data, **options})
