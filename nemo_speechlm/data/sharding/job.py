"""Manifests into shards, as a job: planned here, made by workers on any engine."""

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nemo_speechlm.checks import check_whole
from nemo_speechlm.data.audio.sources import tar_of
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.files import all_of, files_of, names_of
from nemo_speechlm.data.sharding.work import ORDER, ShardWork, index_folder
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import atomic_write, dump_line, iter_lines, parse_line, refuse_overwrite, sync
from nemo_speechlm.jobs.engines.executor import Executor
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.lines import LineIndex, index_lines
from nemo_speechlm.jobs.progress import progress_path
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.locks import only_writer
from nemo_speechlm.storage import WRITABLE, exists, fetch, is_url, join, scheme_of, upload

LISTED = "shards.jsonl"
"""The list of a set's shards, written when all are there."""

BAD = "skipped.jsonl"
"""The list of lines that were left out, with the reason; not there if all went in."""

_PLAN = ".plan"

_MADE = "shards"
"""Where shards are until all are made, in the folder of the job."""

_ALL_MADE = "all_shards"
"""What that folder is called when they are: from then on they take the place of older ones."""


@dataclass(frozen=True)
class Division:
    """How lines are divided into shards.

    Attributes:
        shards: their number; None makes as many as ``shard_size`` asks for.
        shard_size: lines of a shard, about: all shards have as many, but for one.
        shuffle: deal the lines out in random order.
        seed: of that order.
    """

    shards: int | None = None
    shard_size: int = 1000
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shards is not None:
            check_whole("shards", self.shards, 1)
        check_whole("shard_size", self.shard_size, 1)
        check_whole("seed", self.seed, 0)

    def parts(self, total: int) -> list[tuple[int, int]]:
        """First line, and the one behind the last, of each shard.

        Raises:
            InputError: if there are fewer lines than shards.

        >>> Division(shard_size=4).parts(10)
        [(0, 3), (3, 6), (6, 10)]
        """
        count = self.shards or -(-total // self.shard_size)
        if count > total:
            raise InputError(f"shards is {count}, but there are {total} lines; expected at most as many")
        ends = [total * i // count for i in range(count + 1)]
        return list(itertools.pairwise(ends))


@dataclass(frozen=True)
class Made:
    """A set of shards.

    Attributes:
        folder: where they are.
        shards: how many.
        hours: of audio; None if there is none.
        report: lines that went in, and those left out, by reason.
        gzipped: whether manifests are compressed.
    """

    folder: str
    shards: int
    hours: float | None
    report: JobReport
    gzipped: bool

    def names(self) -> dict[str, str]:
        """What a data config says of it."""
        manifests, tars = all_of(self.shards, self.gzipped)
        named = {"manifest_filepath": f"{self.folder}/{manifests}"}
        return named if self.hours is None else {**named, "tarred_audio_filepaths": f"{self.folder}/{tars}"}

    def __str__(self) -> str:
        audio = "" if self.hours is None else f", {self.hours:.2f} h"
        said = f"{self.folder}: {self.shards} shards, {self.report.summary(audio)}"
        return "\n".join([said, *(f"{key}: {value}" for key, value in self.names().items())])


def make_shards(
    manifests: str | Sequence[str],
    output: str | Path,
    *,
    encoding: AudioEncoding | None,
    division: Division = Division(),
    gzipped: bool = False,
    workers: int | None = 1,
    engine: Executor | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    job_folder: str | Path | None = None,
) -> Made:
    """Divide manifests into shards.

    The same lines and options make the same files, byte by byte, on every engine. Shards are made in the job's folder
    and come to ``output`` when all are there, so that what they replace is kept until then. What was killed goes on
    with the shards that are missing.

    Args:
        manifests: a manifest, several, or a name that stands for several (``a_{0..9}.json``).
        output: folder to make; may be at an address (``s3://bucket/folder``).
        encoding: of audio; None for text alone.
        division: which line goes into which shard.
        gzipped: compress shards of text.
        workers: processes; None is as many as the engine has room for.
        engine: where the workers run; None is this machine.
        skip_bad: list bad lines in ``skipped.jsonl`` and go on, instead of stopping at the first.
        overwrite: replace the shards that are in the folder; not at an address.
        job_folder: that all machines of the job see, for its state; an output at an address needs one.

    Raises:
        InputError: on bad input (unless ``skip_bad``), a folder that has other shards, or one that has the audio of a
            manifest.
    """
    paths = expand_shards(manifests)
    folder = _local_folder(output, job_folder, overwrite)
    listed, plan = folder / LISTED, folder / _PLAN
    _refuse_folder(folder, paths)
    with only_writer(listed):
        resumed = progress_path(listed).exists()
        if not resumed:
            refuse_overwrite(listed, overwrite)
            if not listed.exists() and files_of(folder) and not overwrite:
                raise InputError(
                    "has shards that no list of shards names; give another output, or overwrite=true", folder
                )
        digests = _plan(plan, paths, division)
        settings = {
            "manifests": digests,
            "encoding": None if encoding is None else asdict(encoding),
            "gzipped": gzipped,
            "shuffle": division.shuffle,
            "seed": division.seed if division.shuffle else None,
            "skip_bad": skip_bad,
            "output": str(output) if is_url(output) else None,
        }
        made = progress_path(listed) / _MADE
        place = str(output).rstrip("/") if is_url(output) else str(made.resolve())
        for path in files_of(made, partial=True):
            path.unlink()
        sets: list[Made] = []
        run_job(
            plan / LISTED,
            listed,
            ShardWork(plan.resolve(), paths, place, encoding, gzipped, skip_bad),
            settings=settings,
            workers=workers,
            engine=engine,
            overwrite=overwrite,
            libraries=[] if encoding is None else ["soundfile", "soxr"],
            before_rename=lambda path: sets.append(_finish(path, folder, output, encoding is not None, gzipped)),
            description="make shards",
            unit="shard",
        )
        shutil.rmtree(plan)
    return sets[0]


_LOOKED_AT = 1000


def is_speech(manifest: str) -> bool:
    """Whether one of a manifest's first lines names audio; lines that are wrong are left to the work.

    Raises:
        InputError: if there is no line.
    """
    number = 0
    for number, line in itertools.islice(iter_lines(manifest), _LOOKED_AT):
        try:
            if "audio_filepath" in parse_line(line, manifest, number):
                return True
        except InputError:
            continue
    if not number:
        raise InputError("the manifest is empty", manifest)
    return False


def _local_folder(output: str | Path, job_folder: str | Path | None, overwrite: bool) -> Path:
    """The folder of this machine in which a job is.

    Raises:
        InputError: if there is none, or an address has shards already.
    """
    if not is_url(output):
        return Path(output)
    if scheme_of(output) not in WRITABLE:
        raise InputError(f"shards cannot be written there; expected a folder, or {', '.join(WRITABLE)}://", output)
    if job_folder is None:
        raise InputError("an output at an address needs job_folder=FOLDER, which all machines of the job see", output)
    if overwrite:
        raise InputError("overwrite=true is for folders; give another output, or remove what is there first", output)
    if exists(join(output, LISTED)):
        raise InputError("has shards already; give another output, or remove them first", join(output, LISTED))
    return Path(job_folder)


def _refuse_folder(folder: Path, manifests: Sequence[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, expected a folder for the shards", folder)
    for manifest in manifests:
        if not is_url(manifest) and Path(manifest).resolve().parent == folder.resolve():
            raise InputError("lies in the output folder; give another output", manifest)
    tars = {path.resolve() for path in files_of(folder) if path.suffix == ".tar"}
    for manifest, number, tar in _tars_of(manifests) if tars else ():
        if not is_url(tar) and Path(tar).resolve() in tars:
            raise InputError(f"its audio is in {tar}, in the output folder; give another output", manifest, number)


def _tars_of(manifests: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """(manifest, line number, tar) of the lines whose audio is in a tar; bad lines are told when shards are made."""
    for manifest in manifests:
        for number, line in iter_lines(manifest):
            with suppress(InputError):
                if (tar := tar_of(parse_line(line, manifest, number), manifest)) is not None:
                    yield manifest, number, tar


def _plan(plan: Path, manifests: Sequence[str], division: Division) -> list[str]:
    """Write what the workers need to know: the lines of each shard, and where lines begin; returns digests."""
    indexes: list[LineIndex] = []
    plan.mkdir(parents=True, exist_ok=True)
    for number, manifest in enumerate(manifests):
        folder = index_folder(plan, number)
        folder.mkdir(exist_ok=True)
        source: str | Path = manifest
        if is_url(manifest):
            source = folder / f"fetched{'.gz' if manifest.endswith('.gz') else ''}"
            fetch(manifest, source)
        index = index_lines(source, folder / "unpacked")
        if not index.total:
            raise InputError("the manifest is empty", manifest)
        index.save(folder)
        indexes.append(index)
    total = sum(index.total for index in indexes)
    if division.shuffle:
        order = np.arange(total, dtype=np.uint32 if total < 1 << 32 else np.uint64)
        np.random.default_rng(division.seed).shuffle(order)
        np.save(plan / ORDER, order)
    else:
        (plan / ORDER).unlink(missing_ok=True)
    with atomic_write(plan / LISTED) as file:
        for shard, lines in enumerate(division.parts(total)):
            file.write(dump_line({"shard": shard, "lines": lines}))
    return [index.digest for index in indexes]


def _finish(listed: Path, folder: Path, output: str | Path, audio: bool, gzipped: bool) -> Made:
    """Check and tidy what was made; bad lines go from the list of shards to a list of their own.

    Raises:
        SpeechLMError: if a shard's files are gone.
    """
    records = [json.loads(line) for _, line in iter_lines(listed)]
    bad = [each for record in records for each in record.pop("bad")]
    report = JobReport(written=sum(record["lines"] for record in records))
    for each in bad:
        report.skip(each["reason"])
    if not report.written:
        raise InputError(f"no line can be used. {bad[0]['reason']}", bad[0]["file"], bad[0]["line"])
    if not is_url(output):
        _put(folder, [name for shard in range(len(records)) for name in names_of(shard, audio, gzipped)])
    (folder / BAD).unlink(missing_ok=True)
    if bad:
        write_manifest(folder / BAD, bad)
    with open(listed, "w", encoding="utf-8") as file:
        file.writelines(map(dump_line, records))
    hours = sum(record["hours"] for record in records) if audio else None
    place = str(output).rstrip("/") if is_url(output) else str(folder)
    if is_url(output):
        if bad:
            upload(folder / BAD, join(place, BAD))
        upload(listed, join(place, LISTED))
    return Made(place, len(records), hours, report, gzipped)


def _put(folder: Path, names: Sequence[str]) -> None:
    """Move the files of all shards into their folder, in place of those of before; if interrupted, it goes on.

    Raises:
        SpeechLMError: if one is gone.
    """
    job = progress_path(folder / LISTED)
    made, whole = job / _MADE, job / _ALL_MADE
    if not whole.exists():
        if gone := [name for name in names if not (made / name).exists()]:
            shutil.rmtree(job)
            raise SpeechLMError(f"{made / gone[0]}: was removed while others were made; run the command again")
        made.rename(whole)
    (folder / LISTED).unlink(missing_ok=True)  # it lists those of before
    for path in files_of(folder):
        if path.name not in names:
            path.unlink()
    for name in names:
        if (whole / name).exists():
            os.replace(whole / name, folder / name)
    sync(folder)
