"""What is found on a machine: versions, devices, the kernels and optimizers that run there, and what is missing."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from nemo_speechlm import __version__
from nemo_speechlm.errors import first_line
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.kernels.backend import BACKEND_VARIABLE
from nemo_speechlm.kernels.norm import layer_norm

PACKAGES = (
    "torch", "nemo_toolkit", "lightning", "lhotse", "hydra-core", "numpy", "soundfile", "transformers", "triton",
    "cuda-bindings", "apex",
)  # fmt: skip
"""Whose versions decide what happens, and what is asked for first when something does not work."""


@dataclass(frozen=True)
class Missing:
    """Something optional that is not there.

    Args:
        name: of the package or program.
        for_what: what cannot be done without it.
        way: how to get it.
    """

    name: str
    for_what: str
    way: str


@dataclass(frozen=True)
class Environment:
    """What was found.

    Args:
        package: our version.
        system: Python and operating system.
        versions: by package, of those that are installed.
        devices: a line each.
        in_use: what runs, by what it is used for.
        missing: what is not there, and what for.
    """

    package: str
    system: str
    versions: dict[str, str]
    devices: list[str]
    in_use: dict[str, str]
    missing: list[Missing] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """A page for people."""
        return "\n".join([
            f"nemo_speechlm {self.package}, {self.system}",
            "",
            *_table("versions", self.versions.items()),
            *_table("devices", ((line, "") for line in self.devices)),
            *_table("in use", self.in_use.items()),
            *_table("missing", ((m.name, f"for {m.for_what}: {m.way}") for m in self.missing)),
        ]).rstrip()  # fmt: skip


def find_environment() -> Environment:
    """Look at this machine."""
    gpu = torch.cuda.is_available()
    versions = {name: found for name in PACKAGES if (found := _version(name)) is not None}
    versions["torch"] = torch.__version__  # which tells the build, too: 2.13.0+cu130 comes as 2.13.0 from PyPI
    return Environment(
        __version__,
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}",
        versions,
        list(_devices(gpu)),
        dict(_in_use(gpu)),
        list(_missing(gpu)),
    )


def _devices(gpu: bool) -> Iterator[str]:
    cores = available_cores()
    yield f"cpu: {_processor()}, {cores} cores for this process, {torch.get_num_threads()} threads of PyTorch"
    for index in range(torch.cuda.device_count() if gpu else 0):
        found = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}: {found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability "
            f"{found.major}.{found.minor}"
        )
    if not gpu:
        yield f"no GPU: {_why_no_gpu()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built for CPUs"
    return f"PyTorch is built for CUDA {torch.version.cuda}, and finds no device with a driver for it"


def _in_use(gpu: bool) -> Iterator[tuple[str, str]]:
    asked = os.environ.get(BACKEND_VARIABLE, "auto")
    if asked != "auto":
        kernels = f"{asked} everywhere ({BACKEND_VARIABLE}={asked})"
    elif not gpu:
        kernels = "PyTorch's"
    else:
        kernels = "Triton's" if find_spec("triton") is not None else "PyTorch's: triton is missing"
    yield "masking, swapping, padding, RNN-T lattice", kernels
    yield "matrix products on the CPU", "oneDNN's" if torch.backends.mkldnn.is_available() else "torch.mm"
    yield "layer norm", f"apex's{'' if gpu else ', on a GPU'}" if _has_apex_norm() else "PyTorch's"
    yield "optimizer adamw", _adamw(gpu)
    why_not = _why_no_cuda_graphs(gpu)
    yield "CUDA graphs in NeMo's transducer decoders", "used" if why_not is None else f"not used: {why_not}"


def _has_apex_norm() -> bool:
    return type(layer_norm(1)) is not torch.nn.LayerNorm


def _adamw(gpu: bool) -> str:
    """What :class:`~nemo_speechlm.models.common.acceleration.Accelerated` makes of ``adamw``."""
    if not gpu:
        return "PyTorch's"
    return "apex's FusedAdam" if _has_apex_adam() else "PyTorch's, fused (not in 16-mixed)"


def _has_apex_adam() -> bool:
    try:
        from apex.optimizers import FusedAdam  # noqa: F401  # as NeMo asks
    except (ImportError, ModuleNotFoundError):
        return False
    return True


def _why_no_cuda_graphs(gpu: bool) -> str | None:
    if not gpu:
        return "no GPU"
    from nemo.core.utils.cuda_python_utils import check_cuda_python_cuda_graphs_conditional_nodes_supported

    try:
        check_cuda_python_cuda_graphs_conditional_nodes_supported()
    except Exception as error:  # what NeMo takes for "not supported", too
        return first_line(error)
    return None


def _missing(gpu: bool) -> Iterator[Missing]:
    extras = (
        ("triton", "Triton's kernels on a GPU", "gpu", gpu),
        ("cuda.bindings", "CUDA graphs in NeMo's transducer decoders", "gpu", gpu),
        ("phonemizer", "other languages than English, and the demo's voices", "languages", True),
        ("espeakng_loader", "other languages than English, and the demo's voices", "languages", True),
        ("flashlight", "decoding=lexicon", "lm", True),
        ("starlette", "the page of serve.py", "serve", True),
        ("uvicorn", "the page of serve.py", "serve", True),
        ("onnx", "checks of exported ONNX files", "export", True),
        ("onnxruntime", "checks of exported ONNX files", "export", True),
        ("nemo_text_processing", "normalizer=nemo", "normalize", True),
    )
    for module, what, extra, wanted in extras:
        if wanted and not _importable(module):
            yield Missing(module, what, f"pip install 'nemo_speechlm[{extra}]'")
    if gpu and not _has_apex_adam():
        yield Missing(
            "apex",
            "its fused layer norm and FusedAdam",
            "it comes with NVIDIA's containers; PyPI's package of that name is another one",
        )
    if shutil.which("lmplz") is None:
        yield Missing("lmplz", "train_ngram.py builder=kenlm", "build KenLM; without it our own builder is used")


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _table(title: str, rows: Any) -> Iterator[str]:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    if rows:
        yield title
        yield from (f"  {name:{width}}  {value}".rstrip() for name, value in rows)
        yield ""
