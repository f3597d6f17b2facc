"""UCTC: unit-based connectionist temporal classification on text (SpeechLM section 3.3)."""

from nemo.core.classes import Loss, typecheck
from nemo.core.neural_types import LabelsType, LengthsType, LogprobsType, LossType, NeuralType
from torch import Tensor
from torch.nn import functional as F


class UCTCLoss(Loss):
    """CTC from the states of masked text units to the text's characters.

    Sentences that have no CTC path (fewer frames than characters) count as zero.

    Args:
        blank: id of the CTC blank.
    """

    def __init__(self, blank: int):
        super().__init__()
        self.blank = blank

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Log probabilities, targets, and their lengths."""
        return {
            "log_probs": NeuralType(("B", "T", "D"), LogprobsType()),
            "targets": NeuralType(("B", "T"), LabelsType()),
            "input_lengths": NeuralType(tuple("B"), LengthsType()),
            "target_lengths": NeuralType(tuple("B"), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """The loss."""
        return {"loss": NeuralType(elements_type=LossType())}

    @typecheck()
    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B, T, V) log-probabilities and (B, U) targets with their lengths (B,) -> () loss in nats.

        PyTorch wants the lengths on the host; where they are not, it waits for the device to get them there.
        """
        total = F.ctc_loss(
            log_probs.transpose(0, 1).float(),
            targets,
            input_lengths,
            target_lengths,
            blank=self.blank,
            reduction="sum",
            zero_infinity=True,
        )
        # An end of sentence counts as a character, as in the released code.
        return total / (target_lengths.sum() + len(target_lengths))
