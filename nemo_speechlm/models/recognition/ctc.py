"""Recognition with CTC over characters or tokens: fine-tuning of a SpeechLM encoder (SpeechLM section 4.2)."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.losses.ctc import CTCLoss
from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE
from nemo.collections.asr.parts.mixins import TranscribeConfig
from nemo.collections.asr.parts.utils.timestamp_utils import process_timestamp_outputs
from nemo.core.classes.mixins import AccessMixin
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_speechlm.data.pretraining.batch import TextBatch, TokenBatch
from nemo_speechlm.data.recognition.batch import batch_phones, batch_text, is_repeated, loss_count
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader, has_text
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses import UCTCLoss
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.common.acceleration import Accelerated
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.fine_tuning import become_independent, check_frozen, check_reusable, take_architecture
from nemo_speechlm.models.common.freezing import EncoderFreezingMixin
from nemo_speechlm.models.common.joint import joint_average, joint_means, joint_sum
from nemo_speechlm.models.common.limits import check_data_fit
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_ctc_head, load_encoder
from nemo_speechlm.models.common.run_folder import run_folder
from nemo_speechlm.models.common.spaces import keep_spaces
from nemo_speechlm.models.common.text_counts import edit_counts
from nemo_speechlm.models.common.tokenizer import named_tokenizer
from nemo_speechlm.models.common.uctc import ctc_terms
from nemo_speechlm.models.recognition.phone_ctc import build_phone_ctc, complete_phone_ctc, phone_encoder_of
from nemo_speechlm.models.recognition.text_branch import (
    build_text_branch,
    load_text_branch,
    take_text_branch,
    writing_of,
)
from nemo_speechlm.models.recognition.transcribing import KeepsSpaces
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.nemo_targets import name_publicly

ENGLISH_LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
"""What a model without a pretraining file writes unless its config says otherwise."""


if TYPE_CHECKING:
    from nemo.core.classes import ModelPT as _Host  # as types are checked, a mixin of NeMo's classes
else:
    _Host = object


class _Loss(CTCLoss):
    """NeMo's, where a batch may have no text at all, such as one of noise: its mean is of one character."""

    @classmethod
    def like(cls, loss: CTCLoss) -> "_Loss":
        """One with the settings of NeMo's."""
        return cls(loss._blank, loss.zero_infinity, loss.config_reduction)

    def reduce(self, losses: Tensor, target_lengths: Tensor) -> Tensor:
        if self.config_reduction != "mean_volume":
            return super().reduce(losses, target_lengths)
        return losses.sum() / target_lengths.sum().clamp(min=1)


class SpeechLMCTC(Accelerated, FeatureExtraction, EncoderFreezingMixin, KeepsSpaces, _Host):
    """What the two CTC models have in common; goes before NeMo's class among the bases.

    Config keys beyond those of NeMo's class:

    - ``init_from_pretrained``: ``.nemo`` file of a pretraining model. Its preprocessor and encoder are used, with
      their weights. None: ``preprocessor`` and ``encoder`` of this config, with random weights.
    - ``pretrained_weights``: false takes only the architecture from that file.
    - ``reuse_ctc_head``: start from the text CTC head of pretraining too; ``decoder`` must be ``SpeechLMCTCHead``.
      The rows of its output layer are taken over for the labels that both models have.
    - ``encoder_overrides``: merged into the encoder's config: masking and dropout of fine-tuning.
    - ``freeze_front_end``, ``freeze_encoder_steps``: see :class:`EncoderFreezingMixin`.
    - ``train_ds.text``: data of a text stream beside the transcribed speech, where it names any: text passes the text
      branch of pretraining, the shared transformer and this model's CTC output. ``text_branch.weight`` weighs its loss
      per character; see :mod:`~nemo_speechlm.models.recognition.text_branch` for the other keys.
    - ``phone_ctc``: a second head, for the phones of the transcripts; ``weight`` weighs its loss per phone. See
      :mod:`~nemo_speechlm.models.recognition.phone_ctc`.

    The config that ``save_to`` writes is complete in itself: a saved model does not need the pretraining file.
    """

    loss: CTCLoss
    parts: ClassVar[Parts] = Parts(ctc_head="decoder", left_behind=("text_branch", "phone_head"))

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
        source = take_architecture(cfg)
        check_frozen(cfg, trainer)
        if cfg.get("reuse_ctc_head", False):
            check_reusable(cfg, source, self.parts)
        self._complete_labels(cfg, source)
        found = take_text_branch(cfg, source)
        complete_phone_ctc(cfg)
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)  # type: ignore[call-arg]
        keep_spaces(self)
        self.loss = _Loss.like(self.loss)
        self.encoder.take_input_rate(self._cfg)
        self.text_branch = build_text_branch(self._cfg, self.encoder.d_model)
        self.phone_head = build_phone_ctc(self._cfg, self.encoder.d_model)
        if found is not None and self.text_branch is not None:
            load_text_branch(self.text_branch, found)
        if source is not None and self.cfg.get("pretrained_weights", True):
            load_encoder(self, source)
        if source is not None and self.cfg.get("reuse_ctc_head", False):
            load_ctc_head(self.decoder, list(self.decoder.vocabulary), source)
        become_independent(self.cfg, source)
        self.setup_freezing(self.cfg.get("freeze_front_end", False), self.cfg.get("freeze_encoder_steps", 0))

    @staticmethod
    def _complete_labels(cfg: DictConfig, source: PretrainedFile | None) -> None:
        """Put into a config what decides the output layer."""
        raise NotImplementedError

    def text_encoder(self) -> CharacterEncoder | TokenEncoder:
        """What turns a transcript into label ids, raising an error on what the model cannot write."""
        raise NotImplementedError

    def unused_parameters(self) -> list[str]:
        """Why a step may leave parameters without a gradient; empty where none does."""
        idle = self.text_branch is not None and not has_text(self.cfg.get("train_ds"))
        return ["no text in model.train_ds"] if idle else []

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Make the loader of training; NeMo's method asks for a length, which audio in tar files does not have."""
        if not train_data_config.get("use_lhotse", False):
            return super().setup_training_data(train_data_config)
        self._update_dataset_config(dataset_name="train", config=train_data_config)
        phones = phone_encoder_of(self.cfg) if self.cfg.get("phone_ctc") else None
        self._train_dl = self._loader(train_data_config, phones)
        return None

    def _setup_dataloader_from_config(self, config: DictConfig | dict | None) -> DataLoader | None:
        if config is None or not config.get("use_lhotse", False):
            return super()._setup_dataloader_from_config(config)
        return self._loader(config)

    def _loader(self, config: DictConfig | dict, phones: TextEncoder | None = None) -> DataLoader:
        encoder = self.text_encoder()
        branch = self.text_branch if has_text(config) else None  # without text, it may not have been made yet
        return build_recognition_dataloader(
            config,
            encoder,
            self.cfg.sample_rate,
            self.global_rank,
            self.world_size,
            run_folder(self),
            None if branch is None else branch.stream(self.encoder, writing_of(encoder)),
            phones,
        )

    def _transcribe_output_processing(self, outputs: dict, trcfg: TranscribeConfig) -> Any:
        # NeMo computes times from the mel window, which a model of waveforms has not.
        timestamps, trcfg.timestamps = trcfg.timestamps, False
        try:
            hypotheses = super()._transcribe_output_processing(outputs, trcfg)
        finally:
            trcfg.timestamps = timestamps
        if timestamps:
            assert self.encoder.input_rate is not None
            hypotheses = process_timestamp_outputs(hypotheses, self.encoder.subsampling, 1.0 / self.encoder.input_rate)
        return hypotheses

    @property
    def frame_rate(self) -> float:
        """Frames per second of the encoder."""
        self.encoder.take_input_rate(self.cfg)  # asked for by the loaders that NeMo makes before we can
        return self.encoder.frame_rate

    def on_fit_start(self) -> None:
        """Tell how many transcripts have more characters than CTC can spell in their audio; their loss is zero."""
        super().on_fit_start()
        check_data_fit(self)
        fastest = max([1.0, *(OmegaConf.select(self.cfg, "train_ds.speeds") or ())])
        for statistics in getattr(self._train_dl, "statistics", ()):
            hopeless = int((statistics.frame_rates > self.frame_rate).sum())
            if hopeless:
                logging.warning(
                    f"{hopeless} of {statistics.utterances} training utterances cannot be learned: "
                    f"CTC needs more frames to spell their text than the {self.frame_rate:g} per second there are"
                )
            if sometimes := int((statistics.frame_rates * fastest > self.frame_rate).sum()) - hopeless:
                logging.warning(
                    f"{sometimes} more cannot be learned in the passes that play them {fastest:g} times as fast "
                    "(model.train_ds.speeds)"
                )

    def training_step(self, batch: Any, batch_nb: int) -> dict[str, Any]:
        """NeMo's, with the loss of all processes' batches together (:class:`JointMean`), and on the progress bar.

        That is exact for ``ctc_reduction`` ``mean_volume`` and ``mean_batch``; other reductions are left as they are.
        """
        with nullcontext() if self.phone_head is None else self.phone_head.watching(self.encoder):
            output = super().training_step(batch, batch_nb)
        loss = output["log"].pop("train_loss")
        count = loss_count(batch, self.cfg.get("ctc_reduction", "mean_batch"))
        terms: dict[str, tuple[Tensor, Tensor | float]] = {}
        if count is not None:
            count = torch.as_tensor(count, device=loss.device)
            terms["speech"] = loss * count.clamp(min=1), count
        weights = {}
        if (text := batch_text(batch)) is not None:
            terms["text"], weights["text"] = self.text_terms(text), self.cfg.text_branch.weight
        if self.phone_head is not None and (phones := batch_phones(batch)) is not None:
            terms["phone"], weights["phone"] = self.phone_head.figure(*phones), self.cfg.phone_ctc.weight
        means = joint_means(terms) if terms else {}
        if "speech" in means:
            output["loss"], loss = means["speech"].loss, means["speech"].mean
        if weights:
            output["log"]["train_speech_loss"] = loss.detach()
        for name, weight in weights.items():
            output["log"][f"train_{name}_loss"] = means[name].mean
            output["loss"], loss = output["loss"] + weight * means[name].loss, loss + weight * means[name].mean
        self.log("train_loss", loss.detach())
        return output

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        text, phone = self.text_branch is not None, self.phone_head is not None
        parts = [name for name, there in (("speech", text or phone), ("text", text), ("phone", phone)) if there]
        names = ["train_loss", *(f"train_{name}_loss" for name in parts)]
        if self.is_interctc_enabled():
            layers = self.get_interctc_param("apply_at_layers")
            names += ["final_loss", *(f"inter_{kind}_l{i}" for kind in ("ctc_loss", "wer") for i in layers)]
        return (*names, "training_batch_wer", "learning_rate", "global_step", "grad_norm")

    def text_terms(self, batch: TextBatch | TokenBatch, generator: Draws = None) -> tuple[Tensor, Tensor]:
        """The sum () of the CTC loss of a batch of text, and the characters () it is of, ends of sentences included.

        Args:
            batch: of the text stream.
            generator: what masks are drawn with.
        """
        assert self.text_branch is not None
        encoded = self.text_branch.encode(self.encoder, batch, generator)
        log_probs = self.decoder(encoder_output=encoded.states.transpose(1, 2))
        loss = UCTCLoss(blank=log_probs.shape[2] - 1)
        return ctc_terms(loss, log_probs, encoded.targets, encoded.lengths, encoded.target_lengths)

    def change_vocabulary(self, *args: Any, **kwargs: Any) -> None:
        """NeMo's, which would stumble over data that are null."""
        absent = [part for part in ("train_ds", "validation_ds", "test_ds") if self.cfg.get(part, {}) is None]
        self.cfg.update({part: {} for part in absent})
        super().change_vocabulary(*args, **kwargs)
        self.loss = _Loss.like(self.loss)
        self.cfg.update(dict.fromkeys(absent))

    def validation_pass(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Loss and the counts behind word and character error rates of a batch."""
        signal, signal_len, transcript, transcript_len = batch
        if self.is_interctc_enabled():
            AccessMixin.set_access_enabled(access_enabled=True, guid=self.model_guid)
        log_probs, encoded_len, _ = self.forward(input_signal=signal, input_signal_length=signal_len)
        loss = self.loss(
            log_probs=log_probs, targets=transcript, input_lengths=encoded_len, target_lengths=transcript_len
        )
        loss, metrics = self.add_interctc_losses(
            loss, transcript, transcript_len, compute_wer=True, log_wer_num_denom=True, log_prefix="val_"
        )
        if AccessMixin.is_access_enabled(self.model_guid):
            AccessMixin.reset_registry(self)
        hypotheses = self.decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=encoded_len)
        references = [
            self.decoding.decode_ids_to_str(ids[:length].tolist())
            for ids, length in zip(transcript.cpu(), transcript_len.tolist(), strict=True)
        ]
        texts = [] if is_repeated(batch) else zip(references, hypotheses, strict=True)
        edits = [edit_counts(reference, hypothesis.text) for reference, hypothesis in texts]
        names = ("val_wer_num", "val_wer_denom", "val_cer_num", "val_cer_denom")
        sums = {name: float(sum(edit[i] for edit in edits)) for i, name in enumerate(names)}
        self.log("global_step", torch.tensor(self.trainer.global_step, dtype=torch.float32))
        counts = {name: torch.tensor(value, device=loss.device) for name, value in sums.items()}
        number = loss_count(batch, self.cfg.get("ctc_reduction", "mean_batch"))
        weight = 0.0 if is_repeated(batch) else 1.0 if number is None else float(number)
        return {**metrics, **counts, "val_loss": loss, "val_loss_weight": torch.tensor(weight, device=loss.device)}

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one."""
        names = ["val_loss", "val_wer", "val_cer"]
        if self.is_interctc_enabled():
            layers = self.get_interctc_param("apply_at_layers")
            names += ["val_final_loss", *(f"val_inter_{kind}_l{i}" for kind in ("ctc_loss", "wer") for i in layers)]
        return dict.fromkeys(names, "min")

    def multi_validation_epoch_end(self, outputs: list[dict[str, Tensor]], dataloader_idx: int = 0) -> dict:
        """Mean loss, and error rates over the whole set (all devices together)."""
        return self._epoch_end(
            super().multi_validation_epoch_end(outputs, dataloader_idx), outputs, "val", dataloader_idx
        )

    def multi_test_epoch_end(self, outputs: list[dict[str, Tensor]], dataloader_idx: int = 0) -> dict:
        """As :meth:`multi_validation_epoch_end`."""
        result = super().multi_test_epoch_end(outputs, dataloader_idx)
        return self._epoch_end(result, outputs, "test", dataloader_idx)

    def _epoch_end(self, result: dict, outputs: list[dict[str, Tensor]], stage: str, dataloader_idx: int) -> dict:
        names = [f"{stage}_{rate}_{part}" for rate in ("wer", "cer") for part in ("num", "denom")]
        sums = torch.stack([torch.stack([output[name] for output in outputs]).sum() for name in names])
        sums = joint_sum(sums)
        loss = joint_average(*([output[f"{stage}_{part}"] for output in outputs] for part in ("loss", "loss_weight")))
        result[f"{stage}_loss"] = result["log"][f"{stage}_loss"] = loss
        rates = {f"{stage}_wer": sums[0] / sums[1], f"{stage}_cer": sums[2] / sums[3]}
        result["log"].update(rates)
        logging.info(
            f"step {self.trainer.global_step}, {stage} set {dataloader_idx}: loss {result[f'{stage}_loss']:.3f}, "
            f"WER {rates[f'{stage}_wer']:.2%}, CER {rates[f'{stage}_cer']:.2%}"
        )
        return result


class SpeechLMCTCModel(SpeechLMCTC, EncDecCTCModel):
    """A SpeechLM encoder with a CTC output over characters. All that NeMo's ``EncDecCTCModel`` does, it does.

    Config keys beyond those of :class:`SpeechLMCTC` and ``EncDecCTCModel``:

    - ``labels``: the characters; None takes those of the pretraining file, or else ``ENGLISH_LABELS``.
    """

    @staticmethod
    def _complete_labels(cfg: DictConfig, source: PretrainedFile | None) -> None:
        if cfg.get("labels") is None and source is not None:
            cfg.labels = source.cfg.get("labels")
        cfg.labels = CharacterEncoder(ENGLISH_LABELS if cfg.get("labels") is None else list(cfg.labels)).labels
        with open_dict(cfg):
            cfg.decoder.update(vocabulary=cfg.labels, num_classes=len(cfg.labels))

    def text_encoder(self) -> CharacterEncoder:
        """Of the model's characters."""
        return CharacterEncoder(list(self.cfg.labels))

    def change_vocabulary(self, new_vocabulary: list[str], decoding_cfg: DictConfig | None = None) -> None:
        """NeMo's; the data loaders made afterwards spell with the new characters too."""
        super().change_vocabulary(CharacterEncoder(new_vocabulary).labels, decoding_cfg)
        with open_dict(self.cfg):
            self.cfg.labels = list(new_vocabulary)


class SpeechLMCTCModelBPE(SpeechLMCTC, EncDecCTCModelBPE):
    """A SpeechLM encoder with a CTC output over SentencePiece tokens: NeMo's ``EncDecCTCModelBPE`` with our encoder.

    Config keys beyond those of :class:`SpeechLMCTC`:

    - ``tokenizer``: ``dir``, a folder that ``train_tokenizer.py`` made, and ``type``, which is ``bpe`` for all of
      SentencePiece's kinds.
    """

    @staticmethod
    def _complete_labels(cfg: DictConfig, source: PretrainedFile | None) -> None:
        folder = cfg.get("tokenizer", {}).get("dir")
        if not folder:
            raise SpeechLMError("model.tokenizer.dir is not given; expected a folder made by train_tokenizer.py")
        named_tokenizer(cfg.tokenizer)
        with open_dict(cfg):
            cfg.pop("labels", None)
            cfg.decoder.update(vocabulary=[], num_classes=-1)

    def _setup_transcribe_dataloader(self, config: dict[str, Any]) -> DataLoader:
        # The one for characters: NeMo's for tokens asks for use_lhotse, which is our loader of transcribed speech, and
        # for validation data.
        return super(EncDecCTCModelBPE, self)._setup_transcribe_dataloader(config)

    def text_encoder(self) -> TokenEncoder:
        """Of the model's tokens."""
        return TokenEncoder(self.tokenizer.tokenizer.serialized_model_proto())


def ctc_model_class(cfg: DictConfig) -> type[SpeechLMCTC]:
    """The class for a recipe's ``model``: tokens where it names a tokenizer's folder, else characters."""
    return SpeechLMCTCModelBPE if OmegaConf.select(cfg, "tokenizer.dir") else SpeechLMCTCModel
