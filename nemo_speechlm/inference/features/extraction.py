"""Features of utterances from any of our models, a file for each or shards, in batches of similar length."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, atomic_write, file_digest, partial_path, plain
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.features.options import FeatureOptions
from nemo_speechlm.inference.features.shards import columns_of, join_pieces, shard_files, write_card
from nemo_speechlm.inference.features.work import FeatureItem, FeatureWork
from nemo_speechlm.jobs.engines.executor import Executor
from nemo_speechlm.jobs.finish import Results, Skipped
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.progress import progress_path
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.versions import versions
from nemo_speechlm.locks import lock_path, only_writer
from nemo_speechlm.models.common.batching import batch_seconds, depends_on_padding
from nemo_speechlm.models.common.hub import model_file

_TOGETHER = 8
"""Batches that a worker is given at once: what it reads ahead."""

_MANIFEST = "features.jsonl"
"""The last file written in the folder: if it exists, all features do."""

_LIBRARIES = ("torch", "nemo_toolkit", "soundfile", "soxr")


class Extracted(NamedTuple):
    """What was done.

    Attributes:
        utterances: that have features.
        now: how many of them were made now.
        skipped: utterances that were left out.
    """

    utterances: int
    now: int
    skipped: int


def extract(
    model: Any,
    utterances: Sequence[Utterance],
    skipped: Sequence[InputError],
    output: str | Path,
    options: FeatureOptions,
    *,
    model_path: str | Path | Mapping[str, Any],
    overwrite: bool = False,
    skip_bad: bool = False,
    engine: Executor | None = None,
    workers: int | None = 1,
    remake: Callable[[], Any] | None = None,
) -> Extracted:
    """Write features for each utterance that has none yet, then the manifest. This is a job, see :func:`run_job`.

    Features of a recording that was replaced since are made anew.

    Args:
        model: as :func:`~nemo_speechlm.models.common.restore.restore_extractor` returns it.
        utterances: what to make features of.
        skipped: what was left out before; it is listed in ``skipped.jsonl``.
        output: the folder.
        options: how.
        model_path: the model's file, or what identifies a model that has none; features of another model are not
            continued.
        overwrite: start anew where the folder holds features of other settings.
        skip_bad: list utterances that cannot be used, and go on.
        engine: where workers run; None is this machine.
        workers: of the engine.
        remake: makes the model in other processes; None if there are to be none.

    Raises:
        InputError: if the folder holds features of other settings, unless ``overwrite``; or at an utterance that
            cannot be used, unless ``skip_bad``.
    """
    folder = Path(output)
    numbers = options.layer_numbers(model.encoder.num_layers)  # errors come before the folder is made
    if folder.is_file():
        raise InputError("is a file; expected a folder for the features", folder)
    with only_writer(folder / _MANIFEST):
        origin = model_path if isinstance(model_path, Mapping) else model_origin(model_file(model_path))
        items = _items(folder, model, utterances, options, len(numbers))
        columns = columns_of(u.record for u in utterances) if options.format == "huggingface" else []
        _open(folder, options, numbers, items, origin, overwrite, columns)
        if options.format == "huggingface":
            write_card(folder, numbers)
        new = sum(not (folder / item.file).exists() for item in items)
        listing = partial_path(folder / "inputs.jsonl")
        order = list(range(len(items)))
        if options.format != "huggingface":
            order.sort(key=lambda number: items[number].place)
        with atomic_write(listing) as file:
            file.writelines(items[number].line() for number in order)
        work = FeatureWork(remake or _no_other_process, folder, options, numbers, columns, model)
        try:
            report = run_job(
                listing,
                folder / _MANIFEST,
                work,
                settings={"model": origin.get("model_sha256", plain(origin)), "options": _decisive(options, numbers)},
                libraries=_LIBRARIES,
                engine=engine,
                workers=workers,
                most_workers=1,
                batch_ends=_ends([items[number] for number in order], options),
                skip_bad=skip_bad,
                overwrite=True,  # other settings were refused before
                ending=lambda results: _end(results, folder, items, order, skipped),
                description="extract features",
                unit="utterance",
            )
        except InputError as error:
            if error.path == str(listing) and error.line is not None:
                raise InputError(error.reason, str(items[order[error.line - 1]].utterance.path)) from error
            raise
        finally:
            listing.unlink(missing_ok=True)
        left_out = report.skipped.total()
        return Extracted(report.written, max(0, new - left_out), len(skipped) + left_out)


def model_origin(path: Path) -> dict[str, Any]:
    """Which model a file holds."""
    return {"model": str(path.absolute()), "model_sha256": file_digest(path)}


def _no_other_process() -> Any:
    raise SpeechLMError("this model has no file, so no other process can make it")


def _items(
    folder: Path, model: Any, utterances: Sequence[Utterance], options: FeatureOptions, layers: int
) -> list[FeatureItem]:
    """The lines of the job, in the order of the utterances."""
    batch_duration = batch_seconds(options.batch_duration, depends_on_padding(model))
    names = [f"{index:07d}_{utterance.path.stem[:40]}" for index, utterance in enumerate(utterances)]
    if options.format == "huggingface":
        files = [str(path.relative_to(folder)) for path in _shard_files(folder, model, utterances, options, layers)]
        groups = [list(own) for _, own in groupby(range(len(files)), key=files.__getitem__)]
    else:
        files = [f"features/{name}.{options.format}" for name in names]
        groups = [list(range(len(files)))]
    batch_of, together = np.zeros(len(files), dtype=np.int64), np.ones(len(files), dtype=np.int64)
    count = 0
    for group in groups:
        if options.format == "huggingface":
            together[group] = len(group)
        for own in batches_by_length([utterances[i].duration for i in group], batch_duration, longest_first=True):
            batch_of[np.asarray(group)[own]] = count
            count += 1
    return [
        FeatureItem(utterance, name, file, batch, size)
        for utterance, name, file, batch, size in zip(
            utterances, names, files, batch_of.tolist(), together.tolist(), strict=True
        )
    ]


def _ends(items: Sequence[FeatureItem], options: FeatureOptions) -> list[int]:
    """Where the batches of the job end: at those of shards, or after some batches of the model."""
    sharded = options.format == "huggingface"
    groups = [item.file if sharded else item.batch // _TOGETHER for item in items]
    changes = [number for number in range(1, len(items)) if groups[number] != groups[number - 1]]
    return [*changes, len(items)]


def _end(
    results: Results, folder: Path, items: Sequence[FeatureItem], order: Sequence[int], skipped: Sequence[InputError]
) -> JobReport:
    """Put together shards of which pieces were made, and write the manifest."""
    report = JobReport()
    found: list[Record | None] = [None] * len(items)
    reasons = [str(error) for error in skipped]
    for number, result in zip(order, results.records(), strict=True):
        if isinstance(result, Skipped):
            report.skip(result.reason)
            reasons.append(f"{result.path or items[number].utterance.path}: {result.reason}")
        else:
            report.wrote(result)
            found[number] = result
    if not report.written:
        raise InputError(f"nothing in its input could be used: {report}", folder)
    pieces = _join(folder, items, found)
    write_manifest(folder / _MANIFEST, _lines(items, found))
    (folder / "skipped.jsonl").unlink(missing_ok=True)  # of an earlier extraction
    if reasons:
        write_manifest(folder / "skipped.jsonl", [{"reason": reason} for reason in reasons])
    for piece in pieces:
        piece.unlink(missing_ok=True)
    return report


def _join(folder: Path, items: Sequence[FeatureItem], found: Sequence[Record | None]) -> list[Path]:
    """Make shards of their pieces; returns the pieces."""
    pieces: dict[Path, dict[Path, None]] = {}
    for item, record in zip(items, found, strict=True):
        if record is not None and "piece" in record:
            path = folder / item.file
            pieces.setdefault(path, {})[path.with_name(record["piece"])] = None
    for path, own in pieces.items():
        join_pieces(path, list(own))
    return [piece for own in pieces.values() for piece in own]


def _lines(items: Sequence[FeatureItem], found: Sequence[Record | None]) -> Iterator[Record]:
    """Lines of the manifest."""
    rows: dict[str, int] = {}
    for item, record in zip(items, found, strict=True):
        if record is None:
            continue
        made: Record = {"features_filepath": item.file}
        if "row" in record:
            made["features_row"] = rows[item.file] = rows.get(item.file, -1) + 1
        yield item.utterance.record | made | {"num_frames": record["num_frames"]}


def _shard_files(
    folder: Path, model: Any, utterances: Sequence[Utterance], options: FeatureOptions, layers: int
) -> list[Path]:
    values = model.encoder.frame_rate * layers * model.encoder.d_model
    return shard_files(folder, [u.duration for u in utterances], values * getattr(torch, options.dtype).itemsize)


def _decisive(options: FeatureOptions, numbers: Sequence[int]) -> dict[str, Any]:
    """The options that decide the features."""
    what = asdict(options) | {"layers": list(numbers)}
    del what["num_workers"]
    return what


def _open(
    folder: Path,
    options: FeatureOptions,
    numbers: list[int],
    items: Sequence[FeatureItem],
    origin: Mapping[str, Any],
    overwrite: bool,
    columns: Sequence[str],
) -> None:
    """Write the settings into the folder, or check that they are the same; forget what was replaced since."""
    utterances = [item.utterance for item in items]
    what = _decisive(options, numbers) | dict(origin)
    what |= {"utterances": [[str(u.path.absolute()), u.offset, u.duration] for u in utterances]}
    what = plain(what) | {"version": versions(_LIBRARIES)}
    recordings = _recordings(utterances, columns)
    path = folder / "settings.json"
    own = {lock_path(folder / _MANIFEST), progress_path(folder / _MANIFEST), partial_path(folder / "inputs.jsonl")}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        differ = [key for key in what if key != "model" and before.get(key) != what[key]]
        if "model_sha256" not in what and before.get("model") != what["model"]:
            differ.append("model")
        if differ and not overwrite:
            named = ["model" if key == "model_sha256" else key for key in differ]
            raise InputError(
                f"was made with another {', '.join(named)}; give another output, or overwrite=true", folder
            )
        if differ:
            (folder / _MANIFEST).unlink(missing_ok=True)
            for made in ("features", "data"):
                shutil.rmtree(folder / made, ignore_errors=True)
            shutil.rmtree(progress_path(folder / _MANIFEST), ignore_errors=True)
        elif before.get("recordings") == recordings:
            return
        else:
            known = before.get("recordings") or recordings
            _forget(folder, [item for item, a, b in zip(items, known, recordings, strict=True) if a != b])
    elif set(folder.iterdir()) - own:
        raise InputError("holds other files; give a folder that is empty or not there yet", folder)
    (folder / ("data" if options.format == "huggingface" else "features")).mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump({**what, "recordings": recordings}, file)


def _recordings(utterances: Sequence[Utterance], columns: Sequence[str]) -> list[Any]:
    """What tells whether an utterance's file, or its tar, was replaced: size and time of change; None: not known.

    And whether its line was, of which a shard holds these columns.
    """
    names = [str(u.path.path if isinstance(u.path, TarAudio) else u.path) for u in utterances]
    found = {name: _stamp(name) for name in set(names)}
    if not columns:
        return [found[name] for name in names]
    lines = [json.dumps({field: u.record.get(field) for field in columns}) for u in utterances]
    return [
        [found[name], hashlib.sha256(line.encode()).hexdigest()[:16]] for name, line in zip(names, lines, strict=True)
    ]


def _stamp(name: str) -> list[int] | None:
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _forget(folder: Path, items: Sequence[FeatureItem]) -> None:
    """Remove features of recordings that were replaced, and what an interrupted job knows of them."""
    if not items:
        return
    print(f"{folder}: features of {len(items)} utterances are made anew, their recordings or lines have changed")
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(progress_path(folder / _MANIFEST), ignore_errors=True)
    for item in items:
        (folder / item.file).unlink(missing_ok=True)
