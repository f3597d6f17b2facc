"""Beam search over an attention decoder, by the rules of fairseq's ``SequenceGenerator``.

Why not NeMo's ``BeamSearchSequenceGenerator``: there a finished hypothesis keeps its place in the beam, as many
continuations of each are looked at as the beam is wide, length is divided out while searching (``((5 + length) / 6) **
penalty``), and no n-best list comes out. The released translations were found by other rules: a finished hypothesis
leaves the beam, twice the beam is looked at, the search of an utterance ends with as many finished hypotheses as the
beam is wide, and only these are compared by length. No setting of one gives what the other finds.

Axis legend: B utterances, W beam, N hypotheses (B times W), U tokens, T frames, E encoder width, V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nemo_speechlm.modules.decoder.relative import PAD

EOS = 2
"""The token that begins and ends sentences in fairseq's dictionaries, and so in our decoders' vocabularies."""

_LOOK_EVERY = 8
"""Steps between looks at what is finished where looking makes the host wait for the device."""


class StepwiseDecoder(Protocol):
    """What the search asks of a decoder; see :class:`~nemo_speechlm.modules.decoder.relative.RelativeDecoder`."""

    max_length: int

    def begin(self, encoded: Tensor, padding: Tensor) -> Any:
        """The state before the first token."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Last tokens (N,) -> logits of the next (N, V), and the state after them."""

    def select(self, state: Any, hypotheses: Tensor, utterances: Tensor | None = None) -> Any:
        """The state of other rows of N, and of B."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        beam_size: W; 1 is greedy.
        length_penalty: a hypothesis's score is the sum of its tokens' log probabilities divided by its number of
            tokens (``</s>`` included) to this power: above 0 favours long ones.
        max_length: most tokens before ``</s>``.
        max_length_per_frame: and so many more per frame of the encoder.
        min_length: fewest tokens before ``</s>``.
    """

    beam_size: int = 5
    length_penalty: float = 1.0
    max_length: int = 200
    max_length_per_frame: float = 0.0
    min_length: int = 1

    def __post_init__(self) -> None:
        for name, least in (("beam_size", 1), ("max_length", 1), ("min_length", 0), ("max_length_per_frame", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"search: {name} is {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True)
class Translation:
    """A finished hypothesis.

    Attributes:
        tokens: (U,) with ``</s>`` at the end, on the CPU.
        score: by which it is compared with others.
        token_scores: (U,) log probability of each token.
    """

    tokens: Tensor
    score: float
    token_scores: Tensor


@torch.no_grad()
def beam_search(
    decoder: StepwiseDecoder, encoded: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[list[Translation]]:
    """Find the best token sequences for a batch of encoded utterances.

    An utterance's result does not depend on the others in the batch, and nothing is copied to the host before the end
    of the search except a check every few steps for finished utterances.

    Args:
        decoder: in evaluation mode.
        encoded: (B, T, E) encoder states.
        lengths: (B,) their frames.
        settings: see there.

    Returns:
        for each utterance at most W hypotheses, the best first.
    """
    search = _Search(decoder, encoded, lengths, settings)
    while search.advance():
        pass
    return search.results


class _Search:
    """The beams of a batch, all at the same number of tokens."""

    def __init__(self, decoder: StepwiseDecoder, encoded: Tensor, lengths: Tensor, settings: SearchSettings):
        self.decoder, self.settings = decoder, settings
        B, T, _ = encoded.shape
        device = encoded.device
        padding = torch.arange(T, device=device) >= lengths.to(device).unsqueeze(1)
        self.state = decoder.begin(encoded, padding)
        limits = settings.max_length + (lengths * settings.max_length_per_frame).long()
        self.limits = limits.clamp(max=decoder.max_length - 1).to(device)
        longest = int(self.limits.max())
        self.step = 0
        self.width = 1  # all hypotheses of an utterance are the same before the first token
        self.tokens = torch.full((B, 1, longest + 2), PAD, device=device)
        self.tokens[:, :, 0] = EOS
        self.scores = torch.zeros(B, 1, longest + 1, device=device)
        # What is finished, with a place behind the W-th for what comes too late.
        W = settings.beam_size
        self.finished_tokens = torch.full((B, W + 1, longest + 1), PAD, device=device)
        self.finished_scores = torch.zeros(B, W + 1, longest + 1, device=device)
        self.finished_rank = torch.full((B, W + 1), -torch.inf, device=device)
        self.count = torch.zeros(B, dtype=torch.long, device=device)
        self.done = torch.zeros(B, dtype=torch.bool, device=device)
        self.rows = list(range(B))
        self.results: list[list[Translation]] = [[] for _ in range(B)]

    def advance(self) -> bool:
        """Add a token to each hypothesis; False when all utterances are finished."""
        scores, parents, tokens = self._candidates()
        W = self.settings.beam_size
        ends = tokens.eq(EOS) & scores.ne(-torch.inf)
        self._finish(ends[:, :W], scores[:, :W], parents[:, :W])
        # The beam goes on with the W best that do not end.
        order = ends * 2 * W + torch.arange(2 * W, device=ends.device)
        kept = order.topk(W, dim=1, largest=False).indices
        scores, parents, tokens = (values.gather(1, kept) for values in (scores, parents, tokens))
        utterances = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        rows = (utterances * self.width + parents).reshape(-1)
        self.tokens = self.tokens[utterances, parents]
        self.scores = self.scores[utterances, parents]
        self.tokens[:, :, self.step + 1] = tokens
        self.scores[:, :, self.step] = scores
        self.width = W
        self.step += 1
        return self._tidy(rows)

    def _candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """The 2 W best continuations of each utterance: scores, hypotheses, tokens, each (B, 2 W), the best first."""
        logits, self.state = self.decoder.step(self.tokens[:, :, self.step].reshape(-1), self.state)
        log_probs = logits.float().log_softmax(dim=-1).view(len(self.tokens), self.width, -1)
        log_probs = log_probs.masked_fill(log_probs.isnan(), -torch.inf)
        log_probs[:, :, PAD] = -torch.inf
        ending = log_probs[:, :, EOS].clone()
        at_limit = self.limits <= self.step
        log_probs = log_probs.masked_fill(at_limit[:, None, None], -torch.inf)
        if self.step < self.settings.min_length:
            ending = ending.masked_fill(~at_limit.unsqueeze(1), -torch.inf)
        log_probs[:, :, EOS] = ending
        if self.step:
            log_probs = log_probs + self.scores[:, :, self.step - 1 : self.step]
        V = log_probs.shape[2]
        wanted = 2 * self.settings.beam_size
        scores, index = log_probs.flatten(1).topk(min(wanted, self.width * V), dim=1)
        if (missing := wanted - scores.shape[1]) > 0:  # a vocabulary smaller than the beam
            scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
            index = torch.nn.functional.pad(index, (0, missing), value=PAD)
        return scores, torch.div(index, V, rounding_mode="floor"), index % V

    def _finish(self, ends: Tensor, scores: Tensor, parents: Tensor) -> None:
        """Keep those of the W best continuations (B, W) that end here as results."""
        W, step = self.settings.beam_size, self.step
        place = self.count.unsqueeze(1) + ends.cumsum(1) - 1
        place = torch.where(ends & ~self.done.unsqueeze(1), place.clamp(max=W), W)
        utterances = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        tokens = self.tokens[utterances, parents, 1:]
        tokens[:, :, step] = EOS
        history = self.scores[utterances, parents]
        history[:, :, step] = scores
        index = place.unsqueeze(2).expand_as(tokens)
        self.finished_tokens.scatter_(1, index, tokens)
        self.finished_scores.scatter_(1, index, history)
        self.finished_rank.scatter_(1, place, scores / (step + 1) ** self.settings.length_penalty)
        self.count = self.count + place.lt(W).sum(1)
        self.done = self.done | self.count.ge(W) | self.limits.le(step)

    def _tidy(self, rows: Tensor) -> bool:
        """Reorder the decoder's state; every few steps, drop the finished utterances."""
        if self.done.device.type != "cpu" and self.step % _LOOK_EVERY and self.step <= self.tokens.shape[2] - 2:
            self.state = self.decoder.select(self.state, rows)
            return True
        done = self.done.tolist()
        if not any(done):
            self.state = self.decoder.select(self.state, rows)
            return True
        self._collect(done)
        if all(done):
            return False
        keep = (~self.done).nonzero().squeeze(1)
        self.state = self.decoder.select(self.state, rows.view(-1, self.width)[keep].reshape(-1), keep)
        for name in ("tokens", "scores", "finished_tokens", "finished_scores", "finished_rank", "count", "limits"):
            setattr(self, name, getattr(self, name)[keep])
        self.rows = [row for row, finished in zip(self.rows, done, strict=True) if not finished]
        self.done = self.done[keep]
        return True

    def _collect(self, done: Sequence[bool]) -> None:
        W = self.settings.beam_size
        tokens, scores = self.finished_tokens[:, :W].cpu(), self.finished_scores[:, :W].cpu()
        ranks = self.finished_rank[:, :W].cpu()
        for index, row in enumerate(self.rows):
            if done[index]:
                order = ranks[index].sort(descending=True, stable=True).indices.tolist()
                found = (_translation(tokens[index, i], scores[index, i], float(ranks[index, i])) for i in order)
                self.results[row] = [one for one in found if one is not None]


def _translation(tokens: Tensor, cumulative: Tensor, rank: float) -> Translation | None:
    if rank == -torch.inf:
        return None
    length = int(tokens.eq(EOS).nonzero()[0]) + 1
    scores = cumulative[:length]
    return Translation(tokens[:length].clone(), rank, torch.diff(scores, prepend=scores.new_zeros(1)))
