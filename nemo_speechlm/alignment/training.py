"""Training of the aligner by hard EM from a flat start: align, estimate, grow, repeat.

Axes: F frames of all utterances, T frames of one, P states, D features.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.alignment.aligner import Alignment, GmmAligner, why_not
from nemo_speechlm.alignment.graph import Graph, Topology
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.mixtures import VARIANCE_FLOOR, Mixtures
from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.errors import InputError

_STAY_LIMITS = (0.05, 0.98)


@dataclass(frozen=True)
class TrainingPlan:
    """How an aligner is trained.

    Args:
        passes: of EM over all frames.
        tied_passes: the first passes, in which the states of a phone share their Gaussians. A phone that is one sound
            can only begin and end where the sound changes; with states of its own from the start it may as well begin
            late and end late, and all others with it, and training would never find out.
        tied_components: Gaussians of a phone in the end of these, in the mean: frequent ones have more.
        realign_every_pass: the first passes, before each of which everything is aligned anew.
        realign_interval: later, passes from one alignment to the next.
        components: Gaussians of all states together, at the end.
        settle: passes at the end with that many.
        silence_probability: of a silence between two words and at each end.
        batch_frames: of the utterances that are aligned together, padding included.
    """

    passes: int = 16
    tied_passes: int = 6
    tied_components: int = 2
    realign_every_pass: int = 12
    realign_interval: int = 2
    components: int = 800
    settle: int = 2
    silence_probability: float = 0.5
    batch_frames: int = 40000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "silence_probability":
                least = 0 if name in ("tied_passes", "realign_every_pass", "settle") else 1
                check_whole(f"plan: {name}", value, least)
        check_number("silence_probability", self.silence_probability, above=0, below=1)

    def realigns(self, number: int) -> bool:
        """Whether everything is aligned anew before a pass, counted from 1. The first one uses the flat start."""
        late = number - 1 - self.realign_every_pass
        return number > 1 and (late <= 0 or late % self.realign_interval == 0)

    def components_at(self, number: int, states: int) -> int:
        """Gaussians after an untied pass: from one per state on, as many more in each until ``settle`` remain."""
        growing = max(self.passes - self.settle - self.tied_passes, 1)
        share = min(number - self.tied_passes, growing) / growing
        return round(states + max(self.components - states, 0) * share)


class PassReport(NamedTuple):
    """What a pass over the corpus gave.

    Attributes:
        number: counted from 1.
        log_likelihood: per frame, of the mixtures that the pass began with, on the path of its alignment.
        components: Gaussians that the pass began with.
        realigned: whether the utterances were aligned anew.
        failed: utterances without a path.
        seconds: that it took.
    """

    number: int
    log_likelihood: float
    components: int
    realigned: bool
    failed: int
    seconds: float


@dataclass
class Corpus:
    """Utterances in memory: 156 bytes a frame, so 56 MB an hour.

    Args:
        features: (F, D) of all utterances, one behind the other, normalized.
        lengths: frames of each.
        graphs: what each may sound like.
    """

    features: Tensor
    lengths: Sequence[int]
    graphs: Sequence[Graph]

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def utterance(self, number: int) -> Tensor:
        """Features (T, D) of one utterance."""
        return self.features[self.starts[number] : self.starts[number + 1]]

    def batches(self, frames: int) -> Iterator[list[int]]:
        """Numbers of utterances of similar length, whose padded lengths sum up to at most ``frames``."""
        batch: list[int] = []
        for number in sorted(range(len(self.lengths)), key=lambda n: (-self.lengths[n], n)):
            if batch and self.lengths[batch[0]] * (len(batch) + 1) > frames:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch


@dataclass
class TrainingState:
    """The state of training: everything that the next pass needs.

    Args:
        aligner: as estimated so far.
        states: (F,) int16, the state of each frame; -1 where an utterance has no path.
        reports: of the passes so far.
    """

    aligner: GmmAligner
    states: np.ndarray
    reports: list[PassReport] = field(default_factory=list)


Step = Callable[[str, int], Any]
"""Told what is going on, and how many frames were worked on."""


def start(corpus: Corpus, topology: Topology, plan: TrainingPlan, silence: str, mfcc: Mfcc) -> TrainingState:
    """A flat start: every state alike, and every utterance's frames dealt out evenly to its phones' states.

    The quiet frames before the first loud one and behind the last go to silence, so that it does not have to be told
    from speech by chance.
    """
    mean, variance = corpus.features.mean(0), corpus.features.var(0)
    aligner = GmmAligner(
        topology,
        Mixtures.flat(topology.num_states, mean, variance),
        torch.full((topology.num_states,), 0.7),
        plan.silence_probability,
        silence,
        mfcc,
    )
    states = np.full(len(corpus.features), -1, dtype=np.int16)
    for number, graph in enumerate(corpus.graphs):
        if why_not(corpus.lengths[number], graph) is None:
            span = slice(corpus.starts[number], corpus.starts[number + 1])
            states[span] = _deal_out(corpus.features[span, 0].numpy(), graph, topology)
    return TrainingState(aligner, states)


def _deal_out(loudness: np.ndarray, graph: Graph, topology: Topology) -> np.ndarray:
    """States (T,) of the first pronunciation of each word, with silence at both ends."""
    frames = len(loudness)
    quiet, loud = np.percentile(loudness, [5, 90])
    speech = np.flatnonzero(loudness > quiet + 0.35 * (loud - quiet))
    chain = graph.usual
    begin, end = (int(speech[0]), int(speech[-1]) + 1) if len(speech) else (0, frames)
    if end - begin < len(chain):
        begin, end = 0, frames
    if end - begin < len(chain):  # another pronunciation is shorter
        chain = np.asarray(chain)[np.linspace(0, len(chain) - 1, frames).round().astype(int)]
    silence = np.array(topology.states_of(topology.silence))
    return np.concatenate([_spread(silence, begin), _spread(chain, end - begin), _spread(silence, frames - end)])


def _spread(states: np.ndarray, frames: int) -> np.ndarray:
    return states[np.arange(frames) * len(states) // max(frames, 1)]


def train_pass(
    corpus: Corpus, state: TrainingState, plan: TrainingPlan, step: Step = lambda what, frames: None
) -> TrainingState:
    """One pass: align where the plan says so, estimate mixtures and transitions, grow."""
    number = len(state.reports) + 1
    began = time.perf_counter()
    aligner, states = state.aligner, state.states
    realigned = plan.realigns(number)
    if realigned:
        states = align_corpus(corpus, aligner, plan.batch_frames, step)
    kept = torch.from_numpy(np.flatnonzero(states >= 0))
    if not len(kept):
        raise InputError("not one utterance could be aligned; do the transcripts belong to the audio?")
    step("estimating", 0)
    features = corpus.features if len(kept) == len(corpus.features) else corpus.features[kept]
    floor = VARIANCE_FLOOR * corpus.features.var(0)
    topology, before = aligner.topology, aligner.mixtures.num_components
    if number <= plan.tied_passes + 1:
        states = _dealt_evenly(states, corpus, topology)
    used = torch.from_numpy(states)[kept].long()
    if number <= plan.tied_passes:
        mixtures, log_likelihood = _estimate_tied(aligner, features, used, floor, plan.tied_components)
    else:
        old = aligner.mixtures
        if number == plan.tied_passes + 1:  # from here on each state is its own
            old = Mixtures.flat(topology.num_states, corpus.features.mean(0), corpus.features.var(0)).to(
                old.means.device
            )
        mixtures, log_likelihood = old.estimate(features, used, floor)
        if old is not aligner.mixtures:
            mixtures, log_likelihood = mixtures.estimate(features, used, floor)
        if number < plan.passes:
            counts = torch.bincount(used, minlength=topology.num_states)
            mixtures = mixtures.grow(counts, plan.components_at(number, topology.num_states))
    stay = _stay_probabilities(states, corpus, topology.num_states).to(aligner.stay)
    failed = sum(int(states[begin] < 0) for begin in corpus.starts[:-1])
    report = PassReport(number, log_likelihood, before, realigned, failed, time.perf_counter() - began)
    return TrainingState(replace(aligner, mixtures=mixtures, stay=stay), states, [*state.reports, report])


def _estimate_tied(
    aligner: GmmAligner, features: Tensor, states: Tensor, floor: Tensor, components: int
) -> tuple[Mixtures, float]:
    """As :meth:`Mixtures.estimate`, with one mixture for all states of a phone; it grows by one Gaussian a pass."""
    topology, old = aligner.topology, aligner.mixtures
    firsts = torch.tensor([topology.states_of(phone)[0] for phone in topology.phones])
    lengths = torch.tensor([topology.length(phone) for phone in topology.phones])
    phones = torch.repeat_interleave(torch.arange(len(firsts)), lengths)
    of_phone = Mixtures(old.log_weights[firsts], old.means[firsts], old.variances[firsts])
    used = phones[states]
    new, log_likelihood = of_phone.estimate(features, used, floor)
    width = min(new.log_weights.shape[1] + 1, components)
    new = new.grow(torch.bincount(used, minlength=len(firsts)), width * len(firsts))
    return Mixtures(new.log_weights[phones], new.means[phones], new.variances[phones]), log_likelihood


def _dealt_evenly(states: np.ndarray, corpus: Corpus, topology: Topology) -> np.ndarray:
    """States (F,) of the same phones in the same frames, with each phone's frames dealt out evenly to its states."""
    lengths = np.array([topology.length(phone) for phone in topology.phones])
    firsts = np.cumsum(lengths) - lengths
    phones = np.repeat(np.arange(len(lengths)), lengths)[states]
    begins = np.diff(phones, prepend=-1) != 0
    begins |= np.diff(states, prepend=states[:1]) < 0  # the same phone once more
    begins[corpus.starts[:-1]] = True
    at = np.flatnonzero(begins)
    frames = np.diff(at, append=len(states))
    position = np.arange(len(states)) - np.repeat(at, frames)
    dealt = firsts[phones] + position * lengths[phones] // np.repeat(frames, frames)
    return np.where(states < 0, -1, dealt).astype(np.int16)


def align_corpus(corpus: Corpus, aligner: GmmAligner, batch_frames: int, step: Step) -> np.ndarray:
    """The best paths' states (F,) int16; -1 where an utterance has none."""
    states = np.full(len(corpus.features), -1, dtype=np.int16)
    for batch in corpus.batches(batch_frames):
        paths = aligner.align([corpus.utterance(n) for n in batch], [corpus.graphs[n] for n in batch])
        for number, path in zip(batch, paths, strict=True):
            if isinstance(path, Alignment):
                states[corpus.starts[number] : corpus.starts[number + 1]] = path.states
        step("aligning", sum(corpus.lengths[n] for n in batch))
    return states


def _stay_probabilities(states: np.ndarray, corpus: Corpus, size: int) -> Tensor:
    """(P,): of the frames in a state, how many are not its last; a phone after the same phone counts as going on."""
    first = np.diff(states, prepend=-2) != 0
    first[corpus.starts[:-1]] = True
    used = states >= 0
    frames = np.bincount(states[used], minlength=size)
    visits = np.bincount(states[used & first], minlength=size)
    stay = np.where(frames > 0, (frames - visits + 1) / (frames + 2), 0.5)
    return torch.from_numpy(stay).float().clamp(*_STAY_LIMITS)


def plan_settings(plan: TrainingPlan) -> dict[str, Any]:
    """The settings that decide the result, to tell whether a partial result can be resumed; not the batching."""
    return {key: value for key, value in asdict(plan).items() if key != "batch_frames"}
