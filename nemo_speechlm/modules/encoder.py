"""SpeechLMEncoder: front end, speech transformer and shared transformer as one NeMo encoder."""

from typing import NamedTuple

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.core.classes import Exportable, NeuralModule, typecheck
from nemo.core.neural_types import AcousticEncodedRepresentation, LengthsType, NeuralType, VoidType
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.kernels.cpu import full_precision
from nemo_speechlm.kernels.linear import Linear
from nemo_speechlm.kernels.mixing import Backend, mix_states
from nemo_speechlm.kernels.norm import layer_norm
from nemo_speechlm.modules.export_forward import check_exportable, front_end_frames, transformer_states
from nemo_speechlm.modules.front_end import ConvFrontEnd, MelFrontEnd, released_lengths
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.transformer import LearnedPositions


class Frames(NamedTuple):
    """What the front end makes of an utterance, ready for the speech transformer.

    Attributes:
        states: (B, T, D) projected features, unmasked.
        lengths: (B,) frames.
        penalty: (B, T) mean square of the front end's features of each frame; 0 in padding, but with
            ``released_padding``.
    """

    states: Tensor
    lengths: Tensor
    penalty: Tensor


class SpeechLMEncoder(NeuralModule, Exportable):
    """The encoder of SpeechLM (section 3.2), with NeMo's encoder interface: it drops into NeMo's ASR models.

    Args:
        front_end: :class:`ConvFrontEnd` over waveforms or :class:`MelFrontEnd` over mel features.
        speech_transformer: first half: ours (:class:`RelativeTransformer`) or NeMo's ``ConformerEncoder`` (with
            ``feat_in`` equal to ``d_model`` and ``subsampling_factor`` 1).
        shared_transformer: second half, in pretraining also fed with text; either kind as well.
        d_model: width D.
        dropout_input: on the projected features.
        mask_prob: share of frames that masked spans would cover if they did not overlap, in training; for fine-tuning
            (pretraining draws its own masks).
        mask_length: frames in a span.
        mask_channel_prob: the same of channels, which are set to zero while training.
        mask_channel_length: channels in a span.
        project_features: a linear layer between front end and speech transformer; None: where their widths differ.
        kernels: what masks and swaps: ``"triton"``, ``"torch"``, or ``"auto"`` for Triton on CUDA devices.
        input_rate: samples or mel frames per second of what it is fed with; None: a model says it, see
            :meth:`take_input_rate`.
    """

    def __init__(
        self,
        front_end: ConvFrontEnd | MelFrontEnd,
        speech_transformer: nn.Module,
        shared_transformer: nn.Module,
        d_model: int,
        dropout_input: float = 0.1,
        mask_prob: float = 0.0,
        mask_length: int = 10,
        mask_channel_prob: float = 0.0,
        mask_channel_length: int = 64,
        project_features: bool | None = None,
        kernels: Backend = "auto",
        input_rate: float | None = None,
    ):
        super().__init__()
        self.input_rate = input_rate
        self.kernels = kernels
        self.d_model = d_model
        self._feat_out = d_model  # NeMo's models look for it under this name
        self.front_end = front_end
        self.feature_norm = layer_norm(front_end.output_dim)
        if project_features is None:
            project_features = front_end.output_dim != d_model
        self.feature_proj = Linear(front_end.output_dim, d_model) if project_features else nn.Identity()
        self.dropout_input = nn.Dropout(dropout_input)
        self.mask_emb = nn.Parameter(torch.empty(d_model).uniform_())
        self.speech_transformer = speech_transformer
        self.shared_transformer = shared_transformer
        self.time_mask = SpanMask(mask_prob, mask_length, min_spans=2 if mask_prob else 0)
        self.channel_mask = SpanMask(mask_channel_prob, min(mask_channel_length, d_model))

    @property
    def subsampling(self) -> int:
        """Input steps (samples or mel frames) per output frame."""
        return self.front_end.subsampling

    @property
    def subsampling_factor(self) -> int:
        """:attr:`subsampling`, as NeMo's transducers ask for it to tell times."""
        return self.subsampling

    def take_input_rate(self, cfg: DictConfig) -> None:
        """Know the rate of the input from a model's config (``preprocessor``, ``sample_rate``), unless it is known."""
        if self.input_rate is None:
            stride = cfg.preprocessor.get("window_stride")
            self.input_rate = float(cfg.get("sample_rate", 16000)) if stride is None else 1.0 / stride

    @property
    def frame_rate(self) -> float:
        """Output frames per second.

        Raises:
            SpeechLMError: if nobody said what the rate of the input is.
        """
        if self.input_rate is None:
            raise SpeechLMError("the encoder does not know the rate of its input: give input_rate, or take_input_rate")
        return self.input_rate / self.subsampling

    @property
    def released_padding(self) -> bool:
        """Whether padding takes part in what an utterance's frames become; see :class:`ConvFrontEnd`."""
        return bool(getattr(self.front_end, "released_padding", False))

    @property
    def num_layers(self) -> int:
        """Layers of both transformers."""
        return len(self.speech_transformer.layers) + len(self.shared_transformer.layers)  # type: ignore[arg-type]

    @property
    def max_frames(self) -> int | None:
        """The most frames in an utterance or a text, where a transformer has learned positions; None: no limit."""
        positions = [getattr(half, "position", None) for half in (self.speech_transformer, self.shared_transformer)]
        return min((p.max_frames for p in positions if isinstance(p, LearnedPositions)), default=None)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """What NeMo's preprocessors, or ours for waveforms, give."""
        return {
            "audio_signal": NeuralType(("B", "D", "T"), VoidType()),  # waveforms or mel features
            "length": NeuralType(tuple("B"), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Encoder states."""
        return {
            "outputs": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()),
            "encoded_lengths": NeuralType(tuple("B"), LengthsType()),
        }

    @typecheck()
    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            audio_signal: (B, C, S): C is 1 for waveforms, the number of mel bins otherwise.
            length: (B,) valid steps of each.

        Returns:
            encoded states (B, D, T) and their lengths (B,).
        """
        layers, lengths = self.layer_outputs(audio_signal, length)
        return layers[-1].transpose(1, 2), lengths

    def input_example(self, max_batch: int = 2, max_dim: int | None = None) -> tuple[Tensor, Tensor]:
        """What NeMo's export traces with: (max_batch, C, max_dim) and lengths; by default, some 60 frames."""
        steps = max_dim or 60 * self.subsampling
        mel = self.front_end.module if isinstance(self.front_end, MelFrontEnd) else None
        channels = 1 if mel is None else int(mel._feat_in)  # type: ignore[arg-type]
        signal = torch.randn(max_batch, channels, steps, device=self.mask_emb.device)
        return signal, torch.tensor([steps, *[steps * 2 // 3] * (max_batch - 1)], device=signal.device)

    def forward_for_export(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` in evaluation mode, as a graph for inputs of any size.

        Raises:
            SpeechLMError: if a part of the encoder has no such graph.
        """
        check_exportable(self.front_end, self.speech_transformer, self.shared_transformer)
        features, lengths = front_end_frames(self.front_end, audio_signal, length)
        x = self.feature_norm(features)
        if isinstance(self.feature_proj, nn.Linear):
            x = F.linear(x, self.feature_proj.weight, self.feature_proj.bias)
        padding = padding_mask(lengths, x.shape[1])
        for transformer in (self.speech_transformer, self.shared_transformer):
            x = transformer_states(transformer, x, padding)
        return x.transpose(1, 2), lengths

    def layer_outputs(self, audio_signal: Tensor, length: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every layer's output (B, T, D), speech transformer first, and the lengths (B,). Masks while training."""
        frames = self.embed_speech(audio_signal, length)
        states, padding = frames.states, padding_mask(frames.lengths, frames.states.shape[1])
        if self.training:
            states = self._mask(states, frames.lengths)
        return self.encode_layers(states, padding), frames.lengths

    def embed_speech(self, audio_signal: Tensor, length: Tensor, max_frames: int | None = None) -> Frames:
        """Front end, layer norm, projection and dropout; see :class:`Frames`.

        Args:
            audio_signal: (B, C, S).
            length: (B,).
            max_frames: frames behind these are left out.
        """
        with full_precision():
            features, lengths = self.front_end(audio_signal, length)
        if max_frames is not None and max_frames < features.shape[1]:
            features, lengths = features[:, :max_frames], lengths.clamp(max=max_frames)
            if self.released_padding:
                lengths = released_lengths(length, audio_signal.shape[2], max_frames)
        penalty = features.float().square().mean(2)
        if not self.released_padding:
            penalty = penalty.masked_fill(padding_mask(lengths, features.shape[1]), 0.0)
        return Frames(self.dropout_input(self.feature_proj(self.feature_norm(features))), lengths, penalty)

    def apply_mask(self, states: Tensor, mask: Tensor, padding: Tensor | None = None) -> Tensor:
        """Put the mask vector where ``mask`` (B, T) is True in ``states`` (B, T, D), zeros where ``padding`` is."""
        return mix_states(states, mask, self.mask_emb, padding_BT=padding, backend=self.kernels)

    def encode_layers(self, states: Tensor, padding: Tensor) -> list[Tensor]:
        """Both transformers: (B, T, D) and padding (B, T) -> every layer's output, speech transformer first."""
        speech, speech_layers = self.encode_speech(states, padding)
        shared, shared_layers = self.encode_shared(speech, padding)
        return [*speech_layers, *shared_layers[:-1], shared]

    def encode_speech(self, states: Tensor, padding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The speech transformer: (B, T, D) and padding (B, T) -> its output and those of its layers."""
        return _run(self.speech_transformer, states, padding)

    def encode_shared(self, states: Tensor, padding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The shared transformer: (B, T, D) and padding (B, T) -> its output and those of its layers."""
        return _run(self.shared_transformer, states, padding)

    def _mask(self, states: Tensor, lengths: Tensor) -> Tensor:
        if self.time_mask.prob:
            states = self.apply_mask(states, self.time_mask.draw(lengths, states.shape[1]))
        if self.channel_mask.prob:
            width = torch.full_like(lengths, self.d_model)
            states = states.masked_fill(self.channel_mask.draw(width, self.d_model).unsqueeze(1), 0.0)
        return states


def _run(transformer: nn.Module, states: Tensor, padding: Tensor) -> tuple[Tensor, list[Tensor]]:
    if not isinstance(transformer, ConformerEncoder):
        return transformer(states, padding)
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for layer in transformer.layers
    ]
    try:
        encoded, _ = transformer(audio_signal=states.transpose(1, 2), length=(~padding).sum(1))
    finally:
        for hook in hooks:
            hook.remove()
    encoded = encoded.transpose(1, 2)
    return encoded, [*outputs[:-1], encoded]
