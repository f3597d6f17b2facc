"""Steps that are commands: run in order of what they need, side by side, each with a log, and not twice."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nemo_speechlm.demo.inputs import InputRecord
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.locks import only_writer

_PROGRESS = re.compile(r"(\d+)/(\d+) \[")
_REFUSAL = "another process runs these steps ({holder}); wait until that has ended, or give another output"


class StepsFailed(SpeechLMError):
    """Steps failed, and all that do not need them are done.

    Attributes:
        outputs: of these, and of the steps that were not done for want of them; they may be there from before.
    """

    def __init__(self, message: str, outputs: Collection[Path] = ()):
        super().__init__(message)
        self.outputs = frozenset(outputs)


@dataclass(frozen=True)
class Step:
    """A command and the file that it makes.

    Args:
        name: shown to the user, and the name of the log.
        command: arguments behind the Python interpreter.
        output: the file whose presence says that the step is done.
        needs: names of the steps that come first.
    """

    name: str
    command: Sequence[str]
    output: Path
    needs: tuple[str, ...] = ()


class _Running:
    """A step's process with its record, its log and its bar."""

    def __init__(self, step: Step, logs: Path, position: int, threads: int, device: str | None = None):
        self.step, self.log, self.device, self.started = step, logs / f"{step.name}.log", device, time.monotonic()
        self.record = _record(step, logs)
        self.record.begin(step.command)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        with open(self.log, "w", encoding="utf-8") as file:
            print(_command_line(step), file=file, flush=True)
            self.process = subprocess.Popen(
                [sys.executable, *step.command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
        self.bar = tqdm(desc=step.name, position=position, leave=False, total=1)
        self._first: dict[int, int] = {}  # by total; a step that goes on has not done what was done before

    def update(self) -> bool:
        """Move the bar to where the log is; True when the process has ended."""
        ended = self.process.poll() is not None
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4000))
            found = _PROGRESS.findall(file.read().decode(errors="replace"))
        if found:
            done, total = map(int, found[-1])
            self.bar.total, self.bar.n = max(total, 1), done
            self.bar.initial = self._first.setdefault(total, done)
        self.bar.refresh()
        return ended

    def close(self) -> None:
        self.bar.close()
        ended = self.process.poll() is not None
        if not ended:
            self.process.terminate()
            self.process.wait()
        if self.process.returncode == 0:
            self.record.end()
        elif not self.step.output.exists():
            self.record.forget()
        if not ended:
            return
        seconds = time.monotonic() - self.started
        if self.process.returncode:
            tail = self.log.read_text(errors="replace").splitlines()[-15:]
            raise SpeechLMError(f"{self.step.name} failed; {self.log} ends with:\n" + "\n".join(tail))
        tqdm.write(f"{self.step.name}: {seconds:.0f} s", file=sys.stdout)


def _command_line(step: Step) -> str:
    return f"$ python {shlex.join(step.command)}"


def _record(step: Step, logs: Path) -> InputRecord:
    """Of the files that a step was made from."""
    return InputRecord(logs / f"{step.name}.inputs.json")


def _refuse_other_inputs(step: Step, logs: Path) -> None:
    """Raise if a step that is done was done with other settings, or from other files, than it would be now.

    Arguments with a slash are paths: the files count, wherever they are.
    """
    _record(step, logs).check(step.command, f"{step.name}: {step.output}")


def _report_done(steps: Sequence[Step], logs: Path) -> None:
    """Name the steps that were done before, or raise with all those that would be done differently now."""
    refused = []
    for step in steps:
        try:
            _refuse_other_inputs(step, logs)
        except SpeechLMError as error:
            refused.append(str(error))
    if refused:
        raise SpeechLMError("\n".join(refused))
    for step in steps:
        print(f"{step.name}: done before ({step.output})")


def step_state(step: Step, logs: Path) -> str:
    """Whether a step is "to do", "done", or done with other settings or from other files, which it says."""
    if not step.output.exists():
        return "to do"
    try:
        _refuse_other_inputs(step, logs)
    except SpeechLMError as error:
        return f"refused: {error}"
    return "done"


def run_steps(
    steps: Sequence[Step], logs: Path, jobs: int, devices: Sequence[str] = (), keep_going: bool = False
) -> None:
    """Run the steps whose outputs are not there yet, at most ``jobs`` at once, each when its needs are done.

    Each process computes with as many threads as there are cores for each job, or as OMP_NUM_THREADS says.

    Args:
        steps: what is to be done.
        logs: folder for their output.
        jobs: processes at once.
        devices: each process gets one of these alone as CUDA_VISIBLE_DEVICES, ``"0"`` or ``"0,1"``; no more run at
            once than there are devices. Empty: all see all.
        keep_going: where a step fails, go on with those that do not need it, and raise in the end.

    Raises:
        SpeechLMError: when a step fails, with the end of its log; the other running steps are ended. Also if a step
            needs one that is not among them, or was done before with other settings or from other files, or if
            another process runs steps with this folder of logs.
        StepsFailed: in the end, with ``keep_going``.
    """
    with only_writer(logs / "steps", refusal=_REFUSAL):
        _run_steps(steps, logs, min(jobs, len(devices)) if devices else jobs, devices, keep_going)


def _run_steps(steps: Sequence[Step], logs: Path, jobs: int, devices: Sequence[str], keep_going: bool) -> None:
    """:func:`run_steps` once nobody else runs them."""
    cores = available_cores()
    unknown = {need for step in steps for need in step.needs} - {step.name for step in steps}
    if unknown:
        raise SpeechLMError(f"steps need {', '.join(sorted(unknown))}, which no step makes")
    done = {step.name for step in steps if step.output.exists()}
    waiting = [step for step in steps if step.name not in done]
    _report_done([step for step in steps if step.name in done], logs)
    running: list[_Running] = []
    failed: dict[str, SpeechLMError] = {}
    # Told to end, this process ends those it has started; trainings among them keep a checkpoint then.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            waiting = [step for step in waiting if not _lost(step, steps, failed)]
            ready = [step for step in waiting if done.issuperset(step.needs)]
            while ready and len(running) < jobs:
                step = ready.pop(0)
                waiting.remove(step)
                position = min(set(range(jobs)) - {-r.bar.pos for r in running} or {0})
                device = next((d for d in devices if d not in {r.device for r in running}), None)
                running.append(_Running(step, logs, position, max(1, cores // jobs), device))
            time.sleep(0.5)
            for process in [r for r in running if r.update()]:
                running.remove(process)
                for name, check in list(_checks(process, steps, done, logs)):
                    try:
                        check()
                        done.add(name)
                    except SpeechLMError as error:
                        if not keep_going:
                            raise
                        done.discard(name)
                        failed[name] = error
                        tqdm.write(str(error), file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running:
            process.close()
    if failed:
        lost = [step.name for step in steps if step.name not in failed and _lost(step, steps, failed)]
        behind = f"; for want of them: {', '.join(lost)}" if lost else ""
        outputs = [step.output for step in steps if step.name in {*failed, *lost}]
        raise StepsFailed(f"failed: {', '.join(failed)}{behind}. Their logs are in {logs}", outputs)


def _checks(
    process: _Running, steps: Sequence[Step], done: Collection[str], logs: Path
) -> Iterator[tuple[str, Callable[[], None]]]:
    """What to check when a process has ended: it, and the steps that were done before from what it has made anew."""
    yield process.step.name, process.close
    for step in steps:
        if step.name in done and process.step.name in step.needs:
            yield step.name, partial(_refuse_other_inputs, step, logs)


def _lost(step: Step, steps: Sequence[Step], failed: Mapping[str, object]) -> bool:
    """Whether a step needs one that has failed, or one that is lost itself."""
    needed = [other for other in steps if other.name in step.needs]
    return any(other.name in failed or _lost(other, steps, failed) for other in needed)
