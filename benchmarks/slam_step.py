"""A step of a SLAM recipe on noise, for pretrain_step.py: all tasks, and the operations that they take, counted."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.base import CONF
from nemo_speechlm.data.corpora.demo.grammar import sentences
from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, SpeechBatch, TokenBatch
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer

SENTENCES, TOKENS, PAIRS, PAIR_TOKENS = 4, 100, 2, 40


def slam_model(recipe: str) -> Any:
    """A :class:`SLAMModel` of a recipe with random weights.

    Its tokenizer is made of the demo's sentences: some 500 tokens, where the paper's has 32,000.
    """
    from nemo_speechlm.models.slam.model import SLAMModel

    folder = Path(tempfile.mkdtemp()) / "tokens"
    train_tokenizer((line for line, _ in zip(sentences(0), range(2000), strict=False)), folder, 512)
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose(recipe, ["output=none", f"model.tokenizer.dir={folder}", "model.stages=null"]).model
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    config.train_ds = config.validation_ds = None
    torch.manual_seed(0)
    return SLAMModel(config)


def slam_batch(num_tokens: int, seconds: int) -> PretrainBatch:
    """Two utterances of so many seconds, 400 tokens of text, and two pairs of as many seconds and 40 tokens."""
    torch.manual_seed(1)
    samples = seconds * 16000

    def audio(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(rows, samples) * 0.1, torch.full((rows,), samples)

    def tokens(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(num_tokens, (rows, length)), torch.full((rows,), length)

    return PretrainBatch(
        SpeechBatch(*audio(2)),
        TokenBatch(*tokens(SENTENCES, TOKENS)),
        PairBatch(*audio(PAIRS), *tokens(PAIRS, PAIR_TOKENS)),
    )


def slam_step(recipe: str, seconds: int) -> Callable[[], None]:
    """One true update: the losses of all tasks, their gradients, and the optimizer of the recipe (AdamW)."""
    model = slam_model(recipe).train()
    data = slam_batch(len(model.text_encoder.labels), seconds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        model.compute_loss(data)[0].backward()
        optimizer.step()

    return step


def slam_operations(step: Callable[[], None]) -> float:
    """Operations of the products and convolutions of a step, as PyTorch counts them; attention by its products."""
    ours = {torch.ops.mkldnn._linear_pointwise: _linear_operations}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as counter:
        step()
    return float(counter.get_total_flops())


def _linear_operations(x_shape: Sequence[int], weight_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the private operator that our products go through on CPUs, which PyTorch does not count."""
    return 2 * math.prod(x_shape) * weight_shape[0]
