"""SLAM's tasks: what each learns from, the terms of its loss, and what else it tells."""

from collections.abc import Collection, Mapping
from typing import Any

from nemo_speechlm.checks import check_number
from nemo_speechlm.errors import SpeechLMError

STREAM_OF = {"w2v_bert": "speech", "masked_text": "text", "tlm": "pairs", "stm": "pairs", "ctc": "pairs"}
"""The tasks, and the stream of data that each learns from."""

TERMS = {
    "w2v_bert": ("contrastive", "masked_codes", "diversity"),
    "masked_text": ("masked_text",),
    "tlm": ("tlm_codes", "tlm_text"),
    "stm": ("stm",),
    "ctc": ("ctc",),
}
"""The terms of the loss of each task; those of a task with several have weights of their own in ``cfg.loss``."""

ACCURACIES = {
    "w2v_bert": ("contrastive_accuracy", "masked_code_accuracy"),
    "masked_text": ("masked_text_accuracy",),
    "tlm": ("tlm_code_accuracy", "tlm_text_accuracy"),
    "stm": ("stm_accuracy",),
    "ctc": (),
}
"""What else each task tells."""


def read_tasks(config: Mapping[str, Any]) -> dict[str, float]:
    """The weights of the tasks that are on.

    Raises:
        SpeechLMError: on an unknown task, a weight that is none, or if all are off.
    """
    for name, weight in config.items():
        if name not in STREAM_OF:
            raise SpeechLMError(f"model.tasks.{name} is no task; there are: {', '.join(STREAM_OF)}")
        check_number(f"model.tasks.{name}", weight, least=0)
    tasks = {name: float(config[name]) for name in STREAM_OF if config.get(name)}
    if not tasks:
        raise SpeechLMError("model.tasks: all weights are 0, so there is nothing to learn")
    return tasks


def term_weights(tasks: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
    """The weight of each term of the loss: that of its task, times its own."""
    return {term: weight * own.get(term, 1.0) for task, weight in tasks.items() for term in TERMS[task]}


def validation_metrics(tasks: Collection[str], data: Mapping[str, Any]) -> dict[str, str]:
    """What a validation of these data logs, with the end, ``min`` or ``max``, that is the better one."""
    metrics: dict[str, str] = {}
    for task in tasks:
        if data.get(STREAM_OF[task]):
            metrics |= {f"val_{term}": "min" for term in TERMS[task]}
            metrics |= {f"val_{accuracy}": "max" for accuracy in ACCURACIES[task]}
    if "val_contrastive" in metrics:
        metrics |= {"val_codebook_perplexity": "max", "val_used_codes": "max"}
    return {"val_loss": "min", **metrics} if metrics else {}
