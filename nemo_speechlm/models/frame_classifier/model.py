"""FrameClassifierModel: which unit is heard in each frame; decoded, it tokenizes speech that nobody transcribed.

The hybrid of network and HMM that the paper labels its unpaired speech with (SpeechLM section 3.2), without Kaldi.

Axes: B utterances, S samples, T frames of the encoder, L frames of the inventory, D width, C classes.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from kaldialign import edit_distance
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from nemo_speechlm.checks import check_whole
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.manifests.units import unit_ids
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch
from nemo_speechlm.data.pretraining.streams import SpeechStream, Stream
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.language_models.unit_bigram import unit_bigram
from nemo_speechlm.losses import unit_prediction
from nemo_speechlm.models.common.augmentation import spec_augmentation_of
from nemo_speechlm.models.common.inventories import registered_inventory
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.pretraining import PretrainingModel
from nemo_speechlm.models.frame_classifier.classes import classes_of, merged_phones
from nemo_speechlm.models.frame_classifier.decoding import scaled_scores
from nemo_speechlm.modules.phone_loop import PhoneLoop
from nemo_speechlm.units.sequence import UnitSequence


class FrameClassifierModel(PretrainingModel):
    """Mel features, a NeMo encoder and a linear layer that classifies each frame of the inventory's rate.

    The encoder may have fewer frames than the inventory: each then predicts the classes of several. Units that are
    alike but for what ``cfg.classes.ignore`` matches share their classes, of which a unit has
    ``cfg.classes.parts`` in equal shares of its time. Decoding returns units of the whole inventory: what tells units
    of the same class apart is the bigram.

    Args:
        cfg: see ``conf/frame_classifier.yaml``.
        trainer: Lightning trainer, for training.
    """

    class_counts: Tensor

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        super().__init__(cfg=cfg, trainer=trainer)
        self.inventory = registered_inventory(self, "units")
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.spec_augmentation = spec_augmentation_of(self)
        self.label_ratio = self._ratio()
        self.parts: int = self._cfg.classes.parts
        check_whole("model.classes.parts", self.parts, 1)
        self.phones, phone_of_unit = merged_phones(self.inventory, self._cfg.classes.ignore)
        self.register_buffer("phone_of_unit", torch.tensor(phone_of_unit), persistent=False)
        self.num_classes = len(self.phones) * self.parts
        self.classifier = nn.Linear(self.encoder.d_model, self.num_classes * self.label_ratio)
        self.register_buffer("class_counts", torch.zeros(self.num_classes, dtype=torch.int64))
        decoding = self._cfg.decoding
        if decoding.min_duration < self.parts:
            raise SpeechLMError(
                f"model.decoding.min_duration is {decoding.min_duration}; each of the {self.parts} parts "
                "(model.classes.parts) of a unit lasts a frame or more"
            )
        self.phone_loop = PhoneLoop(
            self.phone_of_unit.unsqueeze(1) * self.parts + torch.arange(self.parts),
            decoding.min_duration,
            decoding.lm_weight,
            decoding.penalty,
        )

    def _ratio(self) -> int:
        """Frames of the inventory per frame of the encoder."""
        ratio = self.inventory.frame_rate * self._cfg.preprocessor.window_stride * self.encoder.subsampling_factor
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
            raise SpeechLMError(
                f"the encoder has {self.inventory.frame_rate / ratio:g} frames a second, the units "
                f"{self.inventory.frame_rate:g}: expected a whole number of unit frames for each of the encoder's "
                "(model.preprocessor.window_stride, model.encoder.subsampling_factor)"
            )
        return round(ratio)

    # --- from audio to units -------------------------------------------------------------------------------------

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> logits (B, L, C) and frames (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        if self.spec_augmentation is not None and self.training:
            signal = self.spec_augmentation(input_spec=signal, length=length)
        states, frames = self.encoder(audio_signal=signal, length=length)
        logits = self.classifier(states.transpose(1, 2))
        return logits.unflatten(2, (self.label_ratio, self.num_classes)).flatten(1, 2), frames * self.label_ratio

    @torch.no_grad()
    def frame_scores(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch is decoded with, computed in evaluation mode: log p(class | frame) without the prior's share.

        Args:
            input_signal: (B, S) audio at the model's sample rate.
            input_signal_length: (B,) samples of each.

        Returns:
            scores (B, L, C), and frames (B,): each utterance's length in frames of the inventory, rounded.
        """
        was_training = self.training
        if was_training:  # going through all modules takes a twentieth of the time
            self.eval()
        try:
            logits, frames = self(input_signal, input_signal_length)
        finally:
            if was_training:
                self.train()
        seconds = input_signal_length.double() / self._cfg.sample_rate  # bf16-true would round them
        lengths = (seconds * self.inventory.frame_rate).round().long().clamp(min=1)
        return self.scores(logits, frames, lengths), lengths

    def decode(self, input_signal: Tensor, input_signal_length: Tensor) -> list[UnitSequence]:
        """The units of a batch; arguments as of :meth:`frame_scores`, durations sum up to its frames."""
        found = self.phone_loop(*self.frame_scores(input_signal, input_signal_length))
        return [UnitSequence(d.units, d.durations) for d in found]

    def scores(self, logits: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        """See :func:`scaled_scores`."""
        return scaled_scores(logits, frames, lengths, self._cfg.decoding.prior_weight * self.log_priors)

    def set_decoding(self, **values: float | None) -> None:
        """Replace keys of ``cfg.decoding`` but for those that are None."""
        with open_dict(self._cfg):
            self._cfg.decoding.update({key: value for key, value in values.items() if value is not None})
        decoding = self._cfg.decoding
        self.phone_loop.lm_weight, self.phone_loop.penalty = decoding.lm_weight, decoding.penalty

    @property
    def log_priors(self) -> Tensor:
        """(C,) log-probabilities of the classes in the frames that were trained on; one more frame of each."""
        counts = self.class_counts.double() + 1
        return (counts / counts.sum()).log().float()

    @torch.no_grad()
    def extract_features(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The hidden states of a batch, computed in evaluation mode.

        Args:
            waveform: (B, S) audio at the model's sample rate.
            length: (B,) samples of each.
            layers: layers of the encoder, counted from 0; all of them where it is None.

        Returns:
            one (B, T, D) tensor per layer, and the frames of each (B,).
        """
        found: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
            for layer in self.encoder.layers
        ]
        was_training = self.training
        try:
            _, frames = self.eval()(waveform, length)
        finally:
            self.train(was_training)
            for hook in hooks:
                hook.remove()
        frames = frames // self.label_ratio
        states = [layer[:, : int(frames.max())] for layer in found]
        return (states if layers is None else [states[layer] for layer in layers]), frames

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """Cross-entropy per frame; the classes' frequencies are counted on the way."""
        logits, classes, labeled, _ = self._scored(batch)
        # Of all processes: DistributedDataParallel takes over the first one's buffers.
        self.class_counts += joint_sum(torch.bincount(classes[labeled], minlength=self.num_classes))
        scored = unit_prediction(logits, classes, labeled)
        terms = {"loss": (scored.loss, scored.frames), "accuracy": (scored.correct.float(), scored.frames)}
        means = joint_means(terms)
        self.log("train_loss", means["loss"].mean)
        self.log("train_class_accuracy", means["accuracy"].mean)
        self.log_speed()
        return means["loss"].loss

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        return ("train_loss", "train_class_accuracy", *super().training_metrics())

    def _scored(self, batch: PretrainBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, L, C), classes (B, L), where there are both (B, L), and the frames that have logits (B,)."""
        if batch.speech is None:
            raise SpeechLMError("a batch without speech: check model.train_ds")
        logits, frames = self(batch.speech.audio, batch.speech.audio_lengths)
        assert batch.speech.units is not None
        classes = classes_of(batch.speech.units, self.phone_of_unit, self.parts)
        L = min(logits.shape[1], classes.shape[1])
        logits, classes = logits[:, :L], classes[:, :L]
        heard = torch.arange(L, device=frames.device) < frames.unsqueeze(1)
        return logits, classes, heard & (classes != PAD_UNIT), frames.clamp(max=L)

    # --- validation ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: PretrainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss, share of frames with the right phone, and error rates of what is decoded (without silence)."""
        logits, classes, labeled, heard_frames = self._scored(batch)
        assert batch.speech is not None
        scored = unit_prediction(logits, classes, labeled)
        weight = 0 if batch.stand_in else 1
        number = weight * scored.frames
        heard = logits.float().softmax(-1).unflatten(2, (len(self.phones), self.parts)).sum(-1).argmax(-1)
        right = ((heard == classes // self.parts) & labeled).sum()
        self.log_mean("val_loss", weight * scored.loss, number)
        self.log_mean("val_frame_accuracy", weight * right, number)
        units, lengths = batch.speech.units, batch.speech.unit_lengths
        assert units is not None
        assert lengths is not None
        decoded = self.phone_loop(self.scores(logits, heard_frames, lengths), lengths)
        errors, phone_errors, total = 0, 0, 0
        for row, length, found in zip(units.tolist(), lengths.tolist(), decoded, strict=True):
            reference = self._spoken(UnitSequence.from_frames(row[:length]).ids)
            hypothesis = self._spoken([unit for unit, _ in groupby(found.units)])  # frames show no repeated unit
            errors += edit_distance(reference, hypothesis)["total"]
            phone_errors += edit_distance(self._phones(reference), self._phones(hypothesis))["total"]
            total += len(reference)
        self.log_mean("val_phone_error_rate", torch.tensor(weight * float(phone_errors)), weight * total)
        self.log_mean("val_unit_error_rate", torch.tensor(weight * float(errors)), weight * total)

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one."""
        errors = dict.fromkeys(("val_loss", "val_phone_error_rate", "val_unit_error_rate"), "min")
        return errors | {"val_frame_accuracy": "max"}

    def _spoken(self, units: Sequence[int]) -> list[int]:
        silence = self.inventory.silence
        ids = self.inventory.encode([silence]) if silence is not None else []
        return [unit for unit in units if unit not in ids]

    def _phones(self, units: Sequence[int]) -> list[int]:
        return self.phone_of_unit[units].tolist() if units else []

    # --- data ----------------------------------------------------------------------------------------------------

    def streams(self) -> list[Stream]:
        """Speech with its units."""
        return [SpeechStream(self.inventory, self._cfg.sample_rate)]

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the loader of ``cfg.train_ds``, whose ``speech`` has units, and estimate the bigram."""
        speech = train_data_config.get("speech") or {}
        if not speech or train_data_config.get("text"):
            raise InputError("data config: a frame classifier learns from a speech part alone")
        manifests = self._cfg.get("bigram_manifests") or speech.get("manifest_filepath")
        if not manifests:
            raise InputError("data config: neither train_ds.speech.manifest_filepath nor model.bigram_manifests")
        super().setup_training_data(train_data_config)
        self.estimate_bigram([manifests] if isinstance(manifests, str) else list(manifests))

    def estimate_bigram(self, manifests: Sequence[str]) -> None:
        """Let units follow each other as they do in manifests, of speech or of text."""

        def sequences() -> Iterator[list[int]]:
            for path, number, record in read_manifests(manifests, ["units"]):
                yield unit_ids(record, self.inventory, path, number)

        self.phone_loop.set_bigram(torch.from_numpy(unit_bigram(sequences(), self.inventory)))
