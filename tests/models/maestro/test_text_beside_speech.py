"""MAESTRO's text branch beside transcribed speech, in fine-tuning with RNN-T and with CTC."""

import copy
import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMRNNTModel
from nemo_speechlm.models.common.pretraining import PlaceInData
from nemo_speechlm.models.maestro.aligned_mlm import aligned_mlm
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.step_guards import BatchSeeds

TRANSDUCER = {
    "model_defaults": {"pred_hidden": 24, "joint_hidden": 20},
    "decoder": {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "prednet": {"pred_hidden": 24, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
    },
    "joint": {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "fuse_loss_wer": False,
        "jointnet": {"joint_hidden": 20, "activation": "relu", "dropout": 0.0},
    },
    "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
    "loss": {"loss_name": "default"},
    "rnnt_reduction": "mean_volume",
    "reuse_decoder": True,
}
CTC = {"decoder": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}, "ctc_reduction": "mean_volume"}


@pytest.fixture(scope="module")
def pretrained(build, tmp_path_factory):
    """With averages that are not the weights."""
    model = build()
    for parameter in model.average.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("pretrained") / "maestro.nemo"
    model.save_to(str(path))
    return model.eval(), path


def config(corpus, start, kind, **changes):
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 6, "shuffle": True}
    text = {"manifest_filepath": str(corpus.text), "batch_tokens": 60}
    return OmegaConf.create(
        {
            **copy.deepcopy(kind),
            "labels": None,
            "init_from_pretrained": str(start),
            "text_branch": {"weight": 0.5},
            "train_ds": {**data, "endless": True, "num_workers": 0, "seed": 3, "text": text},
            "optim": {"name": "adamw", "lr": 1e-3},
            **changes,
        }
    )


def test_the_loss_is_that_of_pretraining(corpus, pretrained):
    source, path = pretrained
    model = build_transducer(config(corpus, path, TRANSDUCER)).eval()
    assert type(model) is SpeechLMRNNTModel
    batch = next(iter(model._train_dl)).text
    expected = aligned_mlm(source, batch, torch.Generator().manual_seed(5))["mlm_graphemes"]
    total, count = model.text_terms(batch, torch.Generator().manual_seed(5))
    assert torch.allclose(total, expected.total, rtol=1e-6)
    assert count == expected.number
    again, _ = model.train().text_terms(batch, torch.Generator().manual_seed(5))
    assert torch.allclose(again, total, rtol=1e-6)  # what predicts durations does not train, nor drop out


def test_text_teaches_what_it_shares_with_speech(corpus, pretrained):
    model = SpeechLMCTCModel(config(corpus, pretrained[1], CTC))
    model.setup_training_data(model.cfg.train_ds)
    batch = next(iter(model._train_dl)).text
    loss, count = model.text_terms(batch)
    assert count == batch.token_lengths.sum() + len(batch.tokens)
    loss.backward()
    for name, learns in {
        "encoder.shared_transformer": True,
        "encoder.speech_transformer": False,
        "text_branch.text_encoder": True,
        "text_branch.refiner": True,
        "text_branch.average": False,
        "decoder": True,
    }.items():
        found = [p.grad for p in model.get_submodule(name).parameters() if p.grad is not None]
        assert any(bool(gradient.any()) for gradient in found) == learns, name


def fit(cfg, steps, *callbacks, resume=None, **options):
    torch.manual_seed(0)
    trainer = tiny_trainer(steps, callbacks=[BatchSeeds(0), PlaceInData(), *callbacks], **options)
    model = build_transducer(copy.deepcopy(cfg), trainer)
    trainer.fit(model, ckpt_path=resume)
    return model, float(trainer.callback_metrics["train_text_loss"])


def test_a_resumed_run_is_the_run_that_never_stopped(corpus, pretrained, tmp_path):
    cfg = config(corpus, pretrained[1], TRANSDUCER)
    whole, last = fit(cfg, 2)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(cfg, 1, keep, enable_checkpointing=True)
    resumed, again = fit(cfg, 2, resume=keep.best_model_path)
    assert again == last
    weights = resumed.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items())
    still = pretrained[0].average["duration_model"].state_dict()
    assert all(torch.equal(whole.text_branch.average["duration_model"].state_dict()[k], v) for k, v in still.items())


@pytest.mark.parametrize("kind", [CTC, {**TRANSDUCER, "reuse_decoder": False}], ids=["ctc", "rnnt"])
def test_without_pretrained_weights(corpus, pretrained, kind):
    """The branch has random ones too, unless its own file is named."""
    build = SpeechLMCTCModel if kind is CTC else build_transducer
    theirs = pretrained[0].text_encoder.tokens.weight
    cfg = config(corpus, pretrained[1], kind, pretrained_weights=False)
    with pytest.raises(SpeechLMError, match=r"set model\.text_branch\.repetition\.kind to fixed or random"):
        build(cfg)
    cfg.text_branch.repetition = {"kind": "random", "most": 3}
    assert not torch.equal(build(cfg).text_branch.text_encoder.tokens.weight, theirs)
    del cfg.text_branch.repetition
    cfg.text_branch.init_from = str(pretrained[1])
    model = build(cfg)
    assert torch.equal(model.text_branch.text_encoder.tokens.weight, theirs)
    assert not torch.equal(model.encoder.mask_emb, pretrained[0].encoder.mask_emb)


def test_a_recognizer_is_adapted_again(corpus, pretrained, tmp_path):
    model = build_transducer(config(corpus, pretrained[1], TRANSDUCER))
    for parameter in model.parameters():
        parameter.data += 0.01
    model.save_to(str(tmp_path / "rnnt.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu")
    again = build_transducer(config(corpus, tmp_path / "rnnt.nemo", TRANSDUCER))
    for other in (restored, again):
        assert type(other) is SpeechLMRNNTModel
        weights = other.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_without_text_it_has_no_branch(corpus, pretrained):
    cfg = config(corpus, pretrained[1], TRANSDUCER)
    cfg.train_ds.text.manifest_filepath = None
    model = build_transducer(cfg)
    assert type(model) is SpeechLMRNNTModel
    assert model.text_branch is None
    assert "text_branch" not in model.cfg
    assert next(iter(model._train_dl)).text is None


def test_it_tells_times(corpus, pretrained):
    cfg = config(corpus, pretrained[1], TRANSDUCER)
    cfg.train_ds.text.manifest_filepath = None
    model = build_transducer(cfg).eval()
    with torch.no_grad():  # something is said in each frame
        model.joint.joint_net[-1].bias[-1] = -20.0
    audio = corpus.speech.parent / json.loads(corpus.speech.read_text().splitlines()[0])["audio_filepath"]
    (found,) = model.transcribe([str(audio)], timestamps=True, verbose=False)
    assert found.timestamp["char"]
    model.encoder.take_input_rate(model.cfg)
    for character in found.timestamp["char"]:
        assert character["start"] == pytest.approx(character["start_offset"] / model.encoder.frame_rate)


def test_a_lexicon_must_be_named_again(corpus, build, tmp_path):
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("tab T AE B\n")
    build(phones={"source": None, "lexicon": str(lexicon), "silence": True, "symbols": None}).save_to(
        str(tmp_path / "maestro.nemo")
    )
    cfg = config(corpus, tmp_path / "maestro.nemo", TRANSDUCER)
    with pytest.raises(InputError, match=r"model\.text_branch\.phones\.lexicon is not given; .*words\.txt") as error:
        build_transducer(cfg)
    assert "\n" not in str(error.value)
    cfg.text_branch.phones = {"lexicon": str(lexicon)}
    assert next(iter(build_transducer(cfg)._train_dl)).text.phones is not None
