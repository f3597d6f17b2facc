"""Fine-tuning with an attention decoder and its evaluation as a user runs them, on a corpus of tones."""

import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf
from sacrebleu.metrics import BLEU

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncDecModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from tests.functional.commands import run_example, scalars


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Manifests whose ``text`` is a translation (backwards, capitals, a full stop) of ``source_text``."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny = tiny_corpus(folder, n_speech=6)
    records = [record for _, record in read_manifest(tiny.speech)]
    for record in records:
        record |= {"source_text": record["text"], "source_lang": "xx", "target_lang": "yy"}
        record["text"] = record["text"][::-1].upper() + "."
    write_manifest(folder / "pairs.json", records)
    return folder / "pairs.json"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "scratch.nemo"
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    SpeechLMCTCModel(OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})).save_to(
        str(path)
    )
    return path


@pytest.fixture
def recipe(tmp_path, corpus, pretrained):
    return [
        "--config-name=st_small",
        f"output={tmp_path / 'st.nemo'}",
        f"exp_manager.exp_dir={tmp_path / 'runs'}",
        f"model.init_from_pretrained={pretrained}",
        f"model.train_ds.manifest_filepath={corpus}",
        f"model.validation_ds.manifest_filepath={corpus}",
        "model.train_ds.batch_duration=6",
        "model.train_ds.num_workers=0",
        "model.train_ds.num_buckets=2",
        "model.decoder.d_model=24",  # another width than the encoder's: a linear layer goes between
        "model.decoder.n_layers=2",
        "model.decoder.d_ff=32",
        "model.decoding.max_length=12",  # it has learned little, and would go on to the end
        "model.decoding.max_length_per_frame=0",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "trainer.log_every_n_steps=1",
    ]


def test_translation_trains_saves_restores_and_is_evaluated(tmp_path, corpus, recipe):
    assert run_example("speechlm_finetune_encdec.py", *recipe, "save=last") == 0
    logged = scalars(tmp_path / "runs")
    assert {"train_loss", "train_ctc_loss", "train_accuracy", "val_loss", "val_bleu", "learning_rate"} <= logged.keys()
    assert len(logged["train_loss"]) == 4

    model = ASRModel.restore_from(str(tmp_path / "st.nemo"), map_location="cpu").eval()
    assert isinstance(model, SpeechLMEncDecModel)
    assert (model.cfg.task, model.cfg.source_lang, model.cfg.target_lang) == ("translation", "xx", "yy")
    assert "." in model.cfg.labels
    checkpoint = torch.load(next((tmp_path / "runs").rglob("*last.ckpt")), weights_only=False)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint[name]), name

    records = [record for _, record in read_manifest(corpus)]
    paths = [str(corpus.parent / record["audio_filepath"]) for record in records]
    expected = [model.transcribe([path], batch_size=1, verbose=False)[0].text for path in paths]
    arguments = [f"model={tmp_path / 'st.nemo'}", f"manifest={corpus}", "device=cpu"]
    assert run_example("speechlm_evaluate.py", *arguments, f"output={tmp_path / 'five'}", "batch_duration=1") == 0
    lines = [json.loads(line) for line in (tmp_path / "five/utterances.jsonl").read_text().splitlines()]
    assert [line["pred_text"] for line in lines] == [" ".join(text.split()) for text in expected]
    summary = json.loads((tmp_path / "five/summary.json").read_text())
    bleu = BLEU().corpus_score([line["pred_text"] for line in lines], [[record["text"] for record in records]])
    assert summary["bleu"] == round(bleu.score, 2)
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in summary["bleu_signature"]
    assert 0 <= summary["chrf"] <= 100
    assert (summary["decoding"], summary["beam_size"], summary["length_penalty"]) == ("beam", 5, 1.0)

    assert run_example("speechlm_evaluate.py", *arguments, f"output={tmp_path / 'one'}", "beam_size=1") == 0
    greedy = [json.loads(line)["pred_text"] for line in (tmp_path / "one/utterances.jsonl").read_text().splitlines()]
    model.change_decoding_strategy({"beam_size": 1})
    assert greedy == [
        " ".join(model.transcribe([path], batch_size=1, verbose=False)[0].text.split()) for path in paths
    ]


def test_recognition_with_nemos_decoder(tmp_path, recipe):
    changes = [
        "model.task=recognition",
        "text_field=source_text",
        "model.decoder._target_=nemo_speechlm.modules.NemoDecoder",
        "model.ctc_weight=0",
        "exp_manager.checkpoint_callback_params.monitor=val_cer",
    ]
    assert run_example("speechlm_finetune_encdec.py", *recipe, *changes) == 0
    assert {"val_wer", "val_cer"} <= scalars(tmp_path / "runs").keys()
    model = ASRModel.restore_from(str(tmp_path / "st.nemo"), map_location="cpu").eval()
    assert "." not in model.cfg.labels
    assert model.ctc_branch is None
    assert isinstance(model.transcribe([torch.randn(20000)], verbose=False)[0].text, str)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["text_field=translation"], "'translation'"),
        (["model.labels=[A,B]"], "is not among the 2 characters of the decoder"),
        (["model.task=summary"], "model.task is 'summary', expected recognition or translation"),
        (["model.tokenizer.dir=nowhere"], "tokenizer.model: no such file"),
        (["model.tokenizer.dir=nowhere", "model.tokenizer.type=wpe"], "model.tokenizer.type is 'wpe', expected bpe"),
        (["model.decoding.beam_size=0"], "beam_size is 0, expected at least 1"),
    ],
)
def test_bad_input(capsys, recipe, changes, message):
    assert run_example("speechlm_finetune_encdec.py", *recipe, *changes) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_languages_are_checked(tmp_path, capsys, corpus):
    cfg = {**tiny_architecture(), "labels": ["a", "b"], "task": "translation", "target_lang": "zz"}
    decoder = {
        "_target_": "nemo_speechlm.modules.RelativeDecoder",
        "d_model": 8,
        "n_heads": 2,
        "d_ff": 8,
        "n_layers": 1,
    }
    model = SpeechLMEncDecModel(OmegaConf.create({**cfg, "decoder": decoder}))
    model.save_to(str(tmp_path / "x.nemo"))
    arguments = [f"model={tmp_path / 'x.nemo'}", f"manifest={corpus}", f"output={tmp_path / 'out'}", "device=cpu"]
    assert run_example("speechlm_evaluate.py", *arguments) == 1
    assert "'target_lang' is 'yy' in a line; the model's is 'zz'" in capsys.readouterr().err
