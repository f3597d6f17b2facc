"""A SpeechLM encoder in a transducer: RNN-T over characters or tokens.

Graves, *Sequence Transduction with Recurrent Neural Networks*, arXiv 1211.3711.
"""

import re
from collections.abc import Sequence

from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.common.acceleration import compile_layers
from nemo_speechlm.models.common.fine_tuning import become_independent, check_frozen, take_architecture
from nemo_speechlm.models.common.limits import check_data_fit
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_encoder, load_strictly
from nemo_speechlm.models.common.run_folder import run_folder
from nemo_speechlm.models.common.tokenizer import named_tokenizer
from nemo_speechlm.models.recognition.ctc import ENGLISH_LABELS
from nemo_speechlm.models.recognition.text_branch import (
    TextBranch,
    load_text_branch,
    take_text_branch,
    writing_of,
)
from nemo_speechlm.models.recognition.transducer_loss import use_our_lattice
from nemo_speechlm.models.recognition.transducer_models import SpeechLMRNNTModel, SpeechLMRNNTModelBPE
from nemo_speechlm.modules.faster_layers import use_faster_layers
from nemo_speechlm.modules.preprocessing import WaveformPreprocessor

Encoder = CharacterEncoder | TokenEncoder
Transducer = SpeechLMRNNTModel | SpeechLMRNNTModelBPE

_OURS = (
    "freeze_front_end",
    "freeze_encoder_steps",
    "reuse_ctc_head",
    "reuse_decoder",
    "pretrained_weights",
    "init_from_pretrained",
)


def build_transducer(cfg: DictConfig, trainer: Trainer | None = None) -> Transducer:
    """Build a :class:`SpeechLMRNNTModel`, or a :class:`SpeechLMRNNTModelBPE` where a tokenizer's folder is named.

    Before NeMo restores its file, ``import nemo_speechlm.models``, so that it may build the encoder. Files of earlier
    versions, without text, are of NeMo's own classes; they are restored as such.

    Args:
        cfg: NeMo's keys; ``labels`` or ``tokenizer``; and ours: ``init_from_pretrained``, ``pretrained_weights``,
            ``encoder_overrides``, ``freeze_front_end``, ``compile``, ``text_branch`` for the text of ``train_ds`` (see
            :mod:`~nemo_speechlm.models.recognition.text_branch`), and ``reuse_decoder``: start from the RNN-T decoder
            of the file too, where it has one (MAESTRO, and transducers). ``model_defaults.enc_hidden`` is taken from
            the encoder.
        trainer: Lightning trainer.

    Raises:
        InputError: on what is wrong in the manifests, which are read through here: NeMo's own loader drops unknown
            characters without a word.
        SpeechLMError: if the config is incomplete.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    source = take_architecture(cfg)
    check_frozen(cfg, trainer)
    for key in ("freeze_encoder_steps", "reuse_ctc_head"):
        if cfg.get(key):
            raise SpeechLMError(f"model.{key} is not for transducers")
    has_tokens = OmegaConf.select(cfg, "tokenizer.dir") is not None
    weights, freeze = cfg.get("pretrained_weights", True), cfg.get("freeze_front_end", False)
    decoder = _reused_decoder(cfg, source) if cfg.get("reuse_decoder") else None
    text = take_text_branch(cfg, source)
    with open_dict(cfg):
        cfg.model_defaults.enc_hidden = cfg.encoder.d_model
        if cfg.preprocessor.get("_target_", "").endswith(f".{WaveformPreprocessor.__name__}"):
            cfg.preprocessor.window_stride = 1.0 / cfg.sample_rate  # NeMo's model tells times by it
        encoder: TokenEncoder | CharacterEncoder
        if has_tokens:
            encoder = TokenEncoder(named_tokenizer(cfg.tokenizer))
            cfg.pop("labels", None)
        else:
            labels = cfg.get("labels") or (None if source is None else source.cfg.get("labels")) or ENGLISH_LABELS
            encoder = CharacterEncoder(list(labels))
            cfg.labels = encoder.labels
            cfg.pop("tokenizer", None)
        if decoder is not None:
            _check_vocabulary(encoder.labels, decoder)
        data = {part: cfg.pop(part) for part in ("train_ds", "validation_ds") if cfg.get(part) is not None}
        become_independent(cfg, source)
        for key in _OURS:
            cfg.pop(key, None)
    model = (SpeechLMRNNTModelBPE if has_tokens else SpeechLMRNNTModel)(cfg=cfg, trainer=trainer)
    use_our_lattice(model.loss)
    use_faster_layers(model.joint)
    if source is not None and weights:
        load_encoder(model, source)
    if text is not None:
        assert model.text_branch is not None
        load_text_branch(model.text_branch, text)
    if decoder is not None:
        branch = f"{decoder.parts.transducer}." if decoder.parts and decoder.parts.transducer else ""
        load_strictly(model.decoder, decoder.part(f"{branch}decoder"), decoder.path, "decoder")
        joint = _joint_weights(decoder.part(f"{branch}joint"), len(model.joint.joint_net))
        load_strictly(model.joint, joint, decoder.path, "joint")
    if freeze:
        if not hasattr(model.encoder, "front_end"):
            raise SpeechLMError(f"freeze_front_end: {type(model.encoder).__name__} has no front_end; set it to false")
        model.encoder.front_end.requires_grad_(False)
    if cfg.get("compile", False):
        compile_layers(model.encoder)
    _give_data(model, data, encoder)
    check_data_fit(model, speeds=(data.get("train_ds") or {}).get("speeds"))
    return model


def _reused_decoder(cfg: DictConfig, source: PretrainedFile | None) -> PretrainedFile:
    """Give prediction and joint network the sizes and the kinds of layers that they have in the pretraining file.

    Raises:
        SpeechLMError: if there is no such file, or no decoder in it.
    """
    if source is None:
        raise SpeechLMError(
            "model.reuse_decoder needs model.init_from_pretrained to take the decoder from; without one, set it to "
            "false"
        )
    sizes = _decoder_sizes(source)
    with open_dict(cfg):
        cfg.model_defaults.pred_hidden, cfg.model_defaults.joint_hidden = sizes.pred_hidden, sizes.joint_hidden
        cfg.decoder.prednet.pred_hidden, cfg.joint.jointnet.joint_hidden = sizes.pred_hidden, sizes.joint_hidden
        cfg.decoder.prednet.pred_rnn_layers = sizes.pred_rnn_layers
        cfg.joint.jointnet.activation = sizes.get("activation", "relu")
        cfg.decoder.normalization_mode = sizes.get("normalization_mode")
        cfg.decoder.blank_as_pad = sizes.get("blank_as_pad", True)
    return source


def _decoder_sizes(source: PretrainedFile) -> DictConfig:
    """What a file's RNN-T decoder is: sizes, and where they are not those of MAESTRO, kinds of layers.

    Raises:
        InputError: if it has none.
    """
    own = source.parts.transducer if source.parts is not None else ""
    if own is None or not source.part(f"{own}.joint" if own else "joint"):
        raise InputError("holds no RNN-T decoder; set model.reuse_decoder=false", source.path)
    if own:
        return source.cfg.transducer
    prednet, jointnet = source.cfg.decoder.prednet, source.cfg.joint.jointnet
    sizes = {key: prednet[key] for key in ("pred_hidden", "pred_rnn_layers")}
    kinds = {key: source.cfg.decoder.get(key) for key in ("normalization_mode", "blank_as_pad")}
    return OmegaConf.create({**sizes, **kinds, **{key: jointnet[key] for key in ("joint_hidden", "activation")}})


def _joint_weights(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Weights of a joint network under the names that they have in one of so many layers.

    NeMo counts dropout as a layer where its share is not 0, so the last layer has one name or another.
    """
    return {re.sub(r"^joint_net\.\d+\.", f"joint_net.{layers - 1}.", name): value for name, value in weights.items()}


def _check_vocabulary(labels: Sequence[str], source: PretrainedFile) -> None:
    """Check that a decoder that is taken over writes what this model is to write."""
    theirs = list(source.cfg.get("vocabulary") or source.cfg.get("labels") or source.cfg.joint.get("vocabulary") or ())
    if list(labels) != theirs:
        raise InputError(
            f"its RNN-T decoder writes {len(theirs)} symbols ({' '.join(map(repr, theirs[:6]))} ...), and this model "
            f"{len(labels)} ({' '.join(map(repr, labels[:6]))} ...); give the same model.labels or tokenizer, or set "
            "model.reuse_decoder=false",
            source.path,
        )


def _give_data(model: Transducer, data: dict[str, DictConfig], encoder: Encoder) -> None:
    """Make the loaders, which are those of the CTC models: NeMo's would drop unknown characters without a word."""
    branch: TextBranch | None = model.text_branch
    if branch is not None:
        model.encoder.take_input_rate(model.cfg)  # a stream of units asks for its frame rate

    def build(config: DictConfig) -> DataLoader:
        ranks = model.global_rank, model.world_size
        text = None if branch is None else branch.stream(model.encoder, writing_of(encoder))
        return build_recognition_dataloader(config, encoder, model.cfg.sample_rate, *ranks, run_folder(model), text)

    if "train_ds" in data:
        loader = build(data["train_ds"])
        # These keys are ours, and what is left should be a config for NeMo's loaders.
        ours = ("endless", "on_bad", "max_bad", "timeout", "text", "defer_setup", "speeds", "volumes")
        kept = {key: value for key, value in data["train_ds"].items() if key not in ours}
        model._update_dataset_config(dataset_name="train", config=OmegaConf.create(kept))
        model._train_dl = loader
    if "validation_ds" in data:
        model._setup_dataloader_from_config = build  # for as long as NeMo goes through the manifests
        try:
            model.setup_multiple_validation_data(data["validation_ds"])
        finally:
            del model._setup_dataloader_from_config
