"""Text manifests into text manifests with units, and the unit inventory that goes with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from nemo_speechlm.data.audio.sources import moved_record
from nemo_speechlm.data.manifests.lines import read_manifests, text_of
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record, parse_line
from nemo_speechlm.jobs.report import CUT_PHONES
from nemo_speechlm.jobs.types import BatchWork
from nemo_speechlm.locks import only_writer
from nemo_speechlm.tokenizers.text import LineGenerators, TextTokenizing, TokenizedText
from nemo_speechlm.units.durations import estimate_durations, paper_durations
from nemo_speechlm.units.inventory import UnitInventory

Durations = Literal["paper", "estimate"]


def make_text_units_work(
    manifest: str | Path,
    units: str | Path,
    tokenizing: TextTokenizing,
    *,
    output: str | Path | None = None,
    seed: int = 0,
    max_units: int | None = None,
) -> BatchWork:
    """The work of a job (see :mod:`nemo_speechlm.jobs.job`) that adds ``units`` to the lines of a text manifest.

    Args:
        manifest: the source, for messages and relative paths.
        units: the unit inventory, which must have every unit that the tokenizer makes.
        tokenizing: how.
        output: the manifest that the lines will stand in; None is one in the same folder.
        seed: of what the tokenizer draws, together with the line's number.
        max_units: sentences with more are left out (paper: 2,000).
    """
    inventory = UnitInventory.load(units)
    tokenizing.check(inventory, units)
    tokenizer = tokenizing.make(inventory)

    def read(number: int, line: str) -> Record:
        record = parse_line(line, manifest, number, ["text"])
        text_of(record, "text", manifest, number)
        return record

    def written(record: Record, made: TokenizedText) -> Record:
        if max_units is not None and made.units.count(" ") >= max_units:
            raise SkipItem(f"more than max_units={max_units} units")
        for key in ("unit_durations", CUT_PHONES):  # they belong to the units that the line had before
            record.pop(key, None)
        record |= made.extra
        record["units"] = made.units
        if made.durations is not None:
            record["unit_durations"] = list(made.durations)
        return moved_record(record, manifest, output or manifest)

    def work(lines: Sequence[tuple[int, str]]) -> list[Record | InputError | SkipItem]:
        results: list[Record | InputError | SkipItem] = []
        for number, line in lines:
            try:
                results.append(read(number, line))
            except InputError as error:
                results.append(error)
        good = [i for i, record in enumerate(results) if isinstance(record, dict)]
        texts = [results[i]["text"] for i in good]  # type: ignore[index]
        made = tokenizer.tokenize_batch(texts, LineGenerators(seed, [lines[i][0] for i in good]))
        for i, found in zip(good, made, strict=True):
            try:
                results[i] = written(results[i], found) if isinstance(found, TokenizedText) else found  # type: ignore[arg-type]
            except SkipItem as error:
                results[i] = error
        return results

    return work


def open_inventory(units: str | Path, tokenizing: TextTokenizing) -> UnitInventory:
    """The unit inventory ``units``, or where there is none the tokenizer's; nothing is written.

    Raises:
        InputError: if the inventory is another tokenizer's.
    """
    inventory = UnitInventory.load(units) if Path(units).exists() else tokenizing.inventory()
    tokenizing.check(inventory, units)
    return inventory


def check_durations(durations: str | None, aligned_manifest: str | Path | Sequence | None) -> None:
    """Raise if the options of :func:`prepare_inventory` do not go together."""
    if durations is not None and durations not in get_args(Durations):
        raise InputError(f"durations is {durations!r}, expected {' or '.join(get_args(Durations))}")
    if durations == "estimate" and aligned_manifest is None:
        raise InputError("durations=estimate needs aligned_manifest, a speech manifest with units and unit_durations")
    if durations == "paper" and aligned_manifest is not None:
        raise InputError("durations=paper makes no use of aligned_manifest; leave out one of the two")


def prepare_inventory(
    units: str | Path,
    tokenizing: TextTokenizing,
    durations: str | None = None,
    aligned_manifest: str | Path | Sequence | None = None,
) -> UnitInventory:
    """Read or make the unit inventory ``units``, add duration statistics, and write it if it changed.

    Args:
        units: ``units.json``.
        tokenizing: what makes the units.
        durations: ``paper``, ``estimate`` (from ``aligned_manifest``), or None: estimate if there is an aligned
            manifest, else those the inventory has already, else the paper's.
        aligned_manifest: speech with ``units`` and ``unit_durations``, a manifest or several; see
            :func:`~nemo_speechlm.data.manifests.shards.expand_shards`.

    Raises:
        InputError: if the inventory is another tokenizer's, or the aligned manifest does not fit it.
    """
    check_durations(durations, aligned_manifest)
    with only_writer(units, wait=600):  # shards may run at the same time
        old = open_inventory(units, tokenizing)
        inventory = old
        if aligned_manifest is not None:
            sequences = (
                unit_sequence(record, inventory, path, number)
                for path, number, record in read_manifests(aligned_manifest, ["units", "unit_durations"])
            )
            inventory = inventory.with_durations(estimate_durations(sequences, inventory))
        elif durations == "paper" or (not inventory.durations and inventory.kind == "phoneme"):
            inventory = inventory.with_durations(paper_durations(inventory))
        if inventory != old or not Path(units).exists():
            inventory.save(units)
    return inventory
