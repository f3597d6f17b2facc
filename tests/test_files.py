"""No command destroys what it reads, and no file is left half-written."""

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.files import atomic_write, refuse_input_as_output, refuse_one_file_twice
from tests.functional.commands import EXAMPLES, run_example
from tests.training.test_checkpoint_io import no_more_than

CONF = EXAMPLES.parent / "conf"

INPUTS = {
    "compare_results": "b",
    "export": "model",
    "extract_features": "input",
    "finetune_text": "model.init_from_pretrained",
    "maestro_pretrain": "model.phones.lexicon",
    "make_lexicon": "lexicon",
    "prepare_data": "transcripts",
    "prepare_text": "source",
    "probe": "train",
    "pseudo_label": "lm",
    "shared_space": "manifest",
    "slam_pretrain": "model.train_ds.pairs.manifest_filepath",
    "speechlm_evaluate": "tune_on",
    "speechlm_finetune_ctc": "model.init_from_pretrained",
    "speechlm_finetune_encdec": "model.validation_ds.manifest_filepath",
    "speechlm_finetune_rnnt": "model.train_ds.manifest_filepath",
    "speechlm_pretrain": "model.units",
    "tokenize_speech": "lm_text",
    "tokenize_text": "aligned_manifest",
    "train_aligner": "manifest",
    "train_frame_classifier": "model.train_ds.speech.manifest_filepath",
    "train_kmeans": "phones",
    "train_ngram": "tokens_of",
    "train_text_to_unit": "model.phones",
    "transcribe": "model",
    "translate": "input",
}
"""An option that names a file, of each command with an output; others write folders."""


def configs():
    for path in sorted(EXAMPLES.glob("*.py")):
        found = re.search(r'@command\("(\w+)"', path.read_text(encoding="utf-8"))
        if found:
            yield path.stem, found[1]


CONFIGS = dict(configs())


def test_every_command_is_here():
    others = "ablations demo make_tarred train_tokenizer info push_to_hub serve".split()
    assert set(CONFIGS) == {*INPUTS, *others}


@pytest.mark.parametrize(("command", "key"), INPUTS.items(), ids=list(INPUTS))
def test_an_input_is_not_overwritten(command, key, tmp_path, capsys):
    source, output = tmp_path / "source.json", tmp_path / "link.json"
    source.write_text('{"text": "a"}\n')
    output.symlink_to(source)
    overrides = {"make_lexicon": ["language=en"], "probe": ["output=x"]}.get(command, [])
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose(config_name=CONFIGS[command], overrides=overrides)
    missing = [f"{name}=x" for name in OmegaConf.missing_keys(config) if name not in ("output", key)]
    overwrite = ["overwrite=true"] if "overwrite" in config else []
    status = run_example(f"{command}.py", *overrides, *missing, f"{key}={source}", f"output={output}", *overwrite)
    assert status == 1
    assert f"link.json: is also what {key} names ({source})" in capsys.readouterr().err
    assert source.read_text() == '{"text": "a"}\n'
    assert output.is_symlink()


def test_files_are_compared_and_not_names(tmp_path, monkeypatch):
    source, hard, soft = (tmp_path / name for name in ("source", "hard", "soft"))
    source.write_text("x")
    hard.hardlink_to(source)
    soft.symlink_to(source)
    monkeypatch.chdir(tmp_path)
    for output in (source, hard, soft, "source", tmp_path / ".." / tmp_path.name / "source"):
        with pytest.raises(InputError, match=r"is also what b\.c names"):
            refuse_input_as_output([tmp_path / "new", output], {"a": ["x" * 5000, None, 3], "b": {"c": [str(source)]}})
    (tmp_path / "other").write_text("x")
    refuse_input_as_output([tmp_path / "other", None, tmp_path], {"a": source, "b": tmp_path})


def test_two_outputs_are_two_files(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="output and units are this one file"):
        refuse_one_file_twice({"output": tmp_path / "a", "valid": None, "units": tmp_path / "link" / "a"})
    refuse_one_file_twice({"output": tmp_path / "a", "units": tmp_path / "b", "valid": None, "more": None})


@pytest.mark.parametrize("command", ["tokenize_speech", "tokenize_text"])
def test_units_are_not_the_output(command, tmp_path, capsys):
    new, manifest = tmp_path / "new.json", tmp_path / "manifest.json"
    manifest.write_text('{"text": "a"}\n')
    assert run_example(f"{command}.py", f"manifest={manifest}", f"output={new}", f"units={new}") == 1
    assert "output and units are this one file" in capsys.readouterr().err


def test_reports_do_not_replace_what_they_are_of(tmp_path, capsys):
    manifest = tmp_path / "utterances.jsonl"
    manifest.write_text("{}\n")
    (tmp_path / "model").touch()
    arguments = [f"manifest={manifest}", f"model={tmp_path / 'model'}", f"output={tmp_path}", "overwrite=true"]
    assert run_example("speechlm_evaluate.py", *arguments) == 1
    assert "is also what manifest names" in capsys.readouterr().err
    arguments = [f"source={tmp_path / 'vocab.txt'}", f"output={tmp_path}", "overwrite=true"]
    (tmp_path / "vocab.txt").write_text("a b c\n")
    assert run_example("train_tokenizer.py", *arguments) == 1
    assert "is also what source names" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_a_full_disk_is_said_with_the_file(name, tmp_path):
    """Python's error of a write names none."""
    path = tmp_path / name
    path.write_bytes(b"before")
    text = "".join(f"{number * number}\n" for number in range(50_000))
    with (
        no_more_than(5000),
        pytest.raises(OutputError, match=rf"{name}: cannot be written: File too large"),
        atomic_write(path) as file,
    ):
        file.write(text)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
