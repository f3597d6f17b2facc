"""Features of many utterances in one folder that Hugging Face's ``datasets.load_dataset`` opens: Parquet shards.

Axis legend: T frames, D width, L layers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nemo_speechlm.files import Record, atomic_write, whole_file

SHARD_BYTES = 256 * 2**20
"""Features in a shard, about: it is held in memory while it is made."""

_CARD = """---
configs:
- config_name: default
  data_files: data/*.parquet
---
Features of {layers}, each of frames by width. `settings.json` says what they were made of.
"""


def shard_files(folder: Path, durations: Sequence[float], bytes_per_second: float) -> list[Path]:
    """The shard of each utterance; utterances stay in their order."""
    numbers: list[int] = []
    filled = 0.0
    for duration in durations:
        size = duration * bytes_per_second
        filled += size
        if numbers and filled <= SHARD_BYTES:
            numbers.append(numbers[-1])
        else:
            numbers.append(numbers[-1] + 1 if numbers else 0)
            filled = size
    count = numbers[-1] + 1
    return [folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet" for number in numbers]


_FIELDS = {"audio_filepath": "string", "offset": "float64", "duration": "float64", "text": "string"}
"""Of manifest lines, that become columns, and their types in Arrow."""


def columns_of(records: Iterable[Record]) -> list[str]:
    """The fields of manifest lines that the shards of an extraction have: those that a line has, be it a single one.

    All shards need the same: ``load_dataset`` takes no others.
    """
    found = {field for record in records for field in _FIELDS if record.get(field) is not None}
    return [field for field in _FIELDS if field in found]


def write_shard(
    path: Path,
    names: Sequence[str],
    records: Sequence[Record],
    states: Sequence[Tensor],
    layers: Sequence[int],
    columns: Sequence[str],
) -> None:
    """Write utterances as rows: ``id``, what their manifest lines say, ``num_frames``, ``layer_1``, ...

    Args:
        path: the shard.
        names: an id for each utterance.
        records: its manifest line.
        states: its features (L, T, D), in fp32 or fp16.
        layers: their numbers.
        columns: see :func:`columns_of`; null where a line has not the field.
    """
    import pyarrow as pa
    from pyarrow import parquet

    frames = [state_LTD.shape[1] for state_LTD in states]
    made = {"id": pa.array(names)}
    for field in columns:
        made[field] = pa.array([record.get(field) for record in records], _FIELDS[field])
    made["num_frames"] = pa.array(frames)
    ends = pa.array(np.cumsum([0, *frames]), pa.int32())
    for index, number in enumerate(layers):
        values_TD = np.concatenate([state_LTD[index].numpy() for state_LTD in states])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(values_TD.ravel()), values_TD.shape[1])
        made[f"layer_{number}"] = pa.ListArray.from_arrays(ends, rows)
    with whole_file(path) as partial:
        parquet.write_table(pa.table(made), partial)


def piece_path(path: Path, first: str) -> Path:
    """Where a part of a shard's utterances is, that begins with this id, until all parts are there."""
    return path.with_name(f".{path.stem}.{first}.parquet")


def join_pieces(path: Path, pieces: Sequence[Path]) -> None:
    """Make a shard of its pieces: the bytes of one that was written at once."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole_file(path) as partial:
        table = pa.concat_tables([parquet.read_table(piece) for piece in pieces]).combine_chunks()
        schema = pa.schema([(column.name, _as_written(column.type)) for column in table.schema])
        parquet.write_table(table.cast(schema), partial)


def _as_written(kind: Any) -> Any:
    """The type of a column that was read: lists call their items otherwise then."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type, kind.list_size)
    return pa.list_(_as_written(kind.value_type)) if pa.types.is_list(kind) else kind


def frames_of_shard(path: Path) -> list[int]:
    """``num_frames`` of its rows."""
    from pyarrow import parquet

    return parquet.read_table(path, columns=["num_frames"])["num_frames"].to_pylist()


def write_card(folder: Path, layers: Sequence[int]) -> None:
    """Write ``README.md``, where Hugging Face's tools look for the location of the data."""
    with atomic_write(folder / "README.md") as file:
        file.write(_CARD.format(layers=", ".join(f"`layer_{number}`" for number in layers)))
