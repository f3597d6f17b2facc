"""What follows pretraining works on a SLAM encoder: fine-tuning, features, export."""

from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.export import compare, export
from nemo_speechlm.inference.features import states
from nemo_speechlm.inference.features.states import extract_states
from nemo_speechlm.models.common.pretrained import load_encoder, read_pretrained
from nemo_speechlm.models.encoder import SpeechLMEncoderModel


@pytest.fixture(scope="module")
def pretrained(build, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "slam.nemo"
    build().save_to(str(path))
    return path


def test_heads_of_pretraining_are_left_behind(pretrained, build):
    source = read_pretrained(pretrained)
    assert {"w2v_bert", "text_embedding", "stm_head"} <= set(source.left_behind())
    encoder = SpeechLMEncoderModel(source.cfg)
    load_encoder(encoder, source)
    loaded = encoder.encoder.state_dict()
    for name, weight in build().encoder.state_dict().items():
        assert torch.equal(loaded[name], weight), name


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
def test_encoder_as_a_graph(build, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    model = build().eval()
    (path,) = export(model, tmp_path / f"encoder{suffix}", part="encoder")
    assert compare(model, path, "encoder") < 1e-4


@pytest.mark.parametrize("of", ["text", "pairs"])
def test_states_of_text_and_of_pairs(pretrained, build, corpus, tmp_path, of):
    count = extract_states(pretrained, corpus.speech, tmp_path / "states", of)
    lines = [record for _, record in read_manifest(tmp_path / "states" / "features.jsonl", ["features_filepath"])]
    assert count == len(lines) == 16
    assert all(Path(record["audio_filepath"]).is_absolute() for record in lines), "the folder is another"
    found = load_file(tmp_path / "states" / lines[3]["features_filepath"])
    model = build().eval()
    tokens = torch.tensor([model.text_encoder(lines[3]["text"])])
    sizes = torch.tensor([tokens.shape[1]])
    assert found["text"].shape == (lines[3]["num_tokens"], 32) == (tokens.shape[1], 32)
    with torch.no_grad():
        if of == "text":
            expected = model.text_states(tokens, sizes)[0]
            assert set(found) == {"cls", "text"}
        else:
            audio = torch.from_numpy(soundfile.read(corpus.speech.parent / lines[3]["audio_filepath"])[0]).float()
            batch = PairBatch(audio.unsqueeze(0), torch.tensor([len(audio)]), tokens, sizes)
            speech, expected, frames = model.pair_states(batch)
            torch.testing.assert_close(found["speech"], speech[0, : int(frames)])
            expected = expected[0]
    torch.testing.assert_close(found["cls"], expected[0])
    torch.testing.assert_close(found["text"], expected[1:])
    with pytest.raises(InputError, match="holds files already"):
        extract_states(pretrained, corpus.speech, tmp_path / "states", of)
    assert extract_states(pretrained, corpus.speech, tmp_path / "states", of, overwrite=True) == 16


def test_states_that_were_interrupted_go_on(pretrained, tmp_path, monkeypatch):
    """Only what is missing is computed; a bad line is left out; files of before go when a shorter one takes over."""
    (tmp_path / "text.json").write_text('{"text": "tab"}\n{"text": "tab tab"}\n{"text": ""}\n')
    once, asked = states._states, []

    def stopping(*given):
        asked.append(given[3])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return once(*given)

    monkeypatch.setattr(states, "_states", stopping)
    with pytest.raises(KeyboardInterrupt):
        extract_states(pretrained, tmp_path / "text.json", tmp_path / "out", skip_bad=True)
    assert extract_states(pretrained, tmp_path / "text.json", tmp_path / "out", skip_bad=True) == 2
    assert asked == [1, 2, 2, 3]
    skipped = (tmp_path / "out/features.jsonl.skipped.jsonl").read_text()
    assert '"line": 3, "reason": "\'text\' is \'\', expected a sentence"' in skipped
    (tmp_path / "text.json").write_text('{"text": "tab"}\n')
    assert extract_states(pretrained, tmp_path / "text.json", tmp_path / "out", overwrite=True) == 1
    assert [path.name for path in (tmp_path / "out/features").iterdir()] == ["0000000.safetensors"]


def test_no_list_names_states_of_two_models(pretrained, tmp_path, monkeypatch):
    (tmp_path / "text.json").write_text('{"text": "tab"}\n{"text": "tab tab"}\n')
    given = (pretrained, tmp_path / "text.json", tmp_path / "out")
    extract_states(*given)
    once, stops = states._states, [1, 2]

    def stopping(*given):
        if given[3] == stops[0]:
            raise KeyboardInterrupt
        return once(*given)

    monkeypatch.setattr(states, "_states", stopping)
    for replaced in (False, True):
        with pytest.raises(KeyboardInterrupt):
            extract_states(*given, dtype="float16", overwrite=True)
        assert (tmp_path / "out/features.jsonl").exists() != replaced
        stops.pop(0)


def test_states_of_a_text_that_cannot_be_written(pretrained, tmp_path):
    (tmp_path / "text.json").write_text('{"text": "tab"}\n{"text": "quiz"}\n')
    with pytest.raises(InputError, match=r"text\.json:2: .*cannot be spelled"):
        extract_states(pretrained, tmp_path / "text.json", tmp_path / "states")
