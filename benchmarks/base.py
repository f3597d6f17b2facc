"""Models of Base size for the speed programs, and the operations that they take, counted.

Axis legend of the counts: B utterances, T frames, S samples, D width, F inner width of the feed-forward.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

CONF = Path(__file__).parent.parent / "conf"
CONVOLUTIONS = ((512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2))
D, F, LAYERS, DISTANCES = 768, 3072, 12, 320
POSITION_KERNEL, POSITION_GROUPS = 128, 16


def pretrain_config(**architecture: Any) -> Any:
    """Config of a :class:`SpeechLMModel` of Base size without data; ``architecture`` replaces keys of its encoder."""
    from nemo_speechlm.units.inventory import UnitInventory

    base = OmegaConf.load(CONF / "architecture" / "base.yaml")
    recipe = OmegaConf.load(CONF / "pretrain.yaml").model
    model = OmegaConf.merge(recipe, base, OmegaConf.load(CONF / "speechlm_p_base.yaml").model)
    config = OmegaConf.create({"seed": 0, "model": model})
    for half in ("speech_transformer", "shared_transformer"):
        config.model.encoder[half].layerdrop = 0.0
        config.model.encoder[half].update(architecture)
    config.model.train_ds = config.model.validation_ds = None
    del config.model.optim
    units = Path(tempfile.mkdtemp()) / "units.json"
    UnitInventory("phoneme", "en", 100, ("SIL", *(f"U{i}" for i in range(363))), "SIL").save(units)
    config.model.units = str(units)
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True)).model


def our_model(**architecture: Any) -> Any:
    """A :class:`SpeechLMModel` of Base size with random weights."""
    from nemo_speechlm.models.speechlm.model import SpeechLMModel

    torch.manual_seed(0)
    return SpeechLMModel(pretrain_config(**architecture))


def peer_model() -> Any:
    """HuBERT Base of transformers with random weights, fused attention, and the same dropout as ours."""
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(layerdrop=0.0, activation_dropout=0.0, apply_spec_augment=False, attn_implementation="sdpa")
    return HubertModel(config)


def batch(rows: int = 4, seconds: int = 10, sentences: int = 4, units: int = 500, device: str = "cpu") -> Any:
    """A pretraining batch of noise, units and characters."""
    from nemo_speechlm.data.pretraining.batch import PretrainBatch, SpeechBatch, TextBatch

    torch.manual_seed(1)
    speech = text = None
    if rows:
        samples = seconds * 16000
        speech = SpeechBatch(
            torch.randn(rows, samples) * 0.1, torch.full((rows,), samples),
            torch.randint(364, (rows, seconds * 100)), torch.full((rows,), seconds * 100),
        )  # fmt: skip
    if sentences:
        text = TextBatch(
            torch.randint(364, (sentences, units)), torch.full((sentences,), units),
            torch.randint(28, (sentences, units // 7)), torch.full((sentences,), units // 7),
        )  # fmt: skip
    move = lambda part: None if part is None else type(part)(*(t.to(device) for t in part[:4]))  # noqa: E731
    return PretrainBatch(move(speech), move(text))


def frames(samples: int) -> list[int]:
    """Frames behind each convolution."""
    counts = []
    for _, kernel, stride in CONVOLUTIONS:
        samples = (samples - kernel) // stride + 1
        counts.append(samples)
    return counts


def front_end_operations(samples: int) -> float:
    """Operations of the convolutions and the projection for one utterance, forward."""
    total, channels_in = 0.0, 1
    counts = frames(samples)
    for (channels, kernel, _), count in zip(CONVOLUTIONS, counts, strict=True):
        total += 2.0 * count * channels * channels_in * kernel
        channels_in = channels
    return total + 2.0 * counts[-1] * channels_in * D


def position_operations(count: int) -> float:
    """Operations of the positional convolution for one utterance of ``count`` frames, forward."""
    return 2.0 * count * D * (D / POSITION_GROUPS) * POSITION_KERNEL


def layer_operations(count: int, relative: bool = True) -> float:
    """Operations of one transformer layer for one utterance of ``count`` frames, forward.

    Four projections and the feed-forward; queries with keys, weights with values; queries with the rows of the
    relative positions, of which there are at most 320.
    """
    linear = 2.0 * count * (4 * D * D + 2 * D * F)
    attention = 2.0 * 2.0 * count * count * D
    return linear + attention + (2.0 * count * min(DISTANCES, 2 * count - 1) * D if relative else 0.0)


def feature_operations(rows: int, samples: int, relative: bool = True) -> float:
    """Operations of all layers' features for ``rows`` utterances."""
    count = frames(samples)[-1]
    each = front_end_operations(samples) + position_operations(count) + LAYERS * layer_operations(count, relative)
    return rows * each


def step_operations(rows: int, samples: int, sentences: int = 0, units: int = 0, relative: bool = True) -> float:
    """Operations of a pretraining step, forward and backward.

    A gradient takes twice its product's operations, for the input and for the weights; only the first convolution has
    no input to give one to. The heads count too: unit classifiers of 256 over 364 units, twice, on all frames; the CTC
    head's convolution of kernel 2. Norms, activations, dropout, softmax and losses are not counted, nor is what is
    computed twice to save memory.
    """
    count = frames(samples)[-1]
    first = 2.0 * frames(samples)[0] * CONVOLUTIONS[0][0] * CONVOLUTIONS[0][1]
    total = 3.0 * feature_operations(rows, samples, relative) - rows * first
    if relative:
        total += 3.0 * rows * 2 * (2.0 * count * D * 256 + 2.0 * count * 256 * 364)
    text = LAYERS / 2 * layer_operations(units, relative) + 2.0 * units * D * D * 2 + 2.0 * units * D * 29
    return total + 3.0 * sentences * text
