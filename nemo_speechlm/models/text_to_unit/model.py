"""TextToUnitModel: hidden units for text, as if somebody had spoken it (SpeechLM, section 3.2).

Axis legend: B sentences, P phones, T frames of the hidden units, D width, V units.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from nemo_speechlm.data.length_batches import LengthBatches, batches_by_length
from nemo_speechlm.data.phone_units import Filters, PairedBatch, PairedUnits
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.data.worker_signals import leave_signals_to_parent
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.common.inventories import registered_inventory
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.trained_model import TrainedModel
from nemo_speechlm.models.text_to_unit.generation import Spoken, generate
from nemo_speechlm.modules.durations import durations_of, repeat_states
from nemo_speechlm.modules.padding import padding_mask

MAX_PHONE_SECONDS = 5.0
"""How long a phone lasts at most where the config does not say it: a badly trained model's may last for hours."""


class TextToUnitOutput(NamedTuple):
    """What the model says of a batch.

    Attributes:
        logits: (B, T, V).
        lengths: (B,) frames.
        log_durations: (B, P) log(1 + frames) of each phone, as predicted.
    """

    logits: Tensor
    lengths: Tensor
    log_durations: Tensor


class TextToUnitModel(TrainedModel):
    """Predicts how long each phone lasts and which hidden unit each of its frames has, all at once (FastSpeech).

    The loss is the cross-entropy of the units under the true durations, with label smoothing, and the mean squared
    error of log(1 + frames) of the phones.

    Args:
        cfg: see ``conf/text_to_unit.yaml``.
        trainer: Lightning trainer, for training.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        super().__init__(cfg=cfg, trainer=trainer)
        self.phones = registered_inventory(self, "phones")
        self.inventory = registered_inventory(self, "units")
        self.speakers: list[str] = list(self._cfg.get("speakers") or [])
        seconds = self._cfg.get("max_phone_seconds", MAX_PHONE_SECONDS)
        if seconds is not None and not seconds > 0:
            raise SpeechLMError(f"max_phone_seconds is {seconds!r}, expected seconds above 0, or null for no limit")
        self.longest_phone = None if seconds is None else max(1, round(seconds * self.inventory.frame_rate))
        # In the released code a padded phone is embedded as "<pad>", and convolutions see it.
        self.released_padding: bool = self._cfg.get("released_padding", False)
        pad = self.phones.encode(["<pad>"])[0] if self.released_padding else None
        self._pad_phone = pad or 0
        width = self._cfg.d_model
        shared = {"d_model": width, "released_padding": self.released_padding}
        self.phone_embedding = nn.Embedding(len(self.phones), width, padding_idx=pad)
        # As large as the positions that are added to it: drowned by them, phones take thousands of updates to emerge.
        nn.init.normal_(self.phone_embedding.weight)
        self.encoder = self.from_config_dict(OmegaConf.create({**self._cfg.encoder, **shared}))
        if self.speakers:
            self.speaker_embedding = nn.Embedding(len(self.speakers), self._cfg.speaker_dim)
            self.speaker_proj = nn.Linear(width + self._cfg.speaker_dim, width)
        self.duration_predictor = self.from_config_dict(OmegaConf.create({**self._cfg.duration_predictor, **shared}))
        self.decoder = self.from_config_dict(OmegaConf.create({**self._cfg.decoder, **shared}))
        self.unit_proj = nn.Linear(width, len(self.inventory))

    # --- the model -----------------------------------------------------------------------------------------------

    def encode(self, phones: Tensor, phone_lengths: Tensor, speakers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Phones (B, P), their lengths (B,) and speakers (B,) -> states (B, P, D), log-durations (B, P).

        Raises:
            SpeechLMError: if speakers are given to a model that has none, or not given to one that has some.
        """
        if (speakers is None) != (not self.speakers):
            has = f"{len(self.speakers)} speakers; say which" if self.speakers else "no speakers, but some are given"
            raise SpeechLMError(f"the text-to-unit model has {has}")
        padding = padding_mask(phone_lengths, phones.shape[1])
        states = self.encoder(self.phone_embedding(phones.masked_fill(padding, self._pad_phone)), phone_lengths)
        if speakers is not None:
            voices = self.speaker_embedding(speakers).unsqueeze(1).expand(-1, states.shape[1], -1)
            states = self.speaker_proj(torch.cat([states, voices], dim=2))
        return states, self.duration_predictor(states, phone_lengths)

    def decode(self, states: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, P, D) and durations (B, P) -> logits (B, T, V), lengths (B,)."""
        frames, lengths = repeat_states(states, durations)
        return self.unit_proj(self.decoder(frames, lengths)), lengths

    def forward(
        self,
        phones: Tensor,
        phone_lengths: Tensor,
        durations: Tensor | None = None,
        speakers: Tensor | None = None,
    ) -> TextToUnitOutput:
        """Predict units under given durations, or under the model's own.

        Args:
            phones: (B, P) ids of the phone inventory.
            phone_lengths: (B,).
            durations: (B, P) frames, 0 where padded; None: those that are predicted.
            speakers: (B,) where the model has speakers.
        """
        states, log_durations = self.encode(phones, phone_lengths, speakers)
        if durations is None:
            durations = durations_of(log_durations, phone_lengths, longest=self.longest_phone)
        logits, lengths = self.decode(states, durations)
        return TextToUnitOutput(logits, lengths, log_durations)

    def losses(self, output: TextToUnitOutput, batch: PairedBatch) -> tuple[Tensor, Tensor]:
        """Cross-entropy per frame, and mean squared error of log(1 + frames) per phone."""
        (units, frames), (durations, phones) = self.summed_losses(output, batch)
        return units / frames, durations / phones

    def summed_losses(
        self, output: TextToUnitOutput, batch: PairedBatch
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The sums behind :meth:`losses`: cross-entropy and its frames, squared errors and their phones."""
        V = output.logits.shape[2]
        # fairseq shares the smoothed part among the other units only, PyTorch among all.
        smoothing = self._cfg.loss.label_smoothing * V / (V - 1)
        units = batch.units[:, : output.logits.shape[1]]
        unit_loss = F.cross_entropy(
            output.logits.flatten(0, 1).float(),
            units.flatten(),
            ignore_index=PAD_UNIT,
            label_smoothing=smoothing,
            reduction="sum",
        )
        spoken = ~padding_mask(batch.phone_lengths, batch.phones.shape[1])
        error = (output.log_durations.float() - batch.durations.float().log1p()).square()
        errors = error.masked_fill(~spoken, 0.0).sum()
        return (unit_loss, (units != PAD_UNIT).sum()), (errors, spoken.sum())

    # --- generation ----------------------------------------------------------------------------------------------

    def generate(
        self,
        phones: Sequence[Sequence[int]],
        speakers: Sequence[int] | None = None,
        batch_frames: int = 8000,
        speed: float = 1.0,
    ) -> list[Spoken]:
        """The most likely hidden units of sentences: see :func:`.generation.generate`."""
        return generate(self, phones, speakers, batch_frames, speed)

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """One step; logs both terms of the loss."""
        output = self(batch.phones, batch.phone_lengths, batch.durations, batch.speakers)
        units, durations = self.summed_losses(output, batch)
        correct, frames = _right(output.logits, batch.units)
        means = joint_means({"unit_loss": units, "duration_loss": durations, "accuracy": (correct.float(), frames)})
        weight = self._cfg.loss.duration
        joint = means["unit_loss"].mean + weight * means["duration_loss"].mean
        self.log_dict({"train_loss": joint, **{f"train_{name}": mean.mean for name, mean in means.items()}})
        self.log("loss", joint, logger=False)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return means["unit_loss"].loss + weight * means["duration_loss"].loss

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        return ("loss", "train_loss", "train_unit_loss", "train_duration_loss", "train_accuracy", "lr")

    def validation_step(self, batch: PairedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Units under the true durations; durations."""
        output = self(batch.phones, batch.phone_lengths, batch.durations, batch.speakers)
        units, durations = self.summed_losses(output, batch)
        correct, frames = _right(output.logits, batch.units)
        predicted = durations_of(output.log_durations, batch.phone_lengths, longest=self.longest_phone)
        wrong = (predicted - batch.durations).abs().sum()  # both are 0 where padded
        of_sentence = (predicted.sum(1) - batch.durations.sum(1)).abs().sum()
        for name, value, count in (
            ("unit_loss", *units),
            ("unit_accuracy", correct, frames),
            ("duration_loss", *durations),
            ("duration_error_frames", wrong, batch.phone_lengths.sum()),
            ("sentence_duration_error", of_sentence, frames),
        ):
            self.log_mean(f"val_{name}", value, count)
        labeled = batch.units[batch.units != PAD_UNIT]
        self._validated_units += torch.bincount(labeled, minlength=len(self.inventory))

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one."""
        losses = ("loss", "unit_loss", "duration_loss", "duration_error_frames", "sentence_duration_error")
        return {"val_unit_accuracy": "max"} | {f"val_{name}": "min" for name in losses}

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._validated_units = torch.zeros(len(self.inventory), dtype=torch.int64, device=self.device)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log the loss, and what always saying the most frequent unit would score."""
        means = self.validation_means.means
        loss = means["val_unit_loss"] + self._cfg.loss.duration * means["val_duration_loss"]
        self.log("val_loss", loss, sync_dist=True)
        counts = joint_sum(self._validated_units)
        if counts.any():
            self.log("val_accuracy_of_most_frequent_unit", counts.max() / counts.sum(), rank_zero_only=True)
        return {}

    # --- data ----------------------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the endless loader of ``cfg.train_ds``."""
        cfg, data = self._dataset(train_data_config)
        ranks = self.global_rank, self.world_size
        seed, used = cfg.get("seed", 0), self.used_batches
        batches = LengthBatches(data.frames(), cfg.batch_frames, seed, *ranks, used=used)
        self._train_dl = _loader(data, batches, cfg)

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build the loader of ``cfg.validation_ds``, which is passed once."""
        cfg, data = self._dataset(val_data_config)
        if len(data) < self.world_size:
            raise InputError(
                f"{len(data)} utterances to validate in {self.world_size} processes; expected at least one each: "
                "take more utterances or fewer trainer.devices",
                ", ".join(as_paths(cfg.manifest_filepath)),
            )
        # Processes share the utterances and not the batches, of which there may be fewer than processes: Lightning
        # stops where a process has none. Every n-th by length, so that all have as much to do.
        order = np.argsort(data.frames(), kind="stable")[self.global_rank :: self.world_size]
        batches = batches_by_length(data.frames()[order], cfg.batch_frames)
        self._validation_dl = _loader(data, [order[batch].tolist() for batch in batches], cfg)

    def _dataset(self, config: DictConfig | dict) -> tuple[DictConfig, PairedUnits]:
        cfg = DictConfig(OmegaConf.to_container(OmegaConf.create(config), resolve=True))
        filters = Filters(cfg.get("min_frames", 1), cfg.get("max_frames", 2000))
        phone_manifests = cfg.get("phones_manifest_filepath")
        data = PairedUnits(
            as_paths(cfg.manifest_filepath),
            None if phone_manifests is None else as_paths(phone_manifests),
            self.inventory,
            self.phones,
            self.speakers,
            filters,
        )
        if data.left_out and self.global_rank == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in data.left_out.items())
            logging.info(f"{cfg.manifest_filepath}: {len(data)} utterances, left out: {reasons}")
        return cfg, data


def _right(logits: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Frames whose most likely unit is right, and frames."""
    labeled = units != PAD_UNIT
    return ((logits.argmax(2) == units) & labeled).sum(), labeled.sum()


def as_paths(value: Any) -> list[str]:
    """One path or several, as a list."""
    return [value] if isinstance(value, str) else list(value)


def _loader(data: PairedUnits, batches: Any, cfg: DictConfig) -> DataLoader:
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=data.collate,
        num_workers=cfg.get("num_workers", 0),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
    )
