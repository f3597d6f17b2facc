"""The files of a shard: a tar of audio, its manifest, and an index of each; none is there before all is in it."""

import os
import re
import tarfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nemo_speechlm.data.audio.sources import SPAN
from nemo_speechlm.files import Record, dump_line, open_text, sync

_MINE = re.compile(r"(audio_\d+\.tar|manifest_\d+\.json(\.gz)?)(\.idx)?")
_PARTIAL = ".partial."
_BLOCK = tarfile.BLOCKSIZE


def tar_name(shard: int) -> str:
    """The name of a shard's audio."""
    return f"audio_{shard}.tar"


def manifest_name(shard: int, gzipped: bool = False) -> str:
    """The name of a shard's manifest."""
    return f"manifest_{shard}.json{'.gz' if gzipped else ''}"


def all_of(shards: int, gzipped: bool = False) -> tuple[str, str]:
    """The names of all manifests and of all tars, as NeMo writes them for configs and command lines."""
    ending = ".gz" if gzipped else ""
    if shards == 1:
        return manifest_name(0, gzipped), tar_name(0)
    return f"manifest__OP_0..{shards - 1}_CL_.json{ending}", f"audio__OP_0..{shards - 1}_CL_.tar"


def names_of(shard: int, audio: bool, gzipped: bool = False) -> list[str]:
    """The names of a shard's files in the order in which they are named; the manifest is last."""
    tar, manifest = tar_name(shard), manifest_name(shard, gzipped)
    return [*([tar, f"{tar}.idx"] if audio else []), *([] if gzipped else [f"{manifest}.idx"]), manifest]


def files_of(folder: Path, partial: bool = False) -> list[Path]:
    """The files of shards in a folder: those that are finished, or those that are not."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    if partial:
        return [folder / name for name in names if name.startswith(_PARTIAL)]
    return [folder / name for name in names if _MINE.fullmatch(name)]


@dataclass
class ShardWriter:
    """Makes the files of a shard; they take their names when the ``with`` block ends without an error.

    Equal utterances make equal files: headers hold no times and no owners.

    Attributes:
        folder: for the files.
        shard: the number, from 0.
        audio: whether there is a tar.
        gzipped: whether the manifest is compressed.
    """

    folder: Path
    shard: int
    audio: bool
    gzipped: bool = False
    _lines: list[str] = field(default_factory=list, init=False)
    _headers: list[int] = field(default_factory=list, init=False)

    def __enter__(self) -> "ShardWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._attempt = uuid.uuid4().hex
        self._tar = open(self._partial(tar_name(self.shard)), "wb") if self.audio else None
        return self

    def add_line(self, line: str) -> None:
        """Add a line of text."""
        self._lines.append(line.strip() + "\n")

    def add(self, record: Record, name: str, content: bytes) -> None:
        """Add an utterance: its record, and a file for the tar.

        Args:
            record: of the manifest, but for what says where the audio is.
            name: of the file, short and in ASCII.
            content: of the file.
        """
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(content)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        assert len(header) == _BLOCK
        begin = self._tar.tell()
        self._tar.write(header + content + bytes(-len(content) % _BLOCK))
        self._headers.append(begin)
        span = [begin, begin + _BLOCK + len(content)]
        record = {**record, "audio_filepath": name, "shard_id": self.shard, SPAN: span}
        self._lines.append(dump_line(record))

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._tar is not None:
                self._tar.close()
            for path in self.folder.glob(f"{_PARTIAL}{self._attempt}.*"):
                path.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Write what is missing, and name all; the manifest last."""
        names = names_of(self.shard, self.audio, self.gzipped)
        if self._tar is not None:
            size = self._tar.tell() + 2 * _BLOCK
            self._tar.write(bytes(-size % tarfile.RECORDSIZE + 2 * _BLOCK))
            size = self._tar.tell()
            self._tar.close()
            self._index(f"{tar_name(self.shard)}.idx", [*self._headers, size])
        with open_text(self._partial(names[-1]), "w") as file:
            file.writelines(self._lines)
        if not self.gzipped:
            self._index(f"{names[-1]}.idx", np.cumsum([0, *(len(line.encode()) for line in self._lines)]))
        self.size = sum(self._partial(each).stat().st_size for each in names)
        for each in names:
            sync(self._partial(each))
        for each in names:
            os.replace(self._partial(each), self.folder / each)
        sync(self.folder)

    def _index(self, name: str, offsets: Iterable[int]) -> None:
        """Where each item begins and where the file ends, as NeMo's indexes have it: 64 bits each, little-endian."""
        self._partial(name).write_bytes(np.asarray(offsets, dtype="<u8").tobytes())

    def _partial(self, name: str) -> Path:
        return self.folder / f"{_PARTIAL}{self._attempt}.{name}"


def member_name(path: str, number: int, suffix: str) -> str:
    """The name of an utterance's file in a tar: what its file was called, and its place among all lines.

    >>> member_name("clips/Straße 7.wav", 12, ".flac")
    'Stra_e_7-000000012.flac'
    """
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", os.path.splitext(os.path.basename(path))[0])  # noqa: PTH119, PTH122
    return f"{stem[-60:]}-{number:09d}{suffix}"
