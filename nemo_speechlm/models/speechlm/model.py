"""SpeechLMModel: joint pretraining on unpaired speech and unpaired text (arXiv 2209.15329, section 3).

Axis legend: B utterances or sentences, T frames of the encoder, L frames of the units, D width, V units.
"""

from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.metrics.wer import word_error_rate
from nemo.core.classes import ModelPT, PretrainedModelInfo
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Generator, Tensor, nn

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader, build_validation_dataloaders
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.kernels.mixing import mix_states
from nemo_speechlm.losses import UCTCLoss, UnitPrediction, unit_prediction
from nemo_speechlm.models.common.acceleration import Accelerated
from nemo_speechlm.models.common.encoder_transfer import load_start, start_from
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.inventories import registered_inventory
from nemo_speechlm.models.common.limits import longest_audio
from nemo_speechlm.models.common.monitoring import Throughput
from nemo_speechlm.models.speechlm.umlm import LEVELS, SpeechOutput, _accuracy
from nemo_speechlm.modules.ctc_head import SpeechLMCTCHead
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.unit_classifier import UnitClassifier

LOSS_TERMS = ("umlm", "umlm_unmasked", "uctc")
"""Of the loss of validation, with weights of these names in ``cfg.loss``."""


class SpeechLMModel(Accelerated, FeatureExtraction, ModelPT):
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

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        for name in ("train_ds", "validation_ds"):
            if cfg.get(name) is not None:
                cfg[name].defer_setup = True  # the loaders need the inventory and the encoder's frame rate
        source = start_from(cfg)
        super().__init__(cfg=cfg, trainer=trainer)
        self.inventory = registered_inventory(self, "units")
        has_own = self._cfg.get("text_units") is not None
        self.text_inventory = registered_inventory(self, "text_units") if has_own else self.inventory
        self.labels: list[str] = list(self._cfg.labels)
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.encoder.take_input_rate(self._cfg)
        width, num_units = self.encoder.d_model, len(self.inventory)
        self.unit_classifiers = nn.ModuleDict(
            {level: UnitClassifier(width, num_units, **self._cfg.unit_classifier) for level in LEVELS}
        )
        # The released code predicts "<pad>" where an utterance's labels end before its audio; we predict nothing.
        self.released_labels: bool = self._cfg.get("released_labels", False)
        self._pad_class = self.inventory.encode(["<pad>"])[0] if self.released_labels else PAD_UNIT
        self.masking = SpanMask(**self._cfg.masking)
        self.swapping = SpanMask(**self._cfg.swapping)
        self.text_masking = SpanMask(**self._cfg.text_masking)
        if has_own and self.swapping.prob > 0:
            raise SpeechLMError(
                "model.swapping.prob is not 0, and text has units of its own (model.text_units): speech's units have "
                "no embedding to swap in; set model.swapping.prob=0"
            )
        # Without text or swapping (UMLM alone) neither would ever see a gradient.
        self.uses_units_as_input = self._cfg.loss.uctc > 0 or self.swapping.prob > 0
        if self.uses_units_as_input:
            self.unit_embedding = nn.Embedding(len(self.text_inventory), width)
            nn.init.normal_(self.unit_embedding.weight, std=width**-0.5)
        if self._cfg.loss.uctc > 0:
            self.ctc_head = SpeechLMCTCHead(feat_in=width, vocabulary=self.labels, **self._cfg.ctc_head)
            self.uctc_loss = UCTCLoss(blank=len(self.labels))
        self.throughput = Throughput()
        if source is not None:
            load_start(self, source)
            with open_dict(self._cfg):
                self._cfg.init_from_pretrained, self._cfg.speech_layers = None, None
                self._cfg.pretrained_from = str(source.path)

    # --- rates ---------------------------------------------------------------------------------------------------

    @property
    def frame_rate(self) -> float:
        """Frames per second of the encoder."""
        return self.encoder.frame_rate

    @property
    def label_ratio(self) -> float:
        """Frames of the inventory per frame of the encoder."""
        return self.inventory.frame_rate / self.frame_rate

    @property
    def text_frame_rate(self) -> float:
        """Frames per second to which text units are expanded; the encoder's own unless the config says otherwise."""
        return self._cfg.get("text_frame_rate") or self.frame_rate

    # --- the two branches ----------------------------------------------------------------------------------------

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> encoded (B, D, T) and lengths (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return self.encoder(audio_signal=signal, length=length)

    def forward_speech(
        self,
        batch: SpeechBatch,
        label_offset: int = 0,
        mask: Tensor | None = None,
        swap: Tensor | None = None,
        generator: Generator | None = None,
    ) -> SpeechOutput:
        """The speech branch: mask, encode, swap, encode, classify.

        Args:
            batch: audio and its units.
            label_offset: frame t takes label ``t * label_ratio + label_offset``.
            mask: (B, T) bool, frames to mask; drawn where it is None.
            swap: (B, T) bool, frames to swap; drawn where it is None. Masked frames are never swapped.
            generator: what masks and swaps are drawn with.
        """
        signal, length = self.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        frames = self.encoder.embed_speech(signal, length, int(batch.units.shape[1] / self.label_ratio))
        states, lengths = frames.states, frames.lengths
        T = states.shape[1]
        units = self._units_of_frames(batch.units, T, label_offset)
        padding = padding_mask(lengths, T)
        if mask is None:
            mask = self.masking.draw(lengths, T, generator)
        speech, _ = self.encoder.encode_speech(self.encoder.apply_mask(states, mask, padding), padding)
        # Where an utterance's labels end, it ends for the shared transformer too, as in the released code.
        unlabeled = units == PAD_UNIT
        if self.released_labels:
            targets = units.masked_fill(unlabeled, self._pad_class).masked_fill(padding, PAD_UNIT)
        else:
            targets, unlabeled = units, unlabeled | padding
        if swap is None:
            swap = self.swapping.draw(lengths, T, generator)
        swap = swap & ~mask & ~unlabeled
        # The released code's labels may go on behind the audio; its shared transformer then attends to zeros there.
        hidden = padding if self.released_labels else unlabeled
        if self.swapping.prob > 0:
            shared_input = mix_states(
                speech,
                swap_BT=swap,
                units_BT=units,
                embedding_VD=self.unit_embedding.weight,
                padding_BT=hidden,
                backend=self.encoder.kernels,
            )
        else:
            shared_input = mix_states(speech, padding_BT=hidden, backend=self.encoder.kernels)
        shared, _ = self.encoder.encode_shared(shared_input, unlabeled)
        logits = [self.unit_classifiers["speech"](speech), self.unit_classifiers["shared"](shared)]
        return SpeechOutput(logits, targets, mask, swap, frames.penalty)

    def forward_text(
        self, batch: TextBatch, mask: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The text branch: embed the units, mask, encode with the shared transformer, CTC head.

        Args:
            batch: expanded units.
            mask: (B, L) bool, frames to mask; drawn where it is None.
            generator: what the mask is drawn with.

        Returns:
            log-probabilities (B, L, labels + 1), blank last, and the mask.
        """
        L = batch.units.shape[1]
        lengths = batch.unit_lengths.to(batch.units.device, non_blocking=True)
        padding = padding_mask(lengths, L)
        if mask is None:
            mask = self.text_masking.draw(lengths, L, generator)
        states = self.encoder.apply_mask(self.unit_embedding(batch.units.clamp(min=0)), mask, padding)
        shared, _ = self.encoder.encode_shared(states, padding)
        return self.ctc_head(encoder_output=shared.transpose(1, 2)), mask

    def _units_of_frames(self, units: Tensor, num_frames: int, offset: int) -> Tensor:
        ratio = self.label_ratio
        index = (torch.arange(num_frames, device=units.device) * ratio).long() + offset
        return units[:, index.clamp(max=units.shape[1] - 1)]

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """One step on a batch of speech, of text, or of both; logs every term of the loss."""
        loss, log = self.compute_loss(batch)
        self.log_dict({f"train_{name}": value.detach() for name, value in log.items()})
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict(self.throughput.rates())
        return loss

    def compute_loss(self, batch: PretrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its terms and what else is logged, all () tensors on the device.

        Nothing here waits for the device.
        """
        log: dict[str, Tensor] = {}
        loss: Tensor | None = None
        weights = self._cfg.loss
        if batch.speech is not None:
            # One offset for the batch: over the steps, every label of the finer rate is used.
            offset = int(torch.randint(max(int(self.label_ratio), 1), ())) if self.label_ratio > 1 else 0
            output = self.forward_speech(batch.speech, offset)
            masked, unmasked = self._predictions(output)
            umlm = {level: prediction.loss / prediction.frames.clamp(min=1) for level, prediction in masked.items()}
            loss = sum(umlm.values()) * weights.umlm + output.penalty * weights.feature_penalty
            if weights.umlm_unmasked > 0:
                seen = [prediction.loss / prediction.frames.clamp(min=1) for prediction in unmasked.values()]
                loss = loss + sum(seen) * weights.umlm_unmasked
            labeled = (output.units != PAD_UNIT).sum()
            log |= {f"umlm_{level}": value for level, value in umlm.items()}
            log |= {f"masked_accuracy_{level}": _accuracy(p) for level, p in masked.items()}
            log |= {f"unmasked_accuracy_{level}": _accuracy(p) for level, p in unmasked.items()}
            log["feature_penalty"] = output.penalty
            log["fraction_masked"] = output.mask.sum() / labeled
            log["fraction_swapped"] = output.swap.sum() / labeled
        if batch.text is not None and weights.uctc > 0:
            log_probs, _ = self.forward_text(batch.text)
            uctc = self._uctc(batch.text, log_probs)
            log["uctc"] = uctc
            loss = uctc * weights.uctc + (0.0 if loss is None else loss)
        if loss is None:
            raise SpeechLMError("a training step with neither speech nor text: check model.train_ds and model.loss")
        log["loss"] = loss
        return loss, log

    def _predictions(self, output: SpeechOutput) -> tuple[dict[str, UnitPrediction], dict[str, UnitPrediction]]:
        """How well the units of masked and of unmasked frames are predicted, per level."""
        labeled = output.units != PAD_UNIT
        masked, unmasked = (
            {
                level: unit_prediction(logits, output.units, frames)
                for level, logits in zip(LEVELS, output.logits, strict=True)
            }
            for frames in (output.mask & labeled, ~output.mask & labeled)
        )
        return masked, unmasked

    def _uctc(self, batch: TextBatch, log_probs: Tensor) -> Tensor:
        return self.uctc_loss(
            log_probs=log_probs,
            targets=batch.targets,
            input_lengths=batch.unit_lengths,
            target_lengths=batch.target_lengths,
        )

    def on_before_batch_transfer(self, batch: PretrainBatch, dataloader_idx: int) -> PretrainBatch:
        """Count the audio while its lengths are still on the host: later that would wait for the device."""
        if self.training and isinstance(batch, PretrainBatch) and batch.speech is not None:
            self.throughput.add(float(batch.speech.audio_lengths.sum()) / self._cfg.sample_rate)
        return batch

    def transfer_batch_to_device(
        self, batch: PretrainBatch, device: torch.device, dataloader_idx: int
    ) -> PretrainBatch:
        """Leave lengths of text on the host, where the CTC loss would bring them, waiting for the device."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(moved, PretrainBatch) and moved.text is not None and batch.text is not None:
            text = moved.text._replace(unit_lengths=batch.text.unit_lengths, target_lengths=batch.text.target_lengths)
            moved = moved._replace(text=text)
        return moved

    # --- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: PretrainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Speech: UMLM under masks that are the same each time. Text: CTC without masks, and its character error."""
        if batch.speech is not None:
            generator = Generator(device=self.device).manual_seed(batch_idx)
            output = self.forward_speech(batch.speech, generator=generator)
            masked, unmasked = self._predictions(output)
            asked = output.units[output.mask & (output.units != PAD_UNIT)]
            self._validated_units += torch.bincount(asked, minlength=len(self.inventory))
            for level in LEVELS:
                self._log_mean(f"val_umlm_{level}", masked[level].loss, masked[level].frames)
                self._log_mean(f"val_masked_accuracy_{level}", masked[level].correct, masked[level].frames)
                self._log_mean(f"val_unmasked_accuracy_{level}", unmasked[level].correct, unmasked[level].frames)
            for term, found in (("umlm", masked), ("umlm_unmasked", unmasked)):
                self._add_term(term, sum(found[level].loss for level in LEVELS), found["shared"].frames)
        if batch.text is not None and self._cfg.loss.uctc > 0:
            no_mask = torch.zeros_like(batch.text.units, dtype=torch.bool)
            log_probs, _ = self.forward_text(batch.text, mask=no_mask)
            uctc, sentences = self._uctc(batch.text, log_probs), len(batch.text.units)
            self._log_mean("val_uctc", uctc, sentences, summed=False)
            self._add_term("uctc", uctc * sentences, sentences)
            hypotheses, references = self._greedy_texts(log_probs, batch.text)
            characters = max(sum(map(len, references)), 1)
            error = word_error_rate(hypotheses, references, use_cer=True)
            self._log_mean("val_text_cer", torch.tensor(error * characters), characters)

    def on_validation_epoch_start(self) -> None:
        """Begin to count the units that are asked for, and to sum the terms of the loss."""
        self._validated_units = torch.zeros(len(self.inventory), dtype=torch.int64, device=self.device)
        self._validated_terms = torch.zeros(len(LOSS_TERMS), 2, device=self.device)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log what always saying the most frequent unit would score, and the loss; Lightning averages the rest."""
        counts = self.all_gather(self._validated_units).reshape(-1, len(self.inventory)).sum(0)
        if counts.any():
            self.log("val_masked_accuracy_of_most_frequent_unit", counts.max() / counts.sum(), rank_zero_only=True)
        sums, counts = self.all_gather(self._validated_terms).reshape(-1, len(LOSS_TERMS), 2).sum(0).unbind(1)
        weights = torch.tensor([self._cfg.loss[term] for term in LOSS_TERMS], device=self.device)
        if counts.any():
            # In all processes: each of them picks the best checkpoint by it.
            self.log("val_loss", (weights * sums / counts.clamp(min=1)).sum(), sync_dist=True)
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

    def _log_mean(self, name: str, value: Tensor, count: Tensor | int, summed: bool = True) -> None:
        number = int(count)
        if number:
            mean = value.float() / number if summed else value
            self.log(name, mean, batch_size=number, on_epoch=True, add_dataloader_idx=False, sync_dist=True)

    def _greedy_texts(self, log_probs: Tensor, batch: TextBatch) -> tuple[list[str], list[str]]:
        blank = len(self.labels)
        hypotheses, references = [], []
        best = log_probs.argmax(-1).tolist()
        rows = zip(
            best, batch.unit_lengths.tolist(), batch.targets.tolist(), batch.target_lengths.tolist(), strict=True
        )
        for path, length, target, target_length in rows:
            path = path[:length]
            kept = [c for c, before in zip(path, [blank, *path[:-1]], strict=True) if c not in (before, blank)]
            hypotheses.append("".join(self.labels[c] for c in kept))
            references.append("".join(self.labels[c] for c in target[:target_length]))
        return hypotheses, references

    # --- data ----------------------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the loader of ``cfg.train_ds``: speech and text zipped, or one of them."""
        self._train_dl = build_pretrain_dataloader(**self._loader_arguments(train_data_config))

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build the loaders of ``cfg.validation_ds``: speech, then text; each is passed once."""
        self._validation_dl = build_validation_dataloaders(**self._loader_arguments(val_data_config))

    def setup_multiple_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """As :meth:`setup_validation_data`: speech and text have loaders of their own already."""
        self.setup_validation_data(val_data_config)

    def _loader_arguments(self, config: DictConfig | dict) -> dict[str, Any]:
        own = DictConfig(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
        own.pop("defer_setup", None)
        return {
            "config": own,
            "inventory": self.inventory,
            "text_inventory": self.text_inventory,
            "labels": self.labels,
            "text_frame_rate": self.text_frame_rate,
            "sample_rate": self._cfg.sample_rate,
            "longest": longest_audio(self),
            "max_frames": self.encoder.max_frames,
            "global_rank": self.global_rank,
            "world_size": self.world_size,
        }

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """There are none to download; released checkpoints are converted."""
        return []
