"""SLAMModel: pretraining on speech, on text, and on pairs of both (arXiv 2110.10329).

Its tasks stand in :mod:`~nemo_speechlm.models.common.multitask.w2v_bert`,
:mod:`~nemo_speechlm.models.slam.masked_text` and :mod:`~nemo_speechlm.models.slam.pairs`.

Axis legend: B utterances, texts or pairs, S samples, T frames of the encoder, U tokens, D width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.utils import logging
from omegaconf import DictConfig
from torch import Tensor, nn

from nemo_speechlm.checks import check_choice, check_flag, check_number
from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, TokenBatch
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream, Stream, TokenTextStream
from nemo_speechlm.data.text.pieces import WORD_START, TokenEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses import at_least_float32
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.models.common.multitask.model import DrawsOf, MultitaskModel
from nemo_speechlm.models.common.multitask.sections import check_keys, check_sections
from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.models.common.multitask.tasks import Tasks
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.tokenizer import registered_tokenizer
from nemo_speechlm.models.slam import pairs as pair_tasks
from nemo_speechlm.models.slam.joined import encode_joined, even_positions, spelled_positions
from nemo_speechlm.models.slam.masked_text import Corruption, masked_text
from nemo_speechlm.models.slam.mismatches import Mismatches
from nemo_speechlm.models.slam.tasks import TASKS
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.masking import CoveringMask
from nemo_speechlm.modules.text_embedding import TextEmbedding

_KEYS = {"tlm": ("speech", "text", "whole_text"), "joined": ("text_positions",), "ctc": ("shared_embedding",)}
"""Of parts that are read key by key."""


class SLAMModel(MultitaskModel):
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
    all_tasks: ClassVar[Tasks] = TASKS
    needing_codes: ClassVar[Collection[str]] = ("w2v_bert", "tlm")

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg=cfg, trainer=trainer)
        tokenizer = registered_tokenizer(self, [name for name in self.tasks if TASKS[name].stream != "speech"])
        self._tokenizer = None if tokenizer is None else tokenizer.read_bytes()
        self.text_encoder = None if tokenizer is None else TokenEncoder(tokenizer)
        width = self.encoder.d_model
        if self.text_encoder is not None:
            check_sections(self._cfg, "text_masking", "text_corruption", "tlm", "tlm.speech", "tlm.text", "stm")
            for key, known in _KEYS.items():
                check_keys(self._cfg, key, known)
            check_number("model.text_dropout", self._cfg.text_dropout, 0, 1)
            num_tokens = len(self.text_encoder.labels)
            if {"masked_text", "tlm", "stm"} & self.tasks.keys():
                self.text_embedding = TextEmbedding(num_tokens, width, self._cfg.text_dropout)
            self.text_masking = CoveringMask(**self._cfg.text_masking)
            self.text_corruption = Corruption(**self._cfg.text_corruption)
            self.tlm_speech = CoveringMask(**self._cfg.tlm.speech)
            self.tlm_text = CoveringMask(**self._cfg.tlm.text)
            self.tlm_whole_text = self._cfg.tlm.whole_text
            self._mismatches = Mismatches(**self._cfg.stm)
            self.text_positions = (self._cfg.get("joined") or {}).get("text_positions")
            if self.text_positions is not None:
                check_choice("model.joined.text_positions", self.text_positions, ("even", "ctc"))
            if self.text_positions == "ctc" and {"tlm", "stm"} & self.tasks.keys() and "ctc" not in self.tasks:
                raise SpeechLMError(
                    "model.joined.text_positions is ctc, and model.tasks.ctc is 0: give the task a weight, or set "
                    "model.joined.text_positions=even"
                )
            check_number("model.tlm.whole_text", self.tlm_whole_text, 0, 1)
            starts = torch.tensor([label.startswith(WORD_START) for label in self.text_encoder.labels])
            self.register_buffer("word_starts", starts, persistent=False)
            if "stm" in self.tasks:
                self.stm_head = nn.Linear(width, 1)
            if "ctc" in self.tasks:
                self.ctc_head = self._ctc_head(num_tokens, width)

    def _ctc_head(self, num_tokens: int, width: int) -> nn.Linear | pair_tasks.SharedEmbeddingHead:
        shared = (self._cfg.get("ctc") or {}).get("shared_embedding", False)
        check_flag("model.ctc.shared_embedding", shared)
        if not shared:
            return nn.Linear(width, num_tokens + 1)
        if not hasattr(self, "text_embedding"):
            raise SpeechLMError(
                "model.ctc.shared_embedding is true, and no task has text embeddings: give model.tasks.masked_text, "
                "tlm or stm a weight, or set model.ctc.shared_embedding=false"
            )
        return pair_tasks.SharedEmbeddingHead(num_tokens, width)

    @property
    def stm_mismatches(self) -> Mismatches:
        """Which texts utterances get in speech-text matching, in the update that is being trained or in validation."""
        trained = self.training and self._trainer is not None
        return self._mismatches.at(self.trainer.global_step) if trained else self._mismatches

    def on_fit_start(self) -> None:
        """Say besides where the run is too short for mismatches by one word."""
        super().on_fit_start()
        own = getattr(self, "_mismatches", None)
        steps = self.trainer.max_steps
        if own is not None and own.replaced and "stm" in self.tasks and 0 <= steps <= own.replaced_after:
            logging.warning(
                f"model.stm.replaced_after is {own.replaced_after}, and trainer.max_steps is {steps}: no text with a "
                "word replaced is trained on, and validation has them"
            )

    def unused_parameters(self) -> list[str]:
        """Those of :class:`MultitaskModel`, and text that is read but never predicted."""
        idle = "stm" in self.tasks and not {"masked_text", "tlm"} & self.tasks.keys()
        return [*super().unused_parameters(), *(["no masked_text or tlm in model.tasks"] if idle else [])]

    def streams(self) -> list[Stream]:
        """Speech; and with a tokenizer, text and pairs."""
        sample_rate = self._cfg.sample_rate
        streams: list[Stream] = [SpeechStream(None, sample_rate)]
        if self._tokenizer is not None:
            streams.append(TokenTextStream(tokenizer=self._tokenizer))
            streams.append(PairStream(tokenizer=self._tokenizer, sample_rate=sample_rate))
        return streams

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another tokenizer."""
        super().on_load_checkpoint(checkpoint)
        weights = checkpoint["state_dict"]
        trained = len(weights.get("text_embedding.bias", ())) or len(weights.get("ctc_head.weight", ())) - 1
        if trained > 0 and self.text_encoder is not None and trained != len(self.text_encoder.labels):
            raise SpeechLMError(
                f"model.tokenizer.dir has {len(self.text_encoder.labels)} tokens, and the checkpoint was trained with "
                f"{trained}; give the tokenizer that it was trained with"
            )

    def own_figures(self, batch: PretrainBatch, tasks: Collection[str], draws: DrawsOf) -> dict[str, Figure]:
        """What the tasks on text and on pairs compute of a batch. A validation batch of one pair has no STM."""
        figures: dict[str, Figure] = {}
        if isinstance(batch.text, TokenBatch) and "masked_text" in tasks:
            figures |= masked_text(self, batch.text, generator=draws(batch.text))
        if isinstance(batch.pairs, PairBatch):
            figures |= self._pair_figures(batch.pairs, tasks, draws(batch.pairs))
        return figures

    def _pair_figures(self, batch: PairBatch, tasks: Collection[str], generator: Draws) -> dict[str, Figure]:
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
        seconds = float(data.get("batch_duration") or float("inf"))
        fits = batch.audio.shape[1] * 2 <= seconds * self._cfg.sample_rate and data.get("batch_size") != 1
        return self.training and len(batch.tokens) == 1 and fits

    def text_states(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, U) and lengths (B,) -> states (B, 1 + U, D), that of CLS first."""
        return encode_embedded(self.encoder, *self.text_embedding(tokens, lengths))

    def join(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The shared encoder over utterances (B, T, D) and texts (B, U, D), see :func:`encode_joined`."""
        positions = None
        if self.text_positions == "even":
            positions = even_positions(speech_lengths, text_lengths, speech.shape[1])
        elif self.text_positions == "ctc":
            log_probs = at_least_float32(pair_tasks.ctc_logits(self, speech)).log_softmax(2)
            positions = spelled_positions(log_probs, speech_lengths, text_lengths)
        return encode_joined(self.encoder, speech, speech_lengths, text, text_lengths, positions)

    def pair_states(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The states of utterances (B, T, D) and of their texts (B, 1 + U, D), CLS first; and the frames (B,)."""
        frames = self.embed(batch)
        text = self.text_embedding(batch.tokens, batch.token_lengths)
        speech, text_states = self.join(self.encode_speech(frames), frames.lengths, *text)
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
