"""The paper's transformer: relative positions in the attention, convolutional or learned positions at the input."""

from typing import Literal

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.kernels.attention import Positions
from nemo_speechlm.kernels.dropout import dropout
from nemo_speechlm.kernels.linear import Linear, feed_forward
from nemo_speechlm.kernels.norm import layer_norm
from nemo_speechlm.modules.attention import RelativePositions, RelativeSelfAttention


class ConvPositions(nn.Module):
    """Positions from a grouped convolution over the input (wav2vec 2.0): added to it after a GELU."""

    def __init__(self, d_model: int, kernel: int = 128, groups: int = 16):
        super().__init__()
        conv = nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, mean=0.0, std=(4.0 / (kernel * d_model)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.surplus = 1 - kernel % 2

    def forward(self, x_BTD: Tensor, padding: Tensor | None) -> Tensor:
        """Positions for (B, T, D), same shape; the input is already zero where padded."""
        # As an image with the channels side by side: no transposing, and on a CPU twice the speed of Conv1d.
        weight = self.conv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        image = x_BTD.transpose(1, 2).unsqueeze(2)
        x = F.conv2d(image, weight, self.conv.bias, padding=(0, self.conv.padding[0]), groups=self.conv.groups)
        x_BTD = x.squeeze(2).transpose(1, 2)
        return F.gelu(x_BTD[:, : x_BTD.shape[1] - self.surplus])


class LearnedPositions(nn.Module):
    """A learned vector per absolute position; padding takes row 1, as in fairseq, and positions count from row 2."""

    PAD_ROW = 1

    def __init__(self, d_model: int, max_frames: int = 3000):
        super().__init__()
        self.max_frames = max_frames
        self.table = nn.Embedding(max_frames + self.PAD_ROW + 1, d_model, padding_idx=self.PAD_ROW)
        nn.init.normal_(self.table.weight, std=d_model**-0.5)
        with torch.no_grad():
            self.table.weight[self.PAD_ROW].zero_()

    def forward(self, x_BTD: Tensor, padding: Tensor | None) -> Tensor:
        """Positions for (B, T, D), same shape; ``padding`` (B, T) is True where padded."""
        T = x_BTD.shape[1]
        if self.max_frames < T:
            raise ValueError(f"{T} frames in one utterance, the shared transformer has {self.max_frames} positions")
        rows = torch.arange(self.PAD_ROW + 1, T + self.PAD_ROW + 1, device=x_BTD.device).expand(len(x_BTD), -1)
        return self.table(rows if padding is None else rows.masked_fill(padding, self.PAD_ROW))


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, with layer norms after (Base) or before (Large) each."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        pre_norm: bool,
        relative: bool = True,
    ):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = RelativeSelfAttention(d_model, n_heads, attention_dropout, relative and pre_norm)
        self.self_attn_norm = layer_norm(d_model)
        self.fc1 = Linear(d_model, d_ff)
        self.fc2 = Linear(d_ff, d_model)
        self.final_norm = layer_norm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(self, x_BTD: Tensor, positions: Positions | None, padding_BT: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); see :class:`RelativeSelfAttention` for the other two."""
        if self.pre_norm:
            x = self._dropped(self.self_attn(self.self_attn_norm(x_BTD), positions, padding_BT), x_BTD)
            return self._feed_forward(self.final_norm(x), x)
        x = self.self_attn_norm(self._dropped(self.self_attn(x_BTD, positions, padding_BT), x_BTD))
        return self.final_norm(self._feed_forward(x, x))

    def _dropped(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Dropout, and what it is added to."""
        return dropout(x, self.dropout.p, self.training, residual)

    def _feed_forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.training and self.activation_dropout.p:
            inner = dropout(F.gelu(self.fc1(x)), self.activation_dropout.p, self.training)
            return self._dropped(self.fc2(inner), residual)
        outer = feed_forward(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self._dropped(outer, residual)


class RelativeTransformer(NeuralModule):
    """SpeechLM's transformer (section 3.2), as speech transformer or as shared transformer.

    Args:
        n_layers: number of layers.
        d_model: width D.
        n_heads: attention heads.
        d_ff: inner width of the feed-forward.
        position: ``"conv"`` (the speech transformer), ``"learned"`` (the shared one) or None.
        pre_norm: layer norms before attention and feed-forward, and one at the end (Large), instead of after (Base).
        dropout: after attention, feed-forward and the input's positions.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward.
        layerdrop: probability of leaving out a layer in a training step.
        max_distance: of the relative positions, in frames; 0 for none.
        conv_kernel: of the convolutional positions.
        conv_groups: of the convolutional positions.
        max_frames: of the learned positions.
        input_norm: layer norm on the input; None: where this class's other arguments want it. HuBERT and wav2vec 2.0,
            cut in two, have none in the second half.
        output_norm: layer norm on the output; None: in pre-norm models. Cut in two, they have none in the first half.
        init_std: standard deviation of all products' weights and of the relative positions at the start, where no bias
            is; 0.02 in fairseq's HuBERT, and so in the released speech transformer. None: 0.02 in the feed-forwards
            alone, Xavier's in attention, and 1 for positions.
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        d_ff: int,
        position: Literal["conv", "learned"] | None = None,
        pre_norm: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        layerdrop: float = 0.0,
        max_distance: int = 160,
        conv_kernel: int = 128,
        conv_groups: int = 16,
        max_frames: int = 3000,
        input_norm: bool | None = None,
        output_norm: bool | None = None,
        init_std: float | None = None,
    ):
        super().__init__()
        if position not in ("conv", "learned", None):
            raise ValueError(f"RelativeTransformer: position is {position!r}, expected 'conv', 'learned' or null")
        self.d_model = d_model
        self.pre_norm = pre_norm
        self.layerdrop = layerdrop
        self.position: ConvPositions | LearnedPositions | None = None
        if position == "conv":
            self.position = ConvPositions(d_model, conv_kernel, conv_groups)
        elif position == "learned":
            self.position = LearnedPositions(d_model, max_frames)
        # The shared transformer normalizes its input in Large too; the speech transformer only where it is post-norm.
        if input_norm is None:
            input_norm = position == "learned" or not pre_norm
        if output_norm is None:
            output_norm = pre_norm
        self.input_norm = layer_norm(d_model) if input_norm else None
        self.output_norm = layer_norm(d_model) if output_norm else None
        self.dropout = nn.Dropout(dropout)
        self.relative_positions = RelativePositions(d_model // n_heads, max_distance) if max_distance else None
        layers = [
            TransformerLayer(
                d_model, n_heads, d_ff, dropout, attention_dropout, activation_dropout, pre_norm, max_distance > 0
            )
            for _ in range(n_layers)
        ]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            for linear in (layer.fc1, layer.fc2):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
        if init_std is not None:
            self._begin_with(init_std)

    def _begin_with(self, std: float) -> None:
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        if self.relative_positions is not None:
            nn.init.normal_(self.relative_positions.table.weight, std=std)

    def forward(self, x_BTD: Tensor, padding: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode (B, T, D).

        Args:
            x_BTD: the input; what it holds where padded is ignored.
            padding: (B, T) bool, True where padded; None where nothing is.

        Returns:
            the output (B, T, D), and every layer's output, the last one being the output itself.
        """
        hidden = None
        if padding is not None:
            x_BTD = x_BTD.masked_fill(padding.unsqueeze(2), 0.0)
            # A row that is all padding (an empty utterance) must not turn into NaN: let it attend to itself.
            hidden = padding & ~padding.all(1, keepdim=True)
            if not hidden.is_cuda and not hidden.any():  # elsewhere, to ask would be to wait for the device
                hidden = None
        x = x_BTD
        if self.position is not None:
            x = x + self.position(x, padding)
        if self.input_norm is not None:
            x = self.input_norm(x)
        x = self.dropout(x)
        if padding is not None and isinstance(self.position, LearnedPositions):
            x = x.masked_fill(padding.unsqueeze(2), 0.0)  # as in fairseq: it shows where padded frames are looked at
        rows = self.relative_positions.rows(x.shape[1]) if self.relative_positions is not None else None
        outputs = []
        for layer in self.layers:
            if self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                continue
            x = layer(x, rows, hidden)
            outputs.append(x)
        if self.output_norm is not None:
            x = self.output_norm(x)
            outputs[-1:] = [x]
        return x, outputs
