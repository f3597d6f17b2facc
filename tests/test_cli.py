import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from nemo_speechlm.cli import command
from nemo_speechlm.errors import SpeechLMError, Unfinished


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (Unfinished("the time is over"), 75, "the time is over\n"),
        (SpeechLMError("no such thing"), 1, "error: no such thing\n"),
        (OSError(27, "File too large"), 1, "error: File too large\n"),
        (OSError(27, "File too large", "a.txt"), 1, "error: a.txt: File too large\n"),
        (OSError("two\nlines"), 1, "error: two lines\n"),
        (ConnectionResetError(), 1, "error: ConnectionResetError\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
    ],
)  # fmt: skip
def test_how_a_command_ends_says_its_status(monkeypatch, capsys, raised, status, printed):
    @command("compare")
    def main(cfg):
        raise raised

    monkeypatch.setattr(sys, "argv", ["compare", "a=x", "b=y"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("name", "arguments", "printed"),
    [
        ("transcribe", ["model=a", "input=b", "formt=text"],
         "there is no option 'formt'; did you mean format? (+formt=... adds a key that is not in the config)"),
        ("ctc_small", ["reuse_ctc_head=true"],
         "there is no option 'reuse_ctc_head'; did you mean model.reuse_ctc_head? (+reuse_ctc_head=... adds a key "
         "that is not in the config)"),
        ("tokenize_speech", ["speech_tokenizer=sphinx"],
         "there is no speech_tokenizer=sphinx; there are: frame_classifier, gmm, imported, kmeans, pocketsphinx"),
        ("make_lexicon", ["source=a"], "not given: language; add language=... There are: cs, de, en, ru"),
        ("transcribe", ["model"], "'model' is not of the form key=value: missing EQUAL at '<EOF>'"),
        ("transcribe", ["model=ä b.nemo"],
         "'model=ä b.nemo' is not of the form key=value: LexerNoViableAltException: model=ä b.nemo; ^; a value with "
         "other characters needs quotes of its own: 'model=\"ä b.nemo\"'"),
        ("transcribe", ["model=a"], "not given: input; add input=... (--help lists all options)"),
        ("ctc_small", ["output=a.nemo", "model.init_from_pretrained=b.nemo", "model.encoder.dropout_input=0.3",
                       "model.train_ds.manifest_filepath=c", "model.validation_ds.manifest_filepath=c", "name=d"],
         "model.encoder.dropout_input is taken from model.init_from_pretrained, so it cannot be given beside it; "
         "model.encoder_overrides changes what fine-tuning may change in the encoder"),
        ("transcribe", ["model=a", "verbose=2"], "verbose=2: expected true or false"),
        ("transcribe", ["--config-dir", "nowhere"],
         "nowhere: no such folder; --config-dir names one with recipes of your own"),
    ],
)  # fmt: skip
def test_bad_options_are_a_line(monkeypatch, capsys, name, arguments, printed):
    @command(name)
    def main(cfg):
        pytest.fail("it ran")

    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {printed}\n"


def test_a_traceback_is_hydras_short_one_unless_asked_for(monkeypatch, capsys):
    @command("compare")
    def main(cfg):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(sys, "argv", ["compare", "a=x", "b=y"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit):
        main()
    assert "ZeroDivisionError: a mistake of ours" in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.fixture
def own_recipes(tmp_path):
    """A folder with a recipe of a user's own."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [transcribe, _self_]\nmax_segment: 7  # as short as ours are\n")
    return folder


@pytest.mark.parametrize("flag", ["--config-dir={}", "--config-dir {}", "-cd {}"])
def test_a_folder_of_the_users_own_recipes(monkeypatch, capsys, own_recipes, flag):
    found = {}

    @command("transcribe")
    def main(cfg):
        found.update(cfg)

    arguments = [
        *flag.format(own_recipes).split(),
        "--config-name",
        "mine",
        f"model={own_recipes / 'mine.yaml'}",
        "input=b",
        "format=srt",
    ]
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments])
    main()
    assert (found["max_segment"], found["min_segment"], found["format"]) == (7, 5, "srt")
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments[:-3], "--help"])
    main()
    shown = capsys.readouterr().out
    assert f"({own_recipes / 'mine.yaml'}; ??? must be given)" in shown
    assert "max_segment: 7  # as short as ours are" in shown
    assert "min_segment: 5" in shown


def test_the_alphabet_of_a_language_of_the_users_own(monkeypatch, capsys, own_recipes):
    (own_recipes / "language").mkdir()
    (own_recipes / "language" / "xx.yaml").write_text('code: xx\nvoice: cs\ncharacters: " ab"\n')
    found = []

    @command("transcribe")
    def main(cfg):
        found.append(list(cfg.labels))

    arguments = [f"model={own_recipes / 'mine.yaml'}", "input=b", "+labels=${alphabet:xx}"]
    monkeypatch.setattr(sys, "argv", ["transcribe", "--config-dir", str(own_recipes), *arguments])
    main()
    assert found == [[" ", "a", "b"]]
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "there is no language 'xx'; there are " in capsys.readouterr().err


def test_an_own_recipe_may_not_hide_behind_one_of_ours(monkeypatch, capsys, own_recipes):
    (own_recipes / "language").mkdir()
    (own_recipes / "language" / "de.yaml").write_text("code: de\n")

    @command("transcribe")
    def main(cfg):
        pytest.fail("it ran")

    monkeypatch.setattr(sys, "argv", ["transcribe", "--config-dir", str(own_recipes), "--config-name=mine"])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert f"{own_recipes / 'language' / 'de.yaml'}: has the name of a recipe of nemo_speechlm" in error


def test_a_recipe_that_is_in_neither_folder(monkeypatch, capsys, own_recipes):
    @command("transcribe")
    def main(cfg):
        pytest.fail("it ran")

    monkeypatch.setattr(sys, "argv", ["transcribe", "--config-dir", str(own_recipes), "--config-name=nothing"])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert "there is no config nothing.yaml in" in error
    assert f"or {own_recipes}; there are: " in error
    assert " compare, " in error
    assert ", mine" in error


@pytest.mark.parametrize("multirun", [[], ["--multirun"], ["hydra.mode=MULTIRUN"]])
def test_a_config_is_composed_once_for_each_run(monkeypatch, tmp_path, multirun):
    composed, runs = [], []
    load = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", lambda *a, **k: composed.append(1) or load(*a, **k))

    @command("compare")
    def main(cfg):
        runs.append(cfg.show)

    monkeypatch.chdir(tmp_path)
    amount = "show=1,2" if multirun else "show=1"
    monkeypatch.setattr(sys, "argv", ["compare", "a=x", "b=y", amount, *multirun])
    main()
    assert runs == ([1, 2] if multirun else [1])
    assert multirun or len(composed) == 1
