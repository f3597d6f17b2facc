"""Where a job keeps what it has done so far, from which a killed job resumes, and what it leaves beside its output."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from nemo_speechlm.errors import InputError
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, has_results, scan
from nemo_speechlm.jobs.lines import LineIndex
from nemo_speechlm.jobs.plan import Plan, load_plan, save_json

SUBMITTED = "slurm.json"
"""Which SLURM jobs a command waits for: the next one cancels them, whatever becomes of their results."""


_SKIPS_BAD = "skips_bad"
"""There where a command with ``skip_bad=true`` has worked: bad lines may be left out."""


def skipped_path(output: str | Path) -> Path:
    """Where a job lists what it left out."""
    output = Path(output)
    return output.with_name(output.name + ".skipped.jsonl")


def progress_path(output: str | Path) -> Path:
    """The folder where a job keeps its results until all are there."""
    output = Path(output)
    return output.with_name(f".job.{output.name}")


class JobFolder:
    """A job's folder: its plan, the index of its lines, the files of its chunks."""

    def __init__(self, output: Path):
        self.output, self.path = output, progress_path(output)
        self._plan = self.path / "plan.json"

    def exists(self) -> bool:
        """Whether there is a job. A folder without a plan is what was left when a finished one was removed."""
        return self._plan.exists()

    def chunks(self, plan: Plan, batches: BatchedLines) -> list[Chunk]:
        """What is done of this plan already; nothing if the folder is another plan's."""
        try:
            if json.loads(self._plan.read_text(encoding="utf-8")) != asdict(plan):
                return []
        except (FileNotFoundError, ValueError):
            return []
        return scan(self.path, plan.digest, batches)

    def refuse_other(self, plan: Plan) -> None:
        """Raise if another plan's job has done something here already, which beginning this one would remove.

        Raises:
            InputError: saying in what the other plan differs.
        """
        try:
            other = load_plan(json.loads(self._plan.read_text(encoding="utf-8")), self._plan)
        except (OSError, ValueError, InputError):
            return
        if other != plan and has_results(self.path):
            raise InputError(
                f"its job was begun with {other.difference(plan)}; give that again to go on, "
                "overwrite=true to begin anew, or another output",
                self.output,
            )

    @property
    def skips_bad(self) -> bool:
        """Whether a command that was told to leave out bad lines has worked on the job."""
        return (self.path / _SKIPS_BAD).exists()

    def begin(self, plan: Plan, index: LineIndex, done: list[Chunk], skip_bad: bool = False) -> None:
        """Make the folder this plan's; what another plan's job had done goes."""
        if not done:
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in (index.path.name, SUBMITTED):  # index.path: a gzipped source, unpacked
                    path.unlink()
        if skip_bad:
            (self.path / _SKIPS_BAD).touch()
        index.save(self.path)
        save_json(asdict(plan), self._plan)

    def remove_if_bare(self) -> None:
        """Remove it if nothing is in it that somebody may want: results, or logs of SLURM's jobs."""
        if not has_results(self.path) and not any(path.is_dir() for path in self.path.iterdir()):
            self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it; the plan first, so that half a folder is no job."""
        self._plan.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
