"""What readers of audio share: a manifest line as a Lhotse cut, with its audio in a file or in a tar."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lhotse import AudioSource, MonoCut, Recording

from nemo_speechlm.checks import check_number, check_range, check_whole
from nemo_speechlm.data.audio.sources import audio_source, in_tar, tar_of
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key, ManifestReader
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, parse_line
from nemo_speechlm.storage import is_url

_AUDIO_CHECKED = 50
_SPEED = 1
"""Added to a key, the seed of the speed: the offset at which a crop begins has the key itself."""

_VOLUME = 2
"""The same, the seed of the volume."""

PERTURBATIONS = ("speeds", "volumes")
"""Options that only these readers have, of training data."""

_SPEEDS = 0.5, 2.0
"""What is slower or faster is hardly speech."""

_VOLUMES = 1e-3, 1e3, "factor", "[0.5, 2.0]"
"""How far factors may go, and what messages say of them."""


class AudioReader(ManifestReader):
    """Cuts of a manifest with audio.

    Their ``custom`` holds ``origin`` (seconds at which the utterance starts in its file), ``manifest`` and ``line``
    for messages, and ``tar`` (a :class:`TarAudio`) where the audio is in one. The recording states the sample
    rate that the dataset resamples to: no audio file is opened before its batch is made. Where the audio is read at
    another speed, ``custom`` has ``speed``, and all times of the cut are those of the audio at that speed. It has
    ``channel`` where not all channels are read.

    Args:
        manifests: NeMo manifests; names with ``_OP_0..9_CL_`` or ``{0..9}`` stand for several.
        order: see :class:`Order`.
        sample_rate: of the audio that the dataset makes, Hz.
        min_duration: seconds; shorter utterances are left out.
        max_duration: seconds; longer utterances are left out.
        longest: seconds that the model can encode; longer utterances are left out.
        tarred_audio_filepaths: tar files with the audio, named alike; as many as manifests, or each line has its
            ``shard_id``. None: lines say it, see :func:`audio_source`.
        speeds: factors, one of which is drawn for an utterance in each pass: its audio is played so much faster, and
            so much higher (speed perturbation, Ko et al. 2015). ``min_duration`` and ``max_duration`` are of the audio
            as it is in the file. None: as it is.
        volumes: the least and the greatest factor on the samples; one between is drawn for an utterance in each pass,
            evenly in dB. None: as it is. It changes nothing where the input is normalized.
        channel_selector: of files with several channels: one, counted from 0; or, as in NeMo, the key of the line that
            says which. None: their mean.
    """

    required: ClassVar[tuple[str, ...]] = ("audio_filepath", "duration")
    options: ClassVar[tuple[str, ...]] = (
        "min_duration",
        "max_duration",
        "tarred_audio_filepaths",
        "channel_selector",
        *PERTURBATIONS,
    )
    facts: ClassVar[tuple[str, ...]] = ("sample_rate", "longest")

    def __init__(
        self,
        manifests: Sequence[str],
        order: Order = Order(),  # noqa: B008 - immutable
        sample_rate: int = 16000,
        min_duration: float | None = None,
        max_duration: float | None = None,
        longest: float | None = None,
        tarred_audio_filepaths: str | Sequence[str] | None = None,
        speeds: Sequence[float] | None = None,
        volumes: Sequence[float] | None = None,
        channel_selector: int | str | None = None,
    ):
        manifests = expand_shards(manifests)
        super().__init__(manifests, order, whole_files=tarred_audio_filepaths is not None)
        self.sample_rate = sample_rate
        self.min_duration = min_duration or 0.0
        self.max_duration = max_duration or float("inf")
        self.longest = longest or float("inf")
        self._tars = None if tarred_audio_filepaths is None else _Tars(manifests, tarred_audio_filepaths)
        self.tarred = self._tars is not None or self._says_tars()
        if self.tarred and self._tars is None:
            self._arrange(whole_files=True)
        self.speeds = _checked_speeds(speeds)
        self.volumes = None if volumes is None else check_range("data config: volumes", volumes, *_VOLUMES)
        self.channel_selector = channel_selector
        if channel_selector is not None and not isinstance(channel_selector, str):
            check_whole("data config: channel_selector", channel_selector)

    def _says_tars(self) -> bool:
        """Whether the first line of a manifest says that its audio is in a tar."""
        for file in self._lines.files:
            number, line = file[0]
            try:
                record = parse_line(line, file.path, number)
            except InputError:  # it is told of when it is its turn
                continue
            if tar_of(record, file.path) is not None:
                return True
        return False

    def _speed(self, key: Key | None, seconds: float = 0.0) -> float:
        """How fast the utterance of a key is played; as it is, if its ``seconds`` would become too long."""
        if key is None or self.speeds == [1.0]:
            return 1.0
        speed = self.speeds[int(np.random.default_rng((*key, _SPEED)).integers(len(self.speeds)))]
        return 1.0 if seconds / speed > self.longest else speed

    def _volume(self, key: Key | None) -> dict[str, float]:
        """How loud the utterance of a key is played, for the cut's ``custom``."""
        if key is None or self.volumes is None:
            return {}
        return {"volume": float(np.exp(np.random.default_rng((*key, _VOLUME)).uniform(*np.log(self.volumes))))}

    def _channel(self, record: Record, file: IndexedManifest, number: int) -> Any:
        """Which channel of its file an utterance is."""
        if not isinstance(self.channel_selector, str):
            return self.channel_selector
        channel = record.get(self.channel_selector)
        if not isinstance(channel, int) or isinstance(channel, bool) or channel < 0:
            message = f"{self.channel_selector!r} (channel_selector) is {channel!r}, expected a channel from 0 on"
            raise InputError(message, file.path, number)
        return channel

    def _left_out(self, duration: float) -> str | None:
        if duration < self.min_duration:
            return f"shorter than min_duration ({self.min_duration:g} s)"
        if duration > self.max_duration:
            return f"longer than max_duration ({self.max_duration:g} s)"
        return None

    def _cut(
        self,
        record: Record,
        file: IndexedManifest,
        number: int,
        span: tuple[float, float],
        custom: dict[str, Any],
        key: Key | None,
        speed: float,
    ) -> MonoCut:
        """The cut of ``span`` (start and duration in seconds within the utterance, played at ``speed``)."""
        origin = seconds(record, "offset", file, number) if record.get("offset") else 0.0
        if not isinstance(record["audio_filepath"], str):
            raise InputError(f"audio_filepath is {record['audio_filepath']!r}, expected a path", file.path, number)
        if self._tars is None:
            source = audio_source(record, file.path, number)
        else:
            source = in_tar(record, self._tars.of(record, file, number), file.path, number)
        path = str(source)
        if isinstance(source, TarAudio):
            custom["tar"], path = source, source.path
        num_samples = round((origin + float(record["duration"])) / speed * self.sample_rate)
        origin /= speed
        if speed != 1.0:
            custom["speed"] = speed
        if self.channel_selector is not None:
            custom["channel"] = self._channel(record, file, number)
        return MonoCut(
            id=f"{file.path}:{number}",
            start=origin + span[0],
            duration=span[1],
            channel=0,
            recording=Recording(
                id=path,
                sources=[AudioSource("file", [0], path)],
                sampling_rate=self.sample_rate,
                num_samples=num_samples,
                duration=num_samples / self.sample_rate,
            ),
            custom={**custom, **self._volume(key), "origin": origin, "manifest": str(file.path), "line": number},
        )

    def _check_audio(self) -> None:
        """Look whether some of the audio is there."""
        for row in np.unique(np.linspace(0, len(self) - 1, _AUDIO_CHECKED).astype(np.int64)):
            cut = self._read_or_skip(int(row), None)
            if isinstance(cut, str | BadExample):
                continue
            where = cut.custom["manifest"], cut.custom["line"]
            try:
                _check_there(cut, where)
            except InputError as error:
                if not self.order.skip_bad:
                    raise
                self._bad.append(BadExample.of(error))


def _checked_speeds(speeds: Sequence[float] | None) -> list[float]:
    if speeds is None:
        return [1.0]
    if not isinstance(speeds, Sequence) or isinstance(speeds, str) or not speeds:
        raise InputError(f"data config: speeds is {speeds!r}, expected a list of factors such as [0.9, 1.0, 1.1]")
    for speed in speeds:
        check_number("data config: speeds", speed, *_SPEEDS)
    return [float(speed) for speed in speeds]


def _check_there(cut: MonoCut, where: tuple[str, int]) -> None:
    if "tar" not in cut.custom:
        if not Path(cut.recording.id).is_file():
            what = "audio file is not a regular file" if Path(cut.recording.id).exists() else "no such audio file"
            raise InputError(f"{what}: {cut.recording.id}", *where)
        return
    try:
        cut.custom["tar"].check()
    except InputError as error:
        raise InputError(str(error), *where) from error


class _Tars:
    """The tar file of each line."""

    def __init__(self, manifests: Sequence[str], tars: str | Sequence[str]):
        paths = expand_shards(tars)
        numbers = [_shard(path, "audio", "tar") for path in paths]
        self.paths = dict(zip(numbers, paths, strict=True))
        self.by_manifest: dict[str, str] = {}
        if len(manifests) > 1 or len(paths) == 1:
            shards = [_shard(path, "manifest", "json") for path in manifests] if len(manifests) > 1 else numbers
            if shards == numbers:  # of several sets, too, which have the same numbers
                self.by_manifest = dict(zip(map(_name, manifests), paths, strict=True))
                return
            if set(shards) != set(numbers) or len(set(numbers)) < len(numbers) or len(shards) != len(numbers):
                raise InputError(
                    f"manifests have the shards {sorted(shards)}, tarred_audio_filepaths {sorted(self.paths)}",
                    manifests[0],
                )
            self.by_manifest = {_name(m): self.paths[shard] for m, shard in zip(manifests, shards, strict=True)}
        elif twice := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise InputError(
                f"tarred_audio_filepaths has several files of the shards {twice}, and shard_id says a number alone; "
                "give a manifest for each tar",
                manifests[0],
            )

    def of(self, record: Record, file: IndexedManifest, number: int) -> str:
        if self.by_manifest:
            return self.by_manifest[str(file.path)]
        shard = record.get("shard_id")
        if shard not in self.paths:
            raise InputError(
                f"shard_id is {shard!r}, expected one of tarred_audio_filepaths: {sorted(self.paths)}",
                file.path,
                number,
            )
        return self.paths[shard]


def _name(manifest: str) -> str:
    """A manifest as its index names it."""
    return manifest if is_url(manifest) else str(Path(manifest))


def _shard(path: str, word: str, ending: str) -> int:
    """The number in a file's name, found as NeMo finds it."""
    found = re.search(rf"{word}[^/]*_(\d+)[^/]*\.{ending}", path)
    if found is None:
        raise InputError(f"has no shard number in its name; expected {word}_0.{ending} or the like", path)
    return int(found[1])


def seconds(record: Record, key: str, file: IndexedManifest, number: int) -> float:
    """A record's seconds.

    Raises:
        InputError: if they are not a number above 0.
    """
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{key} is {value!r}, expected seconds above 0", file.path, number)
    return float(value)
