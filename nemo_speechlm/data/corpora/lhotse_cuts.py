"""Lhotse's cuts, and whatever Lhotse has a recipe of, into a listing."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.sources import SPAN, TAR
from nemo_speechlm.data.corpora.lhotse_shar import jsonl_items, shar_cuts, unread_fields
from nemo_speechlm.data.corpora.listing import chosen_parts, write_listing
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record


def list_lhotse(source: str | Path, listing: str | Path) -> list[str]:
    """Write what a manifest of cuts (or of recordings) says.

    A cut with several supervisions becomes a line for each; one with a single supervision, or without, a line. What a
    cut has as ``custom`` stands in its line, units for example, but for cuts that become several.

    Args:
        source: ``.jsonl`` or ``.jsonl.gz``, read line by line; another form that Lhotse loads; or a folder of Lhotse
            Shar, whose audio stays in its tars.
        listing: the file to write.

    Returns:
        what was not found: transcripts.

    Raises:
        InputError: naming file and line, at what is no cut, or a cut that is not a part of one audio file as it is
            (mixed, padded, changed in speed, held in memory, fetched by a command); or at a Shar that is not whole.
    """
    source = Path(source)
    texts = 0
    count = 0

    def records() -> Iterator[Record]:
        nonlocal texts, count
        for file, number, item, audio in shar_cuts(source) if source.is_dir() else _with_own_audio(source):
            for record in records_of(item, file, number, audio):
                texts += "text" in record
                count += 1
                yield record

    write_listing(listing, records(), source)
    notes = unread_fields(source) if source.is_dir() else []
    if not texts:
        notes.append(f"no supervision with a text among the {count} lines of {source}: no transcripts")
    return notes


def _with_own_audio(source: Path) -> Iterator[tuple[Path, int, Any, None]]:
    for number, line in _items(source):
        yield source, number, line, None


def _items(source: Path) -> Iterator[tuple[int, Any]]:
    from lhotse.serialization import load_manifest

    if ".jsonl" in source.suffixes:
        yield from jsonl_items(source)
        return
    if not source.is_file():
        raise InputError("no such file", source)
    try:
        items = load_manifest(source)
    except Exception as error:  # of whatever its reader is
        raise InputError(f"Lhotse cannot load it: {error}", source) from error
    yield from enumerate(items, start=1)


def records_of(item: Any, source: str | Path, number: int, audio: Record | None = None) -> Iterator[Record]:
    """The lines of a cut or a recording.

    Args:
        item: the cut or recording.
        source: its file, for relative paths and messages.
        number: its line.
        audio: what a line says of its audio, which begins with the cut; None: the cut says it.

    Raises:
        InputError: see :func:`list_lhotse`.
    """
    from lhotse import MonoCut, Recording

    if isinstance(item, Recording):
        item = item.to_cut()
    if not isinstance(item, MonoCut):
        raise InputError(f"a {type(item).__name__}, expected a MonoCut: a part of one recording", source, number)
    begin, whole = item.start, True
    if audio is None:
        audio = {"audio_filepath": str(_audio_of(item, source, number))}
        begin, whole = 0.0, item.start == 0 and abs(item.duration - item.recording.duration) < 1e-3
    if any(s.start < -_EDGE or s.end > item.duration + _EDGE for s in item.supervisions):
        yield audio | {"_skip": "a supervision begins or ends outside its cut"}
        return
    for cut in item.trim_to_supervisions(keep_overlapping=False) if len(item.supervisions) > 1 else [item]:
        more = (cut.custom or {}) if cut is item else {}
        record: Record = audio | {key: more[key] for key in more if key not in _PLACES and _is_plain(more[key])}
        if not (whole and cut is item):
            record |= {"offset": round(cut.start - begin, 4), "duration": round(cut.duration, 4)}
        for supervision in cut.supervisions:
            if supervision.speaker:
                record["speaker"] = supervision.speaker
            if supervision.text:
                record["text"] = supervision.text
        yield record


_EDGE = 0.05
"""Seconds by which a supervision may reach beyond its cut."""

_PLACES = frozenset(("audio_filepath", "offset", "duration", "shard_id", TAR, SPAN, "_skip", "_bad"))
"""Keys of a line that say where the audio is, and of a listing; in a cut's ``custom`` they may mean another place."""


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it; a cut may have arrays, too, which lie elsewhere."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(own) for key, own in value.items())
    return value is None or isinstance(value, str | int | float)


def _audio_of(cut: Any, source: str | Path, number: int) -> Path:
    recording = cut.recording
    if recording is None:
        raise InputError(f"cut {cut.id!r} has features but no recording", source, number)
    if len(recording.sources) != 1 or recording.sources[0].type != "file":
        kinds = ", ".join(each.type for each in recording.sources)
        raise InputError(f"the audio of cut {cut.id!r} is {kinds}, expected one file", source, number)
    if recording.transforms:
        raise InputError(f"cut {cut.id!r} changes its audio; cuts.save_audios() makes files of it", source, number)
    if recording.num_channels > 1:
        raise InputError(
            f"cut {cut.id!r} is channel {cut.channel} of {recording.num_channels}; manifests have no channels: "
            "cuts.save_audios() makes files of them",
            source,
            number,
        )
    path = Path(recording.sources[0].source)
    return path if path.is_absolute() or path.is_file() else Path(source).parent / path


def list_recipe(
    source: str | Path,
    listing: str | Path,
    parts: Sequence[str] | None,
    recipe: str | None,
    work_folder: str | Path,
    workers: int = 1,
    anew: bool = False,
) -> list[str]:
    """Run one of Lhotse's recipes (``lhotse.recipes``) and write what it says.

    Args:
        source: folder of the corpus.
        listing: the file to write.
        parts: of the recipe's result; None: the only one.
        recipe: ``aishell`` for ``prepare_aishell``.
        work_folder: where the recipe keeps its manifests; most take those that are there as they are, and go on.
            It is emptied where they are of another recipe or source.
        workers: threads or processes of recipes that take ``num_jobs``.
        anew: empty the folder in any case: the corpus may have changed.

    Returns:
        what Lhotse warned of.

    Raises:
        InputError: if there is no such recipe, or it raises.
    """
    import inspect

    prepare = getattr(import_module("lhotse.recipes"), f"prepare_{recipe}", None)
    if prepare is None:
        raise SpeechLMError(f"recipe is {recipe!r}, expected one of Lhotse's: {', '.join(recipes())}")
    if not Path(source).is_dir():
        raise InputError("no such folder", source)
    _begin(Path(work_folder), {"recipe": recipe, "source": str(Path(source).resolve())}, anew)
    wanted = inspect.signature(prepare).parameters
    options = {"output_dir": work_folder, "num_jobs": workers}
    with _warnings() as warned:
        try:
            found = prepare(source, **{key: value for key, value in options.items() if key in wanted})
        except Exception as error:  # whatever a recipe of others raises
            raise InputError(
                f"Lhotse's recipe {recipe} cannot read it: {type(error).__name__}: {error}", source
            ) from error
    sets = _leaves(found)
    records = _recipe_records(sets, chosen_parts(list(sets), parts, source), source)
    write_listing(listing, records, source)
    return [f"Lhotse: {message}" for message in warned[:10]]


_NOTE = ".made_of.json"


def _begin(folder: Path, made_of: dict[str, Any], anew: bool) -> None:
    """Make the folder of a recipe, or empty it unless what is there was made of the same."""
    note = folder / _NOTE
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == made_of
    except (OSError, ValueError):
        same = False
    if anew or not same:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(json.dumps(made_of), encoding="utf-8")


def recipes() -> list[str]:
    """Names of Lhotse's recipes that prepare a corpus."""
    package = import_module("lhotse.recipes")
    return sorted(name.removeprefix("prepare_") for name in vars(package) if name.startswith("prepare_"))


def _leaves(found: Any, name: str = "") -> dict[str, dict]:
    """The parts of a recipe's result, which may be in folders of folders: {"train": {"recordings": ..., ...}}."""
    if "recordings" in found:
        return {name or "all": found}
    return {
        part: leaf
        for key, value in found.items()
        if isinstance(value, dict)
        for part, leaf in _leaves(value, f"{name}/{key}" if name else str(key)).items()
    }


def _recipe_records(sets: dict[str, dict], parts: Iterable[str], source: str | Path) -> Iterator[Record]:
    from lhotse import CutSet

    for part in parts:
        manifests = sets[part]
        cuts = CutSet.from_manifests(manifests["recordings"], manifests.get("supervisions"))
        for number, cut in enumerate(cuts, start=1):
            yield from records_of(cut, source, number)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Messages of warnings that are logged meanwhile: of files that a recipe left out, for example."""
    messages: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = _Keep(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)
