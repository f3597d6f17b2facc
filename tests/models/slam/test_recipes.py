"""Each SLAM recipe, with fewer and narrower layers, takes steps and validates; the paper's has the paper's size."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from nemo.collections.asr.parts.submodules import subsampling
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.models.common.multitask.w2v_bert import W2vBert
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.modules.text_embedding import TextEmbedding
from nemo_speechlm.testing.slam import tiny_slam_config
from nemo_speechlm.testing.trainer import tiny_trainer

SLAM = ["slam_600m", "slam_100m", "slam_small"]
SPEECH_ALONE = ["w2v_bert_600m", "w2v_bert_100m", "w2v_bert_small"]
NARROW = [
    "output=none.nemo", "model.encoder.d_model=48", "model.w2v_bert.code_dim=16", "model.w2v_bert.num_codes=16",
    "model.encoder.front_end.subsampling.conv_channels=8", "model.train_ds.num_workers=0",
    "model.encoder.speech_transformer.n_layers=1", "model.encoder.shared_transformer.n_layers=1",
    "model.train_ds.speech.batch_duration=8",
]  # fmt: skip


def compose_recipe(name, *overrides):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name, list(overrides))


def config_of(recipe, corpus):
    given = [f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")]
    if recipe in SLAM:
        tokenizer = tiny_slam_config(corpus).tokenizer.dir
        given += [f"model.tokenizer.dir={tokenizer}", "model.train_ds.text.batch_tokens=100"]
        given += ["model.train_ds.pairs.batch_duration=12"]
        for part in ("train_ds", "validation_ds"):
            given.append(f"model.{part}.text.manifest_filepath={corpus.text}")
            given.append(f"model.{part}.pairs.manifest_filepath={corpus.speech}")
    if recipe in ("slam_600m", "slam_small"):
        given.append("model.stages.0.steps=1")
    return compose_recipe(recipe, *given, *NARROW)


def fit(config, steps=2):
    torch.manual_seed(0)
    trainer = tiny_trainer(steps, gradient_clip_val=config.trainer.gradient_clip_val)
    model = SLAMModel(config.model, trainer)
    trainer.fit(model)
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("recipe", SLAM + SPEECH_ALONE)
def test_recipe_trains(recipe, corpus):
    config = config_of(recipe, corpus)
    model, metrics = fit(config)
    names = [f"{part}_{term}" for term in model.loss_weights for part in ("train", "val")]
    assert len(names) == 2 * {"slam_small": 8, **dict.fromkeys(SPEECH_ALONE, 3)}.get(recipe, 7)
    for name in [*names, "val_loss"]:
        assert torch.tensor(metrics[name]).isfinite(), name
    assert config.exp_manager.checkpoint_callback_params.monitor in model.validation_metrics()


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "slam.nemo"
    model, _ = fit(config_of("slam_small", corpus), steps=1)
    model.save_to(str(path))
    return path, model


def test_ctc_begins_with_its_encoder(pretrained):
    path, model = pretrained
    overrides = [f"model.init_from_pretrained={path}", "output=none.nemo"]
    config = compose_recipe("ctc_small", *overrides).model
    config.train_ds, config.validation_ds = None, None
    tuned = SpeechLMCTCModel(config)
    assert OmegaConf.to_container(tuned.cfg.encoder.speech_transformer)["n_layers"] == 1
    taken = tuned.encoder.state_dict()
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(taken[name], weight), name
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    log_probs, frames, _ = tuned.eval()(input_signal=audio, input_signal_length=lengths)
    assert log_probs.shape == (2, 26, len(tuned.cfg.labels) + 1)
    assert frames.tolist() == [25, 14]


def parameters(recipe, num_tokens):
    config = compose_recipe(recipe, "output=none", "model.tokenizer.dir=none").model
    with torch.device("meta"):
        encoder = SLAMModel.from_config_dict(config.encoder)
        parts = [encoder, W2vBert(encoder.d_model, **config.w2v_bert), TextEmbedding(num_tokens, encoder.d_model)]
        parts.append(torch.nn.Linear(encoder.d_model, 1))
    assert all(parameter.is_meta for parameter in encoder.parameters())
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


@pytest.mark.parametrize(("recipe", "size"), [("slam_600m", 600e6), ("slam_100m", 100e6)])
def test_sizes(recipe, size, monkeypatch):
    # NeMo asks a tensor that it has made on the device for its value.
    bins, calc_length = (
        torch.tensor(80.0),
        subsampling.calc_length,
    )
    monkeypatch.setattr(subsampling, "calc_length", lambda lengths, **options: calc_length(bins, **options))
    assert parameters(recipe, num_tokens=32000) == pytest.approx(size, rel=0.08 if "100m" in recipe else 0.05)


def test_batches_of_the_paper():
    """Mean lengths are those of Libri-Light's utterances as cut here, and of LibriSpeech's text in 32,000 pieces."""
    data = compose_recipe("slam_600m", "output=none.nemo").model.train_ds
    assert 128 * data.speech.batch_duration / 12.5 == pytest.approx(2048, rel=0.02)
    assert 128 * data.text.batch_tokens / 25 == pytest.approx(8192, rel=0.02)
    assert data.pairs.batch_duration >= 2 * data.pairs.max_duration, "matching needs two pairs in each batch"
