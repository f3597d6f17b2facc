"""Tiny builders for tests, ours and those of users: an inventory, a model, a corpus of tones with learnable units."""

import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifest import Record, read_manifest, write_manifest
from nemo_speechlm.tokenizers.language import Language
from nemo_speechlm.tokenizers.units import DurationModel, UnitInventory

LETTERS = "abdeiklnost"
"""What the tiny corpus is spelled with; each letter but the space is pronounced as the unit of its capital."""


class TinyCorpus(NamedTuple):
    """Where :func:`tiny_corpus` wrote what.

    Attributes:
        units: ``units.json``.
        speech: speech manifest with ``units``, ``unit_durations`` and ``text``.
        text: text manifest with ``units`` and no durations.
    """

    units: Path
    speech: Path
    text: Path


def tiny_inventory(frame_rate: float = 100) -> UnitInventory:
    """Twelve phoneme units: silence and one for each of ``LETTERS``, with duration statistics.

    >>> len(tiny_inventory())
    12
    """
    symbols = ("SIL", *LETTERS.upper())
    scale = frame_rate / 100
    durations = {symbol: DurationModel(7 * scale, 3 * scale) for symbol in symbols}
    durations["SIL"] = DurationModel(14 * scale, 7 * scale)
    return UnitInventory("phoneme", "en", frame_rate, symbols, "SIL", durations)


def russian() -> Language:
    """Russian as ``conf/language/ru.yaml`` has it."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "language" / "ru.yaml"))
    return Language.of(values)  # type: ignore[arg-type]


def tiny_labels() -> list[str]:
    """The characters of the tiny corpus: the space and ``LETTERS``."""
    return [" ", *LETTERS]


def tiny_architecture() -> dict[str, Any]:
    """``preprocessor``, ``encoder`` and ``sample_rate`` of a model config: waveforms, 1 + 1 layers of 32, 50 Hz."""
    layer = {
        "_target_": "nemo_speechlm.modules.RelativeTransformer",
        "n_layers": 1,
        "d_model": 32,
        "n_heads": 2,
        "d_ff": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "max_distance": 16,
    }
    return {
        "sample_rate": 16000,
        "preprocessor": {"_target_": "nemo_speechlm.modules.WaveformPreprocessor", "normalize": True},
        "encoder": {
            "_target_": "nemo_speechlm.modules.SpeechLMEncoder",
            "d_model": 32,
            "dropout_input": 0.0,
            "front_end": {
                "_target_": "nemo_speechlm.modules.ConvFrontEnd",
                "layers": [[24, 40, 20], [24, 4, 4], [24, 4, 4]],
            },
            "speech_transformer": {**layer, "position": "conv", "conv_kernel": 9, "conv_groups": 4},
            "shared_transformer": {**layer, "position": "learned", "max_frames": 1000},
        },
    }


def tiny_pretrain_config(corpus: "TinyCorpus", **overrides: Any) -> DictConfig:
    """Config of a :class:`SpeechLMModel` of :func:`tiny_architecture` on a tiny corpus; ``overrides`` replace keys."""
    masking = {"prob": 0.4, "length": 3, "min_spans": 1}
    data = {
        "speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8},
        "text": {"manifest_filepath": str(corpus.text), "batch_tokens": 400},
    }
    config = {
        "units": str(corpus.units),
        "labels": tiny_labels(),
        **tiny_architecture(),
        "unit_classifier": {"final_dim": 16, "temperature": 0.1},
        "masking": masking,
        "swapping": {"prob": 0.4, "length": 2},
        "text_masking": masking,
        "ctc_head": {"dropout": 0.1},
        "loss": {"umlm": 1.0, "umlm_unmasked": 0.0, "uctc": 1.0, "feature_penalty": 0.0},
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})


def tiny_frame_classifier_config(corpus: "TinyCorpus", **overrides: Any) -> DictConfig:
    """Config of a :class:`FrameClassifierModel` of one layer of 32 on a tiny corpus; ``overrides`` replace keys."""
    data = {"speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8}}
    config = {
        "units": str(corpus.units),
        "classes": {"ignore": None, "parts": 3},
        "decoding": {"min_duration": 3, "lm_weight": 1.0, "prior_weight": 0.5, "penalty": 0.0},
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 40,
            "n_fft": 512,
            "normalize": "per_feature",
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 40,
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "subsampling": "stacking",
            "subsampling_factor": 2,
            "conv_kernel_size": 5,
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
        },
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 5e-3},
    }
    return OmegaConf.create({**config, **overrides})


def tiny_corpus(
    folder: str | Path,
    n_speech: int = 8,
    n_text: int = 16,
    seed: int = 0,
    sample_rate: int = 16000,
    frame_rate: float = 100,
) -> TinyCorpus:
    """Write a corpus in which each unit is a tone of its own pitch in a little noise.

    Utterances last one to three seconds. Speech and text are drawn independently, so they are unpaired.
    """
    folder = Path(folder)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    inventory = tiny_inventory(frame_rate)
    corpus = TinyCorpus(folder / "units.json", folder / "speech.json", folder / "text.json")
    inventory.save(corpus.units)
    write_manifest(
        corpus.speech,
        [_utterance(folder, i, inventory, sample_rate, rng) for i in range(n_speech)],
    )
    write_manifest(corpus.text, [_sentence(rng) for _ in range(n_text)])
    return corpus


def tiny_hidden_corpus(folder: str | Path, n_speech: int = 8, n_text: int = 16, seed: int = 0) -> TinyCorpus:
    """As :func:`tiny_corpus`, with hidden units at 50 frames a second; text has ``unit_durations``, as if spoken."""
    corpus = tiny_corpus(folder, n_speech, n_text, seed, frame_rate=50)
    phonemes = UnitInventory.load(corpus.units)
    hidden = tiny_hidden_inventory(len(phonemes))
    rng = np.random.default_rng(seed)
    for path in (corpus.speech, corpus.text):
        records = [record for _, record in read_manifest(path, ["units"])]
        for record in records:
            ids = phonemes.encode(record["units"])
            record["units"] = hidden.decode(ids)
            record.setdefault("unit_durations", rng.integers(2, 6, len(ids)).tolist())
        write_manifest(path, records)
    hidden.save(corpus.units)
    return corpus


def tiny_tarred(manifest: str | Path, folder: str | Path, shards: int = 4) -> dict[str, str]:
    """Put the audio of a manifest into tar files, dealt out in turn, as NeMo's tarred datasets have it.

    Returns:
        ``manifest_filepath`` and ``tarred_audio_filepaths`` for a data config.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for _, record in read_manifest(manifest, ["audio_filepath"])]
    for shard in range(shards):
        own = [{**record, "shard_id": shard} for record in records[shard::shards]]
        with tarfile.open(folder / f"audio_{shard}.tar", "w") as tar:
            for record in own:
                path = Path(manifest).parent / record["audio_filepath"]
                tar.add(path, arcname=path.name)
                record["audio_filepath"] = path.name
        write_manifest(folder / f"manifest_{shard}.json", own)
    span = f"_OP_0..{shards - 1}_CL_"
    return {
        "manifest_filepath": str(folder / f"manifest_{span}.json"),
        "tarred_audio_filepaths": str(folder / f"audio_{span}.tar"),
    }


def _sentence(rng: np.random.Generator) -> Record:
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 6))) for _ in range(rng.integers(2, 6))]
    units = ["SIL"]
    for word in words:
        units += list(word.upper())
        if rng.random() < 0.25:
            units.append("SIL")
    if units[-1] != "SIL":
        units.append("SIL")
    return {"text": " ".join(words), "units": units}


def _utterance(
    folder: Path,
    number: int,
    inventory: UnitInventory,
    sample_rate: int,
    rng: np.random.Generator,
) -> Record:
    record = _sentence(rng)
    durations = []
    for symbol in record["units"]:
        mean, std = inventory.durations[symbol]
        durations.append(max(2, round(rng.normal(mean, std))))
    frames = np.repeat(inventory.encode(record["units"]), durations)
    num_samples = round(len(frames) * sample_rate / inventory.frame_rate)
    owner = np.minimum(
        (np.arange(num_samples) * inventory.frame_rate / sample_rate).astype(int),
        len(frames) - 1,
    )
    pitch = np.where(frames == 0, 0.0, 200.0 * 1.25**frames)[owner]
    audio = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate) + 0.01 * rng.standard_normal(num_samples)
    path = Path("audio") / f"{number:04d}.wav"
    soundfile.write(folder / path, audio.astype(np.float32), sample_rate)
    return {
        "audio_filepath": str(path),
        "duration": num_samples / sample_rate,
        "text": record["text"],
        "units": record["units"],
        "unit_durations": durations,
    }


def tiny_hidden_inventory(size: int = 6) -> UnitInventory:
    """Hidden units ``0`` to ``size - 1`` at 50 frames a second."""
    return UnitInventory("hidden", "en", 50, tuple(map(str, range(size))))


def tiny_text_to_unit_config(folder: str | Path, **overrides: Any) -> DictConfig:
    """Config of a :class:`TextToUnitModel` with blocks of 16; its two inventories are written to ``folder``."""
    phones, units = Path(folder) / "phones.json", Path(folder) / "hidden_units.json"
    tiny_inventory().save(phones)
    tiny_hidden_inventory().save(units)
    stack = {
        "_target_": "nemo_speechlm.modules.FFTransformer",
        "n_layers": 1,
        "n_heads": 2,
        "d_ff": 32,
        "kernel": 3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    config = {
        "phones": str(phones),
        "units": str(units),
        "d_model": 16,
        "encoder": stack,
        "decoder": stack,
        "duration_predictor": {
            "_target_": "nemo_speechlm.modules.DurationPredictor",
            "d_hidden": 8,
            "kernel": 3,
            "dropout": 0.0,
        },
        "loss": {"label_smoothing": 0.1, "duration": 1.0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})


class TinyPairs(NamedTuple):
    """Where :func:`tiny_paired_corpus` wrote what.

    Attributes:
        phones: ``units.json`` of the phones, at 100 frames a second.
        units: ``units.json`` of the hidden units, at 50.
        phone_manifest: phones as ``units`` with ``unit_durations``.
        hidden_manifest: hidden units of the same utterances.
    """

    phones: Path
    units: Path
    phone_manifest: Path
    hidden_manifest: Path


def tiny_paired_corpus(folder: str | Path, size: int = 24, seed: int = 0, speakers: int = 2) -> TinyPairs:
    """Write manifests of utterances, without audio, whose hidden units follow from their phones.

    Unit ``p % 3`` sounds in the first half of phone p and ``3 + p % 3`` in the second. Each phone lasts as long as its
    kind does: 4, 6 or 8 frames of 10 ms, silences 10.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    phones, units = tiny_inventory(), tiny_hidden_inventory()
    names = ("phones.json", "hidden_units.json", "phones_manifest.json", "hidden_manifest.json")
    pairs = TinyPairs(*(folder / name for name in names))
    phones.save(pairs.phones)
    units.save(pairs.units)
    spoken: list[Record] = []
    hidden: list[Record] = []
    for number in range(size):
        sentence = _sentence(rng)
        ids = phones.encode(sentence["units"])
        durations = [10 if phone == 0 else 4 + 2 * (phone % 3) for phone in ids]
        frames = [unit for phone, length in zip(ids, durations, strict=True) for unit in _halves(phone, length // 2)]
        runs = np.flatnonzero(np.diff(frames, prepend=-1))
        common = {
            "audio_filepath": f"{number:04d}.wav",
            "duration": sum(durations) / 100,
            "speaker": f"s{number % speakers}",
            "text": sentence["text"],
        }
        spoken.append({**common, "units": sentence["units"], "unit_durations": durations})
        lengths = np.diff(runs, append=len(frames)).tolist()
        hidden.append({**common, "units": [str(frames[run]) for run in runs], "unit_durations": lengths})
    write_manifest(pairs.phone_manifest, spoken)
    write_manifest(pairs.hidden_manifest, hidden)
    return pairs


def _halves(phone: int, frames: int) -> list[int]:
    first = frames - frames // 2
    return [phone % 3] * first + [3 + phone % 3] * (frames - first)
