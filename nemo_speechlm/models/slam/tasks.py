"""SLAM's tasks."""

from nemo_speechlm.models.common.multitask.tasks import W2V_BERT, Task

TASKS = {
    "w2v_bert": W2V_BERT,
    "masked_text": Task("text", ("masked_text",), ("masked_text_accuracy",)),
    "tlm": Task("pairs", ("tlm_codes", "tlm_text"), ("tlm_code_accuracy", "tlm_text_accuracy")),
    "stm": Task("pairs", ("stm",), ("stm_accuracy",)),
    "ctc": Task("pairs", ("ctc",)),
}
