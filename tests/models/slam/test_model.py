"""SLAM as a whole. The pinned losses are made anew only by a change that is meant to change them::

OMP_NUM_THREADS=1 python -m tests.models.slam.test_model
"""

import csv
import logging as python_logging
import math
import tarfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from nemo.core.classes import ModelPT
from nemo.utils import logging
from omegaconf import OmegaConf

from nemo_speechlm.data.pretraining.batch import PretrainBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.slam.mismatches import Mismatches
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.testing.slam import tiny_slam_config
from tests.long_forms import LONG
from tests.models.multitask import (
    check_that_an_update_is_the_sum_of_three,
    check_that_unused_parameters_are_told,
    fit,
)

PINNED = Path(__file__).parents[2] / "assets" / "first_losses_slam.csv"
STEPS = 20
TERMS = ("contrastive", "masked_codes", "diversity", "masked_text", "tlm_codes", "tlm_text", "stm")
STAGES = [
    {"steps": 3, "tasks": ["w2v_bert", "masked_text"]},
    {"steps": 3, "tasks": ["w2v_bert", "masked_text", "tlm", "stm"]},
    {"steps": None, "tasks": ["w2v_bert"]},
]


@pytest.fixture
def warnings():
    """What NeMo's logger warns of."""
    found = []
    handler = python_logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging._logger
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def trained(corpus):
    return fit(SLAMModel, tiny_slam_config(corpus), STEPS)


def test_first_losses(trained):
    with PINNED.open(newline="") as file:
        pinned = list(csv.DictReader(file))
    _, history = trained
    assert len(history.steps) == len(pinned) == STEPS
    for step, (ours, theirs) in enumerate(zip(history.steps, pinned, strict=True)):
        for name in TERMS:
            assert ours[f"train_{name}"] == pytest.approx(float(theirs[name]), rel=2e-4), (step, name)


def test_validation_logs_what_it_says(trained):
    model, history = trained
    assert set(model.validation_metrics()) <= set(history.validated)
    expected = sum(history.validated[f"val_{term}"] * weight for term, weight in model.loss_weights.items())
    assert history.validated["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert 1 < history.validated["val_codebook_perplexity"] <= history.validated["val_used_codes"] <= 16


def test_one_update_on_three_streams_is_the_sum_of_three(model, batch):
    loss, log = check_that_an_update_is_the_sum_of_three(model, batch)
    weights = {"contrastive": 1, "masked_codes": 1, "diversity": 0.1, "masked_text": 1, "tlm_codes": 1, "tlm_text": 1}
    weights |= {"stm": 1, "ctc": 0.3}
    assert loss == pytest.approx(sum(log[name] * weight for name, weight in weights.items()))


def test_a_task_that_is_off_costs_nothing(build):
    assert {name for name, _ in build(tasks={"w2v_bert": 1.0}, tokenizer=None).named_children()} >= {"w2v_bert"}
    model = build(tasks={"masked_text": 1.0})
    assert not hasattr(model, "w2v_bert")
    assert not hasattr(model, "stm_head")


@pytest.mark.parametrize(
    "off", [(), ("ctc",), ("masked_text",), ("w2v_bert",), ("masked_text", "tlm"), ("masked_text", "tlm", "stm")]
)
def test_unused_parameters_are_told(corpus, off):
    check_that_unused_parameters_are_told(SLAMModel, tiny_slam_config(corpus), off)


def test_stages_change_the_tasks(corpus):
    _, history = fit(SLAMModel, tiny_slam_config(corpus, stages=STAGES, validation_ds=None), 8)
    has = [{term for term in TERMS if not math.isnan(step.get(f"train_{term}", math.nan))} for step in history.steps]
    speech = {"contrastive", "masked_codes", "diversity"}
    assert has == [speech | {"masked_text"}] * 3 + [set(TERMS)] * 3 + [speech] * 2
    assert [step["stage"] for step in history.steps] == [0, 0, 0, 1, 1, 1, 2, 2]


def staged_config(corpus):
    """Stages and options as ``slam_small`` has them, and a last stage of speech alone."""
    stages = [
        {"steps": 3, "tasks": ["masked_text", "ctc"]},
        {"steps": 3, "tasks": None},
        {"steps": None, "tasks": ["w2v_bert"]},
    ]
    config = tiny_slam_config(corpus, stages=stages, validation_ds=None)
    config.tasks.ctc = 1.0
    config.joined.text_positions = "ctc"
    config.tlm.whole_text = 0.4
    config.stm.replaced = 0.5
    return config


@pytest.fixture(scope="module")
def staged(corpus, tmp_path_factory):
    """A run through all stages: its model, its history and the folder of its checkpoints, one for each step."""
    folder = tmp_path_factory.mktemp("staged")
    saved = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    return *fit(SLAMModel, staged_config(corpus), 8, callbacks=[saved]), folder


@pytest.mark.parametrize("stop", [2, 3, 5] if LONG else [3, 5])
def test_goes_on_within_and_between_stages(corpus, staged, stop):
    model, whole, folder = staged
    config = staged_config(corpus)
    resumed, rest = fit(SLAMModel, config, 8, checkpoint=folder / f"step={stop}.ckpt")
    for ours, theirs in zip(rest.steps, whole.steps[stop:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    found = resumed.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(found[name], weight, msg=name)


def test_restored_equals_saved(trained, tmp_path, corpus):
    model, _ = trained
    model.save_to(str(tmp_path / "tiny.nemo"))
    restored = SLAMModel.restore_from(str(tmp_path / "tiny.nemo"), map_location="cpu").eval()
    assert restored.text_encoder.labels == model.text_encoder.labels
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    tokens = torch.tensor([[1, 2, 3], [4, 0, 0]])
    model.eval()
    with torch.no_grad():
        for a, b in zip(*(m(input_signal=audio, input_signal_length=lengths) for m in (model, restored)), strict=True):
            assert torch.equal(a, b)
        states = [m.text_states(tokens, torch.tensor([3, 1])) for m in (model, restored)]
    assert torch.equal(*states)
    layers, frames = restored.extract_features(audio, lengths)
    assert len(layers) == 2
    assert frames.tolist() == [25, 14]


def test_batched_features_are_those_of_the_utterance_alone(trained):
    model, _ = trained
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    together, frames = model.extract_features(audio, lengths)
    alone, _ = model.extract_features(audio[1:, :9000], lengths[1:])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:, : frames[1]], b[:, : frames[1]], rtol=1e-4, atol=1e-4)


def test_a_collapsed_codebook_is_said_once(corpus, warnings, tmp_path):
    class Collapse(Callback):
        def on_train_start(self, trainer, model):
            with torch.no_grad():
                model.w2v_bert.quantizer.weight_proj.weight.zero_()
                model.w2v_bert.quantizer.weight_proj.bias.copy_(20.0 * torch.eye(16)[0])

    config = tiny_slam_config(corpus, optim={"name": "adamw", "lr": 1e-6})
    _, history = fit(SLAMModel, config, 3, callbacks=[Collapse()], default_root_dir=tmp_path)
    said = [message for message in warnings if "collapsed" in message]
    assert len(said) == 1
    assert "1 of its 16 codes are used" in said[0]
    assert "model.loss.diversity" in said[0]
    assert history.steps[0]["train_codebook_perplexity"] == 1
    assert history.steps[0]["train_contrastive_accuracy"] == 0


def test_a_pair_left_over_at_the_end_of_a_pass(build, batch):
    """It is no reason to stop, unless no two pairs fit into a batch."""
    model = build(tasks={"tlm": 1.0, "stm": 1.0}).train()
    one = PretrainBatch(pairs=type(batch.pairs)(*(part[:1] for part in batch.pairs[:4])))
    seconds = one.pairs.audio.shape[1] / 16000
    model._cfg.train_ds = {"pairs": {"batch_duration": 2 * seconds}}
    loss, log = model.compute_loss(one)
    loss.backward()
    assert log["stm"].isnan(), "no pair has been told from another"
    assert log["loss"].isfinite()
    assert model.stm_head.weight.grad.abs().max() == 0
    assert log["tlm_text"] > 0
    model._cfg.train_ds = {"pairs": {"batch_size": 8, "batch_duration": None}}
    assert model.compute_loss(one)[1]["stm"].isnan()
    for pairs in ({"batch_duration": 1.9 * seconds}, {"batch_size": 8, "batch_duration": seconds}, {"batch_size": 1}):
        model._cfg.train_ds = {"pairs": pairs}
        with pytest.raises(SpeechLMError, match="a batch has one pair only"):
            model.compute_loss(one)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokenizer": None}, r"model\.tokenizer\.dir is not given, and model\.tasks\.masked_text is not 0"),
        ({"tasks": {"w2v_bert": 0.0}}, r"model\.tasks: all weights are 0"),
        ({"tasks": {"ctc": 1.0}, "ctc": {"shared_embedding": True}}, r"model\.ctc\.shared_embedding is true, and no"),
        ({"tlm": {"speech": {"share": 0.7, "length": 3}, "text": {"share": 0.5, "length": 2}, "whole_text": 2}},
         r"model\.tlm\.whole_text is 2"),
        ({"w2v_bert": {"distractors": 0}}, r"model\.w2v_bert\.distractors is 0, expected a whole number of"),
        ({"w2v_bert": {"temperature": -0.1}}, r"model\.w2v_bert\.temperature is -0\.1, expected a number above 0"),
        ({"w2v_bert": {"gumbel_temperature": [0.1, 2.0, 0.9]}}, r"gumbel_temperature\[1\] is 2\.0, expected .* 0\.1"),
        ({"w2v_bert": {"gumbel_temperature": [2.0, 0.1, 1.1]}}, r"gumbel_temperature\[2\] is 1\.1, expected .* 1"),
        ({"w2v_bert": {"gumbel_temperature": [2.0, 0.1]}}, r"gumbel_temperature is \[2\.0, 0\.1\], expected its"),
        ({"w2v_bert": {"gumbel_temperature": 5}}, r"gumbel_temperature is 5, expected its start"),
        ({"w2v_bert": {"num_codes": 1.5}}, r"model\.w2v_bert\.num_codes is 1\.5, expected a whole number of"),
        ({"w2v_bert": {"code_dim": 0}}, r"model\.w2v_bert\.code_dim is 0, expected a whole number of"),
        ({"w2v_bert": {"leave_out_same": None}}, r"model\.w2v_bert\.leave_out_same is None, expected true or false"),
        ({"w2v_bert": None}, r"model\.w2v_bert is None, expected a mapping"),
        ({"tasks": None}, r"model\.tasks is None, expected a mapping"),
        ({"joined": {"positions": "ctc"}}, r"model\.joined\.positions is not a key of it; there are: text_positions"),
        ({"tasks": ["stm"]}, r"model\.tasks is \['stm'\], expected a mapping"),
        ({"loss": None}, r"model\.loss is None, expected a mapping"),
        ({"masking": None}, r"model\.masking is None, expected a mapping"),
        ({"tlm": {"speech": None}}, r"model\.tlm\.speech is None, expected a mapping"),
        ({"stm": None}, r"model\.stm is None, expected a mapping"),
        ({"text_corruption": {"random": None}}, r"model\.text_corruption\.random is None, expected a number"),
        ({"text_dropout": None}, r"model\.text_dropout is None, expected a number from 0 to 1"),
        ({"tasks": {"masked_text": 1.0, "ctc": 1.0}, "ctc": {"shared_embedding": 5}},
         r"model\.ctc\.shared_embedding is 5, expected true or false"),
        ({"stages": 5}, r"model\.stages is 5, expected null or a list"),
        ({"stages": {"steps": 1}}, r"model\.stages is {'steps': 1}, expected null or a list"),
        ({"stages": [5]}, r"model\.stages\[0\] is 5, expected a mapping with steps and tasks"),
        ({"stages": [{"tasks": "stm"}]}, r"model\.stages\[0\]\.tasks is 'stm', expected null or a list of: w2v_bert"),
        ({"loss": {"masked_code": 1.0}}, r"model\.loss\.masked_code is no term of the loss"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(build, overrides, message):
    with pytest.raises(SpeechLMError, match=message):
        build(**overrides)


def rewritten(path, folder, change):
    """A copy of a .nemo file whose config is changed."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    config = OmegaConf.load(folder / "model_config.yaml")
    change(config)
    OmegaConf.save(config, folder / "model_config.yaml")
    with tarfile.open(folder.with_suffix(".nemo"), "w") as archive:
        for member in sorted(folder.iterdir()):
            archive.add(member, f"./{member.name}")
    return folder.with_suffix(".nemo")


def test_words_are_replaced_after_some_updates(corpus, monkeypatch, warnings):
    asked = []

    def draw(self, *arguments):
        asked.append((torch.is_grad_enabled(), self.replaced))
        return original(self, *arguments)

    original = Mismatches.draw
    monkeypatch.setattr(Mismatches, "draw", draw)
    stm = {"mismatched": 0.5, "replaced": 0.25, "replaced_after": 2}
    fit(SLAMModel, tiny_slam_config(corpus, stm=stm), 4, limit_val_batches=1)
    assert [share for training, share in asked if training] == [0.0, 0.0, 0.25, 0.25]
    assert {share for training, share in asked if not training} == {0.25}
    assert not any("replaced_after" in message for message in warnings)
    fit(SLAMModel, tiny_slam_config(corpus, stm=stm), 2, limit_val_batches=1)
    assert any("replaced_after is 2, and trainer.max_steps is 2" in message for message in warnings)


def test_the_temperature_begins_to_fall_where_its_task_begins(corpus):
    stages = [{"steps": 2, "tasks": ["masked_text"]}, {"steps": None, "tasks": None}]
    _, history = fit(SLAMModel, tiny_slam_config(corpus, stages=stages, validation_ds=None), 5)
    found = [step["gumbel_temperature"] for step in history.steps[2:]]
    assert found == pytest.approx([2.0, 2.0 * 0.999, 2.0 * 0.999**2], rel=1e-6)


def test_files_of_before_and_files_that_do_not_fit(build, tmp_path):
    build().save_to(str(tmp_path / "whole.nemo"))
    old = rewritten(tmp_path / "whole.nemo", tmp_path / "old", lambda cfg: cfg.loss.update(nothing_reads_it=1.0))
    assert isinstance(restore_file(ModelPT, old, "cpu"), SLAMModel)
    wrong = rewritten(tmp_path / "whole.nemo", tmp_path / "wrong", lambda cfg: cfg.tlm.update(whole_text=2))
    with pytest.raises(SpeechLMError, match=r"model\.tlm\.whole_text is 2, expected a number from 0 to 1"):
        restore_file(ModelPT, wrong, "cpu")


def test_another_shared_transformer(build, corpus):
    encoder = tiny_slam_config(corpus).encoder
    encoder.shared_transformer = {
        "_target_": "nemo_speechlm.modules.RelativeTransformer", "n_layers": 1, "d_model": 32, "n_heads": 2,
        "d_ff": 64,
    }  # fmt: skip
    with pytest.raises(SpeechLMError, match=r"model\.encoder\.shared_transformer is a RelativeTransformer"):
        build(encoder=encoder)


def test_a_tokenizer_that_is_not_there(build, tmp_path):
    with pytest.raises(SpeechLMError, match=r"tokenizer\.model.*train_tokenizer"):
        build(tokenizer={"dir": str(tmp_path)})


def test_a_task_without_data(corpus):
    config = tiny_slam_config(corpus, validation_ds=None)
    config.train_ds.pairs = None
    with pytest.raises(SpeechLMError, match=r"model\.tasks has 'tlm', which learns from pairs"):
        fit(SLAMModel, config, 1)


def test_text_without_a_tokenizer(corpus):
    config = tiny_slam_config(corpus, tokenizer=None, tasks={"w2v_bert": 1.0})
    with pytest.raises(SpeechLMError, match=r"has text, and model\.tokenizer\.dir is not given"):
        fit(SLAMModel, config, 1)


def test_another_tokenizer_than_the_checkpoints(build):
    model = build()
    with pytest.raises(SpeechLMError, match=r"model\.tokenizer\.dir has 13 tokens.*trained with 50"):
        model.on_load_checkpoint({"state_dict": {"text_embedding.bias": torch.zeros(50)}})
    with pytest.raises(SpeechLMError, match=r"model\.tokenizer\.dir has 13 tokens.*trained with 50"):
        model.on_load_checkpoint({"state_dict": {"ctc_head.weight": torch.zeros(51, 8)}})
    model.on_load_checkpoint({"state_dict": {"ctc_head.weight": torch.zeros(14, 8)}})


def write_pinned(folder):
    from nemo_speechlm.testing.corpora import tiny_corpus

    steps = fit(SLAMModel, tiny_slam_config(tiny_corpus(folder, n_speech=16, n_text=60)), STEPS)[1].steps
    with PINNED.open("w", newline="") as file:
        writer = csv.DictWriter(file, TERMS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({term: f"{step[f'train_{term}']:.9g}" for term in TERMS} for step in steps)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_pinned(folder)
