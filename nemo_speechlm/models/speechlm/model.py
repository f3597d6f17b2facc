"""SpeechLMModel: joint pretraining on unpaired speech and unpaired text (arXiv 2209.15329, section 3).

Its two tasks stand in :mod:`~nemo_speechlm.models.speechlm.umlm` and :mod:`~nemo_speechlm.models.common.uctc`.

Axis legend: B utterances or sentences, T frames of the encoder, L frames of the units, D width.
"""

from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.metrics.wer import word_error_rate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.pretraining.streams import SpeechStream, Stream, UnitTextStream
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses import UCTCLoss
from nemo_speechlm.models.common.augmentation import spec_augmentation_of
from nemo_speechlm.models.common.encoder_transfer import load_start, start_from
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.inventories import registered_inventory
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.limits import longest_audio
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.pretraining import PretrainingModel
from nemo_speechlm.models.common.uctc import forward_text, greedy_texts, uctc_terms
from nemo_speechlm.models.common.untuned import Untuned
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.models.speechlm.recognizer import recognizer_of
from nemo_speechlm.models.speechlm.umlm import (
    LEVELS,
    SpeechOutput,
    draw_offset,
    forward_speech,
    heard_units,
    predictions,
    umlm_loss,
    umlm_terms,
)
from nemo_speechlm.modules.ctc_head import SpeechLMCTCHead
from nemo_speechlm.modules.draws import Draws, RowSeeds
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.unit_classifier import UnitClassifier

LOSS_TERMS = ("umlm", "umlm_unmasked", "uctc")
"""Of the loss of validation, with weights of these names in ``cfg.loss``."""


class SpeechLMModel(Untuned, FeatureExtraction, PretrainingModel):
    """Pretrains a :class:`SpeechLMEncoder` on speech with units (UMLM) and on text with units (UCTC).

    The loss of a step is, with the weights of ``cfg.loss``: the cross-entropy per masked frame at both levels,
    the feature penalty, and the CTC loss per target character.

    Speech and text share one inventory, ``cfg.units``. With ``cfg.text_units``, text has one of its own (the paper's
    ablation with hidden units for speech and phonemes for text): the unit embedding is then that of text's units, and
    swapping must be off, since no text ever trains an embedding of speech's units.

    Args:
        cfg: see ``conf/pretrain.yaml``. The config that ``save_to`` writes does not need ``init_from_pretrained``.
        trainer: Lightning trainer, for training.
    """

    parts: ClassVar[Parts] = Parts(ctc_head="ctc_head", left_behind=("unit_classifiers", "unit_embedding"))

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        source = start_from(cfg)
        super().__init__(cfg=cfg, trainer=trainer)
        self.inventory = registered_inventory(self, "units")
        has_own = self._cfg.get("text_units") is not None
        self.text_inventory = registered_inventory(self, "text_units") if has_own else self.inventory
        self.labels: list[str] = list(self._cfg.labels)
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.spec_augmentation = spec_augmentation_of(self)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.encoder.take_input_rate(self._cfg)
        width, num_units = self.encoder.d_model, len(self.inventory)
        self.unit_classifiers = nn.ModuleDict(
            {level: UnitClassifier(width, num_units, **self._cfg.unit_classifier) for level in LEVELS}
        )
        self.released_labels: bool = self._cfg.get("released_labels", False)
        self.pad_class = self.inventory.encode(["<pad>"])[0] if self.released_labels else PAD_UNIT
        self.masking = SpanMask(**self._cfg.masking)
        self.swapping = SpanMask(**self._cfg.swapping)
        self.text_masking = SpanMask(**self._cfg.text_masking)
        if has_own and self.swapping.prob > 0:
            raise SpeechLMError(
                "model.swapping.prob is not 0, and text has units of its own (model.text_units): speech's units have "
                "no embedding to swap in; set model.swapping.prob=0"
            )
        # Without text or swapping (UMLM alone) neither would ever see a gradient.
        for term, weight in self._cfg.loss.items():
            check_number(f"loss.{term}", weight, least=0)
        classifier = self._cfg.unit_classifier
        check_whole("unit_classifier.final_dim", classifier.get("final_dim", 256), 1)
        check_number("unit_classifier.temperature", classifier.get("temperature", 0.1), above=0)
        self.uses_units_as_input = self._cfg.loss.uctc > 0 or self.swapping.prob > 0
        if self.uses_units_as_input:
            self.unit_embedding = nn.Embedding(len(self.text_inventory), width)
            nn.init.normal_(self.unit_embedding.weight, std=width**-0.5)
        if self._cfg.loss.uctc > 0:
            self.ctc_head = SpeechLMCTCHead(feat_in=width, vocabulary=self.labels, **self._cfg.ctc_head)
            self.uctc_loss = UCTCLoss(blank=len(self.labels))
        if source is not None:
            load_start(self, source)
            with open_dict(self._cfg):
                self._cfg.init_from_pretrained, self._cfg.speech_layers = None, None
                self._cfg.pretrained_from = str(source.path)

    @property
    def label_ratio(self) -> float:
        """Frames of the inventory per frame of the encoder."""
        return self.inventory.frame_rate / self.encoder.frame_rate

    @property
    def text_frame_rate(self) -> float:
        """Frames per second to which text units are expanded; the encoder's own unless the config says otherwise."""
        return self._cfg.get("text_frame_rate") or self.encoder.frame_rate

    def streams(self) -> list[Stream]:
        """Speech with its units, and text with the units that it is expanded to."""
        return [
            SpeechStream(self.inventory, self._cfg.sample_rate, longest_audio(self)),
            UnitTextStream(self.text_inventory, self.labels, self.text_frame_rate, self.encoder.max_frames),
        ]

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> encoded (B, D, T) and lengths (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return self.encoder(audio_signal=signal, length=length)

    def recognizer(self, swapping: bool | None = None) -> SpeechLMCTCModel:
        """What it recognizes without any fine-tuning; see :func:`recognizer_of`."""
        return recognizer_of(self, swapping)

    def forward_speech(
        self,
        batch: SpeechBatch,
        label_offset: int = 0,
        mask: Tensor | None = None,
        swap: Tensor | None = None,
        generator: Draws = None,
    ) -> SpeechOutput:
        """The speech branch: see :func:`nemo_speechlm.models.speechlm.umlm.forward_speech`."""
        return forward_speech(self, batch, label_offset, mask, swap, generator)

    def forward_text(
        self, batch: TextBatch, mask: Tensor | None = None, generator: Draws = None
    ) -> tuple[Tensor, Tensor]:
        """The text branch: see :func:`nemo_speechlm.models.common.uctc.forward_text`."""
        return forward_text(self, batch, mask, generator)

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """One step on a batch of speech, of text, or of both; logs every term of the loss."""
        loss, log = self.compute_loss(batch)
        self.log_dict({f"train_{name}": value.detach() for name, value in log.items()})
        self.log("loss", log["loss"], logger=False)
        self.log_speed()
        return loss

    def on_fit_start(self) -> None:
        """Check that something learns from the text, where there is some."""
        super().on_fit_start()
        text = (self._cfg.get("train_ds") or {}).get("text") or {}
        if self._cfg.loss.uctc == 0 and (text.get("manifest_filepath") or text.get("input_cfg")):
            raise SpeechLMError(
                "model.loss.uctc is 0, so nothing learns from model.train_ds.text; give it a weight, or set "
                "model.train_ds.text=null"
            )

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        data = self._cfg.get("train_ds") or {}
        names = ["loss"]
        if data.get("speech"):
            names += [
                f"{name}_{level}" for name in ("umlm", "masked_accuracy", "unmasked_accuracy") for level in LEVELS
            ]
            names += ["feature_penalty", "fraction_masked", "fraction_swapped"]
        if data.get("text") and self._cfg.loss.uctc > 0:
            names.append("uctc")
        return ("loss", *(f"train_{name}" for name in names), *super().training_metrics())

    def compute_loss(self, batch: PretrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its terms and what else is logged, all () tensors on the device.

        The loss is this process's part (:class:`JointMean`), what is logged is that of the batches of all processes.
        Nothing here asks the device for a number; PyTorch's CTC copies the lengths of texts to it.
        """
        terms: dict[str, tuple[Tensor, Tensor | float]] = {}
        weights = self._cfg.loss
        if batch.speech is not None:
            terms = umlm_terms(self.forward_speech(batch.speech, draw_offset(self.label_ratio)))
        if isinstance(batch.text, TextBatch) and weights.uctc > 0:
            log_probs, _ = self.forward_text(batch.text)
            terms["uctc"] = uctc_terms(self, batch.text, log_probs)
        if not terms:
            raise SpeechLMError("a training step with neither speech nor text: check model.train_ds and model.loss")
        means = joint_means(terms)
        loss, joint = umlm_loss(means, weights) if batch.speech is not None else (0.0, 0.0)
        if "uctc" in means:
            loss, joint = means["uctc"].loss * weights.uctc + loss, means["uctc"].mean * weights.uctc + joint
        log = {name: mean.mean for name, mean in means.items() if not name.startswith("umlm_unmasked")}
        return loss, {**log, "loss": joint}  # type: ignore[return-value, dict-item]

    # --- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: PretrainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Speech: UMLM, each utterance under a mask of its own. Text: CTC without masks, and its character error."""
        weight = 0 if batch.stand_in else 1
        if batch.speech is not None:
            output = self.forward_speech(
                batch.speech, generator=RowSeeds.of(batch.speech.ids, len(batch.speech.audio))
            )
            (masked, unmasked), heard = predictions(output), heard_units(output)
            asked = output.units[output.mask & (output.units != PAD_UNIT)]
            self._validated_units += weight * torch.bincount(asked, minlength=len(self.inventory))
            for level in LEVELS:
                frames = weight * masked[level].frames
                self.log_mean(f"val_umlm_{level}", weight * masked[level].loss, frames)
                self.log_mean(f"val_masked_accuracy_{level}", weight * masked[level].correct, frames)
                self.log_mean(f"val_unmasked_accuracy_{level}", weight * heard[level][0], weight * heard[level][1])
            for term, found in (("umlm", masked), ("umlm_unmasked", unmasked)):
                self._add_term(
                    term, weight * sum(found[level].loss for level in LEVELS), weight * found["shared"].frames
                )
        if isinstance(batch.text, TextBatch) and self._cfg.loss.uctc > 0:
            no_mask = torch.zeros_like(batch.text.units, dtype=torch.bool)
            log_probs, _ = self.forward_text(batch.text, mask=no_mask)
            loss, count = (weight * part for part in uctc_terms(self, batch.text, log_probs))
            self.log_mean("val_uctc", loss, count)
            self._add_term("uctc", loss, count)
            hypotheses, references = greedy_texts(self.labels, log_probs, batch.text)
            characters = sum(map(len, references))
            wrong = word_error_rate(hypotheses, references, use_cer=True) * characters if characters else 0.0
            self.log_mean("val_text_cer", torch.tensor(weight * wrong, device=self.device), weight * characters)

    def on_validation_epoch_start(self) -> None:
        """Begin to count the units that are asked for, and to sum the terms of the loss."""
        self._validated_units = torch.zeros(len(self.inventory), dtype=torch.int64, device=self.device)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._validated_terms = torch.zeros(len(LOSS_TERMS), 2, dtype=dtype, device=self.device)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log what always saying the most frequent unit would score, and the loss."""
        counts = joint_sum(self._validated_units)
        if counts.any():
            self.log("val_masked_accuracy_of_most_frequent_unit", counts.max() / counts.sum(), rank_zero_only=True)
        sums, counts = joint_sum(self._validated_terms).unbind(1)
        weights = torch.tensor([self._cfg.loss[term] for term in LOSS_TERMS], device=self.device)
        if counts.any():
            # In all processes: each of them picks the best checkpoint by it.
            self.log("val_loss", (weights * sums / counts.clamp(min=1)).sum().float(), sync_dist=True)
        return {}

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one.

        ``val_loss`` is always there: the loss of training without the feature penalty, on what data there are.
        """
        data = self._cfg.get("validation_ds") or {}
        metrics: dict[str, str] = {}
        if data.get("speech"):
            if self.masking.prob > 0 or self.masking.min_spans > 0:
                metrics |= {f"val_umlm_{level}": "min" for level in LEVELS}
                metrics |= {f"val_masked_accuracy_{level}": "max" for level in LEVELS}
            metrics |= {f"val_unmasked_accuracy_{level}": "max" for level in LEVELS}
        if data.get("text") and self._cfg.loss.uctc > 0:
            metrics |= {"val_uctc": "min", "val_text_cer": "min"}
        return {"val_loss": "min", **metrics} if metrics else {}

    def _add_term(self, term: str, value: Tensor | int, count: Tensor | int) -> None:
        row = self._validated_terms[LOSS_TERMS.index(term)]
        row[0] += value
        row[1] += count
