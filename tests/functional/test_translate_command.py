"""Translation as a user runs it: the released model's hypotheses come out of it."""

import json

import soundfile
from omegaconf import OmegaConf

from nemo_speechlm.interop.plan import Options
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels
from tests.functional.commands import run_example
from tests.golden import GOLDEN, converted, load, needs_golden


@needs_golden
def test_the_released_hypotheses(capsys, tmp_path):
    symbols = json.loads((GOLDEN / "speechlm_st_tiny/dictionaries.json").read_text())["target_dictionary"]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols[4:]), encoding="utf-8")
    model = converted("speechlm_st_tiny/checkpoint.pt", Options(label_dictionary=tmp_path / "dict.txt"))[0]
    model.change_decoding_strategy({"beam_size": 5, "length_penalty": 1.0, "max_length": 40})
    model.save_to(str(tmp_path / "st.nemo"))
    outputs = load("speechlm_st_tiny/outputs.pt")
    (tmp_path / "audio").mkdir()
    for row, length in enumerate(outputs["src_lengths"]):
        soundfile.write(tmp_path / f"audio/{row}.wav", outputs["source"][row, :length].numpy(), 16000, subtype="FLOAT")
    arguments = [f"model={tmp_path / 'st.nemo'}", f"input={tmp_path / 'audio'}", f"output={tmp_path / 'out'}"]
    # Those of a batch; alone, the released padding makes them others.
    assert run_example("translate.py", *arguments, "device=cpu", "silence=null", "batch_duration=120") == 0
    for row in range(len(outputs["src_lengths"])):
        expected = model.vocabulary.decode(outputs[f"beam5.utt{row}.hyp0.tokens"].tolist())
        assert (tmp_path / f"out/{row}.txt").read_text() == f"{' '.join(expected.split())}\n"


def test_a_model_that_does_not_translate(capsys, tmp_path):
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    cfg = OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})
    SpeechLMCTCModel(cfg).save_to(str(tmp_path / "ctc.nemo"))
    (tmp_path / "a.wav").touch()
    arguments = [f"model={tmp_path / 'ctc.nemo'}", f"input={tmp_path / 'a.wav'}", "device=cpu"]
    assert run_example("translate.py", *arguments) == 1
    assert "recognizes speech, it does not translate" in capsys.readouterr().err


def test_a_missing_model(capsys):
    assert run_example("translate.py", "model=no.nemo", "input=a.wav") == 1
    assert "no.nemo: no such file" in capsys.readouterr().err
