"""One job on several machines: each does a part of the lines; the joined outputs equal the output of one machine."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import file_digest, plain
from nemo_speechlm.jobs.plan import Plan, load_plan, save_json
from nemo_speechlm.jobs.report import JobReport

_FORM = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count`` parts of a job's lines.

    >>> Shard.parse("1/4").part(10)
    (2, 5)
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"i/n"``, 0 <= i < n.

        Raises:
            SpeechLMError: if it is anything else.
        """
        found = _FORM.fullmatch(str(text))
        if not found or not int(found[1]) < int(found[2]):
            raise SpeechLMError(f"shard is {text!r}, expected i/n with i from 0 to n - 1, such as 0/4, or join/n")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def part(self, total: int, batch_size: int = 1) -> tuple[int, int]:
        """First line and the line after the last one, counted from 0; batches are not split."""
        batches = -(-total // batch_size)
        first, last = (batches * i // self.count * batch_size for i in (self.index, self.index + 1))
        return min(first, total), min(last, total)

    def path(self, output: str | Path) -> Path:
        """Where this shard's part of ``output`` is written: ``units.json.gz`` becomes ``units.shard0of4.json.gz``."""
        output = Path(output)
        stem, dot, endings = output.name.partition(".")
        return output.with_name(f"{stem}.shard{self.index}of{self.count}{dot}{endings}")


def written_path(output: str | Path, shard: str | None) -> Path:
    """What a command with this option ``shard`` writes: a shard's part of an output, or the output."""
    if shard is None or parse_join(shard) is not None:
        return Path(output)
    return Shard.parse(shard).path(output)


def parse_join(text: str | None) -> int | None:
    """The number of shards that ``join/n`` speaks of, or None if it says something else."""
    found = re.fullmatch(r"join/([1-9]\d*)", str(text))
    return int(found[1]) if found else None


def shard_outputs(output: str | Path, count: int) -> list[Path]:
    """The outputs of all shards.

    Raises:
        InputError: at the first that is not there.
    """
    paths = [Shard(index, count).path(output) for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            raise InputError(f"no such file; run the command with shard={index}/{count} first", path)
    return paths


def shard_plan_path(output: str | Path) -> Path:
    """Where a shard's plan is, beside the shard's output; who moves the one moves the other."""
    output = Path(output)
    return output.with_name(output.name + ".plan.json")


def save_shard_plan(
    output: Path, plan: Plan, shard: Shard, report: JobReport, given: Mapping[str, Any] | None = None
) -> None:
    """Write down what a shard's output was made of, for :func:`check_shards`."""
    made = {
        "plan": asdict(plan),
        "shard": str(shard),
        "given": plain(given or {}),
        "written": report.written,
        "skipped": report.skipped.total(),
        "sha256": file_digest(output),
    }
    save_json(made, shard_plan_path(output))


def check_shards(paths: list[Path], expected: Plan, given: Mapping[str, Any]) -> None:
    """Check that outputs are all shards of one job, and as they were written.

    Args:
        paths: the outputs, in order.
        expected: a plan of the same source; of its settings those are compared that it has.
        given: the options as the user gave them.

    Raises:
        InputError: naming the shard and in what it differs.
    """
    first: Plan | None = None
    for index, path in enumerate(paths):
        beside = shard_plan_path(path)
        again = f"run the command with shard={index}/{len(paths)} overwrite=true again"
        try:
            made = json.loads(beside.read_text(encoding="utf-8"))
            plan, shard = load_plan(made["plan"], beside), made["shard"]
        except FileNotFoundError as error:
            raise InputError(f"no such file, which says what the shard was made of; {again}", beside) from error
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"is not the plan of a shard: {error!r}; {again}", beside) from error
        if shard != str(Shard(index, len(paths))):
            raise InputError(f"is shard {shard}, expected {index}/{len(paths)}; {again}", path)
        if (plan.source, plan.lines) != (expected.source, expected.lines):
            difference: str | None = f"another manifest ({plan.lines} lines, not these {expected.lines})"
        else:
            asked = Plan.of(plan.source, plan.lines, plan.batch_size, {**plan.settings, **expected.settings, **given})
            said = Plan.of(plan.source, plan.lines, plan.batch_size, {**plan.settings, **made["given"]})
            difference = said.difference(asked) or (first.difference(plan) if first else None)
        if difference:
            raise InputError(f"was made with {difference}; {again}", path)
        if file_digest(path) != made["sha256"]:
            raise InputError(f"was changed after it was made; {again}", path)
        first = first or plan
