"""What the speed programs share: the machine's own limits, peers in alternation, tables, and rows of CSV.

A program measures its work, its peer's and the machine's ceilings in one process. What it prints and appends are
medians of rounds in which they took turns, so that a machine that slows down slows all of them::

    ceiling = measure_ceiling()
    timings = alternate({"ours": ours, "peer": peer}, rounds=5)
    report("features", [{"case": "1 x 10 s", **timings["ours"].row(), ...}])
"""

import csv
import datetime
import gc
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

FOLDER = Path(__file__).parent


class Timing(NamedTuple):
    """Seconds that some work took, round by round.

    Attributes:
        seconds: one per round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    def row(self) -> dict[str, Any]:
        """Cells of a table."""
        return {"seconds": self.median, "fastest": min(self.seconds), "rounds": len(self.seconds)}


class Ceiling(NamedTuple):
    """What this machine can do at most, measured now.

    Attributes:
        flops: operations per second (a multiplication and an addition are two) of a matrix product, by the fastest
            way that PyTorch has here.
        mm_flops: the same of ``torch.mm``, which on a CPU is not always the fastest.
        bytes: bytes per second of a copy, reading and writing counted.
    """

    flops: float
    mm_flops: float
    bytes: float

    def row(self, operations: float, seconds: float) -> dict[str, float]:
        """Cells of a table about work of so many operations that took so many seconds."""
        rate = operations / seconds
        return {
            "GFLOP": operations / 1e9,
            "GFLOP_per_s": rate / 1e9,
            "mm_GFLOP_per_s": self.mm_flops / 1e9,
            "of_mm": rate / self.mm_flops,
            "product_GFLOP_per_s": self.flops / 1e9,
            "of_product": rate / self.flops,
            "copy_GB_per_s": self.bytes / 1e9,
        }


def peak_memory() -> float:
    """GiB that this process has held at most; its parent's, which ``getrusage`` would count, is left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def synchronize(device: str | torch.device = "cpu") -> None:
    """Wait for an accelerator; a CPU is never behind."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def alternate(
    work: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    warmup: int = 1,
    device: str | torch.device = "cpu",
    collect: bool = True,
) -> dict[str, Timing]:
    """Time several pieces of work in turns: first all of them ``warmup`` times, then ``rounds`` times each.

    Args:
        work: by name.
        rounds: measured calls of each.
        warmup: calls of each before that.
        device: where the work is done; an accelerator is waited for.
        collect: collect garbage before each call; it empties the caches, which short work would feel.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warmup + rounds):
        for name, run in work.items():
            if collect:
                gc.collect()
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def matrix_product(
    rows: int = 2048, inner: int = 768, columns: int = 3072, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Callable[[], Any], float]:
    """A matrix product and its operations; the defaults are a feed-forward layer of Base size."""
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return (lambda: torch.mm(a, b, out=out)), 2.0 * rows * inner * columns


def measure_ceiling(device: str = "cpu", dtype: torch.dtype = torch.float32, seconds: float = 2.0) -> Ceiling:
    """Measure this machine's matrix products and copies for about so many seconds; the best rate of each counts."""
    on_gpu = torch.device(device).type == "cuda"
    products = [matrix_product(2048, 768, 3072), matrix_product(2048, 2048, 2048)]
    if on_gpu:
        products = [matrix_product(8192, 8192, 8192, dtype, device), matrix_product(8192, 4096, 16384, dtype, device)]
    mm = max(_best_rate(run, operations, seconds / 4, device) for run, operations in products)
    fastest = mm
    if not on_gpu and torch.backends.mkldnn.is_available():
        a, weight = torch.randn(1, 768, 1, 2048).to(memory_format=torch.channels_last), torch.randn(3072, 768, 1, 1)
        with torch.no_grad():  # a product, as oneDNN's convolution of kernel 1
            work = lambda: torch.conv2d(a, weight)  # noqa: E731
            fastest = max(fastest, _best_rate(work, 2.0 * 2048 * 768 * 3072, seconds / 4, device))
    source = torch.ones((1 << 30 if on_gpu else 1 << 28) // 4, device=device)  # far larger than any cache
    target = torch.empty_like(source)
    moved = 2.0 * source.numel() * source.element_size()
    return Ceiling(fastest, mm, _best_rate(lambda: target.copy_(source), moved, seconds / 2, device))


def _best_rate(run: Callable[[], Any], amount: float, seconds: float, device: str) -> float:
    """Amount per second of the fastest call."""
    best = float("inf")
    run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return amount / best


def machine(device: str | torch.device = "cpu") -> str:
    """Processor, cores, memory and threads in use, and the accelerator where it is meant."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    text = f"{name}, {os.cpu_count()} cores, {_memory():.0f} GiB, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        text = f"{torch.cuda.get_device_name()}; {text}"
    return text


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return float("nan")


def versions(packages: Sequence[str] = ("torch", "transformers")) -> str:
    """Versions of Python and of the packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def command() -> str:
    """The command that this process was started with, paths relative to the project."""
    program = Path(sys.argv[0]).resolve()
    root = FOLDER.resolve().parent
    name = program.relative_to(root) if program.is_relative_to(root) else program.name
    return shlex.join(["python", str(name), *sys.argv[1:]])


def report(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    packages: Sequence[str] = ("torch", "transformers"),
    device: str | torch.device = "cpu",
    folder: Path = FOLDER,
) -> Path:
    """Print rows as a table and append them to ``NAME.csv`` with date, machine, versions and command.

    Args:
        name: of the CSV.
        rows: cells by column; all rows have the same columns.
        packages: whose versions matter.
        device: where the work was done.
        folder: where the CSV is.

    Raises:
        ValueError: if the CSV that is there has other columns.
    """
    print_table(rows)
    path = folder / f"{name}.csv"
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": machine(device),
        "versions": versions(packages),
        "command": command(),
    }
    full = [{**about, **{column: _cell(value) for column, value in row.items()}} for row in rows]
    is_new = not path.exists() or not path.stat().st_size
    if not is_new:
        with path.open(newline="") as file:
            columns = next(csv.reader(file))
        if columns != list(full[0]):
            raise ValueError(f"{path} has the columns {columns}, the new rows {list(full[0])}; move the old file away")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(full[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(full)
    return path


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same columns, aligned."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(_align(cells) for cells in zip(line, widths, strict=True)).rstrip(), flush=True)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Lines of a Markdown table of rows of the same columns."""
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row.values())} |"


def _align(cell: tuple[str, int]) -> str:
    text, width = cell
    return text.rjust(width) if text[:1].isdigit() or text[:1] == "-" else text.ljust(width)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
