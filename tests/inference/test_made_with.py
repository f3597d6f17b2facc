import json

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.made_with import NAME, MadeWith, settings_of


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / "a.nemo").write_bytes(b"weights")
    (tmp_path / "words.arpa").write_bytes(b"words")
    (tmp_path / "talk.wav").write_bytes(b"audio")
    return OmegaConf.create(
        {"model": str(tmp_path / "a.nemo"), "lm": str(tmp_path / "words.arpa"), "beam_size": 16, "device": "cpu",
         "input": ["talk.wav"], "output": str(tmp_path), "format": "text", "overwrite": False, "batch_duration": 60}
    )  # fmt: skip


def check(cfg, tmp_path):
    MadeWith(tmp_path, settings_of(cfg)).refuse_others(tmp_path / "talk.wav", [tmp_path / "talk.txt"])


@pytest.fixture
def made(cfg, tmp_path):
    """A folder with a transcript and its record."""
    (tmp_path / "talk.txt").write_text("good morning\n")
    MadeWith(tmp_path, settings_of(cfg)).add(tmp_path / "talk.wav", [tmp_path / "talk.txt"])
    check(cfg, tmp_path)
    return tmp_path


def test_another_version_may_write_other_transcripts(cfg, made, monkeypatch):
    monkeypatch.setattr("nemo_speechlm.__version__", "99.0")
    with pytest.raises(InputError, match=r"talk\.txt: was made with version .*, now \"?99\.0"):
        check(cfg, made)


def test_another_list_of_words_beside_the_model(cfg, tmp_path):
    listed = tmp_path / "words.arpa.words"
    listed.write_text("good\nmorning\n")
    (tmp_path / "talk.txt").write_text("good morning\n")
    MadeWith(tmp_path, settings_of(cfg)).add(tmp_path / "talk.wav", [tmp_path / "talk.txt"])
    check(cfg, tmp_path)
    listed.write_text("good\n")
    with pytest.raises(
        InputError, match=r"was made with words beside lm words\.arpa\.words \(sha256 \w+\), now words"
    ):
        check(cfg, tmp_path)


def test_what_decides_nothing_may_change(cfg, made):
    cfg.device, cfg.batch_duration, cfg.format, cfg.input = "cuda", 10, ["text", "srt"], ["talk.wav", "more.wav"]
    check(cfg, made)
    (made / "a.nemo").rename(made / "moved.nemo")  # the same model at another place
    cfg.model = str(made / "moved.nemo")
    check(cfg, made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg, folder: cfg.update(beam_size=50), "talk.txt: was made with beam_size 16, now 50. Give another"),
        (lambda cfg, folder: cfg.update(lm=None), r"lm words.arpa \(sha256 \w{12}\), now null"),
        (lambda cfg, folder: (folder / "a.nemo").write_bytes(b"others"), r"model a.nemo \(.*\), now a.nemo \(.*\)"),
        (lambda cfg, folder: (folder / "words.arpa").write_bytes(b"more"), r"lm words.arpa \(.*\), now words.arpa"),
        (
            lambda cfg, folder: (folder / "talk.wav").write_bytes(b"longer"),
            "talk.wav, now .*talk.wav has another content",
        ),
        (
            lambda cfg, folder: (folder / "talk.wav").write_bytes(b"sound"),
            "talk.wav, now .*talk.wav has another content",
        ),
    ],
)
def test_what_was_made_otherwise_is_refused(cfg, made, change, message):
    change(cfg, made)
    with pytest.raises(InputError, match=message):
        check(cfg, made)


def test_the_last_line_of_a_file_counts(cfg, made):
    """Made anew with overwrite=true, then a process was killed while it wrote."""
    cfg.beam_size = 50
    MadeWith(made, settings_of(cfg)).add(made / "talk.wav", [made / "talk.txt"])
    with open(made / NAME, "a") as file:
        file.write('{"file": "talk.txt", "recording": {"path"')
    check(cfg, made)
    cfg.beam_size = 20
    MadeWith(made, settings_of(cfg)).add(made / "talk.wav", [made / "talk.txt"])
    check(cfg, made)
    assert [json.loads(line)["settings"]["beam_size"] for line in (made / NAME).read_text().splitlines()[::3]] == [
        16,
        20,
    ]


def test_another_recording_of_the_name_is_another(cfg, made):
    (made / "other").mkdir()
    (made / "other" / "talk.wav").write_bytes(b"audio")
    record = MadeWith(made, settings_of(cfg))
    record.refuse_others(made / "other" / "talk.wav", [made / "talk.txt"])  # a copy
    (made / "other" / "talk.wav").write_bytes(b"sound")
    with pytest.raises(InputError, match=r"was made with .*talk.wav, now .*other/talk.wav has another content"):
        record.refuse_others(made / "other" / "talk.wav", [made / "talk.txt"])


def test_files_without_a_record_are_kept(cfg, tmp_path):
    (tmp_path / "talk.txt").write_text("by hand\n")
    check(cfg, tmp_path)
