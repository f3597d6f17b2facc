"""Data loaders for pretraining, made of a short config by NeMo's Lhotse data loading.

A config has a part for each stream that the model has, or for some of them::

    train_ds:
      speech: {manifest_filepath: speech.json, batch_duration: 87.5, max_duration: 30, truncate_duration: 15.6}
      text: {manifest_filepath: text.json, batch_tokens: 4375, max_tokens: 2800, use_bucketing: true}
      num_workers: 2
      seed: 0
      on_bad: skip
      max_bad: 0.01
      timeout: 300

Each part may have any key of NeMo's ``LhotseDataLoadingConfig``. In training, each step has a batch of each part.

The order of the data depends on the seed alone. All batches of a stream form one sequence; a step takes as many of it
as there are ranks, one for each. Workers take turns with the steps. So neither the number of workers nor a stop
changes what a step sees, and a run may go on with another number of ranks where it stopped.

With ``on_bad: skip``, examples that cannot be used are left out (:mod:`nemo_speechlm.data.bad_examples`). Which lines
make a batch does not depend on the audio, so the rest of the order stays as it is. With ``timeout``, a worker that
hangs is an error (:mod:`nemo_speechlm.data.waiting`); without workers, what hangs stops the run for good.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.dataloading import LHOTSE_PROCESS_SEED
from nemo.collections.common.data.lhotse.dataloader import (
    get_lhotse_sampler_from_config,
    make_structured_with_schema_warnings,
)
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from nemo_speechlm.data.bad_examples import BadCount, BadExample, Preparation
from nemo_speechlm.data.pretraining.chapters import FIRST_CHAPTER_LINES, Cut
from nemo_speechlm.data.pretraining.config import Part, Settings, read_config
from nemo_speechlm.data.pretraining.dataset import OneStream, PretrainDataset, StandIn
from nemo_speechlm.data.pretraining.guarded import GuardedLoader, PassLoader, preparation_of, survey
from nemo_speechlm.data.pretraining.sequence import BatchSequence, Position, readers_of
from nemo_speechlm.data.pretraining.streams import Stream
from nemo_speechlm.data.waiting import Reading
from nemo_speechlm.data.worker_errors import ErrorReturningStream
from nemo_speechlm.errors import InputError

PLANNED_FROM = 8
"""Ranks from which on batches are planned (:mod:`nemo_speechlm.data.pretraining.plans`): one rank that plans, and then
reads its own, reads its lines twice."""

_RANK_SEEDS = 1_000_003
_WORKER_SEEDS = 7_919


class Place(NamedTuple):
    """How far training has come in its data.

    Attributes:
        step: batches that each rank has had.
        positions: of each stream, in the sequence that all ranks share.
    """

    step: int = 0
    positions: Mapping[str, Position] = {}


class PretrainLoader(GuardedLoader):
    """An endless loader of training batches, which goes on after a resume with the batch that would have come next.

    Its ``state_dict``, which Lightning keeps in checkpoints, is the place behind the last update. Batches that workers
    have made ahead, the one that Lightning fetches ahead, and those of an unfinished update are made again.

    Attributes:
        is_told: somebody calls :meth:`trained` after each update; if not, the place is behind the last batch
            delivered.
    """

    def __init__(self, steps: "Steps", count: BadCount | None = None, **options: Any):
        items = ErrorReturningStream(steps)
        super().__init__(items, count or BadCount(), steps.reading, collate_fn=_as_it_is, **options)
        self.steps = steps
        self._behind: dict[int, _Behind] = {}
        self.is_told = False
        self._trained: _Behind | None = None
        self._begin = self._delivered = _Behind(steps.start)
        self._readers = [max(1, self.num_workers), steps.world]
        self._cut = Cut()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._begin = self._now
        self.steps.start, self.count.read, self.count.bad = self._begin
        self._behind.clear()
        self._trained = None
        for place, batch in self.made():
            self.count.add(batch.read, batch.bad)
            self._delivered = self._behind[place.step] = _Behind(place, self.count.read, self.count.bad)
            if not self.is_told:
                self._behind.pop(place.step - 16, None)
            yield batch.numbered(place.step - 1)

    @property
    def place(self) -> Place:
        """Where the next iteration begins."""
        return self._now.place

    @property
    def _now(self) -> "_Behind":
        return self._trained or (self._begin if self.is_told else self._delivered)

    def trained(self, number: int) -> None:
        """Say that an update has been made, whose last batch is that of this ``number``."""
        self._trained = self._behind.get(number + 1, self._trained)
        self._behind = {step: behind for step, behind in self._behind.items() if step > number + 1}

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves."""
        place, read, bad = self._now
        positions = {name: tuple(p) for name, p in place.positions.items()}
        return {
            "step": place.step,
            "positions": positions,
            "chapter_lines": self._cut.lines,
            "shuffled_most": self._cut.shuffled_most,
            "piece_lines": self._cut.piece_lines,
            "readers": self._readers,
            "examples": (read, bad),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batches that the saved run was trained on; takes effect with the next iteration."""
        if "positions" not in state:
            raise InputError(
                "the checkpoint does not say where in its data the run stopped: begin another run from it"
            )
        positions = {name: Position(*position) for name, position in state["positions"].items()}
        before = state.get("readers", self._readers)
        own = [name for name, sequence in self.steps.sequences.items() if not sequence.shared]
        if own and before != self._readers:
            logging.warning(
                f"{', '.join(own)}: NeMo reads these data in an order of its own in each worker of each process, "
                f"so the run does not go on exactly where it stopped: it had {before[0]} workers in {before[1]} "
                f"processes, and now has {self._readers[0]} in {self._readers[1]}. Some utterances come twice in this "
                "pass, others not at all. Give as many as before, or data as manifests"
            )
        cut = Cut(
            state.get("chapter_lines", FIRST_CHAPTER_LINES), state.get("shuffled_most"), state.get("piece_lines")
        )
        if cut != self._cut:  # cutting forgets the order of the pass, which was shuffled at the start
            for sequence in self.steps.sequences.values():
                sequence.cut_chapters(cut)
        self._cut = cut
        self._begin = self._delivered = _Behind(Place(state["step"], positions), *state.get("examples", (0, 0)))
        self._trained = None


class _Behind(NamedTuple):
    """What lies behind a batch: its place, and the examples read and found bad until then."""

    place: Place
    read: int = 0
    bad: int = 0


def _as_it_is(item: Any) -> Any:
    """PyTorch's own function would make lists of batches that are tuples."""
    return item


class Steps(IterableDataset):
    """What each step of a rank is trained on: (place behind it, batch), from ``start`` on.

    Lines that readers leave out because they are bad go with the next batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        sequences: Mapping[str, BatchSequence],
        seed: int,
        rank: int,
        world: int,
        reading: Reading | None = None,
    ):
        self.dataset = dataset  # makes a batch of the examples of each stream, by name
        self.sequences = sequences
        self.seed, self.rank, self.world = seed, rank, world
        self.reading = reading
        self.start = Place()

    def __iter__(self) -> Iterator[tuple[Place, Any]]:
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        turn = 0 if worker is None else (worker.id + self.start.step) % workers
        if worker is not None:  # what NeMo's own types draw their order with
            environ[LHOTSE_PROCESS_SEED] = str(self.seed + _RANK_SEEDS * self.rank + _WORKER_SEEDS * turn)
        shared, own = {}, {}
        for name, sequence in self.sequences.items():
            if sequence.shared:
                shared[name] = sequence.batches(self.start.positions.get(name, Position()), self._go_on)
            else:  # each worker of each rank reads for itself, and has had its turns of the steps so far
                had = len(range(turn, self.start.step, workers))
                own[name] = sequence.batches(Position(0, had), self._go_on)
        for step in count(self.start.step):
            self._go_on()
            rounds = {name: [next(batches) for _ in range(self.world)] for name, batches in shared.items()}
            if step % workers != turn:
                self._bad_lines()  # they go with another worker's batch
                continue
            positions = {name: batches[-1][0] for name, batches in rounds.items()}
            examples = {name: batches[self.rank][1]() for name, batches in rounds.items()}
            examples |= {name: next(batches)[1]() for name, batches in own.items()}
            ordered = {name: examples[name] for name in self.sequences}
            batch = self.dataset[ordered].with_bad(self._bad_lines())
            yield Place(step + 1, positions), batch
            for name in shared:
                self.sequences[name].plan_ahead()

    def _go_on(self) -> None:
        """Show that the worker does not hang."""
        if self.reading is not None:
            self.reading.now("the lines of the next batches")

    def _bad_lines(self) -> tuple[BadExample, ...]:
        """The lines left out since the last call; of what all ranks read, this one's share, as of the batches."""
        return tuple(
            bad
            for sequence in self.sequences.values()
            for bad in sequence.take_bad()
            if not sequence.shared or bad.counted_by(self.rank, self.world)
        )


def build_pretrain_dataloader(
    config: DictConfig | Mapping[str, Any],
    streams: Sequence[Stream],
    global_rank: int = 0,
    world_size: int = 1,
    folder: str | Path | None = None,
) -> PretrainLoader:
    """An endless loader of training batches; it has no length, so the trainer needs ``max_steps``.

    Args:
        config: see the module; ``use_bucketing`` with ``num_buckets`` works for all parts.
        streams: those of the model; the config may have some of them.
        global_rank: of this process among ``world_size``.
        world_size: number of processes; each step takes a batch for each.
        folder: of the run, for the list of bad examples.

    Raises:
        InputError: on what is wrong in the config, or in the lines of the manifests that are looked at first.
    """
    settings, parts = read_config(config, streams, training=True)
    count = BadCount(settings.bad, folder)
    return endless_loader(PretrainDataset, settings, parts, global_rank, world_size, count)


def endless_loader(
    dataset: Callable[[Sequence[Stream], Preparation], Dataset],
    settings: Settings,
    parts: Sequence[Part],
    global_rank: int,
    world_size: int,
    count: BadCount,
) -> PretrainLoader:
    """As :func:`build_pretrain_dataloader`, of a config that has been read.

    Args:
        dataset: of the streams and what becomes of bad examples: makes a batch of the examples of each, by name.
        settings: of all parts.
        parts: streams with their data.
        global_rank: of this process.
        world_size: number of processes.
        count: of bad examples.
    """
    preparation = preparation_of(settings)
    sequences = {}
    for part in parts:
        if not part.shared:
            readers = world_size * max(1, settings.num_workers)
            if readers > 1 and not part.config.get("shuffle"):
                raise InputError(
                    f"data config: {part.stream.name}.shuffle=false cannot be used with data that NeMo reads where "
                    f"there are {readers} readers (processes times num_workers): each would read the same"
                )
            part.config["shard_seed"] = (
                "randomized" if settings.num_workers else settings.seed + _RANK_SEEDS * global_rank
            )
        sampler = _sampler(part, 0, 1)
        decided_by = part.config if world_size >= PLANNED_FROM else None
        sequences[part.stream.name] = BatchSequence(sampler, part.exact, part.shared, part.stream.name, decided_by)
        survey(sequences[part.stream.name].readers, count)
    batches = dataset([part.stream for part in parts], preparation)
    steps = Steps(batches, sequences, settings.seed, global_rank, world_size, preparation.reading)
    return PretrainLoader(steps, count, **settings.of_loader())


def build_validation_dataloaders(
    config: DictConfig | Mapping[str, Any],
    streams: Sequence[Stream],
    global_rank: int = 0,
    world_size: int = 1,
    folder: str | Path | None = None,
) -> list[DataLoader]:
    """One finite loader for each part of the config, in the order of ``streams``; arguments as in training.

    Lines come in their files' order. Durations of text are drawn the same in every run. Ranks take turns with the
    batches of one rank; all get the same number, the last ones perhaps a ``stand_in``. The trainer must have
    ``use_distributed_sampler: false``, as always with NeMo's Lhotse data loading.
    """
    settings, parts = read_config(config, streams, training=False)
    counts = [BadCount(settings.bad, folder) for _ in parts]
    return [
        finite_loader(PretrainDataset, settings, part, global_rank, world_size, count)
        for part, count in zip(parts, counts, strict=True)
    ]


def finite_loader(
    dataset: Callable[[Sequence[Stream], Preparation], Dataset],
    settings: Settings,
    part: Part,
    global_rank: int,
    world_size: int,
    count: BadCount,
) -> "PassLoader":
    """As :func:`build_validation_dataloaders`, of one part of a config that has been read.

    Args:
        dataset: see :func:`endless_loader`, as for the next.
        settings: of all parts.
        part: a stream with its data.
        global_rank: of this process.
        world_size: number of processes.
        count: of bad examples.
    """
    preparation = preparation_of(settings)
    sampler = _sampler(part, 0, 1)
    readers = readers_of(sampler)
    survey(readers, count)
    return PassLoader(
        OneStream(part.stream.name, dataset([part.stream], preparation)),
        count,
        preparation.reading,
        readers,
        (global_rank, world_size),
        sampler=TakeTurns(sampler, global_rank, world_size),
        **settings.of_loader(),
    )


class TakeTurns:
    """Every n-th batch of a sampler for one of n ranks, and a :class:`StandIn` where it has none in the last round.

    Lhotse's samplers deal the examples of the last batches out anew where there are ranks without one. Batches would
    then be others than in a single process, and with them the figures.
    """

    def __init__(self, sampler: Iterable[Any], rank: int, world: int):
        self.sampler, self.rank, self.world = sampler, rank, world

    def __iter__(self) -> Iterator[Any]:
        batches = (batch for batch in self.sampler)  # Lhotse's begin anew with each iter(), which islice calls
        while turns := list(islice(batches, self.world)):
            yield turns[self.rank] if self.rank < len(turns) else StandIn(turns[0])


class _NoTokenizer:
    """NeMo counts the units of text as tokens only if it has a tokenizer, which it then does not call."""


def _sampler(part: Part, rank: int, world: int) -> Any:
    config = make_structured_with_schema_warnings(OmegaConf.create(part.config))
    sampler = get_lhotse_sampler_from_config(config, rank, world, tokenizer=_NoTokenizer())[0]
    if part.shared and isinstance(sampler, DynamicBucketingSampler):
        sampler.sync_buckets = False  # it would draw buckets by the worker's number
    return sampler
