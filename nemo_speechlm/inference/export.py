"""Models as ONNX or TorchScript files, through NeMo's ``Exportable``, compared with the original."""

import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.core.classes import ModelPT
from torch import Tensor
from torch.onnx import OnnxExporterError

from nemo_speechlm.checks import check_whole
from nemo_speechlm.decoding.tokens import is_ctc, labels_of
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.front_end import MelFrontEnd

KINDS = {".onnx": "ONNX", ".ts": "TorchScript"}


def export(
    model: ModelPT,
    output: str | Path,
    part: str = "model",
    opset: int | None = None,
    overwrite: bool = False,
    before_rename: Callable[[list[Path]], None] | None = None,
) -> list[Path]:
    """Write a model, or its encoder, as a graph whose inputs may have any length and batch size.

    The input is what comes out of the model's preprocessor: a waveform, normalized if its preprocessor does that, or
    mel features. An ONNX file's metadata say which, and what the outputs stand for.

    Args:
        model: with a SpeechLM encoder.
        output: a name ending in ``.onnx`` or ``.ts``.
        part: ``model`` or ``encoder``.
        opset: of ONNX; None takes NeMo's default.
        overwrite: replace files that are there.
        before_rename: called with the finished files under other names; if it raises, there are no new files, and
            those that were there stay.

    Returns:
        the files: one, or two for a transducer.

    Raises:
        InputError: if the name ends in something else, or a file is there already.
        SpeechLMError: if the model cannot be exported.
    """
    output = Path(output)
    if output.suffix not in KINDS:
        raise InputError(f"expected a name that ends in {' or '.join(KINDS)}", output)
    if part not in ("model", "encoder"):
        raise SpeechLMError(f"part is {part!r}, expected model or encoder")
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, SpeechLMEncoder):
        raise SpeechLMError(f"a {type(model).__name__} without a SpeechLM encoder is exported by NeMo's own tools")
    chosen = encoder if part == "encoder" else model
    if not hasattr(chosen, "export"):
        raise SpeechLMError(f"a {type(model).__name__} cannot be exported as a whole; say part=encoder")
    if opset is not None:
        check_whole("opset", opset, 9)
    refuse_overwrite(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".partial.") as folder:
        try:
            made, _ = chosen.export(str(Path(folder) / output.name), onnx_opset_version=opset)
        except (OnnxExporterError, ValueError) as error:
            raise SpeechLMError(f"PyTorch cannot export it (opset is {opset}): {error}") from error
        paths = [Path(path) for path in made]
        targets = [output.parent / path.name for path in paths]
        for target in targets:
            refuse_overwrite(target, overwrite)
        if output.suffix == ".onnx":
            for path in paths:
                _describe(path, facts_of(model))
        if before_rename is not None:
            before_rename(paths)
        for path, target in zip(paths, targets, strict=True):
            path.replace(target)
    return targets


def facts_of(model: ModelPT) -> dict[str, Any]:
    """What a program that runs the graph needs to know."""
    mel = isinstance(model.encoder.front_end, MelFrontEnd)
    facts: dict[str, Any] = {
        "sample_rate": int(model.cfg.get("sample_rate", 16000)),
        "input": "mel features" if mel else "waveform",
        "steps_per_frame": model.encoder.subsampling,
    }
    if not mel:
        facts["normalize"] = bool(model.cfg.preprocessor.get("normalize", False))
    if is_ctc(model):
        labels = labels_of(model)
        facts |= {"labels": labels, "blank": len(labels)}
    return facts


def compare(model: ModelPT, path: str | Path, part: str, frames: Sequence[int] = (20, 63, 250)) -> float:
    """The largest difference between the outputs of file and model, on random inputs of several lengths.

    Args:
        model: what was exported: a CTC model, or any with a SpeechLM encoder where ``part`` is ``encoder``.
        path: ``.onnx`` (onnxruntime is needed) or ``.ts`` file.
        part: ``model`` or ``encoder``.
        frames: lengths to try: one utterance each, one of which half is padding, and a batch of two where the other is
            half as long.

    Raises:
        SpeechLMError: if outputs have other shapes.
    """
    run = _runner(Path(path))
    model.eval()
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    shape = model.encoder.input_example()[0].shape
    for count in frames:
        steps = (count + 2) * model.encoder.subsampling
        for lengths in ([steps], [steps // 2], [steps, steps // 2]):
            signal = torch.randn(len(lengths), shape[1], steps, generator=generator)
            length = torch.tensor(lengths)
            with torch.inference_mode():
                expected, valid = model.encoder(audio_signal=signal.to(model.device), length=length.to(model.device))
                if part == "model":
                    expected = model.decoder(encoder_output=expected).transpose(1, 2)
            found = run(signal, length)
            found = found.transpose(0, 2, 1) if part == "model" else found
            if found.shape != tuple(expected.shape):
                raise SpeechLMError(
                    f"{Path(path).name} makes {found.shape} of {steps} steps, expected {tuple(expected.shape)}"
                )
            for row, n in enumerate(valid.tolist()):
                difference = np.abs(found[row, :, :n] - expected[row, :, :n].cpu().numpy())
                worst = float(np.maximum(worst, difference.max(initial=0.0)))  # NaN where one is
    return worst


def can_compare(path: str | Path) -> bool:
    """Whether what runs such a file is installed."""
    return Path(path).suffix == ".ts" or find_spec("onnxruntime") is not None


def _runner(path: Path) -> Callable[[Tensor, Tensor], np.ndarray]:
    if path.suffix == ".ts":
        traced = torch.jit.load(str(path))

        def run_traced(signal: Tensor, length: Tensor) -> np.ndarray:
            with torch.inference_mode():
                found = traced(signal, length)
            return (found[0] if isinstance(found, tuple) else found).numpy()

        return run_traced
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda signal, length: session.run(None, {"audio_signal": signal.numpy(), "length": length.numpy()})[0]


def _describe(path: Path, facts: dict[str, Any]) -> None:
    import onnx

    graph = onnx.load(str(path))
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    onnx.save(graph, str(path))
