"""Files that the commands are fuzzed with: good ones, and each way in which one can be bad."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from nemo_speechlm.testing import tiny_corpus

GOOD = {"audio_filepath": "audio/0000.wav", "text": "a bad seat"}


def make_workspace(home: Path) -> None:
    """Write everything but models."""
    tiny_corpus(home, n_speech=4, n_text=8)
    bad_manifests(home)
    bad_texts(home)
    odd = home / "ein Ordner, ä (1)"
    tiny_corpus(odd, n_speech=2, n_text=4)
    (home / "folder.json").mkdir()
    (home / "folder.nemo").mkdir()
    (home / "folder.txt").mkdir()
    (home / "silence").mkdir()
    soundfile.write(home / "silence" / "a.wav", np.zeros(16000), 16000)
    soundfile.write(home / "two.wav", np.zeros((16000, 2)), 16000)
    (home / "noise.wav").write_bytes(bytes(range(256)) * 20)
    (home / "empty.wav").touch()
    bad_models(home)
    for name in ("kept.json", "kept.nemo", "kept.txt", "kept.arpa", "kept.npz", "kept.onnx", "kept.model", "kept.fst"):
        (home / name).write_text("precious\n")
    (home / "kept").mkdir()
    (home / "kept" / "thing").write_text("precious\n")


def bad_manifests(home: Path) -> None:
    """``<what>.json``: what is wrong in the second of three lines."""
    for name, keys in {
        "no_path": {"audio_filepath": None},
        "path_number": {"audio_filepath": 7},
        "path_empty": {"audio_filepath": ""},
        "path_folder": {"audio_filepath": "audio"},
        "path_gone": {"audio_filepath": "audio/gone.wav"},
        "path_noise": {"audio_filepath": "noise.wav"},
        "path_empty_file": {"audio_filepath": "empty.wav"},
        "path_surrogate": {"audio_filepath": "audio/\ud800.wav"},
        "path_null_byte": {"audio_filepath": "audio/\0.wav"},
        "path_long": {"audio_filepath": "a" * 5000 + ".wav"},
        "duration_word": {"duration": "long"},
        "duration_negative": {"duration": -1},
        "duration_wrong": {"duration": 99},
        "duration_nan": {"duration": float("nan")},
        "duration_list": {"duration": [1]},
        "duration_huge": {"duration": 1e300},
        "offset_beyond": {"offset": 99, "duration": 1},
        "offset_word": {"offset": "x", "duration": 1},
        "text_number": {"text": 5},
        "text_null": {"text": None},
        "text_list": {"text": ["a"]},
        "text_surrogate": {"text": "a\ud800b"},
        "text_empty": {"text": ""},
        "text_digits": {"text": "12 34"},
        "text_control": {"text": "a\0b\x1b[31m"},
        "units_number": {"units": 5, "unit_durations": [1]},
        "units_unknown": {"units": ["QQ"], "unit_durations": [3]},
        "units_short": {"units": ["A", "B"], "unit_durations": [3]},
        "units_negative": {"units": ["A"], "unit_durations": [-3]},
        "units_words": {"units": ["A"], "unit_durations": ["three"]},
        "units_floats": {"units": ["A"], "unit_durations": [1.5]},
        "units_wrong_length": {"units": ["A"], "unit_durations": [3]},
        "units_empty": {"units": [], "unit_durations": []},
    }.items():
        record = {**GOOD, "units": ["A"], "unit_durations": [100], **keys}
        if keys.get("audio_filepath", "") is None:
            del record["audio_filepath"]
        first = (home / "speech.json").read_text().splitlines()[0]
        (home / f"{name}.json").write_text("\n".join([first, json.dumps(record), first]) + "\n")
    first = (home / "speech.json").read_text().splitlines()[0]
    for name, line in {"list": "[1, 2]", "word": '"a"', "number": "3", "cut": first[:40], "prose": "a line"}.items():
        (home / f"{name}.json").write_text(f"{first}\n{line}\n")
    for name, content in {
        "empty": b"",
        "blank": b"\n \n",
        "binary": bytes(range(256)),
        "utf16": first.encode("utf-16"),
        "latin1": '{"audio_filepath": "audio/0000.wav", "text": "é"}\n'.encode("latin-1"),
    }.items():
        (home / f"{name}.json").write_bytes(content)
    (home / "all_empty.json").write_text((json.dumps({**GOOD, "text": ""}) + "\n") * 2)
    (home / "not_gzip.json.gz").write_text(first + "\n")
    (home / "cut.json.gz").write_bytes(gzip.compress((first + "\n").encode() * 100)[:-20])


def bad_texts(home: Path) -> None:
    """``<what>.txt``."""
    (home / "words.txt").write_text("a bad seat\na test\nsend it\n")
    (home / "long.txt").write_text("bad seat " * 30 + "\n" + "kid send test " * 30 + "\n")
    for name, content in {
        "empty": b"",
        "blank": b"\n \n",
        "binary": bytes(range(256)),
        "digits": b"1 2 3\n4\n",
        "surrogate": b"a \xed\xa0\x80 b\n",
        "control": b"a\0b\n",
    }.items():
        (home / f"{name}.txt").write_bytes(content)


def bad_models(home: Path) -> None:
    """``<what>.nemo`` that are no models, and a unit inventory of each wrong kind."""
    (home / "text.nemo").write_text("not a model\n")
    (home / "empty.nemo").touch()
    for name, members in {
        "no_config": {"readme.txt": b"x"},
        "no_weights": {"model_config.yaml": b"target: nemo_speechlm.models.SpeechLMModel\nsample_rate: 16000\n"},
        "bad_yaml": {"model_config.yaml": b"a: [1\n", "model_weights.ckpt": b""},
        "no_target": {"model_config.yaml": b"a: 1\n", "model_weights.ckpt": b""},
        "other_target": {"model_config.yaml": b"target: os.system\n", "model_weights.ckpt": b""},
        "gone_target": {"model_config.yaml": b"target: nemo_speechlm.models.Nothing\n", "model_weights.ckpt": b""},
    }.items():
        with tarfile.open(home / f"{name}.nemo", "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(f"./{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    units = json.loads((home / "units.json").read_text())
    for name, value in {
        "units_list": [1],
        "units_nothing": {},
        "units_doubled": {**units, "symbols": ["A", "A"]},
        "units_no_symbols": {**units, "symbols": []},
        "units_kind": {**units, "kind": "other"},
        "units_rate": {**units, "frame_rate": "fast"},
        "units_silence": {**units, "silence": "QQ"},
        "units_numbers": {**units, "symbols": [1, 2]},
    }.items():
        (home / f"{name}.units").write_text(json.dumps(value))


def make_models(home: Path) -> None:
    """``pretrained.nemo``, a SpeechLM model, and ``frames.nemo``, a frame classifier: each the wrong kind for some."""
    from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel
    from nemo_speechlm.models.speechlm.model import SpeechLMModel
    from nemo_speechlm.testing import TinyCorpus, tiny_frame_classifier_config, tiny_pretrain_config

    corpus = TinyCorpus(home / "units.json", home / "speech.json", home / "text.json")
    SpeechLMModel(cfg=tiny_pretrain_config(corpus), trainer=None).save_to(str(home / "pretrained.nemo"))
    FrameClassifierModel(cfg=tiny_frame_classifier_config(corpus), trainer=None).save_to(str(home / "frames.nemo"))
