"""Features of utterances from any of our models, a file for each or shards, in batches of similar length.

Axis legend: B utterances, S samples, T frames, D width, L layers.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, partial_path, plain
from nemo_speechlm.inference.audio_batches import Utterance, audio_loader
from nemo_speechlm.inference.features.options import FeatureOptions
from nemo_speechlm.inference.features.shards import frames_of_shard, shard_files, write_card, write_shard
from nemo_speechlm.locks import lock_path, only_writer
from nemo_speechlm.models.common.precision import autocast

BATCH_DURATION = 120.0
"""Seconds of audio in a batch unless said otherwise."""

_MANIFEST = "features.jsonl"
"""The last file written in the folder: if it exists, all features do."""


def extract(
    model: Any,
    utterances: Sequence[Utterance],
    skipped: Sequence[InputError],
    output: str | Path,
    options: FeatureOptions,
    *,
    model_path: str | Path | Mapping[str, Any],
    overwrite: bool = False,
) -> int:
    """Write a file for each utterance that has none yet, then the manifest.

    Args:
        model: as :func:`~nemo_speechlm.models.common.restore.restore_extractor` returns it.
        utterances: what to make features of.
        skipped: what was left out before; it is listed in ``skipped.jsonl``.
        output: the folder.
        options: how.
        model_path: the model's file, or what says as much of a model that has none; features of another model are
            not continued.
        overwrite: start anew.

    Returns:
        how many files were written now.

    Raises:
        InputError: if the folder holds features of other settings, unless ``overwrite``.
    """
    folder = Path(output)
    options.layer_numbers(model.encoder.num_layers)  # errors come before the folder is made
    if folder.is_file():
        raise InputError("is a file; expected a folder for the features", folder)
    with only_writer(folder / _MANIFEST):
        origin = model_path if isinstance(model_path, Mapping) else model_origin(Path(model_path))
        return _extract(model, utterances, skipped, folder, options, origin, overwrite)


def model_origin(path: Path) -> dict[str, Any]:
    """Which model a file holds."""
    stat = path.stat()
    return {"model": str(path.absolute()), "model_bytes": stat.st_size, "model_time": stat.st_mtime_ns}


def _extract(
    model: Any,
    utterances: Sequence[Utterance],
    skipped: Sequence[InputError],
    folder: Path,
    options: FeatureOptions,
    origin: Mapping[str, Any],
    overwrite: bool,
) -> int:
    """:func:`extract`, once this process alone writes the folder."""
    numbers = options.layer_numbers(model.encoder.num_layers)
    _open(folder, options, numbers, utterances, origin, overwrite)
    names = [f"{index:07d}_{utterance.path.stem[:40]}" for index, utterance in enumerate(utterances)]
    sharded = options.format == "huggingface"
    if sharded:
        files = _shard_files(folder, model, utterances, options, len(numbers))
        write_card(folder, numbers)
    else:
        files = [folder / "features" / f"{name}.{options.format}" for name in names]
    todo = [index for index, file in enumerate(files) if not file.exists()]
    passes = [list(own) for _, own in groupby(todo, key=files.__getitem__)] if sharded else [todo]
    with (
        torch.inference_mode(),
        autocast(model.device.type, options.precision),
        tqdm(total=len(files), initial=len(files) - len(todo), unit="utterance") as bar,
    ):
        for own in passes:
            kept: dict[int, Tensor] = {}
            for index, states in _states(model, utterances, own, numbers, options):
                if sharded:
                    kept[index] = states.clone()
                else:
                    _write(files[index], states, numbers)
                bar.update()
            if kept:
                records = [utterances[index].record for index in own]
                write_shard(files[own[0]], [names[i] for i in own], records, [kept[i] for i in own], numbers)
    frames = _rows(files) if sharded else [{"num_frames": _num_frames(file)} for file in files]
    lines = [
        utterance.record | {"features_filepath": str(file.relative_to(folder)), **more}
        for utterance, file, more in zip(utterances, files, frames, strict=True)
    ]
    write_manifest(folder / _MANIFEST, lines)
    if skipped:
        write_manifest(folder / "skipped.jsonl", [{"reason": str(error)} for error in skipped])
    return len(todo)


def _states(
    model: Any, utterances: Sequence[Utterance], own: Sequence[int], numbers: Sequence[int], options: FeatureOptions
) -> Iterator[tuple[int, Tensor]]:
    """(index, features (L, T, D)) of some of the utterances, in the order of their length."""
    batch_duration = options.batch_duration
    if batch_duration is None:
        batch_duration = 0.0 if getattr(model.encoder.front_end, "released_padding", False) else BATCH_DURATION
    sample_rate = int(model.cfg.get("sample_rate", 16000))
    batches, loader = audio_loader([utterances[i] for i in own], sample_rate, batch_duration, options.num_workers)
    for batch, (audio, samples, *_) in zip(batches, loader, strict=True):
        layers, frames = model.extract_features(
            audio.to(model.device), samples.to(model.device), [number - 1 for number in numbers]
        )
        stacked = torch.stack(layers, dim=1).to("cpu", getattr(torch, options.dtype))
        for i, states, length in zip(batch, stacked, frames.tolist(), strict=True):
            yield own[i], states[:, :length]


def _shard_files(
    folder: Path, model: Any, utterances: Sequence[Utterance], options: FeatureOptions, layers: int
) -> list[Path]:
    values = model.encoder.frame_rate * layers * model.encoder.d_model
    return shard_files(folder, [u.duration for u in utterances], values * getattr(torch, options.dtype).itemsize)


def _rows(files: Sequence[Path]) -> list[dict[str, int]]:
    """Where each utterance is in its shard, and how long."""
    return [
        {"features_row": row, "num_frames": frames}
        for file in dict.fromkeys(files)
        for row, frames in enumerate(frames_of_shard(file))
    ]


def _open(
    folder: Path,
    options: FeatureOptions,
    numbers: list[int],
    utterances: Sequence[Utterance],
    origin: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Write the settings into the folder, or check that they are the same."""
    what = asdict(options) | {"layers": numbers} | dict(origin)
    what |= {"utterances": [[str(u.path.absolute()), u.offset, u.duration] for u in utterances]}
    del what["num_workers"]
    what = plain(what)
    path = folder / "settings.json"
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        if before == what:
            return
        if not overwrite:
            differ = [key for key in what if before.get(key) != what[key]]
            raise InputError(
                f"was made with another {', '.join(differ)}; give another output, or overwrite=true", folder
            )
        for own in ("features", "data"):
            shutil.rmtree(folder / own, ignore_errors=True)
    elif set(folder.iterdir()) - {lock_path(folder / _MANIFEST)}:
        raise InputError("holds other files; give a folder that is empty or not there yet", folder)
    (folder / ("data" if options.format == "huggingface" else "features")).mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(what, file)


def _write(path: Path, states_LTD: Tensor, numbers: Sequence[int]) -> None:
    partial = partial_path(path)
    try:
        if path.suffix == ".npy":
            np.save(partial, states_LTD.numpy())
        else:
            from safetensors.torch import save_file

            save_file({f"layer_{n}": s.contiguous() for n, s in zip(numbers, states_LTD, strict=True)}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _num_frames(path: Path) -> int:
    if path.suffix == ".npy":
        return int(np.load(path, mmap_mode="r").shape[1])
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(file.get_slice(next(iter(file.keys()))).get_shape()[0])
