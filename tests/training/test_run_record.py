import json
import os
from dataclasses import replace

import pytest

from nemo_speechlm import __version__, files
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import file_digest
from nemo_speechlm.training.run_record import BATCHES_PER_UPDATE, RunRecord


@pytest.fixture
def config(tmp_path):
    (tmp_path / "train.json").write_text('{"text": "a"}\n')
    (tmp_path / "valid.json").write_text('{"text": "b"}\n')
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokenizer.model").write_bytes(b"\x00\x01")
    (tmp_path / "tokens" / "vocab.txt").write_text("a\n")
    return {
        "output": "out.nemo",
        "seed": 0,
        "model": {
            "labels": [" ", "a", "."],
            "classes": {"ignore": "_[BEIS]$"},
            "front_end": {"layers": [[24, 40, 20], [24, 4, 4]]},
            "train_ds": {"manifest_filepath": str(tmp_path / "train.json"), "num_workers": 2},
            "tokenizer": {"dir": str(tmp_path / "tokens")},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.98]},
        },
        "trainer": {"max_steps": 10, "precision": "32-true"},
        "exp_manager": {"exp_dir": "runs", "neptune_logger_kwargs": {"api_key": "secret"}},
    }


def changed(config, key, value):
    copy = json.loads(json.dumps(config))
    *path, last = key.split(".")
    part = copy
    for name in path:
        part = part.setdefault(name, {})
    part[last] = value
    return copy


def test_settings_and_files_are_told_apart(config, tmp_path):
    record = RunRecord.of(config, 8)
    assert record.settings == {
        BATCHES_PER_UPDATE: 8,
        "seed": 0,
        "model.labels": [" ", "a", "."],
        "model.classes.ignore": "_[BEIS]$",
        "model.front_end.layers.0": [24, 40, 20],
        "model.front_end.layers.1": [24, 4, 4],
        "model.optim.lr": 1e-3,
        "model.optim.betas": [0.9, 0.98],
        "trainer.precision": "32-true",
    }
    assert record.free == {"model.train_ds.num_workers": 2, "trainer.max_steps": 10}
    names = {key: [file["name"] for file in files] for key, files in record.files.items()}
    assert names == {
        "model.train_ds.manifest_filepath": ["train.json"],
        "model.tokenizer.dir": ["tokenizer.model", "vocab.txt"],
    }


def test_written_and_read_without_secrets(config, tmp_path):
    record = RunRecord.of(config, 8)
    record.write(tmp_path / "run")
    assert RunRecord.read(tmp_path / "run") == record
    assert "secret" not in (tmp_path / "run" / "run.json").read_text()
    assert RunRecord.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}', "\xff"])
def test_a_damaged_record_is_an_error(tmp_path, content):
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"run.json: cannot be read as the record of a run"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", 1, "seed: 0 before, 1 now"),
        ("model.optim.betas", [0.9, 0.99], "model.optim.betas: [0.9, 0.98] before, [0.9, 0.99] now"),
        ("model.front_end.layers", [[24, 40, 20]], "model.front_end.layers.1: [24, 4, 4] before, not set now"),
        ("model.swapping", None, "model.swapping: not set before, null now"),
        ("ema_decay", 0.99, "ema_decay: not set before, 0.99 now"),
        ("model.tokenizer.dir", None,
         "model.tokenizer.dir: TMP/tokens/tokenizer.model, TMP/tokens/vocab.txt before, null now"),
        ("model.train_ds.manifest_filepath", ["TMP/train.json", "TMP/valid.json"],
         "model.train_ds.manifest_filepath: 1 files before, 2 now"),
        ("model.train_ds.manifest_filepath", "TMP/valid.json",
         "model.train_ds.manifest_filepath: the content of TMP/valid.json (14 bytes) is not that of TMP/train.json "
         "before (14 bytes)"),
        ("model.train_ds.manifest_filepath", "TMP/gone.json",
         'model.train_ds.manifest_filepath: TMP/train.json before, "TMP/gone.json" now'),
    ],
)  # fmt: skip
def test_differences_are_named(config, tmp_path, monkeypatch, key, value, line):
    monkeypatch.chdir(tmp_path)
    value = json.loads(json.dumps(value).replace("TMP", str(tmp_path)))
    before, now = RunRecord.of(config, 8), RunRecord.of(changed(config, key, value), 8)
    assert before.differences(now) == [line.replace("TMP", str(tmp_path))]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output", "other.nemo"),
        ("accept_changes", True),
        ("trainer.max_steps", 20),
        ("trainer.devices", 4),
        ("model.train_ds.num_workers", 0),
        ("model.validation_ds.num_workers", 0),
        ("exp_manager.exp_dir", "elsewhere"),
        ("exp_manager.checkpoint_callback_params.save_top_k", 3),
    ],
)
def test_free_keys_make_no_difference(config, key, value):
    before, now = RunRecord.of(config, 8), RunRecord.of(changed(config, key, value), 8)
    assert before.differences(now) == []
    known = key.startswith(("trainer.max_steps", "model.train_ds"))
    assert len(before.free_changes(now)) == known


def test_half_the_devices_and_twice_the_accumulation_are_the_same_run(config):
    eight, four = (changed(config, "trainer", {"devices": n, "accumulate_grad_batches": 8 // n}) for n in (8, 4))
    assert RunRecord.of(eight, 8).differences(RunRecord.of(four, 8)) == []
    assert RunRecord.of(eight, 8).differences(RunRecord.of(four, 4)) == [f"{BATCHES_PER_UPDATE}: 8 before, 4 now"]


def test_files_are_compared_by_content_wherever_they_are(config, tmp_path):
    before = RunRecord.of(config, 8)
    (tmp_path / "train.json").rename(tmp_path / "moved.json")
    (tmp_path / "tokens").rename(tmp_path / "pieces")
    config["model"]["train_ds"]["manifest_filepath"] = [str(tmp_path / "moved.json")]
    config["model"]["tokenizer"]["dir"] = str(tmp_path / "pieces")
    assert before.differences(RunRecord.of(config, 8)) == []
    (tmp_path / "pieces" / "vocab.txt").write_text("b\n")
    (line,) = before.differences(RunRecord.of(config, 8))
    assert line.startswith("model.tokenizer.dir: the content of")


def test_hidden_files_of_a_folder_come_and_go(config, tmp_path):
    """A lock that a kill left, half a tokenizer; records of before have them."""
    before = RunRecord.of(config, 8)
    for name in (".lock.tokenizer.model", ".nfs0001", ".partial.x/text"):
        (tmp_path / "tokens" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "tokens" / name).write_text("x")
    assert before.differences(RunRecord.of(config, 8)) == []
    lock = {"name": ".lock.tokenizer.model", "path": "/x", "size": 1, "sha256": "0"}
    key = "model.tokenizer.dir"
    with_lock = RunRecord(before.settings, {**before.files, key: [lock, *before.files[key]]}, before.free)
    assert with_lock.differences(before) == []
    (tmp_path / "tokens" / "more.txt").write_text("x")
    assert with_lock.differences(RunRecord.of(config, 8)) == [f"{key}: 2 files before, 3 now"]


def test_files_in_nemos_notations_and_in_a_list_of_data(config, tmp_path):
    for number in range(3):
        (tmp_path / f"m_{number}.json").write_text(str(number))
        (tmp_path / f"audio_{number}.tar").write_bytes(bytes(number))
    data = {
        "manifest_filepath": f"{tmp_path}/m_{{0..2}}.json",
        "tarred_audio_filepaths": f"{tmp_path}/audio__OP_0..2_CL_.tar",
    }
    record = RunRecord.of({"model": {"train_ds": data}}, 1)
    manifests, archives = (record.files[f"model.train_ds.{key}"] for key in data)
    assert [file["sha256"] for file in manifests] == [file_digest(tmp_path / f"m_{n}.json") for n in range(3)]
    assert [(file["name"], file["size"]) for file in archives] == [(f"audio_{n}.tar", n) for n in range(3)]
    assert "sha256" not in archives[0]
    two = RunRecord.of({"model": {"m": f"{tmp_path}/m_0.json,{tmp_path}/m_1.json"}}, 1)
    assert [file["name"] for file in two.files["model.m"]] == ["m_0.json", "m_1.json"]
    (tmp_path / "data.yaml").write_text(f"- {{type: nemo, weight: 2, manifest_filepath: {tmp_path}/m_2.json}}\n")
    listed = RunRecord.of({"model": {"train_ds": {"input_cfg": str(tmp_path / "data.yaml")}}}, 1)
    assert listed.settings["model.train_ds.input_cfg.0.weight"] == 2
    assert [file["name"] for file in listed.files["model.train_ds.input_cfg.0.manifest_filepath"]] == ["m_2.json"]


def test_a_file_is_read_once_as_long_as_it_is_not_written(config, tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    hour_ago = path.stat().st_mtime - 3600
    for file in (path, *(tmp_path / "tokens").iterdir()):
        os.utime(file, (hour_ago, hour_ago))
    first = RunRecord.of(config, 8)
    read = []
    monkeypatch.setattr(files, "file_digest", lambda p: read.append(p.name) or file_digest(p))
    second = RunRecord.of(config, 8, known=first)
    assert (read, second) == ([], first)
    path.write_text('{"text": "c"}\n')  # of the same size
    third = RunRecord.of(config, 8, known=second)
    assert read == ["train.json"]
    assert len(first.differences(third)) == 1
    # Written a moment before it was read: another change in the same moment would leave the same time behind.
    RunRecord.of(config, 8, known=third)
    assert read == ["train.json"] * 2


def test_manifests_with_weights(config, tmp_path):
    """NeMo's ``[manifest, weight]``: the content of the one counts, and the other."""
    (tmp_path / "b.json").write_text("{}\n")
    train = str(tmp_path / "train.json")
    config["model"]["train_ds"]["manifest_filepath"] = [[train, 0.7], [str(tmp_path / "b.json"), 0.3]]
    before = RunRecord.of(config, 8)
    (tmp_path / "train.json").write_text('{"text": "another"}\n')
    config["model"]["train_ds"]["manifest_filepath"][1][1] = 0.4
    weight, content = before.differences(RunRecord.of(config, 8))
    assert weight == "model.train_ds.manifest_filepath.1.weight: 0.3 before, 0.4 now"
    assert content.startswith(f"model.train_ds.manifest_filepath.0: the content of {train}")


def test_files_that_are_named_by_a_word(config, tmp_path, monkeypatch):
    """``model.tokenizer.dir=tokens``, as typed in the folder that holds it."""
    monkeypatch.chdir(tmp_path)
    config["model"]["tokenizer"]["dir"] = "tokens"
    config["name"] = "tokens"
    before = RunRecord.of(config, 1)
    assert [file["name"] for file in before.files["model.tokenizer.dir"]] == ["tokenizer.model", "vocab.txt"]
    assert "name" not in before.files
    (tmp_path / "tokens" / "tokenizer.model").write_bytes(b"\x01\x02")
    (line,) = before.differences(RunRecord.of(config, 1))
    assert line.startswith("model.tokenizer.dir: the content of")


def test_another_version_goes_on_and_says_so(config, tmp_path):
    replace(RunRecord.of(config, 8), version="0.1.0").write(tmp_path)
    before, now = RunRecord.read(tmp_path), RunRecord.of(config, 8)
    assert before.differences(now) == []
    assert before.free_changes(now) == [f"nemo_speechlm: 0.1.0 before, {__version__} now"]
    assert now.free_changes(now) == []
