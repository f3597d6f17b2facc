"""ProbeModel: a frozen upstream, learned weights of its layers, and a light head.

Axis legend: B utterances, L layers, T frames, D width, V outputs, U answer.
"""

from typing import Any

import torch
from hydra.errors import InstantiationException
from lightning.pytorch import Trainer
from nemo.collections.asr.modules import SpectrogramAugmentation
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from nemo_speechlm.data.worker_signals import leave_signals_to_parent
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.probing.cache import cached_features
from nemo_speechlm.evaluation.probing.data import CountBatches, ProbeBatch, ProbeDataset, ProbeExamples, in_order
from nemo_speechlm.evaluation.probing.heads import LayerMix
from nemo_speechlm.evaluation.probing.targets import ClassTargets, make_targets
from nemo_speechlm.evaluation.probing.upstream import Upstream, UpstreamSpec
from nemo_speechlm.models.common.joint import joint_means
from nemo_speechlm.models.common.trained_model import TrainedModel


class ProbeModel(TrainedModel):
    """Learns a task from the layers of a model that stays as it is.

    The upstream is not among the weights: checkpoints and the ``.nemo`` file hold layer weights and head alone, and
    name the upstream's file.

    Args:
        cfg: ``upstream`` (``model``, ``recipe``, ``seed``), ``cache``, ``kind``, ``answers``, ``language``, ``head``,
            ``spec_augment``, ``crop_seconds``, ``train_ds``, ``validation_ds`` and ``optim``.
        trainer: Lightning trainer, for training.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        super().__init__(cfg=cfg, trainer=trainer)
        with open_dict(self._cfg):
            self._cfg.target = "nemo_speechlm.evaluation.probing.ProbeModel"
        self.targets = make_targets(self._cfg.kind, self._cfg.answers, self._cfg.get("language"))
        self.spec = UpstreamSpec(**self._cfg.upstream)
        # In a list, so that neither the state dict nor the optimizer sees it.
        self._upstream: list[Upstream] = [self.spec.restore("cpu")]
        encoder = self.upstream.encoder
        self.mix = LayerMix(encoder.num_layers)
        sizes = {"width": encoder.d_model, "outputs": self.targets.outputs}
        try:
            self.head = self.from_config_dict(OmegaConf.create({**self._cfg.head, **sizes}))
        except InstantiationException as error:
            raise SpeechLMError(f"head: {' '.join(str(error).split())}") from error
        if bool(getattr(self.head, "per_frame", True)) != (self.targets.symbols is not None):
            raise SpeechLMError(f"head {self._cfg.head['_target_']} does not fit kind={self._cfg.kind}")
        augment = self._cfg.get("spec_augment")
        self.augment = SpectrogramAugmentation(**augment) if augment else None

    @property
    def upstream(self) -> Upstream:
        """What is probed."""
        return self._upstream[0]

    @property
    def layer_weights(self) -> dict[str, float]:
        """The learned weight of each layer."""
        return dict(zip(self.upstream.names, self.mix.weights.tolist(), strict=True))

    def states(self, batch: ProbeBatch) -> tuple[Tensor, Tensor]:
        """Features of a batch (B, L, T, D), computed or from the cache, and their lengths (B,)."""
        if batch.inputs.dim() == 4:
            return batch.inputs, batch.lengths
        self._move_upstream(self.device)
        layers, lengths = self.upstream.extract_features(batch.inputs, batch.lengths)
        return torch.stack(layers, dim=1), lengths

    def _move_upstream(self, device: torch.device) -> None:
        if self.upstream.device != device:
            self.upstream.to(device)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, L, T, D) and lengths (B,) -> (B, T, V), or (B, V) of an utterance."""
        mixed = self.mix(states)
        if self.training and self.augment is not None:
            mixed = self.augment(input_spec=mixed.transpose(1, 2), length=lengths).transpose(1, 2)
        return self.head(mixed, lengths)

    def _cropped(self, states: Tensor, lengths: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
        """A part of each utterance, from a place drawn at random."""
        most = max(1, round(seconds * self.upstream.encoder.frame_rate))
        if states.shape[2] <= most:
            return states, lengths
        room = (lengths - most).clamp(min=0)
        starts = (torch.rand(len(lengths), device=lengths.device) * (room + 1)).long()
        places = starts.unsqueeze(1) + torch.arange(most, device=lengths.device)
        index = places.view(len(lengths), 1, most, 1).expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index), lengths.clamp(max=most)

    def losses(self, outputs: Tensor, lengths: Tensor, batch: ProbeBatch) -> Tensor:
        """The loss (B,) of each utterance: CTC per symbol, or the cross-entropies of its classes."""
        if isinstance(self.targets, ClassTargets):
            parts = outputs.split(self.targets.sizes, dim=1)
            return torch.stack(
                [F.cross_entropy(x, y, reduction="none") for x, y in zip(parts, batch.targets.T, strict=True)]
            ).sum(0)
        log_probs = outputs.float().log_softmax(2).transpose(0, 1)
        losses = F.ctc_loss(
            log_probs, batch.targets, lengths, batch.target_lengths, blank=self.targets.outputs - 1,
            reduction="none", zero_infinity=True,
        )  # fmt: skip
        return losses / batch.target_lengths.clamp(min=1)

    def answers(self, outputs: Tensor, lengths: Tensor) -> list[list[int]]:
        """The likeliest answers; of sequences, those of the likeliest path."""
        if isinstance(self.targets, ClassTargets):
            best = [part.argmax(1) for part in outputs.split(self.targets.sizes, dim=1)]
            return torch.stack(best, dim=1).tolist()
        blank = self.targets.outputs - 1
        found = []
        for path, length in zip(outputs.argmax(2), lengths.tolist(), strict=True):
            merged = path[:length].unique_consecutive()
            found.append(merged[merged != blank].tolist())
        return found

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: ProbeBatch, batch_idx: int) -> Tensor:
        """One step."""
        states, lengths = self.states(batch)
        if self._cfg.get("crop_seconds"):
            states, lengths = self._cropped(states, lengths, self._cfg.crop_seconds)
        losses = self.losses(self(states, lengths), lengths, batch)
        mean = joint_means({"loss": (losses.sum(), len(losses))})["loss"]
        self.log("train_loss", mean.mean)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return mean.loss

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        return ("train_loss", "lr")

    def validation_step(self, batch: ProbeBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss, and the share of errors."""
        states, lengths = self.states(batch)
        outputs = self(states, lengths)
        losses = self.losses(outputs, lengths, batch)
        self.log_mean("val_loss", losses.sum(), len(losses))
        counts = self.counts(batch, outputs, lengths)
        for name in self.targets.measures:
            total = sum((count[name] for count in counts), ErrorCounts())
            self.log_mean(f"val_{name}", torch.tensor(float(total.errors), device=self.device), total.length)

    def counts(self, batch: ProbeBatch, outputs: Tensor, lengths: Tensor) -> list[dict[str, ErrorCounts]]:
        """The errors of each utterance, by measure."""
        rights = [ids[:n].tolist() for ids, n in zip(batch.targets, batch.target_lengths.tolist(), strict=True)]
        return [
            self.targets.errors(right, answer)
            for right, answer in zip(rights, self.answers(outputs, lengths), strict=True)
        ]

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the better end of each."""
        return dict.fromkeys(("val_loss", *(f"val_{name}" for name in self.targets.measures)), "min")

    # --- data ----------------------------------------------------------------------------------------------------

    def dataset(self, config: Any) -> ProbeDataset:
        """The utterances of ``manifest_filepath``, at most ``max_seconds`` long, with features if there is a cache."""
        examples = ProbeExamples.read(config["manifest_filepath"], self.targets, config.get("max_seconds"))
        features = None
        if self._cfg.get("cache"):
            # Loaders are made before Lightning moves the model.
            self._move_upstream(self.device if self._trainer is None else self._trainer.strategy.root_device)
            features = cached_features(self.upstream, self.spec, examples.utterances, self._cfg.cache, config)
        return ProbeDataset(examples, int(self.upstream.cfg["sample_rate"]), features)

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the endless loader of ``cfg.train_ds``."""
        cfg = train_data_config
        data = self.dataset(cfg)
        ranks = self.global_rank, self.world_size
        durations, size, seed = data.examples.durations, cfg["batch_size"], cfg.get("seed", 0)
        batches = CountBatches(durations, size, seed, *ranks, used=self.used_batches)
        self._train_dl = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=data.collate,
            num_workers=cfg.get("num_workers", 0),
            worker_init_fn=leave_signals_to_parent,
        )

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build the loader of ``cfg.validation_ds``, which is passed once."""
        data = self.dataset(val_data_config)
        if len(data) < self.world_size:
            raise InputError(
                f"{len(data)} utterances to validate in {self.world_size} processes; expected at least one each",
                val_data_config["manifest_filepath"],
            )
        part = slice(self.global_rank, None, self.world_size)
        size, workers = val_data_config["batch_size"], val_data_config.get("num_workers", 0)
        self._validation_dl = in_order(data, size, workers, part)
