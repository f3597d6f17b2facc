import json

import numpy as np
import pytest
import soundfile
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.inference.recognition import hypothesis_text
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMModel
from nemo_speechlm.models.common.pretrained import read_pretrained
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModelBPE, ctc_model_class
from nemo_speechlm.modules import SpeechLMCTCHead, SpeechLMEncoder
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.testing.trainer import tiny_trainer

HEAD = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "dropout": 0.1}


def config(**changes):
    return OmegaConf.create({"decoder": HEAD, "labels": None, **changes})


def scratch(**changes):
    return SpeechLMCTCModel(config(**{**tiny_architecture(), "labels": tiny_labels(), **changes}))


def audio_batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_signal": torch.randn(2, 16000, generator=generator),
        "input_signal_length": torch.tensor([16000, 9000]),
    }


def log_probs(model):
    with torch.no_grad():
        return model.eval()(**audio_batch())[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6)


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    """A pretraining model as it begins, and the file it was saved to."""
    torch.manual_seed(0)
    model = SpeechLMModel(
        OmegaConf.create(
            {
                **tiny_architecture(),
                "units": str(corpus.units),
                "labels": tiny_labels(),
                "unit_classifier": {"final_dim": 8},
                "masking": {"prob": 0.5, "length": 4},
                "swapping": {"prob": 0.3, "length": 2},
                "text_masking": {"prob": 0.3, "length": 4},
                "ctc_head": {"dropout": 0.0},
                "loss": {"umlm": 1.0, "uctc": 0.1, "feature_penalty": 1.0},
            }
        )
    )
    path = tmp_path_factory.mktemp("pretrained") / "pretrained.nemo"
    model.save_to(str(path))
    return model, path


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_takes_over_the_pretrained_encoder(pretrained):
    source, path = pretrained
    model = SpeechLMCTCModel(config(init_from_pretrained=str(path), encoder_overrides={"mask_prob": 0.25}))
    assert same_weights(model.encoder, source.encoder)
    assert model.preprocessor.normalize
    assert list(model.cfg.labels) == tiny_labels()
    assert model.encoder.time_mask.prob == 0.25
    assert not same_weights(model.decoder, source.ctc_head)


def test_a_space_before_an_apostrophe_is_kept():
    """NeMo deletes it, as before a comma."""
    labels = [" ", "a", "'"]
    model = scratch(labels=labels)
    path = [1, 0, 2, 1]  # "a 'a"
    log_probs = torch.full((1, len(path), 4), -9.0)
    log_probs[0, range(len(path)), path] = 0.0
    for _ in range(2):
        (found,) = model.decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=torch.tensor([len(path)]))
        assert hypothesis_text(found) == "a 'a"
        model.change_decoding_strategy(model.cfg.decoding, verbose=False)


def test_architecture_alone(pretrained):
    source, path = pretrained
    model = SpeechLMCTCModel(config(init_from_pretrained=str(path), pretrained_weights=False))
    assert not same_weights(model.encoder, source.encoder)
    assert model.encoder.state_dict().keys() == source.encoder.state_dict().keys()


def test_architecture_alone_has_no_pretrained_head(pretrained):
    options = {"init_from_pretrained": str(pretrained[1]), "pretrained_weights": False, "reuse_ctc_head": True}
    with pytest.raises(
        SpeechLMError, match=r"pretrained_weights is false, and model\.reuse_ctc_head is true: .*=false"
    ):
        SpeechLMCTCModel(config(**options))


def test_overrides_for_another_kind_of_encoder(pretrained):
    _, path = pretrained
    overrides = {"speech_transformer": {"dropout": 0.0, "conv_norm_type": "group_norm8"}}
    expected = r"encoder_overrides\.speech_transformer\.conv_norm_type: .* is a RelativeTransformer, which has no such"
    with pytest.raises(SpeechLMError, match=expected + r".*~model\.encoder_overrides\.speech_transformer"):
        SpeechLMCTCModel(config(init_from_pretrained=str(path), encoder_overrides=overrides))


def test_reuses_the_text_ctc_head(pretrained):
    source, path = pretrained
    model = SpeechLMCTCModel(config(init_from_pretrained=str(path), reuse_ctc_head=True))
    assert same_weights(model.decoder, source.ctc_head)


def test_reuses_rows_of_shared_labels(pretrained):
    source, path = pretrained
    labels = ["z", *reversed(tiny_labels())]
    model = SpeechLMCTCModel(config(init_from_pretrained=str(path), reuse_ctc_head=True, labels=labels))
    ours, theirs = model.decoder.linear.weight, source.ctc_head.linear.weight
    assert torch.equal(ours[1:-1], theirs[:-1].flip(0))
    assert torch.equal(ours[-1], theirs[-1])
    assert torch.equal(model.decoder.conv.weight, source.ctc_head.conv.weight)


def test_saved_model_stands_alone(pretrained, tmp_path):
    path = tmp_path / "pretrained.nemo"
    path.write_bytes(pretrained[1].read_bytes())
    options = {"init_from_pretrained": str(path), "reuse_ctc_head": True, "freeze_front_end": True}
    model = SpeechLMCTCModel(config(**options, encoder_overrides={"mask_prob": 0.5}))
    path.unlink()
    model.save_to(str(tmp_path / "ctc.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    assert type(restored) is SpeechLMCTCModel
    assert torch.equal(log_probs(restored), log_probs(model))
    assert restored.encoder.time_mask.prob == 0.5
    assert not any(p.requires_grad for p in restored.encoder.front_end.parameters())


def test_weights_that_do_not_fit_are_named(pretrained):
    _, path = pretrained
    with pytest.raises(InputError, match=r"shared_transformer.layers.0.fc1.bias is \(64,\), expected \(48,\)"):
        SpeechLMCTCModel(
            config(init_from_pretrained=str(path), encoder_overrides={"shared_transformer": {"d_ff": 48}})
        )
    with pytest.raises(InputError, match=r"no weight for encoder\.shared_transformer\.layers\.1"):
        SpeechLMCTCModel(
            config(init_from_pretrained=str(path), encoder_overrides={"shared_transformer": {"n_layers": 2}})
        )


def test_unknown_parts_are_an_error(pretrained):
    source = read_pretrained(pretrained[1])
    source.weights["quantizer.codes"] = torch.zeros(1)
    from nemo_speechlm.models.common.pretrained import load_encoder

    with pytest.raises(InputError, match="parts unknown here: quantizer"):
        load_encoder(scratch(), source)


@pytest.mark.parametrize("content", [None, b"", b"not a tar file"])
def test_not_a_nemo_file(tmp_path, content):
    path = tmp_path / "x.nemo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="no such file" if content is None else "not a .nemo file"):
        SpeechLMCTCModel(config(init_from_pretrained=str(path)))


def test_incomplete_configs():
    with pytest.raises(SpeechLMError, match=r"neither model\.preprocessor nor"):
        SpeechLMCTCModel(config())
    with pytest.raises(SpeechLMError, match=r"reuse_ctc_head needs model\.init_from_pretrained"):
        scratch(reuse_ctc_head=True)
    with pytest.raises(InputError, match="'a' twice"):
        scratch(labels=["a", "a"])


def test_masks_only_while_training():
    model = scratch(encoder_overrides={"mask_prob": 0.5, "mask_channel_prob": 0.5, "mask_channel_length": 8})
    expected = log_probs(model)
    assert torch.equal(log_probs(model), expected)
    with torch.no_grad():
        model.train()
        assert not torch.allclose(model(**audio_batch())[0], expected)


def test_transcribes_files_of_any_rate(tmp_path):
    model = scratch()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 22050)
    soundfile.write(tmp_path / "a.flac", samples, 22050)
    soundfile.write(tmp_path / "b.ogg", np.stack([samples, samples], 1)[:8000], 8000)
    files = [str(tmp_path / "a.flac"), str(tmp_path / "b.ogg")]
    first, second = model.transcribe(files, verbose=False, channel_selector="average")
    assert isinstance(first.text, str)
    assert isinstance(second.text, str)
    lengths = [len(h.y_sequence) for h in model.transcribe(files[:1], return_hypotheses=True, verbose=False)]
    assert abs(lengths[0] - 50) <= 1  # a second of 22.05 kHz audio is a second of frames


def test_times_come_from_the_encoders_frame_rate(tmp_path):
    model = scratch()
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    (hypothesis,) = model.transcribe([str(tmp_path / "a.wav")], timestamps=True, verbose=False)
    for character in hypothesis.timestamp["char"]:
        assert character["start"] == pytest.approx(character["start_offset"] * 0.02)


def saying(monkeypatch, model, text):
    """The model hears this text in whatever it is given: a blank before each character."""
    ids = [i for c in text for i in (len(model.decoder.vocabulary), model.text_encoder().labels.index(c))]

    def forward(self, **inputs):
        log_probs = torch.nn.functional.one_hot(torch.tensor([ids]), len(self.decoder.vocabulary) + 1).float().log()
        return log_probs.clamp(min=-50), torch.tensor([len(ids)]), torch.tensor([ids])

    monkeypatch.setattr(type(model), "forward", forward)


def test_times_of_words(tmp_path, monkeypatch):
    model = scratch(labels=[" ", "a", "b", "'"])
    saying(monkeypatch, model, "ab 'a")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (hypothesis,) = model.transcribe([str(tmp_path / "a.wav")], timestamps=True, verbose=False)
    assert hypothesis.text == "ab 'a"
    first, second = hypothesis.timestamp["word"]
    assert (first["word"], second["word"]) == ("ab", "'a")
    assert 0 <= first["start"] < first["end"] <= 0.08 < 0.1 <= second["start"] < second["end"] <= 0.2


def test_a_model_that_has_transcribed_is_as_before(tmp_path):
    model = scratch(encoder_overrides=None)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    before = log_probs(model)
    model.transcribe([str(tmp_path / "a.wav")], verbose=False)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(**audio_batch())[0], before)


def test_another_vocabulary(monkeypatch, tmp_path):
    model = scratch(validation_ds=None)
    model.change_vocabulary([" ", "a", "'", "x"])
    saying(monkeypatch, model, "a 'x")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (hypothesis,) = model.transcribe([str(tmp_path / "a.wav")], verbose=False)
    assert hypothesis.text == "a 'x", "the space before the apostrophe is kept, as after restoring"


def test_features_of_every_layer():
    batch = audio_batch()
    layers, lengths = scratch().extract_features(batch["input_signal"], batch["input_signal_length"])
    assert [tuple(layer.shape) for layer in layers] == [(2, 49, 32)] * 2
    assert lengths[0] == 49


def test_encoder_in_a_stock_nemo_model(corpus, tmp_path):
    records = [json.loads(line) for line in corpus.speech.read_text().splitlines()]
    manifest = tmp_path / "absolute.json"
    manifest.write_text(
        "".join(
            json.dumps({**r, "audio_filepath": str(corpus.speech.parent / r["audio_filepath"])}) + "\n"
            for r in records
        )
    )
    data = {"manifest_filepath": str(manifest), "batch_size": 3, "shuffle": False, "labels": tiny_labels()}
    decoder = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "num_classes": 12}
    cfg = {
        **tiny_architecture(),
        "labels": tiny_labels(),
        "decoder": {**decoder, "feat_in": None, "vocabulary": tiny_labels()},
        "train_ds": data,
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    cfg["preprocessor"] = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "features": 40,
        "window_stride": 0.01,
    }
    cfg["encoder"]["front_end"] = {
        "_target_": "nemo_speechlm.modules.MelFrontEnd",
        "subsampling_factor": 2,
        "output_dim": 32,
        "subsampling": {
            "_target_": "nemo.collections.asr.parts.submodules.subsampling.ConvSubsampling",
            "subsampling": "dw_striding",
            "subsampling_factor": 2,
            "feat_in": 40,
            "feat_out": 32,
            "conv_channels": 16,
            "activation": {"_target_": "torch.nn.ReLU"},
        },
    }
    trainer = tiny_trainer(2)
    model = EncDecCTCModel(OmegaConf.create(cfg), trainer=trainer)
    assert type(model) is EncDecCTCModel
    assert isinstance(model.encoder, SpeechLMEncoder)
    before = model.encoder.mask_emb.detach().clone(), model.encoder.feature_norm.weight.detach().clone()
    trainer.fit(model)
    assert trainer.global_step == 2
    assert not torch.equal(model.encoder.feature_norm.weight, before[1])
    model.save_to(str(tmp_path / "stock.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "stock.nemo"), map_location="cpu")
    assert torch.equal(log_probs(restored), log_probs(model))
    texts = restored.transcribe([str(corpus.speech.parent / records[0]["audio_filepath"])], verbose=False)
    assert isinstance(texts[0].text, str)


def test_a_plain_linear_head():
    model = scratch(decoder={"_target_": "nemo.collections.asr.modules.ConvASRDecoder"})
    assert not isinstance(model.decoder, SpeechLMCTCHead)
    assert log_probs(model).shape == (2, 49, 13)


def test_changes_its_vocabulary():
    model = scratch()
    model.change_vocabulary(["x", "y"])
    assert log_probs(model).shape == (2, 49, 3)
    assert list(model.cfg.labels) == list(model.cfg.decoder.vocabulary) == ["x", "y"]


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(read_sentences(corpus.text), folder, 20)
    return folder


def test_tokens_of_a_tokenizer(pretrained, tokenizer, corpus, tmp_path):
    source, path = pretrained
    options = {"init_from_pretrained": str(path), "reuse_ctc_head": True}
    cfg = config(**options, tokenizer={"dir": str(tokenizer), "type": "bpe"})
    assert ctc_model_class(cfg) is SpeechLMCTCModelBPE
    model = SpeechLMCTCModelBPE(cfg)
    assert same_weights(model.encoder, source.encoder)
    assert torch.equal(model.decoder.conv.weight, source.ctc_head.conv.weight)
    labels = list(model.decoder.vocabulary)
    assert len(labels) == 20
    shared = set(labels) & set(tiny_labels())
    assert shared
    for label in shared:
        theirs = source.ctc_head.linear.weight[tiny_labels().index(label)]
        assert torch.equal(model.decoder.linear.weight[labels.index(label)], theirs)
    assert log_probs(model).shape == (2, 49, 21)
    model.save_to(str(tmp_path / "bpe.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "bpe.nemo"), map_location="cpu")
    assert type(restored) is SpeechLMCTCModelBPE
    assert torch.equal(log_probs(restored), log_probs(model))
    again = {"init_from_pretrained": str(tmp_path / "bpe.nemo"), "reuse_ctc_head": True}
    assert same_weights(SpeechLMCTCModelBPE(config(**again, tokenizer=cfg.tokenizer)).decoder, model.decoder)

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    (from_file,) = restored.transcribe([str(tmp_path / "a.wav")], verbose=False)
    (from_array,) = restored.transcribe([soundfile.read(tmp_path / "a.wav", dtype="float32")[0]], verbose=False)
    assert from_file.text == from_array.text

    # The tokenizer came along: a restored model reads transcripts, too.
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 6, "num_workers": 0}
    _, _, ids, lengths = next(iter(restored._setup_dataloader_from_config(OmegaConf.create(data))))
    text = restored.tokenizer.ids_to_text(ids[0, : lengths[0]].tolist())
    assert text in {json.loads(line)["text"] for line in corpus.speech.read_text().splitlines()}


def test_no_tokenizer(pretrained, tmp_path):
    path = str(pretrained[1])
    assert ctc_model_class(config(tokenizer={"dir": None, "type": "bpe"})) is SpeechLMCTCModel
    with pytest.raises(InputError, match=r"nowhere/tokenizer\.model: no such file"):
        SpeechLMCTCModelBPE(config(init_from_pretrained=path, tokenizer={"dir": "nowhere", "type": "bpe"}))
    with pytest.raises(SpeechLMError, match=r"model\.tokenizer\.dir is not given"):
        SpeechLMCTCModelBPE(config(init_from_pretrained=path))
