"""MAESTRO's RNN-T decoders: NeMo's prediction and joint networks over states of the shared encoder.

Axis legend: B rows, T frames, U tokens, D width of the encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint
from torch import Tensor, nn

from nemo_speechlm.kernels.lattice import best_path
from nemo_speechlm.losses.transducer import transducer_log_probs, transducer_loss
from nemo_speechlm.modules.faster_layers import use_faster_layers


class TransducerBranch(nn.Module):
    """An RNN-T decoder; its parts have the names and the shapes that they have in NeMo's ``EncDecRNNTModel``.

    Args:
        vocabulary: the symbols that it writes.
        d_model: D.
        pred_hidden: width of the prediction network.
        pred_rnn_layers: LSTM layers of it.
        joint_hidden: width of the joint network.
        dropout: in both.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        d_model: int,
        pred_hidden: int = 640,
        pred_rnn_layers: int = 2,
        joint_hidden: int = 640,
        dropout: float = 0.1,
    ):
        super().__init__()
        prednet = {"pred_hidden": pred_hidden, "pred_rnn_layers": pred_rnn_layers, "t_max": None, "dropout": dropout}
        self.decoder = RNNTDecoder(prednet=prednet, vocab_size=len(vocabulary), blank_as_pad=True)
        jointnet: dict[str, Any] = {
            "encoder_hidden": d_model,
            "pred_hidden": pred_hidden,
            "joint_hidden": joint_hidden,
            "activation": "relu",
            "dropout": dropout,
        }
        self.joint = RNNTJoint(
            jointnet=jointnet, num_classes=len(vocabulary), vocabulary=list(vocabulary), log_softmax=False
        )
        use_faster_layers(self.joint)

    def lattice(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T, D) and tokens (B, U) -> log-probabilities of blank (B, T, U + 1) and tokens (B, T, U)."""
        return transducer_log_probs(self.joint, states, self._predicted(tokens), tokens)

    def _predicted(self, tokens: Tensor) -> Tensor:
        """Tokens (B, U) -> states of the prediction network (B, U + 1, D), that of the start first."""
        return self.decoder.predict(tokens, state=None, add_sos=True)[0]

    def nll(self, states: Tensor, frames: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood (B,) of tokens.

        Args:
            states: (B, T, D) of the shared encoder.
            frames: (B,).
            tokens: (B, U).
            targets: (B,) how many of them.
        """
        return transducer_loss(self.joint, states, frames, self._predicted(tokens), tokens, targets)

    @torch.no_grad()
    def align(self, states: Tensor, frames: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        """The frame (B, U) at which the best path emits each token; see :meth:`nll` for the arguments."""
        return best_path(*self.lattice(states, tokens), frames, targets)
