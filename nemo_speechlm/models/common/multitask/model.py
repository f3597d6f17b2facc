"""MultitaskModel: what SLAM and MAESTRO share, which is all but their own tasks.

Axis legend: B utterances, S samples, T frames of the encoder, V codes, D width.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Generator, Tensor

from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, SpeechBatch, TextBatch, TokenBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.models.common.multitask.sections import check_sections
from nemo_speechlm.models.common.multitask.shared import check_shared_transformer
from nemo_speechlm.models.common.multitask.stages import (
    check_all_learned,
    check_stages,
    read_stages,
    stage_at,
    updates_of,
)
from nemo_speechlm.models.common.multitask.tasks import (
    Tasks,
    read_weights,
    term_weights,
    training_metrics,
    validation_metrics,
)
from nemo_speechlm.models.common.multitask.w2v_bert import CodebookWatch, W2vBert
from nemo_speechlm.models.common.pretraining import PretrainingModel
from nemo_speechlm.modules.draws import Draws, RowSeeds
from nemo_speechlm.modules.encoder import Frames
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.quantizer import code_perplexity

DrawsOf = Callable[[SpeechBatch | TextBatch | TokenBatch | PairBatch], Draws]
"""For the part of a batch that is of one stream, what its masks are drawn with."""


class MultitaskModel(FeatureExtraction, PretrainingModel):
    """Base of models that learn several tasks at once from up to three streams of data.

    The loss of a step is the sum of the tasks' losses, each on the batch of its stream and with its weight in
    ``cfg.tasks``. On speech the task is w2v-BERT. A subclass names its tasks (``all_tasks``) and its streams, and
    computes the tasks on text and on pairs (:meth:`own_figures`).

    Attributes:
        loss_weights: the weight of each term of the loss: that of its task, times its own in ``cfg.loss``.

    Args:
        cfg: with ``tasks``, ``stages``, ``loss``, ``preprocessor``, ``encoder``, ``w2v_bert`` and ``masking``.
        trainer: Lightning trainer, for training.

    Raises:
        SpeechLMError: naming a key of the config that does not fit the others.
    """

    all_tasks: ClassVar[Tasks]
    needing_codes: ClassVar[Collection[str]] = ("w2v_bert",)
    """Tasks that need the codes of w2v-BERT."""
    needed: ClassVar[Collection[Collection[str]]] = (("w2v_bert",),)
    """Groups of tasks: without any task of a group, some parameters learn from nothing."""

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        super().__init__(cfg=cfg, trainer=trainer)
        check_sections(self._cfg, "tasks", "loss", "masking")
        self.tasks = read_weights(self._cfg.tasks, self.all_tasks)
        self.stages = read_stages(self._cfg.get("stages"), self.all_tasks, self.tasks)
        own = self._cfg.loss
        if self._is_model_being_restored():  # files of 0.1.0 may name terms that nothing reads
            own = {term: own[term] for task in self.all_tasks.values() for term in task.terms if term in own}
        self.loss_weights = term_weights(self.all_tasks, self.tasks, own)
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.encoder.take_input_rate(self._cfg)
        check_shared_transformer(self.encoder)
        if set(self.needing_codes) & self.tasks.keys():
            check_sections(self._cfg, "w2v_bert")
            self.w2v_bert = W2vBert(self.encoder.d_model, **self._cfg.w2v_bert)
        self.masking = SpanMask(**self._cfg.masking)
        self._codebook = CodebookWatch()
        self._logged: set[str] = set()

    @abstractmethod
    def own_figures(self, batch: PretrainBatch, tasks: Collection[str], draws: DrawsOf) -> dict[str, Figure]:
        """What the tasks on text and on pairs compute of a batch; see :meth:`figures` for the arguments."""

    def unused_parameters(self) -> list[str]:
        """Those of :class:`PretrainingModel`, tasks that are off, and stages with some of the tasks."""
        off = [f"no {' or '.join(group)} in model.tasks" for group in self.needed if not self.tasks.keys() & group]
        some = any(set(stage.tasks) != set(self.tasks) for stage in self.stages)
        return [*super().unused_parameters(), *off, *(["model.stages with some of the tasks"] if some else [])]

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> encoded (B, D, T) and lengths (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return self.encoder(audio_signal=signal, length=length)

    # --- training ------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Check that each task has a stage, and each stage its data."""
        super().on_fit_start()
        check_all_learned(self.stages, self.tasks)
        data = self._cfg.get("train_ds") or {}
        if data:
            present = {stream.name for stream in self.streams() if data.get(stream.name)}
            check_stages(self.stages, self.all_tasks, present, self.trainer.max_steps)

    def on_before_batch_transfer(self, batch: PretrainBatch, dataloader_idx: int) -> PretrainBatch:
        """Leave out what no task of the stage learns from."""
        if self.training and isinstance(batch, PretrainBatch):
            wanted = self.stages[self.stage].streams(self.all_tasks)
            batch = batch._replace(**{name: None for name in self._stream_names if name not in wanted})  # type: ignore[arg-type]
        return super().on_before_batch_transfer(batch, dataloader_idx)

    @cached_property
    def _stream_names(self) -> tuple[str, ...]:
        """Asked once: streams are not made anew for every batch."""
        return tuple(stream.name for stream in self.streams())

    @property
    def stage(self) -> int:
        """The number of the stage that the next update belongs to."""
        return stage_at(self.stages, self.trainer.global_step)

    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """One step on a batch of each stream of the stage; logs every term of the loss."""
        if hasattr(self, "w2v_bert"):
            # Where stages without it come first, the temperature begins to fall when it begins to learn.
            learned = updates_of(self.stages, "w2v_bert", self.trainer.global_step)
            self.w2v_bert.quantizer.set_num_updates(learned)
        loss, log = self.compute_loss(batch, self.stages[self.stage].tasks)
        self._log_step({name: value.detach().float() for name, value in log.items()})
        self.log("loss", log["loss"].detach(), logger=False)
        self.log("stage", float(self.stage))
        if "codebook_perplexity" in log:
            self.log("gumbel_temperature", float(self.w2v_bert.quantizer.curr_temp))
            if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # it waits for the device
                self._watch_codebook(log["codebook_perplexity"], log["used_codes"], "batch")
        self.log_speed()
        return loss

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log, in one stage or another."""
        names = training_metrics(self.all_tasks, self.tasks, self._cfg.get("train_ds") or {})
        temperature = ("gumbel_temperature",) if "train_codebook_perplexity" in names else ()
        return ("loss", "stage", *temperature, *names, *super().training_metrics())

    def _log_step(self, log: dict[str, Tensor]) -> None:
        """Log figures. Those of an earlier stage's tasks become NaN, or Lightning would repeat the last ones."""
        self._logged |= log.keys()
        none = torch.full((), float("nan"), device=self.device)
        self.log_dict({f"train_{name}": log.get(name, none) for name in sorted(self._logged)})

    def compute_loss(
        self, batch: PretrainBatch, tasks: Collection[str] | None = None, seed: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its terms and what else is logged, all () tensors on the device.

        With several processes, terms are means over the batches of all of them, and the loss is this process's part of
        what is to be averaged (see :mod:`~nemo_speechlm.models.common.joint`). What no batch has anything of is logged
        as NaN, which curves leave out: 0 would look like a loss.

        Args:
            batch: of some of the streams.
            tasks: those that count; None for all that have a weight.
            seed: of masks, noise and whatever else is drawn, for each stream; None draws from PyTorch's own generator.

        Raises:
            SpeechLMError: if no task finds its data in the batch.
        """
        figures, codes = self.figures(batch, self.tasks if tasks is None else tasks, lambda _: self._generator(seed))
        means = joint_means(figures)
        none = torch.full((), float("nan"), device=self.device)
        log = {name: torch.where(mean.number > 0, mean.mean, none.to(mean.mean)) for name, mean in means.items()}
        terms = [(means[name], weight) for name, weight in self.loss_weights.items() if name in means]
        if not terms:
            raise SpeechLMError("a training step without data for any task: check model.train_ds and model.tasks")
        loss = torch.stack([mean.loss * weight for mean, weight in terms]).sum()
        log["loss"] = torch.stack([mean.mean * weight for mean, weight in terms]).sum()
        if codes is not None:
            codes = joint_sum(codes)
            log["codebook_perplexity"], log["used_codes"] = code_perplexity(codes), (codes > 0).sum()
        return loss, log

    def figures(
        self, batch: PretrainBatch, tasks: Collection[str], draws: DrawsOf
    ) -> tuple[dict[str, Figure], Tensor | None]:
        """What the tasks compute of a batch, and how often each code is the likeliest (V,), for w2v-BERT.

        Args:
            batch: of some of the streams.
            tasks: those that count.
            draws: for the part of a stream, what its masks, noise and whatever else are drawn with.
        """
        figures: dict[str, Figure] = {}
        codes = None
        if isinstance(batch.speech, SpeechBatch) and "w2v_bert" in tasks:
            generator = draws(batch.speech)
            frames = self.embed(batch.speech)
            mask = self.masking.draw(frames.lengths, frames.states.shape[1], generator)
            own, codes = self.w2v_bert(self.encoder, frames, mask, generator)
            figures |= own
            figures["fraction_masked"] = Figure(mask.sum(), frames.lengths.sum())
        return figures | self.own_figures(batch, tasks, draws), codes

    def _generator(self, seed: int | None) -> Generator | None:
        return None if seed is None else Generator(device=self.device).manual_seed(seed)

    def _watch_codebook(self, perplexity: Tensor, used: Tensor, where: str) -> None:
        number = self.w2v_bert.quantizer.num_vars
        self._codebook.look(float(perplexity), int(used), number, where, self.global_step)

    # --- validation ----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to count codes."""
        number = self.w2v_bert.quantizer.num_vars if hasattr(self, "w2v_bert") else 1
        self._validated_codes = torch.zeros(number, dtype=torch.int64, device=self.device)

    def validation_step(self, batch: PretrainBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """All tasks, each example under masks of its own, which are the same each time."""
        figures, codes = self.figures(batch, self.tasks, lambda part: RowSeeds.of(part.ids, len(part[0])))
        if batch.stand_in:
            return
        if codes is not None:
            self._validated_codes += codes
        for name, figure in figures.items():
            self.log_mean(f"val_{name}", figure.total, figure.number)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log the codes that are in use, and the loss of the means that were logged before."""
        codes = joint_sum(self._validated_codes)
        if codes.any():
            perplexity, used = code_perplexity(codes), (codes > 0).sum()
            self.log("val_codebook_perplexity", perplexity, sync_dist=True)
            self.log("val_used_codes", used.float(), sync_dist=True)
            self._watch_codebook(perplexity, used, "validation data")
        means, weights = self.validation_means.means, self.loss_weights.items()
        terms = [means[f"val_{term}"] * weight for term, weight in weights if f"val_{term}" in means]
        if terms:  # in all processes: each of them picks the best checkpoint by it
            self.log("val_loss", torch.stack(terms).sum(), sync_dist=True)
        return {}

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one.

        ``val_loss`` is the weighted sum of all tasks that have data, whatever the stage.
        """
        return validation_metrics(self.all_tasks, self.tasks, self._cfg.get("validation_ds") or {})

    # --- states --------------------------------------------------------------------------------------------------

    def embed(self, batch: SpeechBatch | PairBatch) -> Frames:
        """The front end's states of a batch's audio, unmasked."""
        signal, length = self.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        return self.encoder.embed_speech(signal, length)

    def encode_speech(self, frames: Frames) -> Tensor:
        """The speech encoder's output (B, T, D) of unmasked frames."""
        padding = padding_mask(frames.lengths, frames.states.shape[1])
        return self.encoder.encode_speech(frames.states.masked_fill(padding.unsqueeze(2), 0.0), padding)[0]
