"""The folder of the run that a model is trained in."""

from pathlib import Path
from typing import Any


def run_folder(model: Any) -> Path | None:
    """Where its trainer keeps logs and checkpoints; None for a model without a trainer."""
    trainer = getattr(model, "_trainer", None)
    return None if trainer is None else Path(trainer.default_root_dir)
