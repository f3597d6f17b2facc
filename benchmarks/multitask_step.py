"""A step of a SLAM or MAESTRO recipe on noise, for pretrain_step.py: all tasks, and their operations, counted."""

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
PHONES_PER_SECOND, CHARACTERS_PER_SECOND = 12, 15


def multitask_model(recipe: str) -> Any:
    """A :class:`SLAMModel` or :class:`MAESTROModel` of a recipe with random weights.

    SLAM's tokenizer is made of the demo's sentences: some 500 tokens, where the paper's has 32,000. MAESTRO's text is
    phones of English and characters, as in its recipes.
    """
    from nemo_speechlm.models import MAESTROModel, SLAMModel

    options = ["output=none", "model.stages=null"]
    maestro = recipe.startswith("maestro")
    if not maestro:
        folder = Path(tempfile.mkdtemp()) / "tokens"
        train_tokenizer((line for line, _ in zip(sentences(0), range(2000), strict=False)), folder, 512)
        options.append(f"model.tokenizer.dir={folder}")
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose(recipe, options).model
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    config.train_ds = config.validation_ds = None
    torch.manual_seed(0)
    return MAESTROModel(config) if maestro else SLAMModel(config)


def multitask_batch(model: Any, seconds: int) -> PretrainBatch:
    """Two utterances of so many seconds, four sentences, and two pairs of as many seconds.

    Sentences of SLAM have 100 tokens, those of its pairs 40. MAESTRO's are as long as the speech: 12 phones and 15
    characters a second.
    """
    torch.manual_seed(1)
    samples = seconds * 16000

    def audio(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(rows, samples) * 0.1, torch.full((rows,), samples)

    def tokens(number: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(number, (rows, length)), torch.full((rows,), length)

    if not hasattr(model, "phones"):
        size = len(model.text_encoder.labels)
        text = TokenBatch(*tokens(size, SENTENCES, TOKENS))
        pairs = PairBatch(*audio(PAIRS), *tokens(size, PAIRS, PAIR_TOKENS))
        return PretrainBatch(SpeechBatch(*audio(2)), text, pairs)

    def written(rows: int) -> tuple[Any, ...]:
        characters = tokens(len(model.text_writer.labels), rows, CHARACTERS_PER_SECOND * seconds)
        phones = tokens(len(model.phone_encoder.symbols), rows, PHONES_PER_SECOND * seconds)
        return (*characters, (), *phones)

    return PretrainBatch(
        SpeechBatch(*audio(2)), TokenBatch(*written(SENTENCES)), PairBatch(*audio(PAIRS), *written(PAIRS))
    )


def multitask_step(recipe: str, seconds: int) -> Callable[[], None]:
    """One update: the losses of all tasks, their gradients, AdamW, and MAESTRO's average of the weights.

    The rate is 0, which changes nothing in what is computed: with another one, MAESTRO's duration model learned on the
    way, and text became shorter or longer from step to step, so that the operations of one were not those of the next.
    """
    model = multitask_model(recipe).train()
    data = multitask_batch(model, seconds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        model.compute_loss(data)[0].backward()
        optimizer.step()
        if hasattr(model, "average"):
            model.average.update(model.averaged_parts())

    return step


def counted_operations(step: Callable[[], None]) -> float:
    """Operations of the products and convolutions of a step, as PyTorch counts them; attention by its products."""
    ours = {torch.ops.mkldnn._linear_pointwise: _linear_operations}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as counter:
        step()
    return float(counter.get_total_flops())


def _linear_operations(x_shape: Sequence[int], weight_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the private operator that our products go through on CPUs, which PyTorch does not count."""
    return 2 * math.prod(x_shape) * weight_shape[0]
