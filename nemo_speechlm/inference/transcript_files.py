"""Write transcripts: a text, JSON or subtitle file per recording, or to the terminal; report failures at the end."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from nemo_speechlm.data.audio.files import audio_info
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.inference.inputs import inputs_of
from nemo_speechlm.inference.made_with import MadeWith, settings_of
from nemo_speechlm.inference.recognizers import Recognizer
from nemo_speechlm.inference.recordings import CuttingOptions, Transcript, transcribe_files
from nemo_speechlm.inference.subtitles import make_cues, to_srt

_SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt"}


def plan_outputs(
    recordings: Sequence[tuple[Path, Path]], output: str | Path, formats: Sequence[str]
) -> dict[Path, list[Path]]:
    """The files of each recording, beside each other below ``output``.

    A recording is named without its ending, unless another one has the same name then.

    Raises:
        InputError: if two recordings would go to the same file.
    """
    stems = [relative.with_suffix("") for _, relative in recordings]
    planned: dict[Path, list[Path]] = {}
    taken: dict[Path, Path] = {}
    for (path, relative), stem in zip(recordings, stems, strict=True):
        base = relative if stems.count(stem) > 1 else stem
        files = [Path(output) / base.with_name(base.name + _SUFFIXES[kind]) for kind in formats]
        for file in files:
            if file in taken and taken[file] != path:
                raise InputError(f"{taken[file]} and {path} would both be written to it", file)
            taken[file] = path
        planned[path] = files
    return planned


def write_transcript(transcript: Transcript, path: Path) -> None:
    """Write a transcript in the format that the file's name ends in."""
    with atomic_write(path) as file:
        file.write(render(transcript, {v: k for k, v in _SUFFIXES.items()}[path.suffix]))


def render(transcript: Transcript, kind: str) -> str:
    """A transcript as ``text`` (a line per segment), ``json`` or ``srt``."""
    if kind == "json":
        return json.dumps(transcript.record(), ensure_ascii=False, indent=1) + "\n"
    if kind == "srt":
        return to_srt(make_cues(transcript.words))
    return "".join(passage.text + "\n" for passage in transcript.passages if passage.text)


def run_transcription(
    cfg: DictConfig,
    recognize: Recognizer,
    sample_rate: int,
    longest: float | None = None,
    padding_counts: bool = False,
) -> None:
    """What ``transcribe.py`` and ``translate.py`` do once they have a model; exits with status 1 if a file failed.

    Args:
        cfg: ``input``, ``output``, ``format``, ``overwrite`` and the keys of :class:`CuttingOptions`.
        recognize: the model.
        sample_rate: its sample rate.
        longest: seconds that it takes at once; segments are no longer than that.
        padding_counts: whether a text depends on the padding of its batch, and so on ``batch_duration``.

    Raises:
        InputError: if transcripts that are kept were made with another model or other options, or of a recording that
            has changed; or if the only recording failed.
        SpeechLMError: if some failed.
    """
    formats = list(cfg.format) if isinstance(cfg.format, ListConfig) else [cfg.format]
    recordings = inputs_of(cfg)
    options = CuttingOptions.of(cfg, longest, one_by_one=padding_counts)
    missing: dict[Path, list[Path]] = {}
    record = None
    if cfg.output is not None:
        missing = plan_outputs(recordings, cfg.output, formats)
        batches = {"batch_duration": options.batch_duration} if padding_counts else {}
        record = MadeWith(cfg.output, settings_of(cfg) | batches)
        if not cfg.overwrite:
            missing = {path: _not_there(record, path, files) for path, files in missing.items()}
    todo = list(dict.fromkeys(path for path, _ in recordings if missing.get(path) != []))
    if done := sum(not files for files in missing.values()):
        print(f"{done} of {len(recordings)} files have their transcripts already", file=sys.stderr)
    failures: list[Transcript] = []
    with tqdm(total=_seconds(todo), desc="Transcribing", unit="s", unit_scale=True, smoothing=0.1) as bar:

        def advance(seconds: float) -> None:
            bar.update(min(seconds, bar.total - bar.n))  # headers round; tqdm warns where more is done than there is

        for transcript in transcribe_files(todo, recognize, sample_rate, options, advance):
            if transcript.error is not None:
                failures.append(transcript)
                tqdm.write(f"{transcript.path}: {transcript.error}", file=sys.stderr)
                continue
            if record is not None:
                for file in missing[transcript.path]:
                    write_transcript(transcript, file)
                record.add(transcript.path, missing[transcript.path])
            else:
                title = f"{transcript.path}: " if len(todo) > 1 and formats[0] == "text" else ""
                text = render(transcript, formats[0])
                tqdm.write(title + (" ".join(text.split()) if title else text.rstrip("\n")), file=sys.stdout)
    if len(failures) == len(todo) == 1:
        raise InputError(str(failures[0].error), failures[0].path)
    if failures:
        listed = "\n".join(f"  {failure.path}: {failure.error}" for failure in failures)
        raise SpeechLMError(f"{len(failures)} of {len(todo)} files failed; the others are done:\n{listed}")


def _not_there(record: MadeWith, recording: Path, files: Sequence[Path]) -> list[Path]:
    """Those of a recording's files that are to be written; raises if the others were made otherwise."""
    there = [file for file in files if file.exists()]
    record.refuse_others(recording, there)
    return [file for file in files if file not in there]


def _seconds(paths: Sequence[Path]) -> float:
    total = 0.0
    for path in paths:
        try:
            total += audio_info(path).duration
        except InputError:  # reported when its turn comes
            continue
    return round(total, 1)
