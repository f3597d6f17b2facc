"""What is probed: a frozen encoder, or one of the two baselines, mel features and an encoder with random weights.

Axis legend: B utterances, S samples, T frames, D width.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.inference.features.extraction import model_origin
from nemo_speechlm.models.common.batching import depends_on_padding
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.pretrained import read_pretrained
from nemo_speechlm.models.common.restore import pick_device, restore_extractor
from nemo_speechlm.models.encoder import SpeechLMEncoderModel
from nemo_speechlm.modules.padding import padding_mask

FBANK, RANDOM = "fbank", "random"
"""What ``model`` is called for mel features, and for an encoder that has learned nothing."""

_DELTA = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Slope of a line through five frames."""


class Upstream(Protocol):
    """A frozen model, as the cache of features wants it.

    Attributes:
        encoder: says ``num_layers``, ``d_model``, ``frame_rate`` and has a ``front_end``.
        cfg: says the ``sample_rate``.
        names: of the layers.
    """

    encoder: Any
    cfg: Mapping[str, Any]
    names: list[str]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def to(self, device: Any) -> Any:
        """Move it."""
        ...

    def extract_features(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Waveforms (B, S) and lengths (B,) -> states (B, T, D) of each layer, counted from 0; and frames (B,)."""
        ...


class FrozenEncoder:
    """An encoder's layers, and before them what enters the speech transformer, as SUPERB counts layers.

    Args:
        model: any of ours that has ``extract_features``.
    """

    def __init__(self, model: Any):
        self.model = model.eval().requires_grad_(False)
        encoder = model.encoder
        self.cfg: Mapping[str, Any] = {"sample_rate": int(model.cfg.get("sample_rate", 16000))}
        self.encoder = SimpleNamespace(
            num_layers=encoder.num_layers + 1,
            d_model=encoder.d_model,
            frame_rate=encoder.frame_rate,
            front_end=encoder.front_end,
        )
        halves = (encoder.speech_transformer, encoder.shared_transformer)
        speech, shared = (len(half.layers) for half in halves)
        numbers = {"speech": speech, "shared": shared}
        self.names = ["input", *(f"{half} {i + 1}" for half, number in numbers.items() for i in range(number))]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def to(self, device: Any) -> "FrozenEncoder":
        """Move it."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def extract_features(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """See :class:`Upstream`. A model that depends on padding takes the utterances one by one."""
        if len(waveform) > 1 and depends_on_padding(self.model):
            return self._one_by_one(waveform, length, layers)
        encoder = self.model.encoder
        signal, signal_length = self.model.preprocessor(input_signal=waveform, length=length)
        frames = encoder.embed_speech(signal, signal_length)
        padding = padding_mask(frames.lengths, frames.states.shape[1])
        states = [frames.states, *encoder.encode_layers(frames.states, padding)]
        return (states if layers is None else [states[layer] for layer in layers]), frames.lengths

    def _one_by_one(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None
    ) -> tuple[list[Tensor], Tensor]:
        parts = [
            self.extract_features(waveform[row : row + 1, :samples], length[row : row + 1], layers)
            for row, samples in enumerate(length.tolist())
        ]
        by_layer = zip(*(states for states, _ in parts), strict=True)
        padded = [pad_sequence([x_BTD[0] for x_BTD in own], batch_first=True) for own in by_layer]
        return padded, torch.cat([frames for _, frames in parts])


class MelFeatures:
    """80 log mel bins with their first and second slopes: the baseline of mel features.

    An utterance's level and range are taken out, those of single bins stay. SUPERB normalizes each bin of an
    utterance; then the mean over its frames is zero, and heads that see that alone (speaker, keyword, intent) see
    nothing.
    """

    def __init__(self, sample_rate: int = 16000, bins: int = 80, device: torch.device | str = "cpu"):
        self.cfg: Mapping[str, Any] = {"sample_rate": sample_rate}
        self.names = ["mel"]
        self.encoder = SimpleNamespace(num_layers=1, d_model=3 * bins, frame_rate=100.0, front_end=None)
        self.preprocessor = AudioToMelSpectrogramPreprocessor(
            sample_rate=sample_rate, features=bins, normalize=None, dither=0.0, pad_to=0
        ).eval()
        self.device = torch.device(device)
        self.to(device)

    def to(self, device: Any) -> "MelFeatures":
        """Move it."""
        self.device = torch.device(device)
        self.preprocessor.to(device)
        return self

    @torch.no_grad()
    def extract_features(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """See :class:`Upstream`."""
        mel, frames = self.preprocessor(input_signal=waveform, length=length)
        valid = (~padding_mask(frames, mel.shape[2])).unsqueeze(1)
        count = frames.clamp(min=1).view(-1, 1, 1) * mel.shape[1]
        centred = (mel - (mel * valid).sum((1, 2), keepdim=True) / count) * valid
        deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
        scaled = centred / (deviation + 1e-5)
        slope = _slope(scaled, frames)
        states = torch.cat([scaled, slope, _slope(slope, frames)], dim=1) * valid
        return [states.transpose(1, 2)], frames


def _slope(x: Tensor, lengths: Tensor) -> Tensor:
    """The slope of each channel of (B, C, T) over five frames; the first and the last frame are repeated outwards."""
    last = (lengths.clamp(min=1) - 1).view(-1, 1, 1).expand(-1, x.shape[1], 1)
    held = torch.where(padding_mask(lengths, x.shape[2]).unsqueeze(1), x.gather(2, last), x)
    padded = torch.cat([held[..., :1], held[..., :1], held, held[..., -1:], held[..., -1:]], dim=2)
    kernel = torch.tensor(_DELTA, dtype=x.dtype, device=x.device).view(1, 1, 5)
    return F.conv1d(padded.flatten(0, 1).unsqueeze(1), kernel).view_as(x)


@dataclass(frozen=True)
class UpstreamSpec:
    """Which model is probed.

    Attributes:
        model: ``.nemo`` file, ``fbank`` or ``random``.
        recipe: for ``random``: the architecture, as the name of a recipe or the ``.nemo`` file of a model that has it.
        seed: of the random weights.
    """

    model: str
    recipe: str | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """For a legend or a table."""
        if self.model == RANDOM:
            return f"random {Path(str(self.recipe)).stem}"
        return self.model if self.model == FBANK else Path(self.model).stem

    def identity(self) -> dict[str, Any]:
        """What features of it depend on."""
        found: dict[str, Any] = {"model": self.model}
        file = self.model
        if self.model == RANDOM:
            found |= {"recipe": self.recipe, "seed": self.seed}
            file = str(self.recipe)
        path = Path(file) if self.model in (FBANK, RANDOM) else model_file(file)
        if path.suffix == ".nemo" and path.exists():
            found |= model_origin(path)
            if self.model == RANDOM:
                found["model"] = RANDOM
        elif self.model == RANDOM and self.recipe is not None:
            plain = json.dumps(_architecture(self.recipe), sort_keys=True)  # a recipe of that name may change
            found["architecture_sha256"] = hashlib.sha256(plain.encode()).hexdigest()
        return found

    def restore(self, device: str = "auto") -> Upstream:
        """Make it.

        Raises:
            InputError: if the file is not there, or not one of a model with our encoder.
            SpeechLMError: if ``random`` has no recipe.
        """
        if self.model == FBANK:
            return MelFeatures(device=pick_device(device))
        if self.model == RANDOM:
            return FrozenEncoder(_random_encoder(self.recipe, self.seed).to(pick_device(device)))
        return FrozenEncoder(restore_extractor(self.model, device))


def _random_encoder(recipe: str | None, seed: int) -> nn.Module:
    if recipe is None:
        raise SpeechLMError("model=random needs recipe=NAME, or the .nemo file of a model whose architecture it takes")
    config = OmegaConf.create(_architecture(recipe))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SpeechLMEncoderModel(config)


def _architecture(recipe: str) -> dict[str, Any]:
    """Preprocessor, encoder and sample rate of a recipe, or of a ``.nemo`` file."""
    cfg = read_pretrained(recipe).cfg if recipe.endswith(".nemo") else _recipe(recipe).model
    if cfg.get("preprocessor") is None or cfg.get("encoder") is None:
        raise SpeechLMError(f"recipe={recipe} has no model.encoder of its own; name one such as speechlm_p_small")
    parts: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("preprocessor", "encoder")
    }
    return {**parts, "sample_rate": int(cfg.get("sample_rate", 16000))}


def _recipe(name: str) -> DictConfig:
    """The recipe ``conf/<name>.yaml``, put together."""
    try:
        if GlobalHydra.instance().is_initialized():
            return compose(name)
        with initialize_config_dir(config_dir=str(CONF), version_base=None):
            return compose(name)
    except MissingConfigException as error:
        raise SpeechLMError(f"recipe is {name!r}; {CONF} has no {name}.yaml") from error
