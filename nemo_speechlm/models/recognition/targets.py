"""The characters or tokens that an attention decoder writes."""

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.text.target_vocabulary import survey_targets
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)


def complete_targets(cfg: DictConfig) -> None:
    """Put characters and languages into a config, from the training manifests where it does not say."""
    need_labels = not cfg.get("labels") and not OmegaConf.select(cfg, "tokenizer.dir")
    need_languages = cfg.task == "translation" and cfg.get("target_lang") is None
    data = cfg.get("train_ds") or {}
    manifests = data.get("manifest_filepath")
    if manifests is not None and (need_labels or need_languages):
        survey = survey_targets(manifests, data.get("text_field", "text"), data.get("on_bad") == "skip")
        if need_labels:
            cfg.labels = survey.characters
        if cfg.task == "translation":
            for key in ("source_lang", "target_lang"):
                if cfg.get(key) is None:
                    cfg[key] = getattr(survey, key)
    elif need_labels:
        raise SpeechLMError("neither model.labels, model.tokenizer.dir nor a training manifest says what is written")
