"""Transducers that learn from text beside transcribed speech: NeMo's, with a text branch.

Axis legend: B sentences, T frames, U tokens, D width.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import Trainer
from nemo.collections.asr.models import EncDecRNNTBPEModel, EncDecRNNTModel
from omegaconf import DictConfig
from torch import Tensor

from nemo_speechlm.data.pretraining.batch import TextBatch, TokenBatch
from nemo_speechlm.data.recognition.batch import batch_text
from nemo_speechlm.losses.transducer import transducer_loss
from nemo_speechlm.models.common.joint import joint_means
from nemo_speechlm.models.common.parts import SHARED, Parts
from nemo_speechlm.models.recognition.text_branch import build_text_branch
from nemo_speechlm.models.recognition.transcribing import KeepsSpaces
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.nemo_targets import name_publicly

if TYPE_CHECKING:
    from nemo.core.classes import ModelPT as _Host  # as types are checked, a mixin of NeMo's classes
else:
    _Host = object


class WithText(KeepsSpaces, _Host):
    """What the two transducers with text have in common; goes before NeMo's class among the bases.

    Text passes the text branch of pretraining, the shared transformer, and this model's decoder and joint network. Its
    loss per token has the weight ``text_branch.weight`` beside that of speech. The file that ``save_to`` writes names
    this class, and keeps the branch.
    """

    parts: ClassVar[Parts] = Parts(shared=SHARED, left_behind=("decoder", "joint", "text_branch"), transducer="")

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)
        self.text_branch = build_text_branch(self.cfg, self.cfg.encoder.d_model)

    def training_step(self, batch: Any, batch_nb: int) -> dict[str, Tensor]:
        """NeMo's, and the loss of the step's text."""
        output = super().training_step(batch, batch_nb)
        if (text := batch_text(batch)) is not None:
            mean = joint_means({"text": self.text_terms(text)})["text"]
            self.log("train_text_loss", mean.mean)
            output["loss"] = output["loss"] + self.cfg.text_branch.weight * mean.loss
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


class SpeechLMRNNTModel(WithText, EncDecRNNTModel):
    """NeMo's transducer over characters with a text branch."""


class SpeechLMRNNTModelBPE(WithText, EncDecRNNTBPEModel):
    """NeMo's transducer over tokens with a text branch."""
