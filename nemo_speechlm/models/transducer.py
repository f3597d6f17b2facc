"""A SpeechLM encoder in NeMo's stock transducer models: RNN-T over characters or tokens. No class of ours is needed.

Graves, *Sequence Transduction with Recurrent Neural Networks*, arXiv 1211.3711.
"""

from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer
from nemo.collections.asr.models import EncDecRNNTBPEModel, EncDecRNNTModel
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_speechlm.data.token_encoder import TokenEncoder
from nemo_speechlm.data.transcripts import CharacterEncoder, TextEncoder, TranscriptStatistics, check_transcripts
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.ctc import ENGLISH_LABELS
from nemo_speechlm.models.fine_tuning import become_independent, take_architecture
from nemo_speechlm.models.limits import check_manifests_fit
from nemo_speechlm.models.pretrained import load_encoder

_OURS = ("freeze_front_end", "freeze_encoder_steps", "reuse_ctc_head", "pretrained_weights", "init_from_pretrained")


def build_transducer(cfg: DictConfig, trainer: Trainer | None = None) -> EncDecRNNTModel:
    """Build NeMo's ``EncDecRNNTModel``, or ``EncDecRNNTBPEModel`` where the config names a tokenizer's folder.

    The file that it saves is one of NeMo's model; ``import nemo_speechlm.models`` before it is restored lets NeMo
    build the encoder.

    Args:
        cfg: NeMo's keys; ``labels`` or ``tokenizer``; and ours: ``init_from_pretrained``, ``pretrained_weights``,
            ``encoder_overrides``, ``freeze_front_end``. ``model_defaults.enc_hidden`` is taken from the encoder.
        trainer: Lightning trainer.

    Raises:
        InputError: on what is wrong in the manifests, which are read through here: NeMo's own loader drops unknown
            characters without a word.
        SpeechLMError: if the config is incomplete.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    source = take_architecture(cfg)
    for key in ("freeze_encoder_steps", "reuse_ctc_head"):
        if cfg.get(key):
            raise SpeechLMError(f"model.{key} is not for transducers: NeMo's stock model has no place for it")
    has_tokens = OmegaConf.select(cfg, "tokenizer.dir") is not None
    weights, freeze = cfg.get("pretrained_weights", True), cfg.get("freeze_front_end", False)
    with open_dict(cfg):
        cfg.model_defaults.enc_hidden = cfg.encoder.d_model
        encoder: TextEncoder
        if has_tokens:
            encoder = TokenEncoder(Path(cfg.tokenizer.dir) / "tokenizer.model")
            cfg.pop("labels", None)
        else:
            labels = cfg.get("labels") or (None if source is None else source.cfg.get("labels")) or ENGLISH_LABELS
            encoder = CharacterEncoder(list(labels))
            cfg.labels = encoder.labels
            cfg.pop("tokenizer", None)
        found = _check_data(cfg, encoder)
        become_independent(cfg, source)
        for key in _OURS:
            cfg.pop(key, None)
    model = (EncDecRNNTBPEModel if has_tokens else EncDecRNNTModel)(cfg=cfg, trainer=trainer)
    model.validation_metrics = partial(_validation_metrics, model.compute_eval_loss)
    for part, statistics in found.items():
        check_manifests_fit(model, part, statistics)
    if source is not None and weights:
        load_encoder(model, source)
    if freeze:
        if not hasattr(model.encoder, "front_end"):
            raise SpeechLMError(f"freeze_front_end: {type(model.encoder).__name__} has no front_end; set it to false")
        model.encoder.front_end.requires_grad_(False)
    return model


def _validation_metrics(has_loss: bool) -> dict[str, str]:
    """What the validation logs, with the end that is the better one; NeMo's models do not say it themselves."""
    return dict.fromkeys(["val_loss", "val_wer"] if has_loss else ["val_wer"], "min")


def _check_data(cfg: DictConfig, encoder: TextEncoder) -> dict[str, list[TranscriptStatistics]]:
    found: dict[str, list[TranscriptStatistics]] = {}
    for part in ("train_ds", "validation_ds"):
        data = cfg.get(part)
        if data is None or data.get("manifest_filepath") is None:
            continue
        manifests = data.manifest_filepath
        for path in [manifests] if isinstance(manifests, str) else list(manifests):
            statistics = check_transcripts(
                path,
                encoder,
                text_field=data.get("text_field", "text"),
                need_audio=data.get("tarred_audio_filepaths") is None,
                min_duration=data.get("min_duration") or 0.0,
                max_duration=data.get("max_duration") or float("inf"),
            )
            logging.info(f"{path}: {statistics}")
            found.setdefault(part, []).append(statistics)
        data.pop("endless", None)  # NeMo's loader has no such key; training by steps begins a new pass by itself
        data.sample_rate = cfg.sample_rate
    return found
