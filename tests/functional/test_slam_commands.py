"""SLAM's commands as a user runs them, on a corpus of tones: pretraining in stages, and what follows from its file."""

import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from safetensors.torch import load_file

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.slam import TINY_SLAM_OPTIONS, tiny_slam_config
from tests.functional.commands import run_example, scalars

SMALL = [
    *TINY_SLAM_OPTIONS, "model.train_ds.speech.batch_duration=8", "model.train_ds.text.batch_tokens=100",
    "model.train_ds.pairs.batch_duration=8", "model.train_ds.num_workers=0",
    "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1",
]  # fmt: skip
STAGES = "model.stages=[{steps:2,tasks:[w2v_bert,masked_text]},{steps:null,tasks:[masked_text,tlm,stm,ctc]}]"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=8, n_text=20)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return tiny_slam_config(corpus).tokenizer.dir


@pytest.fixture(scope="module")
def data(corpus, tokenizer):
    manifests = {"speech": corpus.speech, "text": corpus.text, "pairs": corpus.speech}
    return [f"model.tokenizer.dir={tokenizer}", "model.tasks.ctc=0.3", STAGES] + [
        f"model.{part}.{stream}.manifest_filepath={path}"
        for part in ("train_ds", "validation_ds")
        for stream, path in manifests.items()
    ]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data):
    """Trained for the first stage and, by a second call, for two updates of the next one."""
    folder = tmp_path_factory.mktemp("pretrained")
    command = ["--config-name=slam_small", f"output={folder / 'slam.nemo'}", f"exp_manager.exp_dir={folder / 'runs'}"]
    assert run_example("slam_pretrain.py", *command, *data, *SMALL) == 0
    again = ["overwrite=true", "trainer.max_steps=4"]
    assert run_example("slam_pretrain.py", *command, *data, *SMALL, *again) == 0
    return folder / "slam.nemo"


def test_goes_on_between_stages(pretrained):
    logged = scalars(pretrained.parent / "runs")
    assert [value for _, value in logged["stage"]] == [0, 0, 1, 1]
    contrastive, matched = (
        [value == value for _, value in logged[name]] for name in ("train_contrastive", "train_stm")
    )
    assert contrastive == [True, True], "the task belongs to the first stage"
    assert matched == [True, True], "the task belongs to the second stage"
    assert {"val_loss", "val_stm_accuracy", "val_tlm_text", "val_ctc"} <= logged.keys()


def test_speech_alone(tmp_path, corpus):
    manifests = [f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")]
    own = [option for option in SMALL if "text" not in option and "pairs" not in option]
    command = [f"output={tmp_path / 'speech.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}", *manifests, *own]
    assert run_example("slam_pretrain.py", "--config-name=w2v_bert_small", *command) == 0
    assert "train_codebook_perplexity" in scalars(tmp_path / "runs")


def test_states(tmp_path, corpus, pretrained):
    for of, parts in (("text", {"cls", "text"}), ("pairs", {"cls", "text", "speech"})):
        arguments = [f"model={pretrained}", f"output={tmp_path / of}", f"of={of}", "device=cpu"]
        assert run_example("extract_features.py", f"input={corpus.speech}", *arguments) == 0
        lines = [line for _, line in read_manifest(tmp_path / of / "features.jsonl", ["features_filepath"])]
        assert len(lines) == 8
        states = load_file(tmp_path / of / lines[0]["features_filepath"])
        assert states.keys() == parts
        assert states["cls"].shape == (32,)


def test_classes_of_text(tmp_path, pretrained):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "tab\t1\nneos\t0\n" * 4)
    files = [f"model.{part}.file={tmp_path / 'train.tsv'}" for part in ("train_ds", "validation_ds")]
    command = [f"output={tmp_path / 'classes.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}", *files]
    few = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    assert run_example("finetune_text.py", *command, *few, f"model.init_from_pretrained={pretrained}") == 0
    assert {"val_accuracy", "val_f1"} <= scalars(tmp_path / "runs").keys()


HEADS = {
    "ctc": ("ctc_small", []),
    "rnnt": (
        "rnnt_slam",
        ["model.model_defaults.pred_hidden=16", "model.model_defaults.joint_hidden=16", "trainer.precision=32-true",
         "model.decoding.greedy.max_symbols=2"],
    ),
    "encdec": (
        "st_small",
        ["model.task=recognition", "model.decoder.d_model=24", "model.decoder.n_layers=1", "model.decoder.d_ff=32",
         "model.decoding.max_length=8", "model.decoding.max_length_per_frame=0",
         "exp_manager.checkpoint_callback_params.monitor=val_cer", "exp_manager.checkpoint_callback_params.mode=min"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_recognizers(tmp_path, corpus, pretrained, head):
    recipe, options = HEADS[head]
    command = [
        f"--config-name={recipe}", f"output={tmp_path / 'tuned.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}",
        f"model.init_from_pretrained={pretrained}", f"model.train_ds.manifest_filepath={corpus.speech}",
        f"model.validation_ds.manifest_filepath={corpus.speech}", "model.train_ds.batch_duration=6",
        "model.train_ds.num_workers=0", "model.train_ds.num_buckets=2", "trainer.accelerator=cpu",
        "trainer.max_steps=1", "trainer.val_check_interval=1", "save=last", *options,
    ]  # fmt: skip
    assert run_example(f"speechlm_finetune_{head}.py", *command) == 0
    before = ASRModel.restore_from(str(pretrained), map_location="cpu").encoder.state_dict()
    after = ASRModel.restore_from(str(tmp_path / "tuned.nemo"), map_location="cpu").encoder.state_dict()
    assert after.keys() == before.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=0.02, rtol=0.02, msg=name)  # after one small step

    # Only one of the rates is asked for: it has been trained for a single update.
    arguments = [f"model={tmp_path / 'tuned.nemo'}", "device=cpu"]
    assert (
        run_example("speechlm_evaluate.py", *arguments, f"manifest={corpus.speech}", f"output={tmp_path / 'out'}") == 0
    )
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["words"]["length"] == sum(
        len(record["text"].split()) for _, record in read_manifest(corpus.speech, ["text"])
    )
    recording = next((corpus.speech.parent / "audio").iterdir())
    assert run_example("transcribe.py", *arguments, f"input={recording}", f"output={tmp_path / 'texts'}") == 0
    assert len(list((tmp_path / "texts").glob("*.txt"))) == 1


@pytest.fixture
def changed_pairs(tmp_path, corpus):
    """Makes a manifest of the pairs with other text in its second line."""

    def changed_pairs(text):
        records = [record for _, record in read_manifest(corpus.speech)]
        for record in records:
            record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
        records[1] = {key: value for key, value in records[1].items() if key != "text"} | text
        write_manifest(tmp_path / "changed.json", records)
        return tmp_path / "changed.json"

    return changed_pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [({}, "changed.json:2: "), ({"text": "quiz"}, "changed.json:2: "), ({"text": None}, "changed.json:2: ")],
    ids=["no text", "text that no token has", "null"],
)
def test_pairs_with_bad_text(run, tmp_path, data, changed_pairs, text, message):
    pairs = changed_pairs(text)
    given = [f"model.{part}.pairs.manifest_filepath={pairs}" for part in ("train_ds", "validation_ds")]
    command = [f"output={tmp_path / 'none.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}", *data, *SMALL, *given]
    status, said = run("slam_pretrain.py", *command)
    assert status == 1
    assert message in said
    assert "text" in said[said.index(message) :] or "spelled" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.tokenizer.dir=nowhere"], "nowhere/tokenizer.model: "),
        (["model.tokenizer.type=wpe"], "model.tokenizer.type is 'wpe', expected bpe"),
        (["model.train_ds.pairs=null"], "model.stages[1].tasks has 'tlm', which learns from pairs"),
        (["model.train_ds.pairs.batch_duration=1", "model.stages=null"], "a batch has one pair only"),
        (
            ["model.stages=[{steps:null,tasks:[ctc]}]", "model.tasks.ctc=0"],
            "model.stages[0] has no task to learn: model.tasks.ctc is 0",
        ),
    ],
)
def test_mistakes(run, tmp_path, data, changes, message):
    command = [f"output={tmp_path / 'none.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}", *data, *SMALL, *changes]
    status, said = run("slam_pretrain.py", *command)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "none.nemo").exists()


def test_another_tokenizer_than_the_one_before(run, tmp_path, data, corpus, pretrained):
    train_tokenizer(
        (record["text"] for _, record in read_manifest(corpus.text, ["text"])), tmp_path / "tok", 24, "bpe"
    )
    command = [f"output={pretrained}", f"exp_manager.exp_dir={pretrained.parent / 'runs'}", "overwrite=true"]
    changes = [f"model.tokenizer.dir={tmp_path / 'tok'}", "trainer.max_steps=6"]
    status, said = run("slam_pretrain.py", *command, *data, *SMALL, *changes)
    assert status == 1
    assert "model.tokenizer.dir" in said
    status, said = run("slam_pretrain.py", *command, *data, *SMALL, *changes, "accept_changes=true")
    assert status == 1
    assert "model.tokenizer.dir has 24 tokens, and the checkpoint was trained with" in said
