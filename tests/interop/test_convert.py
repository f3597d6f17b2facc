"""Checkpoints of sizes that no golden file has; what is wrong with one is listed, and nothing is left behind."""

from dataclasses import replace

import pytest
import torch
from nemo.collections.asr.models import ASRModel

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.parts.encoder_config import parse_layers
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncoderModel, SpeechLMModel
from nemo_speechlm.models.common.pretrained import read_pretrained
from tests.functional.commands import run_example
from tests.interop.checkpoints import (
    LETTERS,
    UNITS,
    cleaned,
    expect_refusal,
    fine_tuned,
    linear,
    save,
    speechlm,
    translation,
    write_dictionary,
)

COMMAND = "convert_checkpoint.py"


@pytest.fixture
def options(tmp_path):
    return Options(
        unit_dictionary=write_dictionary(tmp_path / "dict.phn.txt", UNITS[:-1]),
        label_dictionary=write_dictionary(tmp_path / "dict.ltr.txt", LETTERS[:-1]),
    )


def restore(cls, path):
    return cls.restore_from(str(path), map_location="cpu").eval()


def audio(samples=4000):
    return torch.randn(1, samples), torch.tensor([samples])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_pretrained_of_another_size(tmp_path, options, pre_norm):
    content = speechlm(pre_norm=pre_norm)
    plan = convert(save(content, tmp_path / "x.pt"), tmp_path / "y.nemo", options)
    model = restore(SpeechLMModel, tmp_path / "y.nemo")
    assert list(model.inventory.symbols) == UNITS
    assert model.inventory.frame_rate == 50
    assert model.labels == ["<pad>", "</s>", "<unk>", " ", "A", "B", "<mask>"]
    assert model.encoder.subsampling == 40
    assert model.encoder.speech_transformer.relative_positions.max_distance == 20
    state = model.state_dict()
    for ours, theirs in plan.names.items():
        expected = content["model"][theirs]
        torch.testing.assert_close(state[ours], expected.roll(-1, 0) if ".linear." in ours else expected)
    layers, frames = model.extract_features(*audio())
    assert len(layers) == 4
    assert all(layer.shape == (1, int(frames), 24) for layer in layers)


def test_cleaned_becomes_an_encoder(tmp_path):
    plan = convert(save(cleaned(), tmp_path / "x.pt"), tmp_path / "y.nemo")
    assert set(plan.left.values()) > {"predicts units in pretraining"}
    model = restore(SpeechLMEncoderModel, tmp_path / "y.nemo")
    encoded, frames = model(input_signal=audio()[0], input_signal_length=audio()[1])
    assert encoded.shape == (1, 24, int(frames))
    assert read_pretrained(tmp_path / "y.nemo").cfg.encoder.d_model == 24


def test_fine_tuned_of_another_size(tmp_path, options):
    options = Options(label_dictionary=options.label_dictionary)
    convert(save(fine_tuned(heads=4), tmp_path / "x.pt"), tmp_path / "y.nemo", options)
    model = ASRModel.restore_from(str(tmp_path / "y.nemo"), map_location="cpu")
    assert isinstance(model, SpeechLMCTCModel)
    assert model.encoder.time_mask.prob == 0.65
    assert model.encoder.channel_mask.length == 8
    assert model.encoder.speech_transformer.layerdrop == 0.05
    assert model.encoder.speech_transformer.layers[0].self_attn.n_heads == 4
    assert not model.encoder.front_end.convs[0].weight.requires_grad
    assert isinstance(model.transcribe([torch.randn(8000).numpy()], verbose=False)[0].text, str)


def test_lower_case_labels(tmp_path, options):
    lower = Options(label_dictionary=options.label_dictionary, lowercase=True)
    plan = convert(save(fine_tuned(), tmp_path / "x.pt"), tmp_path / "y.nemo", lower)
    assert plan.config["labels"] == ["<pad>", "</s>", "<unk>", " ", "a", "b", "<mask>"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--to", "fairseq", "--list"], 2, "--list has no effect with --to fairseq"),
        (["--to", "fairseq", "--lowercase"], 2, "--lowercase has no effect with --to fairseq"),
        (["--to", "fairseq", "--speech-layers", 1], 2, "--speech-layers has no effect"),
        (["--to", "fairseq", "--padding", "exact"], 2, "--padding has no effect"),
        (["--to", "fairseq", "--language", "ru"], 2, "--language has no effect"),
        (["--to", "fairseq", "--label-dictionary", "dict.txt"], 2, "--label-dictionary has no effect"),
        (["--to", "fairseq", "--phone-dictionary", "dict.txt"], 2, "--phone-dictionary has no effect"),
        (["--to", "fairseq", "--allow-missing", "encoder"], 2, "--allow-missing has no effect"),
        (["--to", "fairseq", "--allow-unused", "encoder"], 2, "--allow-unused has no effect"),
        (["--label-dictionary", "dict.txt", "--speech-layers", 1], 1, "CTC; --speech-layers has an"),
        (["--label-dictionary", "dict.txt", "--unit-dictionary", "dict.txt"], 1, "CTC; --unit-dictionary has an"),
        (["--label-dictionary", "dict.txt", "--phone-dictionary", "dict.txt"], 1, "CTC; --phone-dictionary has an"),
        (["--label-dictionary", "dict.txt", "--language", "ru"], 1, "fine-tuned with CTC; --language has an effect"),
        (["--label-dictionary", "dict.txt", "--lowercase"], 1, "--lowercase makes one of its symbols 'A' and 'a'"),
        (["--label-dictionary", "dict.txt", "--lowercase", "of a decoder"], 1, "one of its symbols 'A' and 'a'"),
    ],
)
def test_options_without_effect(capsys, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    decodes = "of a decoder" in arguments
    write_dictionary(tmp_path / "dict.txt", ["A", "a", "b", "c", "d"] if decodes else ["|", "A", "a"])
    path = save(translation() if decodes else fine_tuned(), tmp_path / "x.pt")
    given = ("--input", path, "--output", tmp_path / "y.nemo", *(a for a in arguments if a != "of a decoder"))
    assert run_example(COMMAND, *given) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "y.nemo").exists()


def edited(name):
    content = speechlm()
    state = content["model"]
    if name == "missing":
        del state["encoder.layers.1.fc2.bias"]
    elif name == "unused":
        state |= linear("adapter.0", 3, 3)
    elif name == "shape":
        state["encoder.layers.2.fc1.bias"] = torch.randn(7)
    elif name == "dtype":
        state["encoder.layers.2.fc1.bias"] = state["encoder.layers.2.fc1.bias"].to(torch.complex64)
    elif name == "layer":
        content["model"] = {k: v for k, v in state.items() if not k.startswith("encoder.layers.1.")}
    elif name == "setting":
        content["cfg"]["model"]["layer_type"] = "conformer"
    elif name == "strides":
        content["cfg"]["model"]["conv_feature_layers"] = "[(12,10,5)]"
    elif name == "code":
        content["cfg"]["model"]["conv_feature_layers"] = "__import__('os').getcwd()"
    elif name == "other":
        content["model"] = linear("something", 3, 3)
    elif name == "rate":
        del content["cfg"]["model"]["label_rate"]
    elif name == "copy":
        state["unit_encoder.embed_tokens.weight"] = state["unit_embed_tokens.weight"] + 1
    return content


ERRORS = {
    "missing": r"missing: encoder\.speech_transformer\.layers\.1\.fc2\.bias",
    "unused": r"no place: adapter\.0\.bias; adapter\.0\.weight \(--allow-unused",
    "shape": r"encoder\.layers\.2\.fc1\.bias is \(7,\), expected \(36,\) for encoder\.speech_transformer",
    "dtype": r"encoder\.layers\.2\.fc1\.bias is of torch\.complex64, expected real numbers",
    "layer": r"no parameters .* for 1",
    "setting": r"layer_type is 'conformer'; only 'transformer'",
    "strides": r"conv_feature_layers is \[\(12, 10, 5\)\], its weights have",
    "code": r"conv_feature_layers is .*, expected \[\(channels, kernel, stride\)",
    "other": r"is not recognized: it holds something\.weight",
    "rate": r"label_rate",
    "copy": r"no place: unit_encoder\.embed_tokens\.weight",
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_listed(tmp_path, options, name):
    expect_refusal(edited(name), tmp_path, options, ERRORS[name])


def test_what_may_be_missing_or_unused_is_named(tmp_path, options):
    allowed = Options(
        options.unit_dictionary,
        options.label_dictionary,
        allow_missing=("encoder.speech_transformer.layers.1.fc2.bias",),
        allow_unused=("adapter",),
    )
    for name in ("missing", "unused"):
        content = edited(name)
        plan = convert(save(content, tmp_path / "x.pt"), tmp_path / f"{name}.nemo", allowed)
        assert (allowed.allow_missing[0] in plan.names) == (name == "unused")
        state = restore(SpeechLMModel, tmp_path / f"{name}.nemo").state_dict()
        assert state.keys() >= set(allowed.allow_missing)
        for ours, theirs in plan.names.items():
            expected = content["model"][theirs]
            torch.testing.assert_close(state[ours], expected.roll(-1, 0) if ".linear." in ours else expected)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        (
            "encoder.speech_transfomer.layers.1.fc2.bias",
            r"near are .*encoder\.speech_transformer\.layers\.1\.fc2\.bias",
        ),
        ("zzzz", r"it has ctc_head, encoder, unit_classifiers, unit_embedding"),
    ],
)
def test_what_may_be_missing_must_be_a_name(tmp_path, options, name, near):
    path = save(edited("missing"), tmp_path / "x.pt")
    with pytest.raises(InputError, match=rf"^--allow-missing {name}: .* no such parameter or module; {near}"):
        convert(path, tmp_path / "y.nemo", replace(options, allow_missing=(name,)))
    assert not (tmp_path / "y.nemo").exists()


def test_dictionaries_are_needed_and_checked(tmp_path, options):
    path = save(speechlm(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"no dictionary of its 8 characters .*--label-dictionary"):
        convert(path, tmp_path / "y.nemo")
    with pytest.raises(InputError, match=r"no dictionary of its 8 units .*--unit-dictionary"):
        convert(path, tmp_path / "y.nemo", Options(label_dictionary=options.label_dictionary))
    wrong = write_dictionary(tmp_path / "wrong.txt", ["a", "b"])
    with pytest.raises(InputError, match=r"wrong\.txt: 6 symbols .* the checkpoint has 8 classes"):
        convert(path, tmp_path / "y.nemo", Options(label_dictionary=wrong))
    wrong.write_text("no count here\n")
    with pytest.raises(InputError, match=r"wrong\.txt:1: .*expected SYMBOL COUNT"):
        convert(path, tmp_path / "y.nemo", Options(label_dictionary=wrong))


def test_output(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.nemo"):
        convert(tmp_path / "x.pt", tmp_path / "y.pt")
    (tmp_path / "y.nemo").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "x.pt", tmp_path / "y.nemo")
    with pytest.raises(InputError, match=r"y\.nemo: exists already; .* --overwrite to replace it"):
        convert(save(fine_tuned(), tmp_path / "x.pt"), tmp_path / "y.nemo")
    with pytest.raises(InputError, match=r"is a \.nemo file already"):
        convert(tmp_path / "y.nemo", tmp_path / "z.nemo")


def test_output_that_cannot_be_written(tmp_path, options):
    path = save(speechlm(), tmp_path / "x.pt")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"x\.pt/y\.nemo: cannot be written: "):
        convert(path, path / "y.nemo", options)
    assert sorted(tmp_path.iterdir()) == before
    convert(path, tmp_path / "a" / "b" / "y.nemo", options)  # folders that are missing are made
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["y.nemo"]


@pytest.mark.parametrize(
    "bad", ["[(1,2)]", "[]", "[(512,10,5)] * 10000000", "open('x')", "1", None, "[(0,1,1)]", "(" * 500]
)
def test_layers_are_parsed_not_run(bad):
    with pytest.raises(InputError, match="conv_feature_layers"):
        parse_layers(bad)


@pytest.mark.parametrize("to", ["nemo", "fairseq"])
def test_a_checkpoint_is_not_converted_into_itself(to, capsys, tmp_path):
    path = tmp_path / f"x.{'nemo' if to == 'nemo' else 'pt'}"
    path.write_bytes(b"x")
    assert run_example(COMMAND, "--input", path, "--output", path, "--to", to, "--overwrite") == 1
    assert f"{path}: is also what --input names" in capsys.readouterr().err
    assert path.read_bytes() == b"x"


def test_layers():
    assert parse_layers("[(512,10,5)] + [(512,3,2)] * 2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]


def test_command(capsys, tmp_path, options):
    path = save(fine_tuned(), tmp_path / "x.pt")
    assert run_example(COMMAND, "--input", path, "--list") == 0
    listed = capsys.readouterr().out
    assert "SpeechLM, fine-tuned with CTC" in listed
    assert "--label-dictionary" in listed
    assert run_example(COMMAND, "--input", path, "--output", tmp_path / "y.nemo") == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: ")
    given = ("--input", path, "--output", tmp_path / "y.nemo", "--label-dictionary", options.label_dictionary)
    assert run_example(COMMAND, *given) == 0
    assert "SpeechLMCTCModel" in capsys.readouterr().out
    assert run_example(COMMAND, "--input", path, "--list", "--label-dictionary", options.label_dictionary) == 0
    listed = capsys.readouterr().out
    assert "w2v_encoder.proj.5.bias (8,) float32 -> decoder.linear.bias" in listed
    assert "left: spells text in pretraining" in listed
