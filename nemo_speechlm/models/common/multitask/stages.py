"""The stages of a training: which tasks are learned at which step (SLAM, section 3.4; MAESTRO's curriculum)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from nemo.utils import logging

from nemo_speechlm.checks import check_whole
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.tasks import Tasks


class Stage(NamedTuple):
    """A part of a training.

    Attributes:
        steps: updates that it lasts; None for all that are left.
        tasks: what is learned.
    """

    steps: int | None
    tasks: tuple[str, ...]

    def streams(self, tasks: Tasks) -> set[str]:
        """The streams that its tasks, of these, need."""
        return {tasks[name].stream for name in self.tasks}


def read_stages(config: Sequence[Mapping[str, Any]] | None, tasks: Tasks, weighted: Collection[str]) -> list[Stage]:
    """The stages of a config; None is one stage of all tasks. A task without a weight is left out of each.

    Args:
        config: of each stage, ``steps`` (null in the last one: to the end) and ``tasks`` (null: all with a weight).
        tasks: of the system.
        weighted: those with a weight.

    Raises:
        SpeechLMError: naming the key that is wrong.
    """
    if config is None:
        return [Stage(None, tuple(weighted))]
    if not isinstance(config, Sequence) or isinstance(config, str):
        shown = dict(config) if isinstance(config, Mapping) else config
        raise SpeechLMError(
            f"model.stages is {shown!r}, expected null or a list, such as [{{steps: null, tasks: null}}]"
        )
    if not config:
        raise SpeechLMError("model.stages is empty; expected null or a list of stages")
    stages = []
    for number, stage in enumerate(config):
        key = f"model.stages[{number}]"
        if not isinstance(stage, Mapping):
            raise SpeechLMError(f"{key} is {stage!r}, expected a mapping with steps and tasks")
        if strange := sorted(set(stage) - {"steps", "tasks"}):
            raise SpeechLMError(f"{key}.{strange[0]} is not a key of a stage; there are: steps, tasks")
        steps = stage.get("steps")
        listed = stage.get("tasks")
        if listed is not None and (not isinstance(listed, Sequence) or isinstance(listed, str)):
            raise SpeechLMError(f"{key}.tasks is {listed!r}, expected null or a list of: {', '.join(weighted)}")
        names = list(weighted if listed is None else listed)
        if steps is None and number < len(config) - 1:
            raise SpeechLMError(f"{key}.steps is not given; only the last stage may go on to the end")
        if steps is not None:
            check_whole(f"{key}.steps", steps, 1)
        if not names:
            raise SpeechLMError(f"{key}.tasks is empty; expected some of: {', '.join(weighted)}")
        for name in names:
            if name not in tasks:
                raise SpeechLMError(f"{key}.tasks has {name!r}, which is no task; there are: {', '.join(tasks)}")
        learned = tuple(name for name in tasks if name in names and name in weighted)
        if not learned:
            off = ", ".join(f"model.tasks.{name}" for name in names)
            raise SpeechLMError(f"{key} has no task to learn: {off} is 0; leave the stage out, or give a weight")
        stages.append(Stage(steps, learned))
    return stages


def stage_at(stages: Sequence[Stage], step: int) -> int:
    """The number of the stage that the update after ``step`` others belongs to; behind the end, the last one."""
    for number, stage in enumerate(stages):
        if stage.steps is None or step < stage.steps:
            return number
        step -= stage.steps
    return len(stages) - 1


def updates_of(stages: Sequence[Stage], task: str, step: int) -> int:
    """How many of the first ``step`` updates belong to stages that learn a task."""
    found = 0
    for number, stage in enumerate(stages):
        last = stage.steps is None or number == len(stages) - 1
        taken = step if last else min(step, stage.steps or 0)
        found += taken if task in stage.tasks else 0
        step -= taken
    return found


def check_all_learned(stages: Sequence[Stage], weighted: Collection[str]) -> None:
    """Check that each task with a weight is learned in some stage.

    Raises:
        SpeechLMError: naming the first that is not.
    """
    learned = {task for stage in stages for task in stage.tasks}
    if idle := [task for task in weighted if task not in learned]:
        raise SpeechLMError(
            f"model.tasks.{idle[0]} has a weight, and no stage of model.stages learns it, so val_loss would count "
            f"what is never trained. Name it in the tasks of a stage, or set model.tasks.{idle[0]}=0"
        )


def check_stages(stages: Sequence[Stage], tasks: Tasks, streams: Collection[str], max_steps: int) -> None:
    """Check that each stage has its data, and that they last as long as the training; warn of one that never begins.

    Args:
        stages: of the config.
        tasks: of the system.
        streams: that ``train_ds`` has.
        max_steps: of the trainer, -1 for no end.

    Raises:
        SpeechLMError: naming the keys.
    """
    for number, stage in enumerate(stages):
        for task in stage.tasks:
            if (stream := tasks[task].stream) not in streams:
                where = "model.tasks" if len(stages) == 1 else f"model.stages[{number}].tasks"
                raise SpeechLMError(
                    f"{where} has {task!r}, which learns from {stream}, and there is no "
                    f"model.train_ds.{stream}.manifest_filepath; give it, or set model.tasks.{task}=0"
                )
    begins = 0
    for number, stage in enumerate(stages):
        if begins >= max_steps != -1:
            logging.warning(
                f"model.stages[{number}] begins after {begins} updates, and trainer.max_steps is {max_steps}: it "
                "never begins. Give the stages before it fewer steps, or the trainer more"
            )
            break
        begins += stage.steps or 0
    if stages[-1].steps is None:
        return
    total = sum(stage.steps or 0 for stage in stages)
    if max_steps == -1 or total < max_steps:
        raise SpeechLMError(
            f"model.stages last {total} steps together, and trainer.max_steps is {max_steps}; give the last stage "
            "steps: null, or another trainer.max_steps"
        )
