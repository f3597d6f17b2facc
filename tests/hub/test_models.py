"""Models to the hub and back, through Hugging Face's and NeMo's own clients, against a stand-in of its endpoints."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import file_digest
from nemo_speechlm.hub.card import Card, without_folders
from nemo_speechlm.hub.models import from_pretrained, push_to_hub, write_folder
from nemo_speechlm.hub.records import read_results, refuse_other_run
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels
from tests.functional.commands import run_example
from tests.hub.stand_in import hub


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub of its own, which Hugging Face's client takes for the real one; its cache is empty."""
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    data = {"manifest_filepath": "/home/someone/secret/train.json", "batch_duration": 6}
    cfg = {**tiny_architecture(), "labels": tiny_labels(), "decoder": head, "init_from_pretrained": None}
    model = SpeechLMCTCModel(OmegaConf.create(cfg))
    model.cfg = OmegaConf.create({**OmegaConf.to_container(model.cfg), "train_ds": data})
    return model


def same_weights(one, other):
    found = other.state_dict()
    return all(torch.equal(value, found[name]) for name, value in one.state_dict().items())


def test_there_and_back(server, model):
    url = push_to_hub(model, "me/tiny", Card.of(model, "apache-2.0", language=["en"]))
    assert url == "https://huggingface.co/me/tiny/tree/main"
    assert server.models["me/tiny"].keys() >= {"README.md", "tiny.nemo"}
    changing = [token for method, path, token in server.requests if method == "POST" and "validate" not in path]
    assert changing
    assert set(changing) == {"Bearer hf_of_a_test"}
    back = from_pretrained("me/tiny", "cpu")
    assert type(back) is SpeechLMCTCModel
    assert same_weights(model, back)
    assert not back.training
    assert back.cfg.train_ds.manifest_filepath == "train.json"  # not where it was on somebody's machine
    assert b"/home/someone" not in server.models["me/tiny"]["README.md"]

    # A second time it comes from the cache, and NeMo's own way finds it too.
    asked = len(server.requests)
    assert same_weights(model, ASRModel.from_pretrained("me/tiny", map_location="cpu"))
    assert len(server.requests) == asked
    from_pretrained("me/tiny", "cpu", refresh=True)
    assert len(server.requests) > asked


def test_a_private_one(server, model):
    push_to_hub(model, "me/hidden", Card.of(model, "other"), private=True)
    assert server.private == {"me/hidden"}


def test_what_the_hub_refuses_is_a_line(server, model):
    server.refuse = 403
    with pytest.raises(InputError, match=r"^me/tiny: cannot be put on the Hugging Face hub: .*403"):
        push_to_hub(model, "me/tiny", Card.of(model, "apache-2.0"))


def test_no_such_model(server):
    with pytest.raises(InputError, match=r"^me/nothing: no such file, and no such model on the Hugging Face hub$"):
        from_pretrained("me/nothing")


def test_a_hub_that_does_not_answer(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"^me/tiny: no such file, and the Hugging Face hub cannot be asked for it: "):
        from_pretrained("me/tiny")


def test_the_command_and_transcribing_by_name(server, model, tmp_path, capsys):
    import numpy as np
    import soundfile

    model.save_to(str(tmp_path / "ctc.nemo"))
    (tmp_path / "test").mkdir()
    summary = {"manifest": "/data/test.json", "utterances": 4, "wer": 0.25, "cer": 0.1, "wer_interval": [0.2, 0.3]}
    summary["model_sha256"] = file_digest(tmp_path / "ctc.nemo")
    (tmp_path / "test" / "summary.json").write_text(json.dumps(summary))
    arguments = [f"model={tmp_path / 'ctc.nemo'}", "name=me/by-command", "licence=cc-by-4.0", "languages=[en]"]
    arguments += [f"results={tmp_path / 'test'}", "data=Tones that a test made."]
    assert run_example("push_to_hub.py", *arguments, f"folder={tmp_path / 'look'}") == 0
    card = (tmp_path / "look" / "README.md").read_text()
    assert not server.models
    assert same_weights(model, from_pretrained(tmp_path / "look", "cpu"))
    assert run_example("push_to_hub.py", *arguments, f"folder={tmp_path / 'look'}") == 1
    assert "README.md: exists already" in capsys.readouterr().err
    assert run_example("push_to_hub.py", *arguments) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/by-command/tree/main\n"
    assert server.models["me/by-command"]["README.md"].decode() == card
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 16000), 16000)
    audio = [f"input={tmp_path / 'a.wav'}", "device=cpu"]
    assert run_example("transcribe.py", "model=me/by-command", *audio) == 0
    from_hub = capsys.readouterr().out
    assert run_example("transcribe.py", f"model={tmp_path / 'ctc.nemo'}", *audio) == 0
    assert capsys.readouterr().out == from_hub


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["name=tiny"], "name is 'tiny', expected user/name"),
        (["licence=''"], "licence is ''"),
        (["results=nowhere"], "nowhere: no such file; expected the summary.json of speechlm_evaluate.py"),
        (["run=."], "files run.json in it, expected one"),
    ],
)
def test_bad_options(model, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    model.save_to("ctc.nemo")
    assert run_example("push_to_hub.py", "model=ctc.nemo", "name=me/tiny", "licence=mit", "folder=out", *changes) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "does not say by digest which model it is of"),
        (
            {"model": "b.nemo", "model_sha256": "f" * 64},
            "has figures of another model, b.nemo with the SHA-256 ffffffffffff",
        ),
    ],
)
def test_figures_of_another_model(tmp_path, more, message):
    (tmp_path / "a.nemo").write_bytes(b"weights")
    (tmp_path / "summary.json").write_text(json.dumps({"manifest": "test.json", "wer": 0.1, **more}))
    with pytest.raises(InputError, match=message):
        read_results([tmp_path], tmp_path / "a.nemo")


def test_the_run_of_another_model():
    run = {
        "settings": {"model.optim.lr": 1e-3, "model.labels": ["a"], "seed": 0},
        "files": {"model.train_ds.manifest_filepath": [{"name": "train.json"}]},
    }
    config = {"optim": {"lr": 1e-3}, "labels": ["b"], "train_ds": {"manifest_filepath": "/moved/train.json"}}
    refuse_other_run(run, config, "runs/ctc")
    with pytest.raises(InputError, match=r"^runs/ctc: is the run of another model: model.optim.lr is 0.001 there"):
        refuse_other_run(run, {**config, "optim": {"lr": 1e-2}}, "runs/ctc")
    with pytest.raises(InputError, match=r"train_ds.manifest_filepath is train.json there, more.json in the model"):
        refuse_other_run(run, {**config, "train_ds": {"manifest_filepath": "more.json"}}, "runs/ctc")


def test_folders_of_models(model, tmp_path):
    with pytest.raises(InputError, match=r"is a folder with no \.nemo file in it; expected"):
        from_pretrained(tmp_path)
    model.save_to(str(tmp_path / "a.nemo"))
    assert same_weights(model, from_pretrained(tmp_path, "cpu"))
    (tmp_path / "b.nemo").touch()
    with pytest.raises(InputError, match=r"is a folder with a\.nemo, b\.nemo in it; expected"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "task", "usage"),
    [
        ("FrameClassifierModel", "feature-extraction", "tokenize_speech speech_tokenizer=frame_classifier"),
        ("TextToUnitModel", "feature-extraction", "tokenize_text text_tokenizer=text_to_unit"),
        ("SLAMTextClassifier", "text-classification", 'model.tokens_of(["a sentence"])'),
    ],
)
def test_the_card_of_what_neither_recognizes_nor_has_features(kind, task, usage):
    card = Card(kind, 1000, {"decoding": {"lm_weight": 1.0}}, {}, "mit").text("me/tiny")
    assert f"pipeline_tag: {task}\n" in card
    assert usage in card
    assert "transcribe" not in card
    assert "extract_features" not in card


def test_the_card_says_what_is_known(model):
    run = {
        "settings": {"model.optim.name": "adamw", "trainer.max_steps": 900},
        "files": {
            "model.train_ds.manifest_filepath": [{"name": "train.json", "sha256": "a" * 64}],
            "model.init_from_pretrained": [{"name": "pretrained.nemo", "sha256": "b" * 64}],
        },
        "accepted": [{"changes": ["seed: 0 before, 1 now"]}],
    }
    results = [
        {"manifest": "/data/test.json", "utterances": 4, "decoding": "greedy", "wer": 0.25, "wer_interval": [0.2, 0.3],
         "cer": None},
        {"manifest": "/data/test.json", "utterances": 3, "decoding": "lexicon", "lm": "/data/words.arpa", "skipped": 1,
         "beam_size": 50, "lm_weight": 1.5, "word_score": 0.0, "tuned_on": "/data/valid.json", "wer": 0.125,
         "cer": 0.05},
    ]  # fmt: skip
    card = Card.of(model, "apache-2.0", language=["en"], data="Tones.", run=run, results=results).text("me/tiny")
    front, _, text = card.removeprefix("---\n").partition("---\n")
    values = yaml.safe_load(front)
    assert (values["license"], values["language"], values["library_name"]) == ("apache-2.0", ["en"], "nemo")
    assert values["pipeline_tag"] == "automatic-speech-recognition"
    indexed, with_words = values["model-index"][0]["results"]
    assert indexed["metrics"] == [{"type": "wer", "name": "WER (greedy)", "value": 25.0}]
    how = "lexicon, language model words.arpa, tuned on valid.json, beam_size 50, lm_weight 1.5, word_score 0.0"
    assert with_words["metrics"][0] == {"type": "wer", "name": f"WER ({how})", "value": 12.5}
    assert "\n# tiny\n" in text
    assert "nemo-speechlm transcribe model=me/tiny input=recording.wav" in text
    assert "Tones." in text
    assert f"| train_ds | train.json | {'a' * 12} |" in text
    assert f"It began with the weights of pretrained.nemo (SHA-256 {'b' * 12})." in text
    assert f"It writes {len(tiny_labels())} characters" in text
    assert "| test.json | 4 | greedy | 25.00% [20.00%, 30.00%] | undefined |" in text
    assert f"| test.json | 3, 1 left out | {how} | 12.50% | 5.00% |" in text
    assert "| `trainer.max_steps` | 900 |" in text
    assert "- seed: 0 before, 1 now" in text
    assert "_target_: nemo_speechlm.modules.SpeechLMEncoder" in text
    assert "/home/someone" not in text
    assert text.endswith("## Licence\n\napache-2.0\n")


def test_neither_card_nor_file_names_a_folder_of_the_author(model, tmp_path):
    author = tmp_path / "author"
    author.mkdir()
    model.save_to(str(author / "pretrained.nemo"))
    tuned = SpeechLMCTCModel(
        OmegaConf.create({
            "labels": tiny_labels(),
            "decoder": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"},
            "init_from_pretrained": str(author / "pretrained.nemo"),
        })
    )  # fmt: skip
    here = {key: str(author / f"{key}.json") for key in ("noise_path", "rir_path", "manifest_filepath")}
    more = {
        "train_ds": {**here, "speech": {"manifest_filepath": [[str(author / "a.json")], [str(author / "b.json")]]}},
        "test_ds": {"input_cfg": [{"type": "nemo", "manifest_filepath": str(author / "c.json")}]},
        "phones": {"lexicon": str(author / "words.txt"), "symbols": ["a", "/"]},
        "bigram_manifests": [str(author / "d.json"), str(author / "e.json")],
    }
    tuned.cfg = OmegaConf.create({**OmegaConf.to_container(tuned.cfg), **more})
    change = f"model.units: the content of {author}/new.json (10 bytes) is not that of {author}/old.json before"
    run = {"settings": {}, "files": {}, "accepted": [{"changes": [change]}]}
    card = Card.of(tuned, "mit", run=run)
    readme, file = write_folder(tuned, tmp_path / "out", "me/tuned", card)
    assert str(author) not in readme.read_text()
    assert "model.units: the content of new.json (10 bytes) is not that of old.json before" in readme.read_text()
    back = from_pretrained(file, "cpu")
    assert str(author) not in OmegaConf.to_yaml(back.cfg)
    assert back.cfg.pretrained_from == "pretrained.nemo"
    assert back.cfg.phones == {"lexicon": "words.txt", "symbols": ["a", "/"]}
    assert same_weights(tuned, back)


def test_the_model_itself_is_not_replaced(model, tmp_path, capsys):
    model.save_to(str(tmp_path / "tiny.nemo"))
    before = file_digest(tmp_path / "tiny.nemo")
    arguments = [f"model={tmp_path}", "name=me/tiny", "licence=mit", f"folder={tmp_path}", "overwrite=true"]
    assert run_example("push_to_hub.py", *arguments) == 1
    assert f"tiny.nemo: is also what model names ({tmp_path / 'tiny.nemo'})" in capsys.readouterr().err
    assert file_digest(tmp_path / "tiny.nemo") == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.nemo"]


def test_what_is_there_stays_until_all_is_written(model, tmp_path, monkeypatch):
    card = Card.of(model, "mit")
    paths = write_folder(model, tmp_path, "me/tiny", card)
    before = [file_digest(path) for path in paths]

    def stops(path):
        Path(path).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_to", stops)
    with pytest.raises(KeyboardInterrupt):
        write_folder(model, tmp_path, "me/tiny", Card.of(model, "other"), overwrite=True)
    assert [file_digest(path) for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_files_of_a_probe_are_named_without_folders():
    upstream = {"model": "/home/me/a.nemo", "recipe": "/home/me/b.nemo", "cache": "/home/me/cache"}
    assert without_folders({"upstream": upstream}) == {
        "upstream": {"model": "a.nemo", "recipe": "b.nemo", "cache": "cache"}
    }
    of_the_hub = {"model": "me/tiny", "recipe": "speechlm_p_small", "cache": None}
    assert without_folders(of_the_hub) == of_the_hub


def test_a_translation_model_has_two_languages():
    config = {"task": "translation", "source_lang": "en", "target_lang": "de"}
    assert Card("SpeechLMEncDecModel", 1, config, {}, "mit").languages == ["en", "de"]


def test_the_card_of_a_pretrained_model_says_its_units():
    model = from_pretrained("tests/assets/before/pretrained.nemo", "cpu")
    card = Card.of(model, "apache-2.0")
    assert card.task == "feature-extraction"
    assert card.languages == [model.inventory.language]
    text = card.text("me/pretrained")
    units = model.inventory
    assert f"{len(units.symbols)} {units.kind} units (inventory), language {units.language}" in text
    assert "nemo-speechlm extract_features model=me/pretrained" in text
