"""NeMo's transducers with figures of all processes together, and with a branch for text beside transcribed speech.

Axis legend: B sentences, S samples, T frames, U tokens, D width.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.models import EncDecRNNTBPEModel, EncDecRNNTModel
from nemo.utils import logging
from omegaconf import DictConfig
from torch import Tensor

from nemo_speechlm.data.pretraining.batch import TextBatch, TokenBatch
from nemo_speechlm.data.recognition.batch import batch_text, is_repeated, loss_count
from nemo_speechlm.losses.transducer import transducer_loss
from nemo_speechlm.models.common.joint import ValidationMeans, joint_means
from nemo_speechlm.models.common.parts import SHARED, Parts
from nemo_speechlm.models.common.spaces import keep_spaces
from nemo_speechlm.models.common.text_counts import edit_counts
from nemo_speechlm.models.recognition.text_branch import build_text_branch
from nemo_speechlm.models.recognition.transcribing import KeepsSpaces
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.nemo_targets import name_publicly

if TYPE_CHECKING:
    from nemo.core.classes import ModelPT as _Host  # as types are checked, a mixin of NeMo's classes
else:
    _Host = object

Figures = dict[str, tuple[Tensor | float, Tensor | float]]
"""By name, a sum and the number of things it was taken over."""


class SpeechLMRNNT(KeepsSpaces, _Host):
    """What the two transducers have in common; goes before NeMo's class among the bases.

    Losses and validation are those of all processes together: an update of two GPUs is that of one with both batches,
    and a validation counts each utterance once. NeMo's model means over batches of whatever size, and counts those
    that are repeated to keep processes in step.

    With a ``text_branch`` in the config, the model learns from text too. Text passes the text branch of pretraining,
    the shared transformer, and this model's decoder and joint network. Its loss per token has the weight
    ``text_branch.weight`` beside that of speech. The file that ``save_to`` writes names this class, and keeps the
    branch.
    """

    parts: ClassVar[Parts] = Parts(shared=SHARED, left_behind=("decoder", "joint", "text_branch"), transducer="")

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)
        keep_spaces(self)
        self.text_branch = build_text_branch(self.cfg, self.cfg.encoder.d_model)

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_nb: int) -> dict[str, Tensor]:
        """NeMo's, with the loss of all processes' batches together, and the loss of the step's text.

        That is so for ``rnnt_reduction`` ``mean_volume`` and ``mean_batch``; other reductions are left as they are.
        """
        count = loss_count(batch, self.loss.reduction)
        with self._summing():
            output = super().training_step(batch, batch_nb)
        terms = {} if count is None else {"speech": (output["loss"], count)}
        if (text := batch_text(batch)) is not None:
            terms["text"] = self.text_terms(text)
        means = joint_means(terms) if terms else {}
        if "speech" in means:
            output["loss"] = means["speech"].loss
            self.log_dict({"train_loss": means["speech"].mean})  # in the place of the sum, which NeMo has logged
        if "text" in means:
            self.log("train_text_loss", means["text"].mean)
            output["loss"] = output["loss"] + self.cfg.text_branch.weight * means["text"].loss
        return output

    def text_terms(self, batch: TextBatch | TokenBatch, generator: Draws = None) -> tuple[Tensor, Tensor]:
        """The sum () of the RNN-T loss of a batch of text, and the tokens () it is of.

        Args:
            batch: of the text stream.
            generator: what masks are drawn with.
        """
        assert self.text_branch is not None
        encoded = self.text_branch.encode(self.encoder, batch, generator)
        device = encoded.states.device
        frames, lengths = encoded.lengths.to(device), encoded.target_lengths.to(device)
        predicted = self.decoder.predict(encoded.targets, state=None, add_sos=True)[0]
        nll = transducer_loss(self.joint, encoded.states, frames, predicted, encoded.targets, lengths)
        return nll.sum(), lengths.sum()

    @contextmanager
    def _summing(self) -> Iterator[None]:
        """Let the loss of a batch be the sum over its utterances where :func:`loss_count` says what divides it."""
        reduction = self.loss.reduction
        if reduction in ("mean_volume", "mean_batch"):
            self.loss.reduction = "sum"
        try:
            yield
        finally:
            self.loss.reduction = reduction

    # --- validation ----------------------------------------------------------------------------------------------

    def validation_pass(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Figures]:
        """The sums and counts () behind loss, word and character error rate of a batch; 0 where it is repeated."""
        audio, audio_lengths, transcripts, transcript_lengths = batch
        encoded, frames = self.forward(input_signal=audio, input_signal_length=audio_lengths)
        figures: Figures = {}
        if self.compute_eval_loss:
            count = loss_count(batch, self.loss.reduction)
            loss = self._summed_loss(encoded, frames, transcripts, transcript_lengths)
            figures["loss"] = loss, 1.0 if count is None else count
        hypotheses = self.decoding.rnnt_decoder_predictions_tensor(encoder_output=encoded, encoded_lengths=frames)
        best = (found[0] if isinstance(found, list) else found for found in hypotheses)  # beam search has several
        references = (
            self.decoding.decode_ids_to_str(ids[:length])
            for ids, length in zip(transcripts.tolist(), transcript_lengths.tolist(), strict=True)
        )
        edits = [edit_counts(reference, found.text) for reference, found in zip(references, best, strict=True)]
        errors, words, wrong, characters = (float(sum(each)) for each in zip(*edits, strict=True))
        figures |= {"wer": (errors, words), "cer": (wrong, characters)}
        self.log("global_step", torch.tensor(self.trainer.global_step, dtype=torch.float32))
        if is_repeated(batch):
            figures = dict.fromkeys(figures, (0.0, 0.0))
        return {"val_figures": figures}

    def _summed_loss(self, encoded: Tensor, frames: Tensor, transcripts: Tensor, lengths: Tensor) -> Tensor:
        """The loss () of a batch, summed where :meth:`_summing` sums.

        Args:
            encoded: (B, D, T) states of the encoder.
            frames: (B,) of them.
            transcripts: (B, U).
            lengths: (B,) of them.
        """
        predicted, lengths, _ = self.decoder(targets=transcripts, target_length=lengths)
        with self._summing():
            if not self.joint.fuse_loss_wer:
                logits = self.joint(encoder_outputs=encoded, decoder_outputs=predicted)
                return self.loss(log_probs=logits, targets=transcripts, input_lengths=frames, target_lengths=lengths)
            return self.joint(
                encoder_outputs=encoded,
                decoder_outputs=predicted,
                encoder_lengths=frames,
                transcripts=transcripts,
                transcript_lengths=lengths,
                compute_wer=False,
            )[0]

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        own = ("train_text_loss",) if self.text_branch is not None else ()
        return ("train_loss", *own, "training_batch_wer", "learning_rate", "global_step")

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one."""
        loss = ["val_loss"] if self.compute_eval_loss else []
        return dict.fromkeys([*loss, "val_wer", "val_cer"], "min")

    def multi_validation_epoch_end(self, outputs: list[dict[str, Figures]], dataloader_idx: int = 0) -> dict:
        """Mean loss, and error rates over the whole set (all devices together)."""
        return self._epoch_end(outputs, "val", dataloader_idx)

    def multi_test_epoch_end(self, outputs: list[dict[str, Figures]], dataloader_idx: int = 0) -> dict:
        """As :meth:`multi_validation_epoch_end`."""
        return self._epoch_end(outputs, "test", dataloader_idx)

    def _epoch_end(self, outputs: list[dict[str, Figures]], stage: str, dataloader_idx: int) -> dict:
        means = ValidationMeans()
        for output in outputs:
            for name, (total, count) in output[f"{stage}_figures"].items():
                means.add(name, torch.as_tensor(total, device=self.device), count)
        found = means.take(self.device)
        names = ["loss"] * self.compute_eval_loss + ["wer", "cer"]
        nothing = torch.tensor(math.nan, device=self.device)  # without any words, there is no error rate
        log = {f"{stage}_{name}": found.get(name, nothing) for name in names}
        logging.info(
            f"step {self.trainer.global_step}, {stage} set {dataloader_idx}: "
            + ", ".join(f"{name} {float(value):.4f}" for name, value in log.items())
        )
        return {"log": log, **{name: value for name, value in log.items() if name.endswith("_loss")}}


class SpeechLMRNNTModel(SpeechLMRNNT, EncDecRNNTModel):
    """A SpeechLM encoder in NeMo's transducer over characters."""


class SpeechLMRNNTModelBPE(SpeechLMRNNT, EncDecRNNTBPEModel):
    """A SpeechLM encoder in NeMo's transducer over tokens."""
