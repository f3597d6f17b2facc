"""The job that turns a speech manifest into one with units."""

from collections.abc import Sequence
from pathlib import Path

from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.audio.sources import moved_record
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import is_transcribed, read_manifest, text_of
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record, parse_line
from nemo_speechlm.jobs.types import BatchWork
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.durations import estimate_durations
from nemo_speechlm.units.inventory import UnitInventory

_OF_OTHER_UNITS = ("units", "unit_durations", "alignment_score", "decoded_text", "confidence")
"""What an earlier tokenizer wrote into a line of its own units."""


def make_speech_units_work(
    manifest: str | Path, output: str | Path, tokenizing: SpeechTokenizing, channel: Channel = "mix"
) -> BatchWork:
    """The work of a job (see :mod:`nemo_speechlm.jobs.job`) that adds units to the lines of a speech manifest."""
    manifest = Path(manifest)
    tokenizer = tokenizing.make()

    def read(number: int, line: str) -> SpeechInput:
        record = parse_line(line, manifest, number, ["audio_filepath"])
        samples = read_utterance(record, manifest, number, tokenizer.sample_rate, channel)
        record = {key: value for key, value in record.items() if key not in _OF_OTHER_UNITS}
        record["duration"] = round(len(samples) / tokenizer.sample_rate, 4)
        text = text_of(record, "text", manifest, number) if is_transcribed(record) else None
        return SpeechInput(samples, text, record)

    def written(record: Record, found: SpeechUnits) -> Record:
        record |= found.extra
        record["units"], record["unit_durations"] = " ".join(found.units), list(found.durations)
        return moved_record(record, manifest, output)

    def work(lines: Sequence[tuple[int, str]]) -> list[Record | InputError | SkipItem]:
        results: list[Record | InputError | SkipItem | None] = []
        utterances: list[SpeechInput] = []
        for number, line in lines:
            try:
                utterances.append(read(number, line))
                results.append(None)
            except (InputError, SkipItem) as error:
                results.append(error)
        found = iter(zip(utterances, tokenizer.tokenize_batch(utterances), strict=True))
        for position, (number, _) in enumerate(lines):
            if results[position] is None:
                utterance, units = next(found)
                if isinstance(units, SpeechUnits):
                    results[position] = written(utterance.record, units)
                elif isinstance(units, InputError):
                    results[position] = InputError(str(units), manifest, number)  # with another file that is at fault
                else:
                    results[position] = units
        return results  # type: ignore[return-value]  # none is None any more

    return work


def with_estimated_durations(inventory: UnitInventory, manifest: str | Path) -> UnitInventory:
    """The inventory with the duration statistics of a speech manifest's units."""
    sequences = (
        unit_sequence(record, inventory, manifest, number)
        for number, record in read_manifest(manifest, ["units", "unit_durations"])
    )
    return inventory.with_durations(estimate_durations(sequences, inventory))


def has_durations_of(inventory: UnitInventory, manifest: str | Path) -> bool:
    """Whether an inventory's duration statistics were estimated from a speech manifest, and not from another one."""
    try:
        return with_estimated_durations(inventory, manifest).to_dict() == inventory.to_dict()
    except InputError:  # it has other units, or none
        return False
