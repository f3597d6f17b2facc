"""Steps that are commands: run in order of what they need, side by side, each with a log, and not twice."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nemo_speechlm.errors import SpeechLMError

_PROGRESS = re.compile(r"(\d+)/(\d+) \[")


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
    """A step's process with its log and its bar."""

    def __init__(self, step: Step, log: Path, position: int, threads: int):
        self.step, self.log, self.started = step, log, time.monotonic()
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        with open(log, "w", encoding="utf-8") as file:
            print("$ python", shlex.join(step.command), file=file, flush=True)
            self.process = subprocess.Popen(
                [sys.executable, *step.command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
        self.bar = tqdm(desc=step.name, position=position, leave=False, total=1)

    def update(self) -> bool:
        """Move the bar to where the log is; True when the process has ended."""
        ended = self.process.poll() is not None
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4000))
            found = _PROGRESS.findall(file.read().decode(errors="replace"))
        if found:
            done, total = map(int, found[-1])
            self.bar.total, self.bar.n = max(total, 1), done
        self.bar.refresh()
        return ended

    def close(self) -> None:
        self.bar.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
            return
        seconds = time.monotonic() - self.started
        if self.process.returncode:
            tail = self.log.read_text(errors="replace").splitlines()[-15:]
            raise SpeechLMError(f"{self.step.name} failed; {self.log} ends with:\n" + "\n".join(tail))
        tqdm.write(f"{self.step.name}: {seconds:.0f} s", file=sys.stdout)


def _check_command(step: Step, log: Path) -> None:
    """Raise if a step's log says that another command made what is there (of the script, only the name counts)."""
    if not log.exists():
        return
    with open(log, encoding="utf-8", errors="replace") as file:
        before = shlex.split(file.readline())[2:]  # behind "$ python"
    now = [Path(step.command[0]).name, *step.command[1:]]
    before[:1] = [Path(script).name for script in before[:1]]
    if before != now:
        differ = [f"then {a}" for a in before if a not in now] + [f"now {a}" for a in now if a not in before]
        raise SpeechLMError(
            f"{step.name}: another command made {step.output} ({'; '.join(differ)}); give another output, or delete it"
        )


def run_steps(steps: Sequence[Step], logs: Path, jobs: int) -> None:
    """Run the steps whose outputs are not there yet, at most ``jobs`` at once, each when its needs are done.

    Each process computes with as many threads as there are cores for each job, or as OMP_NUM_THREADS says.

    Raises:
        SpeechLMError: when a step fails, with the end of its log; the other running steps are ended. Also if a step
            needs one that is not among them, or was done before by another command.
    """
    logs.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    unknown = {need for step in steps for need in step.needs} - {step.name for step in steps}
    if unknown:
        raise SpeechLMError(f"steps need {', '.join(sorted(unknown))}, which no step makes")
    done = {step.name for step in steps if step.output.exists()}
    for step in steps:
        if step.name in done:
            _check_command(step, logs / f"{step.name}.log")
    waiting = [step for step in steps if step.name not in done]
    for step in steps:
        if step.name in done:
            print(f"{step.name}: done before ({step.output})")
    running: list[_Running] = []
    try:
        while waiting or running:
            ready = [step for step in waiting if done.issuperset(step.needs)]
            while ready and len(running) < jobs:
                step = ready.pop(0)
                waiting.remove(step)
                position = min(set(range(jobs)) - {-r.bar.pos for r in running} or {0})
                running.append(_Running(step, logs / f"{step.name}.log", position, max(1, cores // jobs)))
            time.sleep(0.5)
            for process in [r for r in running if r.update()]:
                running.remove(process)
                process.close()
                done.add(process.step.name)
    finally:
        for process in running:
            process.close()
