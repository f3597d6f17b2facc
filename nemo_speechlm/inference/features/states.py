"""The states that a SLAM model gives texts, and utterances together with their texts."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.audio.sources import moved_record
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, file_digest, parse_line, partial_path, writing
from nemo_speechlm.jobs.engines.executor import Executor
from nemo_speechlm.jobs.engines.local import LocalEngine
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.progress import progress_path, skipped_path
from nemo_speechlm.jobs.types import Work
from nemo_speechlm.locks import lock_path, only_writer
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.slam.model import SLAMModel

_MANIFEST = "features.jsonl"
"""The last file written in the folder: if it exists, all files of states do."""


@dataclass
class StateWork:
    """Makes the work of a job that writes a file of states for each line. It is picklable; a model is left behind.

    Attributes:
        path: the model's file.
        device: see :func:`restore_file`.
        manifest: the source.
        folder: the output.
        of: ``text`` or ``pairs``.
        dtype: of what is written.
        model: if there is one in this process.
    """

    path: str | Path
    device: str
    manifest: Path
    folder: Path
    of: str
    dtype: str
    model: SLAMModel | None = field(default=None, repr=False)

    def __call__(self) -> Work:
        """The work on a line."""
        self.model = self.model or _restore(self.path, self.device)
        return self._work

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def _work(self, number: int, line: str) -> Record:
        from safetensors.torch import save_file

        assert self.model is not None
        required = ["text"] if self.of == "text" else ["text", "audio_filepath"]
        record = parse_line(line, self.manifest, number, required)
        states = _states(self.model, record, self.manifest, number, self.of)
        path = self.folder / "features" / f"{number - 1:07d}.safetensors"
        partial, kind = partial_path(path), getattr(torch, self.dtype)
        with writing(path):
            save_file({name: x.to("cpu", kind).contiguous() for name, x in states.items()}, partial)
            (self.folder / _MANIFEST).unlink(missing_ok=True)  # one that is there names files of before
            os.replace(partial, path)
        made = {"features_filepath": str(path.relative_to(self.folder)), "num_tokens": len(states["text"])}
        return moved_record(record, self.manifest, self.folder / _MANIFEST) | made


def extract_states(
    model: str | Path,
    manifest: str | Path,
    output: str | Path,
    of: str = "text",
    dtype: str = "float32",
    overwrite: bool = False,
    device: str = "auto",
    *,
    skip_bad: bool = False,
    engine: Executor | None = None,
    workers: int | None = 1,
) -> int:
    """Write a ``.safetensors`` file for each line of a manifest, then the manifest with ``features_filepath``; a job.

    A file holds the states of the last layer: ``cls`` (D,), ``text`` (U, D) and, of pairs, ``speech`` (T, D).

    Args:
        model: ``.nemo`` file of a SLAM model that was pretrained on text or pairs.
        manifest: JSON lines with ``text``, for pairs with ``audio_filepath`` too.
        output: the folder.
        of: ``text`` or ``pairs``.
        dtype: of what is written, ``float32`` or ``float16``.
        overwrite: replace a folder of such files.
        device: see :func:`restore_file`.
        skip_bad: list lines that cannot be used, and go on.
        engine: where workers run; None is this machine.
        workers: of the engine.

    Returns:
        how many lines have states.

    Raises:
        InputError: naming a file or a line that cannot be used.
    """
    check_choice("of", of, ("text", "pairs"))
    check_choice("dtype", dtype, ("float32", "float16"))
    folder, engine = Path(output), engine or LocalEngine()
    listed = folder / _MANIFEST
    _check_folder(folder, listed, overwrite)
    next(read_manifest(manifest))  # what is there is removed when model and manifest are known to be
    work = StateWork(model, device, Path(manifest), folder, of, dtype)
    if engine.in_this_process(workers):
        work.model = _restore(model, device)
    digest = file_digest(model_file(model))
    with only_writer(listed):
        (folder / "features").mkdir(parents=True, exist_ok=True)
        report = run_job(
            manifest,
            listed,
            work,
            settings={"of": of, "dtype": dtype, "content": {"model": digest}},
            libraries=("torch", "nemo_toolkit", "soundfile", "soxr"),
            engine=engine,
            workers=workers,
            most_workers=1,
            skip_bad=skip_bad,
            overwrite=overwrite,
            description="extract states",
        )
        _remove_others(folder)
    return report.written


def _check_folder(folder: Path, listed: Path, overwrite: bool) -> None:
    """Raise if the folder holds other files, or states of an earlier run that are not to be replaced."""
    if folder.is_file():
        raise InputError("is a file; expected a folder for the states", folder)
    begun = {path.name for path in (progress_path(listed), skipped_path(listed), lock_path(listed))}
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - begun - {"features", listed.name} or (there and not overwrite and not there & begun):
        raise InputError("holds files already; give another output, or overwrite=true", folder)


def _restore(path: str | Path, device: str) -> SLAMModel:
    restored = restore_file(SLAMModel, path, device)
    if getattr(restored, "text_encoder", None) is None or not hasattr(restored, "text_embedding"):
        raise InputError("has no text side; expected a SLAM model that was pretrained on text or pairs", path)
    return restored


def _remove_others(folder: Path) -> None:
    """Remove files of states that the manifest does not name: of a longer one that was overwritten."""
    named = {Path(record["features_filepath"]).name for _, record in read_manifest(folder / _MANIFEST)}
    for path in (folder / "features").iterdir():
        if path.name not in named:
            path.unlink()


@torch.inference_mode()
def _states(model: SLAMModel, record: Record, manifest: Path, number: int, of: str) -> dict[str, Tensor]:
    assert model.text_encoder is not None
    text = record["text"]
    ids = model.text_encoder(text, manifest, number) if isinstance(text, str) else []
    if not ids:
        raise InputError(f"'text' is {text!r}, expected a sentence", manifest, number)
    tokens, sizes = torch.tensor([ids], device=model.device), torch.tensor([len(ids)], device=model.device)
    if of == "text":
        states = model.text_states(tokens, sizes)[0]
        return {"cls": states[0], "text": states[1:]}
    audio = torch.from_numpy(read_utterance(record, manifest, number, int(model.cfg.sample_rate)))
    samples = torch.tensor([len(audio)], device=model.device)
    speech, states, frames = model.pair_states(PairBatch(audio.unsqueeze(0).to(model.device), samples, tokens, sizes))
    return {"cls": states[0, 0], "text": states[0, 1:], "speech": speech[0, : int(frames)]}
