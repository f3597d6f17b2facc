"""Run a tokenizer over a manifest or a shard of it; join the outputs of the shards."""

import functools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import (
    atomic_write,
    file_digest,
    iter_lines,
    partial_path,
    refuse_input_as_output,
    refuse_overwrite,
)
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.lines import index_lines
from nemo_speechlm.jobs.plan import Plan
from nemo_speechlm.jobs.progress import progress_path, skipped_path
from nemo_speechlm.jobs.report import CUT_PHONES, JobReport
from nemo_speechlm.jobs.shards import Shard, check_shards, parse_join, shard_outputs
from nemo_speechlm.jobs.types import BatchWork
from nemo_speechlm.locks import only_writer
from nemo_speechlm.tokenizers.base import Tokenizing


def tokenize_manifest(
    manifest: str | Path,
    output: str | Path,
    tokenizing: Tokenizing,
    make_work: Callable[[Any, Path], Callable[[], BatchWork]],
    *,
    settings: dict[str, Any],
    shard: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    begin: Callable[[], Any] | None = None,
    before_rename: Callable[[Path], None] | None = None,
    channel: Channel = "mix",
    **options: Any,
) -> str:
    """Run a tokenizer over a manifest or a shard of it, or join the outputs of the shards.

    Args:
        manifest: the source.
        output: manifest with units.
        tokenizing: how.
        make_work: given the prepared ``tokenizing`` and the output's path, returns what :func:`run_job` takes.
        settings: what affects the result besides ``tokenizing``.
        shard: ``"i/n"``, ``"join/n"``, or None: all in one.
        workers: processes; None is what suits the tokenizer and the engine.
        overwrite: replace an existing output.
        begin: called once nothing refuses the output: before the work, or when shards have been joined.
        before_rename: called with the finished output, whole or joined, before it takes its name.
        channel: which one ``make_work`` reads of audio with several.
        options: of :func:`run_job`.

    Returns:
        What was done, for the user.

    Raises:
        InputError: on bad input, or an output that exists.
    """
    given = {"tokenizing": repr(tokenizing)}
    joined = parse_join(shard)
    if joined is not None:
        what = functools.partial(
            _join, settings=settings, given=given, max_lines=options.get("max_lines"), begin=begin
        )
        return f"{output}: {what(manifest, output, joined, overwrite, before_rename)}"
    part = None if shard is None else Shard.parse(shard)
    path = Path(output) if part is None else part.path(output)
    with only_writer(path):
        if not progress_path(path).exists():
            refuse_overwrite(path, overwrite)  # before anything is prepared
        tokenizing = tokenizing.prepared(manifest, path, channel)
        refuse_input_as_output([path], {"the tokenizer": list(tokenizing.files())})
        report = run_job(
            manifest,
            path,
            make_work(tokenizing, path),
            settings={
                # what was prepared beside a shard's output must not make it a shard of another job
                "tokenizing": repr(tokenizing).replace(str(path), str(Path(output))),
                "content": {str(p).replace(str(path), str(Path(output))): file_digest(p) for p in tokenizing.files()},
                **settings,
            },
            workers=workers,
            most_workers=tokenizing.max_workers,
            batch_size=tokenizing.batch_size,
            shard=part,
            overwrite=overwrite,
            begin=begin,
            before_rename=before_rename if part is None else None,
            given=given,
            libraries=tokenizing.libraries,
            **options,
        )
    return f"{path}: {report}"


def _join(
    manifest: str | Path,
    output: str | Path,
    count: int,
    overwrite: bool,
    before_rename: Callable[[Path], None] | None,
    *,
    settings: dict[str, Any],
    given: dict[str, Any],
    max_lines: int | None,
    begin: Callable[[], Any] | None,
) -> JobReport:
    """Concatenate the outputs of all shards, which are kept."""
    refuse_input_as_output([output], {"the input": manifest})
    refuse_overwrite(output, overwrite)
    paths = shard_outputs(output, count)
    report = JobReport()
    unpacked = partial_path(f"{output}.unpacked")
    with (
        ExitStack() as held,
        atomic_write(output, before_rename) as file,
        atomic_write(skipped_path(output)) as skipped,
    ):
        for path in paths:  # so that nobody rewrites one meanwhile
            held.enter_context(only_writer(path))
        held.callback(unpacked.unlink, missing_ok=True)
        index = index_lines(manifest, unpacked, max_lines)
        check_shards(paths, Plan.of(index.digest, index.total, 1, settings), given)
        for path in paths:
            for _, line in iter_lines(path):
                file.write(line)
                report.wrote(json.loads(line) if CUT_PHONES in line else {})
            if skipped_path(path).exists():
                for _, line in iter_lines(skipped_path(path)):
                    skipped.write(line)
                    report.skip(json.loads(line)["reason"])
        found = report.written + report.skipped.total()
        if found != index.total:
            raise InputError(
                f"its shards have {found} lines, {manifest} has {index.total}; run the command of each shard again",
                output,
            )
        if begin is not None:
            begin()
    if not report.skipped:
        skipped_path(output).unlink()
    return report
