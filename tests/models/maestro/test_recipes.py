"""Each MAESTRO recipe, with fewer and narrower layers, takes steps and validates; the paper's has the paper's size."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.submodules import subsampling

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.inference.recognition import choose_strategy
from nemo_speechlm.models.common.multitask.w2v_bert import W2vBert
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.models.maestro.transducer import TransducerBranch
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.modules.text_branch import ConvTextEncoder, LightweightDurations, Refiner
from nemo_speechlm.testing.slam import tiny_slam_config
from nemo_speechlm.testing.trainer import tiny_trainer
from tests.long_forms import LONG

RECIPES = ["maestro_600m", "maestro_100m", "maestro_small"]
NARROW = [
    "output=none.nemo", "model.encoder.d_model=48", "model.w2v_bert.code_dim=16", "model.w2v_bert.num_codes=16",
    "model.encoder.front_end.subsampling.conv_channels=8", "model.train_ds.num_workers=0",
    "model.encoder.speech_transformer.n_layers=1", "model.encoder.shared_transformer.n_layers=1",
    "model.train_ds.speech.batch_duration=8", "model.train_ds.text.batch_tokens=100",
    "model.train_ds.pairs.batch_duration=8", "model.transducer.pred_hidden=16", "model.transducer.joint_hidden=16",
    "model.text_encoder.channels=16", "model.text_encoder.n_layers=1",
]  # fmt: skip


def compose_recipe(name, *overrides):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name, list(overrides))


def config_of(recipe, corpus, *overrides):
    given = [f"model.stages.{number}.steps=1" for number in (0, 1)]
    for part in ("train_ds", "validation_ds"):
        for stream, path in (("speech", corpus.speech), ("text", corpus.text), ("pairs", corpus.speech)):
            given.append(f"model.{part}.{stream}.manifest_filepath={path}")
    return compose_recipe(recipe, *given, *NARROW, *overrides)


def fit(config, steps=3):
    torch.manual_seed(0)
    trainer = tiny_trainer(steps, gradient_clip_val=config.trainer.gradient_clip_val)
    model = MAESTROModel(config.model, trainer)
    trainer.fit(model)
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("recipe", RECIPES if LONG else [RECIPES[0], RECIPES[-1]])
def test_recipe_trains(recipe, corpus):
    config = config_of(recipe, corpus)
    model, metrics = fit(config)
    names = [f"{part}_{term}" for term in model.loss_weights for part in ("train", "val")]
    assert len(names) == (20 if recipe == "maestro_small" else 18)
    for name in [*names, "val_loss"]:
        assert torch.tensor(metrics[name]).isfinite(), name
    assert config.exp_manager.checkpoint_callback_params.monitor in model.validation_metrics()


@pytest.mark.parametrize("recipe", RECIPES)
def test_random_durations(recipe, corpus):
    """With the options of docs/how-to/pretrain-maestro.md."""
    options = ["model.tasks.durations=0", "model.repetition.kind=random", "model.repetition.most=3"]
    documented = (Path(__file__).parents[3] / "docs/how-to/pretrain-maestro.md").read_text()
    assert all(option in documented for option in options)
    stages = MAESTROModel(config_of(recipe, corpus, *options).model).stages
    assert len(stages) == 3
    assert all("durations" not in stage.tasks for stage in stages)
    assert "aligned_mlm" in stages[-1].tasks


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "maestro.nemo"
    model, _ = fit(config_of("maestro_small", corpus), steps=1)
    model.save_to(str(path))
    return path, model


def test_rnnt_begins_with_its_decoder(pretrained):
    path, model = pretrained
    overrides = [f"model.init_from_pretrained={path}", "output=none.nemo", "model.reuse_decoder=true"]
    config = compose_recipe("rnnt_small", *overrides).model
    config.train_ds, config.validation_ds = None, None
    tuned = build_transducer(config).eval()
    for part in ("decoder", "joint"):
        pairs = zip(getattr(tuned, part).parameters(), getattr(model.graphemes, part).parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    states, tokens = torch.randn(1, 5, 48), torch.tensor([[3, 4, 5]])
    predicted, _ = tuned.decoder.predict(tokens, state=None, add_sos=True)
    log_probs = tuned.joint.joint(states, predicted)
    blank, emit = model.graphemes.eval().lattice(states, tokens)
    torch.testing.assert_close(log_probs[..., -1], blank)
    torch.testing.assert_close(log_probs[:, :, 1, 4], emit[:, :, 1])


def test_a_decoder_keeps_its_kind_of_layers(tmp_path):
    plain = "model.decoder.prednet.dropout=0"  # LSTMs with layer norms have none

    def build(*overrides):
        small = [plain, "model.model_defaults.pred_hidden=8", "model.model_defaults.joint_hidden=8"]
        config = compose_recipe("rnnt_small", "output=none.nemo", *small, *overrides).model
        config.train_ds, config.validation_ds = None, None
        return build_transducer(config).eval()

    first = build("model.joint.jointnet.activation=tanh", "model.decoder.normalization_mode=layer")
    first.save_to(str(tmp_path / "rnnt.nemo"))
    restored = restore_file(ASRModel, tmp_path / "rnnt.nemo", "cpu")
    for kind in ("greedy", "beam"):  # spaces before apostrophes, which NeMo would delete
        assert not restored.decoding.supported_punctuation
        choose_strategy(restored, kind, 2)
    assert not restored.decoding.supported_punctuation
    second = build(f"model.init_from_pretrained={tmp_path}/rnnt.nemo", "model.reuse_decoder=true")
    width, tokens = first.encoder.d_model, torch.tensor([[1, 2]])
    states = torch.randn(1, 5, width)
    found = [
        model.joint.joint(states, model.decoder.predict(tokens, state=None, add_sos=True)[0])
        for model in (first, second)
    ]
    torch.testing.assert_close(*found)


def test_a_decoder_that_cannot_be_taken_over(pretrained, tmp_path, corpus):
    path, _ = pretrained
    base = ["output=none.nemo", "model.reuse_decoder=true"]

    def build(*overrides):
        config = compose_recipe("rnnt_small", *base, *overrides).model
        config.train_ds, config.validation_ds = None, None
        return build_transducer(config)

    with pytest.raises(SpeechLMError, match=r"model\.reuse_decoder needs model\.init_from_pretrained"):
        build()
    with pytest.raises(InputError, match=r"maestro\.nemo: its RNN-T decoder writes 28 symbols .* and this model 3"):
        build(f"model.init_from_pretrained={path}", "model.labels=[a,b,c]")
    slam = tmp_path / "slam.nemo"
    SLAMModel(tiny_slam_config(corpus, train_ds=None, validation_ds=None)).save_to(str(slam))
    with pytest.raises(InputError, match=r"slam\.nemo: holds no RNN-T decoder"):
        build(f"model.init_from_pretrained={slam}")


def test_ctc_begins_with_its_encoder(pretrained):
    path, model = pretrained
    config = compose_recipe("ctc_small", f"model.init_from_pretrained={path}", "output=none.nemo").model
    config.train_ds, config.validation_ds = None, None
    tuned = SpeechLMCTCModel(config)
    taken = tuned.encoder.state_dict()
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(taken[name], weight), name
    assert list(tuned.cfg.labels) == list(model.cfg.labels)


def sizes(recipe):
    """Parameters of the encoder, and of all that is trained."""
    config = compose_recipe(recipe, "output=none").model
    with torch.device("meta"):
        encoder = MAESTROModel.from_config_dict(config.encoder)
        width = encoder.d_model
        parts = [
            encoder,
            W2vBert(width, **config.w2v_bert),
            ConvTextEncoder(40, width, **config.text_encoder),
            LightweightDurations(width, **config.duration_model),
            Refiner(width, **config.refiner),
            *(TransducerBranch(["a"] * number, width, **config.transducer) for number in (40, 28)),
        ]
    number = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    return number[0], sum(number)


@pytest.mark.parametrize(
    ("recipe", "encoder", "whole"), [("maestro_600m", 600e6, 753e6), ("maestro_100m", 76e6, 115e6)]
)
def test_sizes(recipe, encoder, whole, monkeypatch):
    # NeMo asks a tensor that it has made on the device for its value.
    bins, calc_length = torch.tensor(80.0), subsampling.calc_length
    monkeypatch.setattr(subsampling, "calc_length", lambda lengths, **options: calc_length(bins, **options))
    assert sizes(recipe) == (pytest.approx(encoder, rel=0.05), pytest.approx(whole, rel=0.05))
