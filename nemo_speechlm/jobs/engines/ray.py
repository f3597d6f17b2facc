"""Jobs on a Ray cluster: each worker is an actor with its share of CPUs and GPUs. Needs the extra ``ray``."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_speechlm.checks import check_number
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.jobs.engines.executor import PoolExecutor, Resources
from nemo_speechlm.jobs.engines.pool import Attempt, Died, Event, Pool, attempt_at, picklable
from nemo_speechlm.jobs.work import BrokenProcess, ChunkMaker, ChunkWork


@dataclass(frozen=True)
class RayEngine(PoolExecutor):
    """Actors on a Ray cluster. All nodes see the files of the job by the same paths.

    Attributes:
        address: of the cluster: ``auto`` is the one that this machine belongs to; None starts Ray on this machine.
        num_cpus: of each worker.
        num_gpus: of each worker; several share a GPU if it is a fraction.
    """

    address: str | None = "auto"
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.address, str | None):
            raise SpeechLMError(f"engine.address is {self.address!r}, expected auto, host:port, or null")
        check_number("engine.num_cpus", self.num_cpus, 0)
        check_number("engine.num_gpus", self.num_gpus, 0)

    def default_workers(self, most: int | None = None) -> int:
        """As many as the cluster has room for now."""
        return max(1, _room(self._connect(), self.num_cpus, self.num_gpus))

    def pool(self, work: ChunkWork, resources: Resources) -> Pool:
        """The actors."""
        ray = self._connect()
        if not _room(ray, self.num_cpus, self.num_gpus):
            raise SpeechLMError(
                f"no node of the Ray cluster has engine.num_cpus={self.num_cpus:g} and "
                f"engine.num_gpus={self.num_gpus:g}, which a worker needs"
            )
        return Actors(ray, work, Resources(resources.workers, self.num_cpus, self.num_gpus))

    def _connect(self) -> Any:
        """The module, connected to the cluster; a connection that there is already is used."""
        try:
            import ray
        except ImportError as error:
            raise SpeechLMError("engine=ray needs Ray: pip install 'nemo_speechlm[ray]'") from error
        if not ray.is_initialized():
            alone: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                ray.init(self.address, log_to_driver=False, logging_level=logging.WARNING, **alone)
            except ConnectionError as error:
                raise SpeechLMError(
                    f"engine.address={self.address}: no Ray cluster there; start one by 'ray start --head', or say "
                    "engine.address=null for one on this machine alone"
                ) from error
        return ray


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """How many workers the nodes have room for if nothing else runs there."""
    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = [(node["Resources"].get(kind, 0), wanted) for kind, wanted in (("CPU", cpus), ("GPU", gpus))]
            count += min([int(there / wanted + 1e-6) for there, wanted in has if wanted] or [1])
    return count


class _Actor:
    """A worker: the function over lines is made at the first call, so that what that raises can be told."""

    def __init__(self, work: ChunkWork, folder: str):
        self._work = work
        self._make: ChunkMaker | None = None
        with suppress(OSError):
            os.chdir(folder)  # relative paths are relative to where the command was given

    def ready(self) -> None:
        """Answer: it has been placed."""

    def attempt(self, attempt: Attempt) -> Event | Exception:
        """Make a chunk; what it returns is for :meth:`Pool.wait`."""
        try:
            self._make = self._make or self._work.start()
        except Exception as error:
            return picklable(error)
        try:
            return attempt_at(self._make, attempt, lambda lines: None)
        except BrokenProcess:
            os._exit(1)


class Actors(Pool):
    """Actors; those that died are replaced as soon as there is room."""

    def __init__(self, ray: Any, work: ChunkWork, resources: Resources):
        self._ray, self._wanted = ray, max(1, resources.workers)
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._class, self._work = ray.remote(**options)(_Actor), ray.put(work)
        self._starting: dict[ray.ObjectRef, Any] = {}
        self._idle: list[Any] = []
        self._given: dict[ray.ObjectRef, tuple[Any, Attempt]] = {}
        self._fill()

    def _fill(self) -> None:
        for _ in range(self._wanted - len(self._starting) - len(self._idle) - len(self._given)):
            actor = self._class.remote(self._work, str(Path.cwd()))
            self._starting[actor.ready.remote()] = actor

    @property
    def free(self) -> int:
        """Actors that have been placed and have no chunk."""
        return len(self._idle)

    def submit(self, attempt: Attempt) -> None:
        """Give an actor a chunk."""
        actor = self._idle.pop()
        self._given[actor.attempt.remote(attempt)] = actor, attempt

    def wait(self) -> list[Event]:
        """Wait until an actor has been placed, has ended a chunk, or is gone."""
        self._fill()
        found, _ = self._ray.wait([*self._starting, *self._given])
        return [event for reference in found if (event := self._heed(reference)) is not None]

    def _heed(self, reference: Any) -> Event | None:
        actor, attempt = self._given.pop(reference, (self._starting.pop(reference, None), None))
        try:
            event = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise SpeechLMError(f"Ray could not run a worker: {error}") from error
        except self._ray.exceptions.RayError:  # the process or its node is gone
            self._ray.kill(actor)
            return None if attempt is None else Died(attempt, "a worker process died on it")
        self._idle.append(actor)
        if isinstance(event, Exception):
            raise event
        return event

    def close(self) -> None:
        """Kill all actors."""
        for actor in [*self._starting.values(), *self._idle, *(actor for actor, _ in self._given.values())]:
            self._ray.kill(actor)
