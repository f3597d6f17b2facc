"""The tasks of a system: what each learns from, the terms of its loss, and what else it tells."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from nemo_speechlm.checks import check_number
from nemo_speechlm.errors import SpeechLMError


class Task(NamedTuple):
    """One task.

    Attributes:
        stream: of the data that it learns from: ``speech``, ``text`` or ``pairs``.
        terms: of its loss; those of a task with several have weights of their own in ``cfg.loss``.
        accuracies: what else it tells.
    """

    stream: str
    terms: tuple[str, ...]
    accuracies: tuple[str, ...] = ()


Tasks = Mapping[str, Task]
"""The tasks of a system, by name."""

W2V_BERT = Task(
    "speech", ("contrastive", "masked_codes", "diversity"), ("contrastive_accuracy", "masked_code_accuracy")
)


def read_weights(config: Mapping[str, Any], tasks: Tasks) -> dict[str, float]:
    """The weights of the tasks that are on.

    Raises:
        SpeechLMError: on an unknown task, a weight that is none, or if all are off.
    """
    for name, weight in config.items():
        if name not in tasks:
            raise SpeechLMError(f"model.tasks.{name} is no task; there are: {', '.join(tasks)}")
        check_number(f"model.tasks.{name}", weight, least=0)
    weights = {name: float(config[name]) for name in tasks if config.get(name)}
    if not weights:
        raise SpeechLMError("model.tasks: all weights are 0, so there is nothing to learn")
    return weights


def term_weights(tasks: Tasks, weights: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The weight of each term of the loss: that of its task, times its own.

    Raises:
        SpeechLMError: on an unknown term, or a weight that is none.
    """
    terms = [term for task in tasks.values() for term in task.terms]
    for term, weight in own.items():
        if term not in terms:
            raise SpeechLMError(f"model.loss.{term} is no term of the loss; there are: {', '.join(terms)}")
        check_number(f"model.loss.{term}", weight, least=0)
    return {term: weight * own.get(term, 1.0) for task, weight in weights.items() for term in tasks[task].terms}


def validation_metrics(tasks: Tasks, names: Collection[str], data: Mapping[str, Any]) -> dict[str, str]:
    """What a validation of these data logs, with the end, ``min`` or ``max``, that is the better one.

    Args:
        tasks: of the system.
        names: of those that are on.
        data: ``cfg.validation_ds``.
    """
    metrics: dict[str, str] = {}
    for name in names:
        task = tasks[name]
        if data.get(task.stream):
            metrics |= {f"val_{term}": "min" for term in task.terms}
            metrics |= {f"val_{accuracy}": "max" for accuracy in task.accuracies}
    if "val_contrastive" in metrics:
        metrics |= {"val_codebook_perplexity": "max", "val_used_codes": "max"}
    return {"val_loss": "min", **metrics} if metrics else {}


def training_metrics(tasks: Tasks, names: Collection[str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """What training steps on these data log.

    Args:
        tasks: of the system.
        names: of those that are on.
        data: ``cfg.train_ds``.
    """
    own = [tasks[name] for name in names if data.get(tasks[name].stream)]
    figures = ["loss", *(figure for task in own for figure in (*task.terms, *task.accuracies))]
    if "contrastive" in figures:
        figures += ["fraction_masked", "codebook_perplexity", "used_codes"]
    return tuple(f"train_{figure}" for figure in figures)
