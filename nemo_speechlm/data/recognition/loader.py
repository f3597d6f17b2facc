"""Data loaders for recognition models, made of a config by NeMo's Lhotse data loading."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from lhotse.audio import AudioLoadingError
from lhotse.dataset.sampling.base import CutSampler
from nemo.collections.common.data.lhotse.dataloader import (
    LhotseDataLoadingConfig,
    get_lhotse_dataloader_from_config,
    make_structured_with_schema_warnings,
)
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, Sampler

from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.pretraining.config import Settings, read_part
from nemo_speechlm.data.pretraining.loader import PretrainLoader, endless_loader
from nemo_speechlm.data.recognition.stream import TranscribedSteps, TranscribedStream
from nemo_speechlm.data.recognition.transcripts import (
    TranscribedSpeechDataset,
    TranscriptStatistics,
    check_transcripts,
)
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.worker_errors import ErrorReturningDataset, raise_errors
from nemo_speechlm.errors import InputError

_OTHER_SOURCES = ("input_cfg", "cuts_path", "shar_path")
_NEMO_KEYS = {field.name for field in fields(LhotseDataLoadingConfig)}
_NOT_LHOTSES = ("labels", "use_lhotse", "defer_setup", "endless")
# NeMo's models put these into every config; its Lhotse loader would warn of them.


def build_recognition_dataloader(
    config: DictConfig | Mapping[str, Any],
    labels: Sequence[str] | TextEncoder,
    sample_rate: int = 16000,
    global_rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """A loader of (audio (B, S), lengths (B,), label ids (B, U), lengths (B,)).

    Args:
        config: keys of NeMo's ``LhotseDataLoadingConfig``, and ``endless``: start over where the data end, in another
            order; for training by steps. ``seed``, and ``shard_seed`` if it is given, are whole numbers and the same
            in all processes.
        labels: characters, a label id being a position here; or what encodes a text, such as a ``TokenEncoder``.
        sample_rate: Hz; other audio is resampled.
        global_rank: of this process among ``world_size``; each reads batches of its own.
        world_size: number of processes.

    Raises:
        InputError: on what is wrong in the config, and in the manifests, which are read through here.
    """
    config = OmegaConf.create(dict(config))
    encoder = labels if callable(labels) else CharacterEncoder(labels)
    statistics = _check_manifests(config, encoder)
    seed = _whole_number(config, "shard_seed", _whole_number(config, "seed", 0))
    known: dict[str, Any] = {str(key): value for key, value in config.items() if key not in _NOT_LHOTSES}
    states = torch.get_rng_state()
    if config.get("endless", False):
        loader: DataLoader = _endless(known, TranscribedStream(encoder, sample_rate), seed, global_rank, world_size)
    else:
        # Processes that share the batches of one order must agree on it; NeMo's default draws another in each.
        known |= {"sample_rate": sample_rate, "shard_seed": seed}
        # In a thread an error would be lost, and the order would depend on how fast it is.
        known.setdefault("concurrent_bucketing", False)
        known |= {"force_finite": True, "force_map_dataset": True}  # NeMo repeats tar files without end
        structured = make_structured_with_schema_warnings(OmegaConf.create(known))
        dataset = TranscribedSpeechDataset(encoder, sample_rate)
        nemos = get_lhotse_dataloader_from_config(structured, global_rank, world_size, dataset)
        loader = RecognitionLoader(
            nemos.dataset,
            nemos.sampler,
            num_workers=nemos.num_workers,
            pin_memory=nemos.pin_memory,
            persistent_workers=nemos.num_workers > 0,
        )
    torch.set_rng_state(states)  # NeMo seeds it, and thereby a model that is made afterwards
    loader.statistics = statistics  # type: ignore[attr-defined]
    return loader


def _endless(known: dict[str, Any], stream: TranscribedStream, seed: int, rank: int, world: int) -> PretrainLoader:
    """The loader of training, in the order of :mod:`nemo_speechlm.data.pretraining.loader`."""
    settings = Settings(
        seed,
        num_workers=known.pop("num_workers", None) or 0,
        pin_memory=known.pop("pin_memory", None) or False,
        prefetch_factor=known.pop("prefetch_factor", None),
    )
    for key in sorted(known.keys() - _NEMO_KEYS - set(stream.reader.options)):
        logging.warning(f"data config: {key} is not known and has no effect")
        del known[key]
    part: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(known), resolve=True)  # type: ignore[assignment]
    shuffle = bool(part.pop("shuffle", False))
    for key in ("seed", "shard_seed", "sample_rate", "force_map_dataset", "force_iterable_dataset", "force_finite"):
        part.pop(key, None)
    read = read_part(stream, part, seed, training=True)
    if read.exact:
        read.config["input_cfg"][0]["shuffle"] = shuffle
    else:
        read.config["shuffle"] = shuffle
    if not read.shared:
        logging.info(
            "data config: NeMo reads these data, in an order of its own in each worker of each process. A resumed "
            "run reads again what it has had, to find its place, and needs as many workers and processes as before"
        )
    return endless_loader(TranscribedSteps(stream), settings, [read], rank, world)


def _whole_number(config: DictConfig, key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            f"data config: {key} is {value!r}, expected a whole number of at least 0; processes and workers read in "
            "orders of their own whatever it is"
        )
    return value


class RecognitionLoader(DataLoader):
    """A pass through the data; hands out a worker's :class:`InputError` as it is.

    Attributes:
        statistics: of each manifest that it reads.
    """

    statistics: Sequence[TranscriptStatistics] = ()

    def __init__(self, dataset: Dataset, sampler: Sampler | CutSampler, **options: Any):
        super().__init__(ErrorReturningDataset(dataset), batch_size=None, sampler=sampler, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from raise_errors(super().__iter__())
        except AudioLoadingError as error:  # while the sampler looks for a file's length in its header
            raise InputError(str(error).split("\nSet LHOTSE")[0]) from error


def _check_manifests(config: DictConfig, encoder: TextEncoder) -> list[TranscriptStatistics]:
    """Read the manifests through, where there are any (Lhotse's own formats are checked while they are read)."""
    manifests = config.get("manifest_filepath")
    if manifests is None:
        if not any(config.get(key) for key in _OTHER_SOURCES):
            raise InputError("data config: no manifest_filepath")
        return []
    found = []
    for path in expand_shards(manifests):
        statistics = check_transcripts(
            path,
            encoder,
            text_field=config.get("text_field", "text"),
            need_audio=config.get("tarred_audio_filepaths") is None,
            min_duration=config.get("min_duration") or 0.0,
            max_duration=config.get("max_duration") or float("inf"),
        )
        if not statistics.characters:
            raise InputError("has no text at all", path)
        logging.info(f"{path}: {statistics}")
        found.append(statistics)
    return found
