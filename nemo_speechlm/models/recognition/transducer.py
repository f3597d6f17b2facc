"""A SpeechLM encoder in NeMo's stock transducer models: RNN-T over characters or tokens. No class of ours is needed.

Graves, *Sequence Transduction with Recurrent Neural Networks*, arXiv 1211.3711.
"""

from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer
from nemo.collections.asr.models import EncDecRNNTBPEModel, EncDecRNNTModel
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.data import DataLoader

from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.common.fine_tuning import become_independent, take_architecture
from nemo_speechlm.models.common.limits import check_data_fit
from nemo_speechlm.models.common.pretrained import load_encoder
from nemo_speechlm.models.common.run_folder import run_folder
from nemo_speechlm.models.recognition.ctc import ENGLISH_LABELS

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
        data = {part: cfg.pop(part) for part in ("train_ds", "validation_ds") if cfg.get(part) is not None}
        become_independent(cfg, source)
        for key in _OURS:
            cfg.pop(key, None)
    model = (EncDecRNNTBPEModel if has_tokens else EncDecRNNTModel)(cfg=cfg, trainer=trainer)
    model.validation_metrics = partial(_validation_metrics, model.compute_eval_loss)
    if source is not None and weights:
        load_encoder(model, source)
    if freeze:
        if not hasattr(model.encoder, "front_end"):
            raise SpeechLMError(f"freeze_front_end: {type(model.encoder).__name__} has no front_end; set it to false")
        model.encoder.front_end.requires_grad_(False)
    _give_data(model, data, encoder)
    check_data_fit(model)
    return model


def _validation_metrics(has_loss: bool) -> dict[str, str]:
    """What the validation logs, with the end that is the better one; NeMo's models do not say it themselves."""
    return dict.fromkeys(["val_loss", "val_wer"] if has_loss else ["val_wer"], "min")


def _give_data(model: EncDecRNNTModel, data: dict[str, DictConfig], encoder: TextEncoder) -> None:
    """Make the loaders, which are those of the CTC models: NeMo's would drop unknown characters without a word."""

    def build(config: DictConfig) -> DataLoader:
        return build_recognition_dataloader(
            config, encoder, model.cfg.sample_rate, model.global_rank, model.world_size, run_folder(model)
        )

    if "train_ds" in data:
        loader = build(data["train_ds"])
        # These keys are ours, and what is left should be a config for NeMo's loaders.
        ours = ("endless", "on_bad", "max_bad", "timeout")
        kept = {key: value for key, value in data["train_ds"].items() if key not in ours}
        model._update_dataset_config(dataset_name="train", config=OmegaConf.create(kept))
        model._train_dl = loader
    if "validation_ds" in data:
        model._setup_dataloader_from_config = build  # for as long as NeMo goes through the manifests
        try:
            model.setup_multiple_validation_data(data["validation_ds"])
        finally:
            del model._setup_dataloader_from_config
