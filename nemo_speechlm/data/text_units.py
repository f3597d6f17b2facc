"""Text manifests into text manifests with units, and the unit inventory that goes with them."""

from pathlib import Path
from typing import Literal, get_args

from nemo_speechlm.data.manifest import Record, parse_line, read_manifest, unit_sequence
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.jobs import Work
from nemo_speechlm.tokenizers.durations import estimate_durations, paper_durations
from nemo_speechlm.tokenizers.english import SILENCE, SPOKEN_NOISE, UNKNOWN_WORD, VOWELS, phoneme_inventory
from nemo_speechlm.tokenizers.text import PhonemeTextTokenizer
from nemo_speechlm.tokenizers.units import UnitInventory

Durations = Literal["paper", "estimate"]


def make_text_units_work(
    manifest: str | Path,
    units: str | Path,
    *,
    style: str,
    silence_probability: float = 0.25,
    unknown: str = "g2p",
    lexicon: str | Path | None = None,
    seed: int = 0,
    max_units: int | None = None,
) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs`) that adds ``units`` to the lines of a text manifest.

    Args:
        manifest: the source, for messages.
        units: the unit inventory, which must have every unit of the style.
        style: of the phonemes; this and the next four as for :class:`PhonemeTextTokenizer`.
        silence_probability: of a silence between two words.
        unknown: ``g2p``, ``spn`` or ``error``.
        lexicon: file of pronunciations that replace CMUdict's.
        seed: of the silences, together with the line's number.
        max_units: sentences with more are left out (paper: 2,000).
    """
    tokenizer = PhonemeTextTokenizer(style, silence_probability, unknown, lexicon, seed)
    check_inventory(UnitInventory.load(units), style, units)

    def work(number: int, line: str) -> Record:
        record = parse_line(line, manifest, number, ["text"])
        if not isinstance(record["text"], str):
            raise InputError(f"text is {type(record['text']).__name__}, expected a string", manifest, number)
        record["units"] = tokenizer.unit_string(record["text"], tokenizer.line_rng(number))
        if max_units is not None and record["units"].count(" ") >= max_units:
            raise SkipItem(f"more than max_units={max_units} units")
        record.pop("unit_durations", None)  # of whatever units the line had before
        return record

    return work


def check_inventory(inventory: UnitInventory, style: str, path: str | Path) -> None:
    """Raise unless the inventory has every unit that text of this style may be turned into."""
    if inventory.kind != "phoneme" or inventory.language != "en":
        raise InputError(
            f"an inventory of {inventory.kind} units for language {inventory.language!r}; "
            "this makes English phoneme units",
            path,
        )
    wanted = [symbol for symbol in phoneme_inventory(style).symbols if _occurs_in_text(symbol, style)]
    missing = sorted(set(wanted) - set(inventory.symbols))
    if missing:
        raise InputError(
            f"{len(missing)} units of style={style} are not among its {len(inventory)} units ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); was it made with another style?",
            path,
        )
    if inventory.silence != SILENCE:
        raise InputError(f"its silence is {inventory.silence!r}, expected {SILENCE!r}", path)


def _occurs_in_text(symbol: str, style: str) -> bool:
    """Not so the positions of silence, and vowels without stress, which only alignments have."""
    phone = symbol.split("_")[0]
    if style == "plain" or symbol in (SILENCE, UNKNOWN_WORD):
        return True
    return phone not in (SILENCE, SPOKEN_NOISE, *VOWELS)


def prepare_inventory(
    units: str | Path, style: str, durations: str | None = None, aligned_manifest: str | Path | None = None
) -> UnitInventory:
    """Read the unit inventory ``units`` or make it, with duration statistics, and write it if anything changed.

    Args:
        units: ``units.json``.
        style: of the phonemes.
        durations: ``paper``, ``estimate`` (from ``aligned_manifest``), or None: estimate if there is an aligned
            manifest, else those the inventory has already, else the paper's.
        aligned_manifest: speech manifest with ``units`` and ``unit_durations``.

    Raises:
        InputError: if the inventory is of another style, or the aligned manifest does not fit it.
    """
    if durations is not None and durations not in get_args(Durations):
        raise InputError(f"durations is {durations!r}, expected {' or '.join(get_args(Durations))}")
    if durations is None and aligned_manifest is not None:
        durations = "estimate"
    if durations == "estimate" and aligned_manifest is None:
        raise InputError("durations=estimate needs aligned_manifest, a speech manifest with units and unit_durations")
    if durations == "paper" and aligned_manifest is not None:
        raise InputError("durations=paper makes no use of aligned_manifest; leave out one of the two")
    old = UnitInventory.load(units) if Path(units).exists() else None
    inventory = old or phoneme_inventory(style)
    check_inventory(inventory, style, units)
    if durations == "estimate" and aligned_manifest is not None:
        sequences = (
            unit_sequence(record, inventory, aligned_manifest, number)
            for number, record in read_manifest(aligned_manifest, ["units", "unit_durations"])
        )
        inventory = inventory.with_durations(estimate_durations(sequences, inventory))
    elif durations == "paper" or not inventory.durations:
        inventory = inventory.with_durations(paper_durations(inventory))
    if inventory != old:
        inventory.save(units)
    return inventory
