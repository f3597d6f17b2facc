"""TensorBoard's curves of a run that is resumed, and that a full disk does not end."""

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from nemo.utils import logging

_TRY_AGAIN = 60.0  # seconds between attempts to open a file of events after an error


def one_curve(trainer: Trainer, first_step: int) -> None:
    """Replace the TensorBoard loggers of a trainer by :class:`RunCurves`.

    Args:
        trainer: a trainer to which loggers were given (NeMo's ``exp_manager`` does).
        first_step: the step that the run goes on from; 0 if it begins, maybe where one was that left no checkpoint.
    """
    trainer.loggers = [
        RunCurves.of(logger, first_step) if type(logger) is TensorBoardLogger else logger for logger in trainer.loggers
    ]


class RunCurves(TensorBoardLogger):
    """Lightning's logger, for runs that are interrupted.

    All files of events are in the run's folder. TensorBoard is told the step that a run goes on from
    (``purge_step``), and hides what earlier files have at that step and later. If a file of events cannot be
    written, figures are lost with a warning and training goes on; a new file is begun as soon as that is possible.
    """

    _broken_until = 0.0

    @classmethod
    def of(cls, logger: TensorBoardLogger, first_step: int) -> "RunCurves":
        """A logger with the settings of another."""
        return cls(
            logger.save_dir,
            logger.name,
            "" if logger._version is None else logger._version,  # no version_0, version_1, ... for each resume
            log_graph=logger._log_graph,
            default_hp_metric=logger._default_hp_metric,
            prefix=logger._prefix,
            sub_dir=logger.sub_dir,
            **{"purge_step": first_step, **logger._kwargs},
        )

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Write figures of a step."""
        self._try(lambda: super(RunCurves, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write the settings of the run."""
        self._try(lambda: super(RunCurves, self).log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """Bring what was written to the disk."""
        self._try(lambda: super(RunCurves, self).save())

    def finalize(self, status: str) -> None:
        """Close the file."""
        self._try(lambda: super(RunCurves, self).finalize(status))

    def _try(self, action: Callable[[], None]) -> None:
        if time.monotonic() < self._broken_until:
            return
        try:
            action()
        except OSError as error:  # perhaps of an earlier one: they are written by a thread
            logging.warning(f"TensorBoard events cannot be written ({error}); figures of some steps will be missing")
            self._broken_until = time.monotonic() + _TRY_AGAIN
            self._experiment = None  # its thread has ended; the next one opens another file
            self._kwargs.pop("purge_step", None)
