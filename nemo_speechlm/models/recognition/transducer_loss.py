"""NeMo's RNN-T loss, computed by our lattice where that is faster, on a CPU, and where NeMo's cannot run."""

from functools import cache
from typing import Any

from nemo.collections.asr.losses.rnnt import RNNTLoss, RNNTLossPytorch
from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba
from torch import Tensor, nn

from nemo_speechlm.kernels.lattice import lattice_nll
from nemo_speechlm.losses.transducer import lattice_log_probs


class OurLattice(nn.Module):
    """Stands where NeMo's ``RNNTLoss`` has the loss that it was configured with, which it asks on other devices.

    NeMo's own losses go from node to node of the lattice in Python, or in one thread. On GPUs its loss is numba's,
    which needs a compiler of the CUDA toolkit. Values and gradients are equal.

    Args:
        others: NeMo's loss.
    """

    def __init__(self, others: nn.Module):
        super().__init__()
        self.others = others
        self.reduction: Any = others.reduction

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss (B,) of each utterance.

        Args:
            acts: (B, T, U + 1, V + 1) logits or log-probabilities, blank last.
            labels: (B, U) int64.
            act_lens: (B,) frames.
            label_lens: (B,) labels.
        """
        if not acts.is_cpu and (not isinstance(self.others, RNNTLossNumba) or numba_compiles()):
            self.others.reduction = self.reduction
            return self.others(acts=acts, labels=labels, act_lens=act_lens, label_lens=label_lens)
        acts = acts[:, :, : labels.shape[1] + 1]
        return lattice_nll(*lattice_log_probs(acts, labels), act_lens, label_lens)


@cache
def numba_compiles() -> bool:
    """Whether numba finds what it compiles for GPUs with."""
    try:
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
    except Exception:  # of numba, the driver, or a library that is not there
        return False
    return True


def use_our_lattice(loss: RNNTLoss) -> None:
    """Let our lattice compute a loss where :class:`OurLattice` says, if it is the plain RNN-T loss without options."""
    own = loss._loss
    plain = isinstance(own, RNNTLossPytorch) or (
        isinstance(own, RNNTLossNumba) and not own.fastemit_lambda and own.clamp <= 0
    )
    if plain and own.blank == loss._blank:
        loss._loss = OurLattice(own)
