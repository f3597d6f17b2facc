"""Gumbel quantization of frames (wav2vec 2.0, arXiv 2006.11477, section 2; w2v-BERT, arXiv 2108.06209).

Axis legend: N frames, D width of the frames, V codes, K width of a code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from nemo.collections.asr.parts.submodules.ssl_quantizers import GumbelVectorQuantizer
from torch import Generator, Tensor
from torch.nn import functional as F


class Quantized(NamedTuple):
    """What a quantizer makes of frames.

    Attributes:
        vectors: (N, K) the drawn codes' vectors. Gradients reach the codebook and, straight through, the frames.
        drawn: (N,) which codes those are: drawn with Gumbel noise in training, the likeliest ones otherwise.
        codes: (N,) the likeliest codes: targets of masked prediction.
        diversity: () the diversity loss, from 0 (all codes equally likely over the frames) to 1 - 1 / V.
        counts: (V,) int64, how often each code is the likeliest.
    """

    vectors: Tensor
    drawn: Tensor
    codes: Tensor
    diversity: Tensor
    counts: Tensor


class GumbelQuantizer(GumbelVectorQuantizer):
    """NeMo's quantizer with one group of codes, for many frames and many codes.

    NeMo's own pass keeps a tensor of N * V * K numbers: 8 GB for 2,000 frames and the 1,024 codes of 1,024 of SLAM.
    Parameters, temperatures and values are NeMo's.

    Args:
        dim: D.
        num_codes: V.
        code_dim: K.
        temperature: of the softmax over codes: its start, its end, and the factor by which each update lowers it.
    """

    def __init__(self, dim: int, num_codes: int, code_dim: int, temperature: Sequence[float] = (2.0, 0.1, 0.999995)):
        super().__init__(
            dim=dim,
            num_vars=num_codes,
            temp=tuple(temperature),
            groups=1,
            combine_groups=False,
            vq_dim=code_dim,
            time_first=True,
        )

    def quantize(self, frames_ND: Tensor, generator: Generator | None = None) -> Quantized:
        """Quantize frames; leave padding out of them, for it would count as frames do.

        Args:
            frames_ND: (N, D).
            generator: what the Gumbel noise of training is drawn with.
        """
        logits = self.weight_proj(frames_ND)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        codes = logits.argmax(-1)
        mean = logits.softmax(-1).mean(0)
        perplexity = torch.exp(-(mean * torch.log(mean + 1e-7)).sum())
        diversity = (self.num_vars - perplexity) / self.num_vars
        counts = torch.bincount(codes, minlength=self.num_vars)
        vectors_VK = self.vars[0]
        if not self.training:
            return Quantized(F.embedding(codes, vectors_VK), codes, codes, diversity, counts)
        uniform = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        soft = ((logits + noise) / self.curr_temp).softmax(-1)
        drawn = soft.argmax(-1)
        hard = F.one_hot(drawn, self.num_vars).to(soft.dtype)
        chosen = hard - soft.detach() + soft
        return Quantized(chosen.to(vectors_VK.dtype) @ vectors_VK, drawn, codes, diversity, counts)


def code_perplexity(counts_V: Tensor) -> Tensor:
    """How many codes, used equally often, are as varied as these counts (V,): exp of the entropy, ()."""
    shares = counts_V.double() / counts_V.sum().clamp(min=1)
    return torch.exp(-torch.special.xlogy(shares, shares).sum()).float()
