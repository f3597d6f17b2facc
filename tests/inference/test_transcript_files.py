"""Files of transcripts: which are written, and which are kept."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.recognizers import Passage
from nemo_speechlm.inference.transcript_files import run_transcription


@pytest.fixture
def cfg(tmp_path):
    noise = 0.3 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    (tmp_path / "model.nemo").write_text("model A")
    return OmegaConf.create(
        {"model": str(tmp_path / "model.nemo"), "input": str(tmp_path / "a.wav"), "output": str(tmp_path / "texts"),
         "format": "text", "overwrite": False, "max_segment": 30, "min_segment": 5, "silence": None, "channel": "mix"}
    )  # fmt: skip


def transcribed(cfg, text, **changes):
    """The files in the folder, once a model that hears a text has transcribed."""
    cfg = OmegaConf.merge(cfg, changes)
    run_transcription(cfg, lambda segments, rate: [Passage(s.start, s.start + 1, text) for s in segments], 16000)
    return texts(cfg)


def test_batches_of_a_model_that_depends_on_padding(cfg):
    """Segments go one by one; a text is another one where they did not."""
    cfg.batch_duration, cfg.format, cfg.max_segment, cfg.min_segment = None, "text", 0.3, 0.1
    batches = []

    def run(padding_counts=True, **changes):
        batches.clear()
        changed = OmegaConf.merge(cfg, changes)

        def recognize(segments, rate):
            batches.append(len(segments))
            return [Passage(s.start, s.start + 0.1, "one") for s in segments]

        run_transcription(changed, recognize, 16000, padding_counts=padding_counts)

    run(padding_counts=False)
    assert len(batches) == 1 < batches[0]
    with pytest.raises(InputError, match=r"a.txt: was made with batch_duration null, now 0"):
        run()
    run(overwrite=True)
    assert set(batches) == {1} != len(batches)
    run(batch_duration=0)
    assert not batches
    with pytest.raises(InputError, match=r"a.txt: was made with batch_duration 0.*, now 60"):
        run(batch_duration=60)


def texts(cfg):
    return {path.name: path.read_text() for path in Path(cfg.output).glob("a.*")}


def test_another_format_beside_files_that_are_there(cfg, tmp_path):
    transcribed(cfg, "one")
    (tmp_path / "texts" / "a.txt").write_text("corrected by hand\n")
    found = transcribed(cfg, "one", format=["text", "srt"])
    assert found["a.txt"] == "corrected by hand\n"
    assert "one" in found["a.srt"]
    assert "one" in transcribed(cfg, "one", format=["text", "srt"], overwrite=True)["a.txt"]


def test_another_format_of_another_model_is_refused(cfg, tmp_path):
    before = transcribed(cfg, "one")
    (tmp_path / "model.nemo").write_text("model B")
    with pytest.raises(InputError, match=r"a.txt: was made with model"):
        transcribed(cfg, "two", format=["text", "srt"])
    assert texts(cfg) == before
    (tmp_path / "texts" / "a.srt").write_text("by hand")
    with pytest.raises(InputError, match=r"a.txt: was made with model"):
        transcribed(cfg, "two", format=["text", "srt", "json"])
