"""Data loaders for recognition models, made of a config by NeMo's Lhotse data loading."""

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lhotse.audio import AudioLoadingError
from nemo.collections.common.data.lhotse.dataloader import (
    LhotseDataLoadingConfig,
    get_lhotse_dataloader_from_config,
    make_structured_with_schema_warnings,
)
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from nemo_speechlm.data.audio.sources import first_tars
from nemo_speechlm.data.bad_examples import BadCount
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.pretraining.audio_reader import PERTURBATIONS
from nemo_speechlm.data.pretraining.config import SETTINGS, Part, Settings, read_part
from nemo_speechlm.data.pretraining.guarded import PassLoader, preparation_of
from nemo_speechlm.data.pretraining.loader import endless_loader, finite_loader
from nemo_speechlm.data.pretraining.streams import Stream
from nemo_speechlm.data.recognition.kept_statistics import kept_statistics
from nemo_speechlm.data.recognition.stream import TranscribedSpeechDataset, TranscribedSteps, TranscribedStream
from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics, check_transcripts
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.data.text.target_vocabulary import CharacterVocabulary, PieceVocabulary
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import open_text

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
    folder: str | Path | None = None,
    text: Stream | None = None,
    phones: TextEncoder | None = None,
) -> DataLoader:
    """A loader of (audio (B, S), lengths (B,), label ids (B, U), lengths (B,)).

    Where the config has a part ``text`` with data, each batch has one of text too, in the order of pretraining.

    Args:
        config: keys of NeMo's ``LhotseDataLoadingConfig``, and ``endless``: start over where the data end, in another
            order; for training by steps. ``seed``, and ``shard_seed`` if it is given, are whole numbers and the same
            in all processes. ``on_bad``, ``max_bad`` and ``timeout`` are those of
            :mod:`nemo_speechlm.data.pretraining.loader`.
        labels: characters, a label id being a position here; or what encodes a text, such as a ``TokenEncoder``.
        sample_rate: Hz; other audio is resampled.
        global_rank: of this process among ``world_size``; each reads batches of its own.
        world_size: number of processes.
        folder: of the run, for the list of bad examples.
        text: the model's stream of text; None where it has none.
        phones: writes transcripts as phones, which batches then have too.

    Raises:
        InputError: on what is wrong in the config, and in the manifests, which are read through here.
    """
    config = OmegaConf.create(dict(config))
    text_config = config.pop("text", None)
    encoder = labels if callable(labels) else CharacterEncoder(labels)
    seed = _whole_number(config, "shard_seed", _whole_number(config, "seed", 0))
    settings = Settings.of(config)._replace(seed=seed)
    count = BadCount(settings.bad, folder)
    statistics = _check_manifests(config, encoder if phones is None else _Both(encoder, phones), count)
    known: dict[str, Any] = {str(key): value for key, value in config.items() if key not in _NOT_LHOTSES}
    states = torch.get_rng_state()
    stream = TranscribedStream(encoder, sample_rate, phones)
    endless = bool(config.get("endless", False))
    own = endless or settings.bad.skips or (not config.get("shuffle") and _in_tars(config))
    part = _part(known, stream, settings, endless) if own else None
    for key in PERTURBATIONS:
        if part is None and known.pop(key, None):
            raise InputError(
                f"data config: {key} needs data that start over at their end (model.train_ds.endless=true)"
            )
    parts = [] if part is None else [part]
    if has_text({"text": text_config}):
        parts.append(_text_part(text_config, text, settings, endless))
    if part is not None and endless:
        loader: DataLoader = endless_loader(TranscribedSteps, settings, parts, global_rank, world_size, count)
    elif part is not None and part.shared:  # NeMo would not go on behind a line that cannot be read
        if config.get("shuffle"):
            raise InputError("data config: on_bad=skip needs model.train_ds.endless=true where data are shuffled")
        loader = finite_loader(TranscribedSteps, settings, part, global_rank, world_size, count)
    else:
        _refuse_marks(config)
        # Processes that share the batches of one order must agree on it; NeMo's default draws another in each.
        known |= {"sample_rate": sample_rate, "shard_seed": seed}
        # In a thread an error would be lost, and the order would depend on how fast it is.
        known = {key: value for key, value in known.items() if key not in ("on_bad", "max_bad", "timeout")}
        if _in_tars(config):
            known["tarred_audio_filepaths"] = list(first_tars(expand_shards(config["manifest_filepath"])))
        known.setdefault("concurrent_bucketing", False)
        known |= {"force_finite": True, "force_map_dataset": True}  # NeMo repeats tar files without end
        structured = make_structured_with_schema_warnings(OmegaConf.create(known))
        preparation = preparation_of(settings)
        dataset = TranscribedSpeechDataset(stream, preparation)
        nemos = get_lhotse_dataloader_from_config(structured, global_rank, world_size, dataset)
        loader = RecognitionLoader(
            nemos.dataset,
            count,
            preparation.reading,
            sampler=nemos.sampler,
            num_workers=nemos.num_workers,
            pin_memory=nemos.pin_memory,
            persistent_workers=nemos.num_workers > 0,
            timeout=settings.timeout if nemos.num_workers else 0,
        )
    torch.set_rng_state(states)  # NeMo seeds it, and thereby a model that is made afterwards
    loader.statistics = statistics  # type: ignore[attr-defined]
    return loader


def _refuse_marks(config: DictConfig) -> None:
    """Raise at a manifest that NeMo cannot read, though we can: one with a byte order mark."""
    for path in expand_shards(config.get("manifest_filepath") or []):
        with open_text(path) as file:
            if file.buffer.read(3) == BOM_UTF8:  # type: ignore[attr-defined]
                raise InputError("begins with a byte order mark, which NeMo takes for text; save it without", path)


def _in_tars(config: DictConfig) -> bool:
    """Whether the manifests themselves say that their audio is in tars, and the config says nothing of it."""
    if config.get("manifest_filepath") is None or config.get("tarred_audio_filepaths") is not None:
        return False
    return next(first_tars(expand_shards(config["manifest_filepath"])), None) is not None


class _Both:
    """Writes a text as labels, if it can be written as phones too."""

    def __init__(self, labels: TextEncoder, phones: TextEncoder):
        self.labels, self.phones = labels, phones

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        self.phones(text, path, line)
        return self.labels(text, path, line)


def has_text(config: Mapping[str, Any] | None) -> bool:
    """Whether a data config has text beside its transcribed speech: a part ``text`` that names data."""
    part = (config or {}).get("text") or {}
    return any(part.get(key) for key in ("manifest_filepath", "input_cfg"))


def _text_part(config: Any, stream: Stream | None, settings: Settings, endless: bool) -> Part:
    """The text of training.

    Raises:
        InputError: on what is wrong in its config, or if the model or the loader cannot take text.
    """
    if stream is None:
        raise InputError("data config: text: this model has no text branch; leave model.train_ds.text out")
    if not endless:
        raise InputError("data config: text: it needs model.train_ds.endless=true, and is for training alone")
    part: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)  # type: ignore[assignment]
    return read_part(stream, part, settings, training=True)


def _part(known: dict[str, Any], stream: TranscribedStream, settings: Settings, endless: bool) -> Part:
    """The data as :mod:`nemo_speechlm.data.pretraining.loader` has them: a stream in its exact order."""
    own = {key: value for key, value in known.items() if key not in SETTINGS}
    for key in sorted(own.keys() - _NEMO_KEYS - set(stream.reader.options)):
        if endless:
            logging.warning(f"data config: {key} is not known and has no effect")
        del own[key]
    part: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(own), resolve=True)  # type: ignore[assignment]
    shuffle = bool(part.pop("shuffle", False))
    for key in ("shard_seed", "sample_rate", "force_map_dataset", "force_iterable_dataset", "force_finite"):
        part.pop(key, None)
    read = read_part(stream, part, settings, training=endless)
    if read.exact:
        read.config["input_cfg"][0]["shuffle"] = shuffle
    else:
        read.config["shuffle"] = shuffle
    if endless and not read.shared:
        logging.info(
            "data config: NeMo reads these data, in an order of its own in each worker of each process. A resumed "
            "run reads again what it has had, to find its place, and needs as many workers and processes as before"
        )
    return read


def _whole_number(config: DictConfig, key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            f"data config: {key} is {value!r}, expected a whole number of at least 0 (each process and "
            "worker makes its own order from it)"
        )
    return value


class RecognitionLoader(PassLoader):
    """A pass through the data; hands out a worker's :class:`InputError` as it is.

    Attributes:
        statistics: of each manifest that it reads.
    """

    statistics: Sequence[TranscriptStatistics] = ()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except AudioLoadingError as error:  # while the sampler looks for a file's length in its header
            raise InputError(str(error).split("\nSet LHOTSE")[0]) from error


def _writing_of(encoder: TextEncoder) -> tuple | None:
    """What decides how an encoder writes text; None: not known."""
    if isinstance(encoder, PieceVocabulary):
        encoder = encoder.encoder
    if isinstance(encoder, TokenEncoder):
        return "tokens", encoder.content
    if isinstance(encoder, CharacterVocabulary):
        return "characters", encoder.symbols, encoder.leading_space
    return ("labels", encoder.labels) if isinstance(encoder, CharacterEncoder) else None


def _check_manifests(config: DictConfig, encoder: TextEncoder, count: BadCount) -> list[TranscriptStatistics]:
    """Read the manifests through, where there are any (Lhotse's own formats are checked while they are read)."""
    manifests = config.get("manifest_filepath")
    if manifests is None:
        if not any(config.get(key) for key in _OTHER_SOURCES):
            raise InputError("data config: no manifest_filepath")
        return []
    found = []
    for path in expand_shards(manifests):
        options = {
            "text_field": config.get("text_field", "text"),
            "need_audio": config.get("tarred_audio_filepaths") is None,
            "min_duration": config.get("min_duration") or 0.0,
            "max_duration": config.get("max_duration") or float("inf"),
            "skip_bad": count.rule.skips,
        }
        check = partial(check_transcripts, path, encoder, **options)
        writing = _writing_of(encoder)
        asked = None if writing is None else (writing, options)
        statistics, before = kept_statistics(path, asked, check)
        count.survey(statistics.utterances + statistics.left_out + len(statistics.bad), statistics.bad)
        if not statistics.characters:
            raise InputError("has no text at all", path)
        logging.info(f"{path}: {statistics}{' (as checked before)' if before else ''}")
        found.append(statistics)
    return found
