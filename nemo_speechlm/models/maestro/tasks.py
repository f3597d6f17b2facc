"""MAESTRO's tasks."""

from nemo_speechlm.models.common.multitask.tasks import W2V_BERT, Task

TASKS = {
    "w2v_bert": W2V_BERT,
    "rnnt": Task("pairs", ("rnnt_phones", "rnnt_graphemes")),
    "matching": Task("pairs", ("matching",), ("matching_cosine",)),
    "durations": Task("pairs", ("durations",)),
    "ctc": Task("pairs", ("ctc",)),
    "aligned_mlm": Task("text", ("mlm_phones", "mlm_graphemes")),
}
