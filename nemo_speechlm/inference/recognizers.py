"""One interface for all recognition models: audio in, text with times out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from nemo.collections.asr.parts.mixins import TranscribeConfig
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from nemo_speechlm.data.audio.collation import SHORTEST, collate_audio
from nemo_speechlm.data.audio.stream import Segment
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.decoding.times import TimedWord, timed_words
from nemo_speechlm.decoding.tokens import is_ctc, require_ctc
from nemo_speechlm.inference.ctc_text import CTCText
from nemo_speechlm.inference.recognition import choose_strategy, hypothesis_text
from nemo_speechlm.inference.search import has_attention_decoder, refuse_unused, set_search
from nemo_speechlm.models.common.precision import autocast


@dataclass(frozen=True)
class Passage:
    """What was said in a segment.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds.
        text: its words.
        words: in time, if the model tells.
    """

    start: float
    end: float
    text: str
    words: list[TimedWord] = field(default_factory=list)


class Recognizer(Protocol):
    """Turns segments into passages, a batch at a time."""

    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """Recognize a batch."""
        ...


class CTCRecognizer:
    """A CTC model with any decoder; words come with their times.

    Args:
        model: NeMo's or ours.
        options: how to decode.
        precision: of the model.
    """

    def __init__(self, model: EncDecCTCModel, options: DecodingOptions, precision: str = "float32"):
        self._model, self._options, self._precision = model, options, precision
        self._text = CTCText.of(model, options)

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """See :class:`Recognizer`."""
        audio, lengths = collate_audio([segment.samples for segment in segments], sample_rate)
        device = self._model.device
        with autocast(device.type, self._precision):
            outputs, frames, _ = self._model.forward(
                input_signal=audio.to(device), input_signal_length=lengths.to(device)
            )
        log_probs = [x[:n] for x, n in zip(outputs.float().cpu().numpy(), frames.tolist(), strict=True)]
        decoded = self._text.decode(log_probs, self._options, quiet=True)
        passages = []
        for segment, x_TV, found in zip(segments, log_probs, decoded, strict=True):
            seconds = len(segment.samples) / sample_rate
            # an utterance that was filled up with silence has more frames than its own seconds
            rate = len(x_TV) / max(seconds, SHORTEST)
            words = [
                TimedWord(w.text, round(segment.start + w.start, 3), round(segment.start + w.end, 3), w.confidence)
                for w in timed_words(x_TV, found.tokens, self._text.labels, rate)
            ]
            passages.append(Passage(segment.start, segment.start + seconds, self._text.text(found), words))
        return passages


class PlainRecognizer:
    """Any of NeMo's recognition or translation models that needs no prompt; passages without words' times."""

    def __init__(self, model: ASRModel, precision: str = "float32"):
        self._model, self._precision = model, precision

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """See :class:`Recognizer`."""
        batch = (*collate_audio([segment.samples for segment in segments], sample_rate), None, None)
        loader: DataLoader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]  # a list serves as a dataset
        settings = TranscribeConfig(batch_size=1, num_workers=0, verbose=False)
        with autocast(self._model.device.type, self._precision):
            (hypotheses,) = self._model.transcribe_generator(loader, settings)
        return [
            Passage(s.start, s.start + len(s.samples) / sample_rate, " ".join(hypothesis_text(h).split()))
            for s, h in zip(segments, hypotheses, strict=True)
        ]


def make_recognizer(model: ASRModel, cfg: DictConfig, options: DecodingOptions) -> Recognizer:
    """The recognizer of a model, decoding as a config says.

    Args:
        model: any recognition or translation model that needs no prompt.
        cfg: ``decoding``, ``beam_size`` and ``precision``; null leaves the former two to the model. Other options of a
            search are only checked for an effect: ``options`` has them.
        options: what CTC is decoded with.

    Raises:
        SpeechLMError: naming what the model cannot do, or an option that it makes no use of.
    """
    refuse_unused(cfg, model)
    if is_ctc(model) or options.lm is not None:
        return CTCRecognizer(require_ctc(model), options, cfg.precision)
    if has_attention_decoder(model):
        set_search(model, beam_size=1 if cfg.decoding == "greedy" else cfg.beam_size)
    elif cfg.decoding is not None:
        choose_strategy(model, options.kind, options.beam_size)
    return PlainRecognizer(model, cfg.precision)
