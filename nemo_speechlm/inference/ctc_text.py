"""Recognition from a CTC model's log probabilities: greedy, beam search, language models.

Axis legend: T frames, V labels without the blank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nemo.collections.asr.models import EncDecCTCModel
from tqdm import tqdm

from nemo_speechlm.decoding.decoders import make_decoder
from nemo_speechlm.decoding.options import Decoded, Decoder, DecodingOptions
from nemo_speechlm.decoding.tokens import labels_of, text_encoder, words_of
from nemo_speechlm.inference.audio_batches import Utterance, audio_loader
from nemo_speechlm.inference.recognition import check_lengths
from nemo_speechlm.models.common.batching import batch_seconds, depends_on_padding
from nemo_speechlm.models.common.precision import autocast


def log_probabilities(
    model: EncDecCTCModel,
    utterances: Sequence[Utterance],
    *,
    batch_duration: float | None = None,
    num_workers: int = 0,
    precision: str = "float32",
    quiet: bool = False,
) -> list[np.ndarray]:
    """The model's log probabilities of utterances, (T, V + 1) float32 each, in their order.

    Args:
        model: a CTC model, NeMo's or ours.
        utterances: what to recognize.
        batch_duration: see :func:`~nemo_speechlm.models.common.batching.batch_seconds`.
        num_workers: processes that load audio.
        precision: ``bfloat16`` and ``float16`` run the model under autocast.
        quiet: show no progress.

    Raises:
        InputError: if an utterance is longer than the model takes.
    """
    check_lengths(model, utterances)
    seconds = batch_seconds(batch_duration, depends_on_padding(model))
    batches, loader = audio_loader(utterances, int(model.cfg.get("sample_rate", 16000)), seconds, num_workers)
    found: list[np.ndarray] = [np.zeros((0, 0), dtype=np.float32)] * len(utterances)
    with (
        torch.inference_mode(),
        autocast(model.device.type, precision),
        tqdm(
            total=len(utterances), desc="Computing probabilities", unit="utterance", smoothing=0.1, disable=quiet
        ) as bar,
    ):
        for batch, (audio, lengths, _, _) in zip(batches, loader, strict=True):
            log_probs, frames, _ = model.forward(
                input_signal=audio.to(model.device), input_signal_length=lengths.to(model.device)
            )
            for i, row, count in zip(batch, log_probs.float().cpu().numpy(), frames.tolist(), strict=True):
                found[i] = row[:count].copy()
            bar.update(len(batch))
    return found


@dataclass(frozen=True)
class CTCText:
    """A decoder with the labels of its model.

    Attributes:
        decoder: greedy or a beam search.
        labels: the V labels.
    """

    decoder: Decoder
    labels: list[str]

    @classmethod
    def of(cls, model: EncDecCTCModel, options: DecodingOptions) -> "CTCText":
        """Make the decoder that options name for a model."""
        labels = labels_of(model)
        return cls(make_decoder(options, labels, text_encoder(model), model.device), labels)

    def decode(self, log_probs: Sequence[np.ndarray], options: DecodingOptions, quiet: bool = False) -> list[Decoded]:
        """Label ids of utterances."""
        total = len(log_probs)
        with tqdm(total=total, desc=f"Decoding ({options.kind})", unit="utterance", disable=quiet) as bar:
            return self.decoder.decode(log_probs, options, bar.update)

    def text(self, decoded: Decoded) -> str:
        """What label ids spell."""
        return words_of(self.labels, decoded.tokens)
