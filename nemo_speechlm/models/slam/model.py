"""SLAMModel: pretraining on speech, on text, and on pairs of both (arXiv 2110.10329).

Its tasks stand in :mod:`~nemo_speechlm.models.slam.w2v_bert`, :mod:`~nemo_speechlm.models.slam.masked_text` and
:mod:`~nemo_speechlm.models.slam.pairs`.

Axis legend: B utterances, texts or pairs, S samples, T frames of the encoder, U tokens, V codes, D width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Generator, Tensor, nn

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, SpeechBatch, TokenBatch
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream, Stream, TokenTextStream
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.pretraining import PretrainingModel
from nemo_speechlm.models.slam import pairs as pair_tasks
from nemo_speechlm.models.slam.figures import Figure
from nemo_speechlm.models.slam.joined import check_shared_transformer, encode_joined, encode_text
from nemo_speechlm.models.slam.masked_text import Corruption, masked_text
from nemo_speechlm.models.slam.stages import check_stages, read_stages, stage_at
from nemo_speechlm.models.slam.tasks import read_tasks, term_weights, validation_metrics
from nemo_speechlm.models.slam.tokenizer import registered_tokenizer
from nemo_speechlm.models.slam.w2v_bert import CodebookWatch, W2vBert
from nemo_speechlm.modules.encoder import Frames
from nemo_speechlm.modules.masking import CoveringMask, SpanMask, seeds_of
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.quantizer import code_perplexity
from nemo_speechlm.modules.text_embedding import TextEmbedding


class SLAMModel(FeatureExtraction, PretrainingModel):
    """Pretrains a :class:`SpeechLMEncoder` of two Conformers on up to three streams of data.

    Speech: w2v-BERT. Text: span masking. Pairs: TLM and STM, and an optional CTC loss. The loss of a step is the sum
    of the tasks' losses, each on the batch of its stream and with its weight in ``cfg.tasks``.

    Args:
        cfg: see ``conf/slam.yaml``. Without ``tokenizer`` it has the task on speech alone, which is w2v-BERT.
        trainer: Lightning trainer, for training.

    Raises:
        SpeechLMError: naming a key of the config that does not fit the others.
    """

    parts: ClassVar[Parts] = Parts(left_behind=("w2v_bert", "text_embedding", "stm_head", "ctc_head"))

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        super().__init__(cfg=cfg, trainer=trainer)
        self.tasks = read_tasks(self._cfg.tasks)
        self.stages = read_stages(self._cfg.get("stages"), self.tasks)
        tokenizer = registered_tokenizer(self, self.tasks)
        self._tokenizer = None if tokenizer is None else tokenizer.read_bytes()
        self.text_encoder = None if tokenizer is None else TokenEncoder(tokenizer)
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.encoder.take_input_rate(self._cfg)
        check_shared_transformer(self.encoder)
        width = self.encoder.d_model
        if {"w2v_bert", "tlm"} & self.tasks.keys():
            self.w2v_bert = W2vBert(width, **self._cfg.w2v_bert)
        self.masking = SpanMask(**self._cfg.masking)
        if self.text_encoder is not None:
            num_tokens = len(self.text_encoder.labels)
            if {"masked_text", "tlm", "stm"} & self.tasks.keys():
                self.text_embedding = TextEmbedding(num_tokens, width, self._cfg.text_dropout)
            self.text_masking = CoveringMask(**self._cfg.text_masking)
            self.text_corruption = Corruption(**self._cfg.text_corruption)
            self.tlm_speech = CoveringMask(**self._cfg.tlm.speech)
            self.tlm_text = CoveringMask(**self._cfg.tlm.text)
            self.tlm_whole_text, self.stm_mismatched = self._cfg.tlm.whole_text, self._cfg.stm.mismatched
            check_number("model.tlm.whole_text", self.tlm_whole_text, 0, 1)
            check_number("model.stm.mismatched", self.stm_mismatched, 0, 1)
            if "stm" in self.tasks:
                self.stm_head = nn.Linear(width, 1)
            if "ctc" in self.tasks:
                self.ctc_head = self._ctc_head(num_tokens, width)
        self._codebook = CodebookWatch()
        self._logged: set[str] = set()

    def _ctc_head(self, num_tokens: int, width: int) -> nn.Linear | pair_tasks.SharedEmbeddingHead:
        if not (self._cfg.get("ctc") or {}).get("shared_embedding"):
            return nn.Linear(width, num_tokens + 1)
        if not hasattr(self, "text_embedding"):
            raise SpeechLMError(
                "model.ctc.shared_embedding is true, and no task has text embeddings: give model.tasks.masked_text, "
                "tlm or stm a weight, or set model.ctc.shared_embedding=false"
            )
        return pair_tasks.SharedEmbeddingHead(num_tokens, width)

    def streams(self) -> list[Stream]:
        """Speech; and with a tokenizer, text and pairs."""
        sample_rate = self._cfg.sample_rate
        streams: list[Stream] = [SpeechStream(None, sample_rate)]
        if self._tokenizer is not None:
            streams.append(TokenTextStream(tokenizer=self._tokenizer))
            streams.append(PairStream(tokenizer=self._tokenizer, sample_rate=sample_rate))
        return streams

    def unused_parameters(self) -> list[str]:
        """Those of :class:`PretrainingModel`, and stages with some of the tasks."""
        some = any(set(stage.tasks) != set(self.tasks) for stage in self.stages)
        return [*super().unused_parameters(), *(["model.stages with some of the tasks"] if some else [])]

    def _loader_arguments(self, config: DictConfig | dict) -> dict[str, Any]:
        arguments = super()._loader_arguments(config)
        if self.text_encoder is None:
            for name in ("text", "pairs"):
                if arguments["config"].pop(name, None) is not None:
                    raise SpeechLMError(
                        f"model.train_ds or model.validation_ds has {name}, and model.tokenizer.dir is not given; "
                        f"give it, or leave {name} out"
                    )
        return arguments

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> encoded (B, D, T) and lengths (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return self.encoder(audio_signal=signal, length=length)

    # --- training ------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Check that each stage has its data."""
        super().on_fit_start()
        data = self._cfg.get("train_ds") or {}
        if data:
            present = {stream.name for stream in self.streams() if data.get(stream.name)}
            check_stages(self.stages, present, self.trainer.max_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another tokenizer."""
        super().on_load_checkpoint(checkpoint)
        weight = checkpoint["state_dict"].get("text_embedding.bias")
        if weight is not None and self.text_encoder is not None and len(weight) != len(self.text_encoder.labels):
            raise SpeechLMError(
                f"model.tokenizer.dir has {len(self.text_encoder.labels)} tokens, and the checkpoint was trained with "
                f"{len(weight)}; give the tokenizer that it was trained with"
            )

    def on_before_batch_transfer(self, batch: PretrainBatch, dataloader_idx: int) -> PretrainBatch:
        """Leave out what no task of the stage learns from."""
        if self.training and isinstance(batch, PretrainBatch):
            wanted = self.stages[self.stage].streams
            left_out = {stream.name: None for stream in self.streams() if stream.name not in wanted}
            batch = batch._replace(**left_out)  # type: ignore[arg-type]
        return super().on_before_batch_transfer(batch, dataloader_idx)

    @property
    def stage(self) -> int:
        """The number of the stage that the next update belongs to."""
        return stage_at(self.stages, self.trainer.global_step)

    def training_step(self, batch: PretrainBatch, batch_idx: int) -> Tensor:
        """One step on a batch of each stream of the stage; logs every term of the loss."""
        if hasattr(self, "w2v_bert"):
            self.w2v_bert.quantizer.set_num_updates(self.trainer.global_step)
        loss, log = self.compute_loss(batch, self.stages[self.stage].tasks)
        self._log_step({name: value.detach().float() for name, value in log.items()})
        self.log("loss", log["loss"].detach(), prog_bar=True, logger=False)
        self.log("stage", float(self.stage))
        if "codebook_perplexity" in log:
            self.log("gumbel_temperature", float(self.w2v_bert.quantizer.curr_temp))
            if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # it waits for the device
                self._watch_codebook(log["codebook_perplexity"], log["used_codes"], "batch")
        self.log_speed()
        return loss

    def _log_step(self, log: dict[str, Tensor]) -> None:
        """Log figures. Those of an earlier stage's tasks become NaN, or Lightning would repeat the last ones."""
        self._logged |= log.keys()
        none = torch.tensor(float("nan"), device=self.device)
        self.log_dict({f"train_{name}": log.get(name, none) for name in sorted(self._logged)})

    def compute_loss(
        self, batch: PretrainBatch, tasks: Collection[str] | None = None, seed: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its terms and what else is logged, all () tensors on the device.

        With several processes, terms are means over the batches of all of them, and the loss is this process's part of
        what is to be averaged (see :mod:`~nemo_speechlm.models.common.joint`).

        Args:
            batch: of some of the streams.
            tasks: those that count; None for all that have a weight.
            seed: of masks, Gumbel noise, distractors and mismatches, for each stream; None draws from PyTorch's own
                generator.

        Raises:
            SpeechLMError: if no task finds its data in the batch.
        """
        figures, codes = self.figures(batch, self.tasks if tasks is None else tasks, seed)
        means = joint_means(figures)
        log = {name: mean.mean for name, mean in means.items()}
        terms = [(means[name], weight) for name, weight in self.loss_weights.items() if name in means]
        if not terms:
            raise SpeechLMError("a training step without data for any task: check model.train_ds and model.tasks")
        loss = torch.stack([mean.loss * weight for mean, weight in terms]).sum()
        log["loss"] = torch.stack([mean.mean * weight for mean, weight in terms]).sum()
        if codes is not None:
            log["codebook_perplexity"], log["used_codes"] = code_perplexity(codes), (codes > 0).sum()
        return loss, log

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss: that of its task, times its own in ``cfg.loss``."""
        return term_weights(self.tasks, self._cfg.loss)

    def figures(
        self, batch: PretrainBatch, tasks: Collection[str], seed: int | None = None
    ) -> tuple[dict[str, Figure], Tensor | None]:
        """What the tasks compute of a batch, and how often each code is the likeliest (V,), for w2v-BERT.

        See :meth:`compute_loss` for the arguments.
        """
        figures: dict[str, Figure] = {}
        codes = None
        if isinstance(batch.speech, SpeechBatch) and "w2v_bert" in tasks:
            generator = self._generator(seed)
            frames = self.embed(batch.speech)
            mask = self.masking.draw(frames.lengths, frames.states.shape[1], generator)
            own, codes = self.w2v_bert(self.encoder, frames, mask, generator)
            figures |= own
            figures["fraction_masked"] = Figure(mask.sum(), frames.lengths.sum())
        if isinstance(batch.text, TokenBatch) and "masked_text" in tasks:
            figures |= masked_text(self, batch.text, generator=self._generator(seed))
        if isinstance(batch.pairs, PairBatch):
            figures |= self._pair_figures(batch.pairs, tasks, self._generator(seed))
        return figures, codes

    def _pair_figures(
        self, batch: PairBatch, tasks: Collection[str], generator: Generator | None
    ) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        if not {"tlm", "stm", "ctc"} & set(tasks):
            return figures
        frames = self.embed(batch)
        if "tlm" in tasks:
            figures |= pair_tasks.tlm(self, frames, batch, generator=generator)
        if {"stm", "ctc"} & set(tasks):
            speech = self.encode_speech(frames)
            if "stm" in tasks and self._is_last_of_a_pass(batch):
                figures |= pair_tasks.no_mismatch(self, speech, frames.lengths, batch)
            elif "stm" in tasks and (self.training or len(batch.tokens) > 1):
                figures |= pair_tasks.stm(self, speech, frames.lengths, batch, generator=generator)
            if "ctc" in tasks:
                figures |= pair_tasks.ctc(self, speech, frames.lengths, batch)
        return figures

    def _is_last_of_a_pass(self, batch: PairBatch) -> bool:
        """Whether a training batch has one pair only, although two of its length would fit."""
        data = (self._cfg.get("train_ds") or {}).get("pairs") or {}
        seconds = float(data.get("batch_duration") or 0)
        return self.training and len(batch.tokens) == 1 and batch.audio.shape[1] * 2 <= seconds * self._cfg.sample_rate

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
        """All tasks under masks that are the same each time, whatever the process. A batch of one pair has no STM."""
        ids = [example for part in (batch.speech, batch.text, batch.pairs) if part is not None for example in part.ids]
        figures, codes = self.figures(batch, self.tasks, seed=seeds_of(ids, 1)[0])
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
        return validation_metrics(self.tasks, self._cfg.get("validation_ds") or {})

    # --- states --------------------------------------------------------------------------------------------------

    def embed(self, batch: SpeechBatch | PairBatch) -> Frames:
        """The front end's frames of a batch's audio, unmasked."""
        signal, length = self.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        return self.encoder.embed_speech(signal, length)

    def encode_speech(self, frames: Frames) -> Tensor:
        """The speech encoder's output (B, T, D) of unmasked frames."""
        padding = padding_mask(frames.lengths, frames.states.shape[1])
        return self.encoder.encode_speech(frames.states.masked_fill(padding.unsqueeze(2), 0.0), padding)[0]

    def text_states(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, U) and lengths (B,) -> states (B, 1 + U, D), that of CLS first."""
        return encode_text(self.encoder, *self.text_embedding(tokens, lengths))

    def pair_states(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The states of utterances (B, T, D) and of their texts (B, 1 + U, D), CLS first; and the frames (B,)."""
        frames = self.embed(batch)
        text = self.text_embedding(batch.tokens, batch.token_lengths)
        speech, text_states = encode_joined(self.encoder, self.encode_speech(frames), frames.lengths, *text)
        return speech, text_states, frames.lengths

    def match_logits(self, batch: PairBatch) -> Tensor:
        """How surely each text belongs to its speech (B,): the logit of STM.

        Raises:
            SpeechLMError: if the model was trained without STM.
        """
        if "stm" not in self.tasks:
            raise SpeechLMError("model.tasks.stm is 0: the model cannot tell whether text and speech belong together")
        frames = self.embed(batch)
        return pair_tasks.match_logits(
            self, self.encode_speech(frames), frames.lengths, batch.tokens, batch.token_lengths
        )
