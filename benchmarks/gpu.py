"""Everything that needs a GPU, in one run of under 8 minutes, with a report.

    python benchmarks/gpu.py [--out .] [--minutes 8]
    TRITON_INTERPRET=1 python benchmarks/gpu.py --smoke     # tiny sizes on a CPU: does the program run?

Kernels (torch and triton are enough; NeMo need not be installed):

- masking, swapping and padding in one pass: the Triton kernel, its PyTorch twin and the compiled twin, in turns, in
  GB/s of the bytes that must move at least, beside the copy bandwidth measured in the same run; results are compared;
- the RNN-T lattice: loss and gradients by the Triton kernel beside PyTorch's diagonals, compared;
- attention with relative positions beside plain fused attention, forward and backward, with the memory that they take;
- spans drawn on the device.

Steps (with NeMo): features, and a pretraining step of Base size with its optimizer in bfloat16, eager and compiled,
in TFLOP/s beside the measured bfloat16 matrix product; how often a step waits for the device; graphs compiled for
batches of five lengths. Writes gpu.csv, gpu_steps.csv and gpu.md into ``--out``.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import Ceiling, Timing, alternate, machine, markdown_table, measure_ceiling, report, versions
from nemo_speechlm.kernels.attention import Positions, relative_attention
from nemo_speechlm.kernels.backend import Backend
from nemo_speechlm.kernels.lattice import lattice_nll
from nemo_speechlm.kernels.mixing import mix_states_torch
from nemo_speechlm.kernels.mixing_triton import mix_states_triton

PACKAGES = ("torch", "triton", "nemo_toolkit", "apex")
Row = dict[str, Any]


class Bench:
    """Device, sizes and time of a run."""

    def __init__(self, smoke: bool, minutes: float):
        self.device = "cpu" if smoke else "cuda"
        self.smoke, self.end = smoke, time.monotonic() + 60 * minutes
        self.rounds = 2 if smoke else 20
        self.dtype = torch.bfloat16
        if smoke:
            self.ceiling = measure_ceiling(seconds=0.4)
        else:
            self.ceiling = measure_ceiling("cuda", self.dtype)

    def left(self) -> bool:
        """Whether there is time for more than a word."""
        return time.monotonic() < self.end

    def alternate(self, work: dict[str, Callable[[], Any]], calls: int = 1) -> dict[str, Timing]:
        """Timings of a call, several made in a row where one is too short to be timed."""

        def repeated(run: Callable[[], Any]) -> Callable[[], None]:
            def run_all() -> None:
                for _ in range(calls):
                    run()

            return run_all

        timed = alternate({name: repeated(run) for name, run in work.items()}, self.rounds, 3, self.device, False)
        return {name: Timing(tuple(s / calls for s in timing.seconds)) for name, timing in timed.items()}


def mixing_inputs(bench: Bench, B: int, T: int, D: int, V: int = 364) -> dict[str, Tensor]:
    """States as pretraining has them: half masked, 15% swapped, a tenth of the frames padding in the longer rows."""
    on = {"device": bench.device}
    lengths = torch.linspace(0.8 * T, T, B, **on)
    padding = torch.arange(T, **on) >= lengths.unsqueeze(1)
    mask = (torch.rand(B, T // 10 + 1, **on) < 0.5).repeat_interleave(10, 1)[:, :T] & ~padding
    swap = (torch.rand(B, T // 5 + 1, **on) < 0.3).repeat_interleave(5, 1)[:, :T] & ~mask & ~padding
    return {
        "states_BTD": torch.randn(B, T, D, **on).to(bench.dtype),
        "mask_BT": mask,
        "mask_vector_D": torch.randn(D, **on),
        "swap_BT": swap,
        "units_BT": torch.randint(V, (B, T), **on),
        "embedding_VD": torch.randn(V, D, **on),
        "padding_BT": padding,
    }


def mixing_rows(bench: Bench) -> list[Row]:
    """The fused kernel, its twin and the compiled twin."""
    rows = []
    for B, T, D in [(2, 50, 32)] if bench.smoke else [(32, 780, 768), (8, 780, 768), (32, 780, 1024)]:
        inputs = mixing_inputs(bench, B, T, D)
        leaves = {k: v.requires_grad_() for k, v in inputs.items() if v.is_floating_point()}
        gradient = torch.randn_like(inputs["states_BTD"])
        mixes = {"triton": mix_states_triton, "torch": mix_states_torch}
        if not bench.smoke:
            mixes["torch compiled"] = torch.compile(mix_states_torch, dynamic=False)
        fixed = {k: v.detach() for k, v in inputs.items()}

        def both(mix: Callable[..., Tensor]) -> Any:
            return torch.autograd.grad(mix(**inputs), list(leaves.values()), gradient)  # noqa: B023 - called at once

        expected = [mix_states_torch(**fixed), *both(mix_states_torch)]
        differences = {}
        for name, mix in mixes.items():
            found = [mix(**fixed), *both(mix)]
            differences[name] = max(
                float((a.float() - b.float()).abs().max() / b.float().abs().max())
                for a, b in zip(found, expected, strict=True)
            )
        state_bytes = inputs["states_BTD"].numel() * inputs["states_BTD"].element_size()
        padded, masked = float(inputs["padding_BT"].float().mean()), float(inputs["mask_BT"].float().mean())
        swapped = float(inputs["swap_BT"].float().mean())
        # Forward reads what is kept and writes all; backward reads all that is not padding and writes all.
        least = {
            "forward": state_bytes * (2 - padded - masked - swapped) + 4 * D * swapped * B * T,
            "forward and backward": state_bytes * (4 - 2 * padded - masked - swapped) + 4 * D * swapped * B * T * 2,
        }
        for direction, work in (
            ("forward", {name: (lambda mix=mix: mix(**fixed)) for name, mix in mixes.items()}),  # noqa: B023
            ("forward and backward", {name: (lambda mix=mix: both(mix)) for name, mix in mixes.items()}),
        ):
            timings = bench.alternate(work, 1 if bench.smoke else 20)
            for name, timing in timings.items():
                rate = least[direction] / timing.median
                rows.append(
                    kernel_row(
                        bench, f"mixing {B} x {T} x {D}, {direction}", name, timing, timings["torch"],
                        GB_per_s=rate / 1e9, of_copy=rate / bench.ceiling.bytes, difference=differences[name],
                    )
                )  # fmt: skip
    return rows


def lattice_rows(bench: Bench) -> list[Row]:
    """The RNN-T loss and its gradients: the Triton kernel beside PyTorch's diagonals."""
    rows = []
    for B, T, U in [(2, 6, 3)] if bench.smoke else [(4, 100, 1), (8, 250, 60), (16, 500, 300), (2, 1500, 1100)]:
        blank = -torch.rand(B, T, U + 1, device=bench.device)
        emit = -torch.rand(B, T, U, device=bench.device)
        leaves = [blank.requires_grad_(), emit.requires_grad_()]
        frames = torch.randint(T // 2, T + 1, (B,), device=bench.device)
        targets = torch.randint(U // 2, U + 1, (B,), device=bench.device)

        def both(backend: Backend) -> list[Tensor]:
            nll = lattice_nll(*leaves, frames, targets, backend)  # noqa: B023 - called at once
            return [nll, *torch.autograd.grad(nll.sum(), leaves)]  # noqa: B023

        expected, found = both("torch"), both("triton")
        difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
        timings = bench.alternate({name: (lambda name=name: both(name)) for name in ("triton", "torch")})
        for name, timing in timings.items():
            rows.append(
                kernel_row(
                    bench, f"RNN-T lattice {B} x {T} x {U}, forward and backward", name, timing, timings["torch"],
                    difference=difference if name == "triton" else 0.0,
                )
            )  # fmt: skip
    return rows


def attention_rows(bench: Bench) -> list[Row]:
    """Relative positions in the attention, beside fused attention without them."""
    rows = []
    for B, H, T, K in [(2, 2, 40, 8)] if bench.smoke else [(32, 8, 780, 96), (8, 8, 780, 96), (8, 16, 780, 64)]:
        on = {"device": bench.device, "dtype": bench.dtype, "requires_grad": True}
        q, k, v = (torch.randn(B, H, T, K, **on) for _ in range(3))
        before, after = min(T, 160) - 1, min(T - 1, 160)
        table = torch.randn(before + 1 + after, K, device=bench.device, requires_grad=True)
        padding = torch.arange(T, device=bench.device) >= torch.full((B, 1), int(0.95 * T), device=bench.device)
        positions = Positions(table, before, after)
        shown = ~padding[:, None, None]
        leaves = [q, k, v]
        ways: dict[str, Callable[[], Tensor]] = {
            "relative": lambda: relative_attention(q, k, v, positions, padding),  # noqa: B023 - called at once
            "plain": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=shown),  # noqa: B023
        }
        if not bench.smoke:
            compiled = torch.compile(relative_attention, dynamic=True)
            ways["relative compiled"] = lambda: compiled(q, k, v, positions, padding)  # noqa: B023
        work, memory = {}, {}
        for name, way in ways.items():
            inputs = leaves if name == "plain" else [*leaves, table]
            work[name] = lambda way=way, inputs=inputs: torch.autograd.grad(way().float().sum(), inputs)
            memory[name] = peak_of(work[name], bench)
        timings = bench.alternate(work, 1 if bench.smoke else 5)
        for name, timing in timings.items():
            rows.append(
                kernel_row(
                    bench, f"attention {B} x {H} x {T} x {K}, forward and backward", name, timing, timings["plain"],
                    peak_MiB=memory[name],
                )
            )  # fmt: skip
    return rows


def span_rows(bench: Bench) -> list[Row]:
    """Spans drawn on the device."""
    try:
        from nemo_speechlm.modules.masking import SpanMask
    except ImportError:  # the package of modules needs NeMo
        return []
    lengths = torch.full((32,), 750, device=bench.device)
    timings = bench.alternate({"device": lambda: SpanMask(0.8, 10, 2).draw(lengths, 750)}, 1 if bench.smoke else 20)
    return [kernel_row(bench, "spans 32 x 750", "device", timings["device"], timings["device"])]


def kernel_row(bench: Bench, work: str, how: str, timing: Timing, peer: Timing, **cells: float) -> Row:
    """A row of gpu.csv."""
    optional = {name: cells.get(name, "") for name in ("GB_per_s", "of_copy", "peak_MiB", "difference")}
    own = {"work": work, "how": how, "us": timing.median * 1e6, "of_peer": timing.median / peer.median}
    return {**own, **optional, "copy_GB_per_s": bench.ceiling.bytes / 1e9}


def peak_of(work: Callable[[], Any], bench: Bench, all_of_it: bool = False) -> float:
    """MiB that work takes on the device beyond what is there before, or with that: a model, its optimizer's state."""
    work()
    if bench.smoke:
        return float("nan")
    torch.cuda.synchronize()
    before = 0 if all_of_it else torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def step_rows(bench: Bench) -> list[Row]:
    """Features and pretraining steps in bfloat16."""
    rows = steps_of(bench, compiled=False)
    if bench.smoke:
        return rows
    torch.cuda.empty_cache()
    if not bench.left():
        print("no time left for compiled steps", flush=True)
        return rows
    return [*rows, *steps_of(bench, compiled=True)]


def steps_of(bench: Bench, compiled: bool) -> list[Row]:
    """The same, eager or compiled."""
    from torch._dynamo.utils import counters

    from benchmarks.base import batch, feature_operations, our_model, step_operations
    from nemo_speechlm.models.common.acceleration import compile_layers

    utterances, seconds, sentences, units = (2, 1, 2, 50) if bench.smoke else (16, 15, 9, 500)

    def make_batch(share: float) -> Any:
        data = batch(utterances, max(1, int(seconds * share)), sentences, int(units * share), bench.device)
        # As the model leaves them: lengths of text stay on the host.
        on_host = {"unit_lengths": data.text.unit_lengths.cpu(), "target_lengths": data.text.target_lengths.cpu()}
        return data._replace(text=data.text._replace(**on_host))

    model = our_model(**({"n_layers": 1, "d_ff": 64} if bench.smoke else {})).to(bench.device).train()
    if compiled:
        compile_layers(model.encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=not bench.smoke)
    whole = make_batch(1.0)

    def step(data: Any = whole) -> None:
        with torch.autocast(bench.device, bench.dtype):
            loss, _ = model.compute_loss(data)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def features() -> None:
        with torch.no_grad(), torch.autocast(bench.device, bench.dtype):
            model.extract_features(whole.speech.audio, whole.speech.audio_lengths)

    memory = peak_of(step, bench, all_of_it=True)
    waits = synchronizations(step, bench)
    graphs = counters["stats"]["unique_graphs"]
    for share in (0.95, 0.8, 0.7, 0.6, 0.5):
        step(make_batch(share))
    more = counters["stats"]["unique_graphs"] - graphs
    timings = bench.alternate({"features": features, "step": step})
    operations = {
        "features": feature_operations(utterances, 16000 * seconds),
        "step": step_operations(utterances, 16000 * seconds, sentences, units),
    }
    rows = []
    for work, timing in timings.items():
        rate = operations[work] / timing.median
        text = f" and {sentences} x {units} units" if work == "step" else ""
        rows.append(
            {
                "work": f"{work}, {utterances} x {seconds} s{text}",
                "how": "compiled" if compiled else "eager",
                "ms": timing.median * 1e3,
                "audio_hours_per_hour": utterances * seconds / timing.median,
                "TFLOP_per_s": rate / 1e12,
                "product_TFLOP_per_s": bench.ceiling.flops / 1e12,
                "of_product": rate / bench.ceiling.flops,
                "peak_GiB": memory / 1024 if work == "step" else "",
                "waits_for_device": waits if work == "step" else "",
                "graphs_for_5_more_lengths": more if work == "step" else "",
            }
        )
    return rows


def synchronizations(step: Callable[[], None], bench: Bench) -> int:
    """How often the host waits for the device in a step, as PyTorch sees it."""
    if bench.smoke:
        return 0
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in caught if "synchroniz" in str(w.message)]
    for where in sorted({f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}):
        print("waits for the device at", where, flush=True)
    return len(waits)


def write_report(folder: Path, bench: Bench, tables: dict[str, list[Row]]) -> None:
    ceiling: Ceiling = bench.ceiling
    lines = ["# On a GPU", "", f"{machine(bench.device)}; {versions(PACKAGES)}; `{' '.join(sys.argv)}`.", ""]
    lines += [
        f"Measured in the same run: matrix products {ceiling.flops / 1e12:.4g} TFLOP/s in bfloat16, copies "
        f"{ceiling.bytes / 1e9:.4g} GB/s.",
        "",
    ]
    for title, rows in tables.items():
        if rows:
            lines += [f"## {title}", "", *markdown_table(rows), ""]
    (folder / "gpu.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--minutes", type=float, default=7.0, help="after which nothing more is begun")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        sys.exit("error: no CUDA device; --smoke runs tiny sizes on a CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bench = Bench(options.smoke, options.minutes)
    kernels = [*mixing_rows(bench), *lattice_rows(bench), *attention_rows(bench), *span_rows(bench)]
    report("gpu", kernels, PACKAGES, bench.device, options.out)
    try:
        import nemo.collections.asr  # noqa: F401
    except ImportError as error:
        print(f"NeMo is not installed ({error}): no steps")
        steps: list[Row] = []
    else:
        steps = step_rows(bench)
        report("gpu_steps", steps, PACKAGES, bench.device, options.out)
    write_report(options.out, bench, {"Kernels": kernels, "Steps": steps})


if __name__ == "__main__":
    main()
