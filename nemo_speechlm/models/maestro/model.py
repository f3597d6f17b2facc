"""MAESTROModel: pretraining on speech, on text, and on pairs of both, matched by learned alignments.

Its tasks stand in :mod:`~nemo_speechlm.models.common.multitask.w2v_bert`,
:mod:`~nemo_speechlm.models.maestro.matching` and :mod:`~nemo_speechlm.models.maestro.aligned_mlm`.

Axis legend: B utterances, texts or pairs, S samples, T frames of the encoder, P phones, D width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.models import EncDecRNNTModel
from omegaconf import DictConfig, ListConfig, open_dict
from torch import Tensor, nn

from nemo_speechlm.checks import check_flag, check_whole
from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, TokenBatch
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream, Stream, TokenTextStream
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.average import WeightAverage
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.models.common.multitask.model import DrawsOf, MultitaskModel
from nemo_speechlm.models.common.multitask.sections import check_keys, check_sections
from nemo_speechlm.models.common.multitask.tasks import Tasks
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.tokenizer import registered_tokenizer
from nemo_speechlm.models.common.untuned import Untuned
from nemo_speechlm.models.maestro.aligned_mlm import Repetition, aligned_mlm, text_states
from nemo_speechlm.models.maestro.matching import Speech, align, pair_figures
from nemo_speechlm.models.maestro.phones import registered_phones
from nemo_speechlm.models.maestro.recognizer import recognizer_of
from nemo_speechlm.models.maestro.tasks import TASKS
from nemo_speechlm.models.maestro.transducer import TransducerBranch
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.masking import CoveringMask, SpanMask
from nemo_speechlm.modules.text_branch import ConvTextEncoder, LightweightDurations, Refiner

_AVERAGED = ("encoder", "text_encoder", "duration_model", "phones")
"""The parts whose averages make alignments and durations."""


_SECTIONS = (
    "language", "phones", "transducer", "text_encoder", "duration_model", "refiner", "average", "repetition",
    "mlm_masking", "mlm_masking.time", "mlm_masking.features", "pairs_masking", "matching",
)  # fmt: skip
_KEYS = {"matching": ("detach", "normalize"), "mlm_masking": ("time", "features"), "average": ("decay",)}
"""Of parts that are read key by key."""
_SIZES = {
    "transducer.pred_hidden": 1, "transducer.pred_rnn_layers": 1, "transducer.joint_hidden": 1,
    "text_encoder.channels": 1, "text_encoder.n_convolutions": 0, "text_encoder.kernel": 1,
    "text_encoder.n_layers": 0, "text_encoder.n_heads": 1,
    "duration_model.n_blocks": 0, "duration_model.kernel": 1, "duration_model.heads": 1,
    "refiner.n_layers": 0, "refiner.n_heads": 1, "refiner.kernel": 1,
}  # fmt: skip
"""Whole numbers in the config, with the least that each may be."""


class MAESTROModel(Untuned, MultitaskModel):
    """Pretrains a :class:`SpeechLMEncoder` of two Conformers on up to three streams of data.

    Speech: w2v-BERT. Pairs: RNN-T of phones and graphemes; the best path of the phones tells how long each phone
    lasts; the states of the text, repeated so often, are matched with those of the speech. Text: the same states,
    with predicted durations and masked, are recognized by the same RNN-T decoders.

    Args:
        cfg: see ``conf/maestro.yaml``.
        trainer: Lightning trainer, for training.

    Raises:
        SpeechLMError: naming a key of the config that does not fit the others.
    """

    parts: ClassVar[Parts] = Parts(
        left_behind=("w2v_bert", "text_encoder", "duration_model", "refiner", "phones", "ctc_head", "average"),
        transducer="graphemes",
    )
    all_tasks: ClassVar[Tasks] = TASKS
    needed: ClassVar[Collection[Collection[str]]] = (
        ("w2v_bert",),
        ("durations",),
        ("rnnt", "aligned_mlm"),
        ("matching", "aligned_mlm"),
    )

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg=cfg, trainer=trainer)
        self._check_own()
        width = self.encoder.d_model
        tokenizer = registered_tokenizer(self, needing=())
        self.tokenizer_bytes = None if tokenizer is None else tokenizer.read_bytes()
        self.text_writer = self._text_writer()
        with open_dict(self._cfg):  # told to what starts from the decoder
            self._cfg.vocabulary = list(self.text_writer.labels)  # type: ignore[attr-defined]
        self.phone_encoder, self._phones = registered_phones(self)
        symbols = self.phone_encoder.symbols
        self.phones = TransducerBranch(symbols, width, **self._cfg.transducer)
        self.graphemes = TransducerBranch(self._cfg.vocabulary, width, **self._cfg.transducer)
        self.text_encoder = ConvTextEncoder(len(symbols), width, **self._cfg.text_encoder)
        self.duration_model = LightweightDurations(width, **self._cfg.duration_model)
        self.refiner = Refiner(width, **self._cfg.refiner)
        if "ctc" in self.tasks:
            self.ctc_head = nn.Linear(width, len(symbols) + 1)
        self.average = WeightAverage(self.averaged_parts(), self._cfg.average.decay)
        self.repetition = Repetition(**self._cfg.repetition)
        self.mlm_time, self.mlm_features = (CoveringMask(**self._cfg.mlm_masking[k]) for k in ("time", "features"))
        self.pairs_masking = SpanMask(**self._cfg.pairs_masking)
        self.detach, self.normalize = bool(self._cfg.matching.detach), bool(self._cfg.matching.normalize)

    def _check_own(self) -> None:
        """Check what the parts are made of; PyTorch makes some of no size, and others only fail in the first step."""
        check_sections(self._cfg, *_SECTIONS)
        for key, known in _KEYS.items():
            check_keys(self._cfg, key, known)
        for key, least in _SIZES.items():
            part, _, name = key.partition(".")
            if name in self._cfg[part]:
                check_whole(f"model.{key}", self._cfg[part][name], least)
        for key in ("detach", "normalize"):
            check_flag(f"model.matching.{key}", self._cfg.matching[key])
        check_flag("model.refiner.positions", self._cfg.refiner.get("positions", True))
        check_flag("model.phones.silence", self._cfg.phones.get("silence", True))
        symbols = self._cfg.phones.get("symbols")
        if symbols is not None and not (isinstance(symbols, ListConfig) and all(isinstance(s, str) for s in symbols)):
            shown = list(symbols) if isinstance(symbols, ListConfig) else symbols
            raise SpeechLMError(f"model.phones.symbols is {shown!r}, expected null or a list of phones, as texts")

    def _text_writer(self) -> TextEncoder:
        if self.tokenizer_bytes is not None:
            return TokenEncoder(self.tokenizer_bytes)
        with open_dict(self._cfg):
            self._cfg.labels = list(self._cfg.get("labels") or self._cfg.language.characters)
        return CharacterEncoder(self._cfg.labels)

    def averaged_parts(self) -> dict[str, nn.Module]:
        """The parts whose weights are averaged, by name."""
        return {name: getattr(self, name) for name in _AVERAGED}

    def streams(self) -> list[Stream]:
        """Speech, text and pairs."""
        sample_rate, rate = self._cfg.sample_rate, self.encoder.frame_rate
        labels = None if self.tokenizer_bytes is not None else list(self._cfg.labels)
        writing: dict[str, Any] = {"labels": labels, "tokenizer": self.tokenizer_bytes, "phones": self._phones}
        return [
            SpeechStream(None, sample_rate),
            TokenTextStream(**writing),
            PairStream(**writing, sample_rate=sample_rate, phone_rate=rate, fewest=1),
        ]

    def own_figures(self, batch: PretrainBatch, tasks: Collection[str], draws: DrawsOf) -> dict[str, Figure]:
        """What the tasks on text and on pairs compute of a batch."""
        figures: dict[str, Figure] = {}
        if isinstance(batch.text, TokenBatch) and "aligned_mlm" in tasks:
            figures |= aligned_mlm(self, batch.text, draws(batch.text))
        if isinstance(batch.pairs, PairBatch) and {"rnnt", "ctc", "matching", "durations"} & set(tasks):
            speech = self.speech_of(batch.pairs, draws(batch.pairs))
            figures |= pair_figures(self, speech, batch.pairs, tasks)
        return figures

    def speech_of(self, batch: PairBatch, generator: Draws = None) -> Speech:
        """A batch's audio as far as the output of the speech encoder; frames are masked while training."""
        signal, length = self.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        frames = self.encoder.embed_speech(signal, length)
        if self.training and self.pairs_masking.prob:
            mask = self.pairs_masking.draw(frames.lengths, frames.states.shape[1], generator)
            frames = frames._replace(states=self.encoder.apply_mask(frames.states, mask))
        return Speech(signal, length, self.encode_speech(frames), frames.lengths)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """An update of the weights, and then of their average.

        Stages of speech alone, at the beginning, are left out of the average: it would no longer be one of few updates
        when decoders begin to learn, and keep their random weights for long.
        """
        begun = any(set(stage.tasks) - {"w2v_bert"} for stage in self.stages[: self.stage + 1])
        super().optimizer_step(*args, **kwargs)
        if begun:
            self.average.update(self.averaged_parts())

    def on_fit_start(self) -> None:
        """Check that what other tasks need is learned: alignments of pairs, and durations of text.

        A file of a model that lacks them can still be read.
        """
        learned = {task for stage in self.stages for task in stage.tasks}
        aligned = [task for task in ("matching", "durations") if task in learned]
        if aligned and ("rnnt" not in learned or not self.loss_weights["rnnt_phones"]):
            raise SpeechLMError(
                f"model.tasks.{aligned[0]} needs alignments, which the RNN-T of phones makes, and it does not learn: "
                "model.tasks.rnnt or model.loss.rnnt_phones is 0, or no stage has rnnt; give it a weight and a stage, "
                f"or set {' and '.join(f'model.tasks.{task}=0' for task in aligned)}"
            )
        if self.repetition.kind == "learned" and "aligned_mlm" in learned and "durations" not in learned:
            raise SpeechLMError(
                "model.repetition.kind=learned repeats the phones of text as the duration model says, which learns "
                "nothing: model.tasks.durations is 0, or no stage has it; give it a weight and a stage, or set "
                "model.repetition.kind to random or fixed"
            )
        super().on_fit_start()

    # --- states --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def align(self, batch: PairBatch) -> Tensor:
        """How many frames (B, P) each phone of a pair lasts, by the best path through its lattice."""
        signal, length = self.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
        return align(self, signal, length, batch)

    def recognizer(self) -> EncDecRNNTModel:
        """The recognizer that it has learned, without any fine-tuning; see :func:`recognizer_of`."""
        return recognizer_of(self)

    def text_states(self, phones: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Phones (B, P) and lengths (B,) -> states like those of speech (B, T, D), input of the shared encoder."""
        return text_states(self, phones, lengths)
