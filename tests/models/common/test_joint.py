"""Two processes on the halves of a batch against one process on all of it."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch import Generator

from nemo_speechlm.data.phone_units import PairedBatch
from nemo_speechlm.data.pretraining.batch import (
    PAD_UNIT,
    PairBatch,
    PretrainBatch,
    SpeechBatch,
    TextBatch,
    TokenBatch,
)
from nemo_speechlm.data.recognition.batch import TranscribedBatch
from nemo_speechlm.models import (
    MAESTROModel,
    SLAMModel,
    SpeechLMCTCModel,
    SpeechLMEncDecModel,
    SpeechLMModel,
    SpeechLMRNNTModel,
    TextToUnitModel,
)
from nemo_speechlm.models.common.joint import ValidationMeans, joint_average, joint_means
from nemo_speechlm.models.frame_classifier import FrameClassifierModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.models.recognition.transducer_models import SpeechLMRNNT
from nemo_speechlm.models.slam.classifier import ClassifiedBatch, SLAMTextClassifier
from nemo_speechlm.models.speechlm import model as speechlm
from nemo_speechlm.models.speechlm.umlm import forward_speech
from nemo_speechlm.testing.configs import (
    tiny_architecture,
    tiny_frame_classifier_config,
    tiny_pretrain_config,
    tiny_text_to_unit_config,
)
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels, tiny_paired_corpus
from nemo_speechlm.testing.maestro import tiny_maestro_config
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.testing.slam import tiny_slam_config
from tests.models.maestro.test_text_beside_speech import TRANSDUCER

WORLD = 2


def in_two(function, folder):
    """Call ``function(rank, folder)`` in two processes of gloo; fails if one of them fails or both take too long."""
    assert run_in_processes(_enter, WORLD, function, folder, seconds=120) == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def _enter(rank, function, folder):
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.save(function(rank, folder), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


# --- gradients -------------------------------------------------------------------------------------------------------


def speech(generator, rows, samples=9600, frames=60):
    """Utterances of which some have no unit in most frames, so that their counts differ much."""
    units = torch.randint(4, (rows, frames), generator=generator)
    units[0, 12:] = PAD_UNIT
    audio = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
    return SpeechBatch(audio, torch.full((rows,), samples), units, torch.full((rows,), frames))


def text(generator, rows, frames=40):
    targets = torch.randint(len(tiny_labels()), (rows, 9), generator=generator)
    lengths = torch.tensor([1, 9, 5, 7][:rows])
    units = torch.randint(4, (rows, frames), generator=generator)
    return TextBatch(units, torch.full((rows,), frames), targets, lengths)


def half(part, rank, rows=(1, 3)):
    """The rank's rows of a batch: the first has one, the second the other three."""
    own = slice(0, rows[0]) if rank == 0 else slice(rows[0], sum(rows))
    return type(part)(*(field[own] for field in part[:4]))


def still(model):
    """Without dropout, in float64, and nothing is logged."""
    model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.log = model.log_dict = lambda *_, **__: None
    return model


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found
    return found


def averaged(model):
    """What DistributedDataParallel makes of the gradients."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= WORLD
    return gradients(model)


def check(joint, ranks):
    largest = max(float(gradient.abs().max()) for gradient in joint.values())
    assert largest > 1e-2
    for found in ranks:
        assert found.keys() == joint.keys()
        apart = max(float((found[name] - gradient).abs().max()) for name, gradient in joint.items())
        assert apart < 1e-6 * largest


@pytest.fixture
def exact(monkeypatch):
    """Models compute in float64 where they ask for fp32, so that 1e-6 is no matter of rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=9, n_text=21)


def pretraining(corpus):
    torch.manual_seed(0)
    config = tiny_pretrain_config(corpus)
    config.loss.update(umlm=0.7, umlm_unmasked=0.3, uctc=0.5, feature_penalty=10.0)
    return still(SpeechLMModel(config))


def update(model, monkeypatch, batches, masks):
    """Lightning's gradient accumulation: the plain mean over the batches of an update."""
    for batch, mask in zip(batches, masks, strict=True):
        given = {"mask": mask, "swap": ~mask}
        monkeypatch.setattr(model, "forward_speech", lambda b, offset, g=given: forward_speech(model, b, offset, **g))
        monkeypatch.setattr(model, "forward_text", lambda b: speechlm.forward_text(model, b, mask=b.units % 3 == 0))
        (model.compute_loss(batch)[0] / len(batches)).backward()


def given_masks(generator, rows, frames=30):
    mask = torch.rand(rows, frames, generator=generator) < torch.tensor([0.9, 0.2, 0.5, 0.1]).unsqueeze(1)
    mask[:, 0] = True
    return mask


@pytest.mark.parametrize("accumulated", [1, 2])
def test_pretraining_has_the_gradient_of_the_joint_batch(corpus, tmp_path, monkeypatch, exact, accumulated):
    generator = torch.Generator().manual_seed(1)
    batches = [PretrainBatch(speech(generator, 4), text(generator, 4)) for _ in range(accumulated)]
    frames = pretraining(corpus).encoder(
        audio_signal=batches[0].speech.audio.unsqueeze(1), length=batches[0].speech.audio_lengths
    )[0].shape[2]  # fmt: skip
    masks = [given_masks(generator, 4, frames) for _ in batches]
    model = pretraining(corpus)
    update(model, monkeypatch, batches, masks)
    joint = gradients(model)

    def one(rank, _):
        own = [PretrainBatch(half(batch.speech, rank), half(batch.text, rank)) for batch in batches]
        model = pretraining(corpus)
        update(model, monkeypatch, own, [mask[slice(0, 1) if rank == 0 else slice(1, 4)] for mask in masks])
        return averaged(model)

    check(joint, in_two(one, tmp_path))


def transcribed(rank=None):
    generator = torch.Generator().manual_seed(2)
    tensors = (
        torch.randn(4, 9600, generator=generator, dtype=torch.float64),
        torch.full((4,), 9600),
        torch.randint(1, len(tiny_labels()) - 1, (4, 8), generator=generator),
        torch.tensor([1, 8, 5, 7]),
    )
    if rank is None:
        return TranscribedBatch(tensors, ("a", "b", "c", "d"))
    own = slice(0, 1) if rank == 0 else slice(1, 4)
    return TranscribedBatch([tensor[own] for tensor in tensors], ("a", "b", "c", "d")[own])


def ctc(reduction):
    torch.manual_seed(0)
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "dropout": 0.0}
    cfg = {**tiny_architecture(), "decoder": head, "labels": tiny_labels(), "ctc_reduction": reduction}
    model = still(SpeechLMCTCModel(OmegaConf.create(cfg)))
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1000)
    model._optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model


@pytest.mark.parametrize("reduction", ["mean_volume", "mean_batch"])
def test_ctc_has_the_gradient_of_the_joint_batch(tmp_path, exact, reduction):
    model = ctc(reduction)
    model.training_step(transcribed(), 0)["loss"].backward()

    def one(rank, _):
        model = ctc(reduction)
        model.training_step(transcribed(rank), 0)["loss"].backward()
        return averaged(model)

    check(gradients(model), in_two(one, tmp_path))


def silent():
    """A batch of two utterances in which nothing is said."""
    audio = torch.randn(2, 9600, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tensors = (audio, torch.full((2,), 9600), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    return TranscribedBatch(tensors, ("e", "f"))


@pytest.mark.parametrize("reduction", ["mean_volume", "mean_batch"])
def test_ctc_of_a_batch_without_text(exact, reduction):
    model, batch = ctc(reduction), silent()
    loss = model.training_step(batch, 0)["loss"]
    log_probs, frames, _ = model.forward(input_signal=batch.tensors[0], input_signal_length=batch.tensors[1])
    blank = sum(-row[:n, -1].sum() for row, n in zip(log_probs, frames, strict=True))
    torch.testing.assert_close(loss, blank / (2 if reduction == "mean_batch" else 1))
    loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def attention():
    torch.manual_seed(0)
    cfg = {
        **tiny_architecture(),
        "labels": tiny_labels(),
        "decoder": {
            "_target_": "nemo_speechlm.modules.RelativeDecoder", "n_layers": 1, "d_model": 32, "n_heads": 2,
            "d_ff": 64, "dropout": 0.0, "attention_dropout": 0.0,
        },
        "label_smoothing": 0.1,
        "ctc_weight": 0.3,
        "ctc_branch": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "dropout": 0.0},
    }  # fmt: skip
    model = still(SpeechLMEncDecModel(OmegaConf.create(cfg)))
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model._optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model


def test_the_attention_decoder_has_the_gradient_of_the_joint_batch(tmp_path, exact):
    model = attention()
    model.training_step(transcribed(), 0).backward()

    def one(rank, _):
        model = attention()
        model.training_step(transcribed(rank), 0).backward()
        return averaged(model)

    check(gradients(model), in_two(one, tmp_path))


def transducer_config(fused, **changes):
    cfg = OmegaConf.create({**tiny_architecture(), **TRANSDUCER, "labels": tiny_labels(), "reuse_decoder": False})
    cfg.joint.update(fuse_loss_wer=fused, fused_batch_size=2)
    return OmegaConf.merge(cfg, changes)


def transducer(fused=True, **changes):
    torch.manual_seed(0)
    model = still(build_transducer(transducer_config(fused, **changes)))
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1000)
    model._optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model


@pytest.mark.parametrize(("reduction", "fused"), [("mean_volume", True), ("mean_volume", False), ("mean_batch", True)])
def test_a_transducer_has_the_gradient_of_the_joint_batch(tmp_path, exact, reduction, fused):
    model = transducer(fused, rnnt_reduction=reduction)
    model.training_step(transcribed(), 0)["loss"].backward()

    def one(rank, _):
        model = transducer(fused, rnnt_reduction=reduction)
        model.training_step(transcribed(rank), 0)["loss"].backward()
        return averaged(model)

    check(gradients(model), in_two(one, tmp_path))


@pytest.mark.parametrize("reduction", ["mean_volume", "mean_batch", "mean"])
def test_alone_a_transducer_has_nemos_loss(exact, reduction):
    model, logged = transducer(rnnt_reduction=reduction), {}
    model.log_dict = lambda values, **_: logged.update(values)
    loss = model.training_step(transcribed(), 0)["loss"]
    expected = super(SpeechLMRNNT, model).training_step(transcribed(), 0)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(logged["train_loss"], expected, rtol=1e-12, atol=0)
    assert model.loss.reduction == reduction


def classifier_of_frames(corpus):
    torch.manual_seed(0)
    model = still(FrameClassifierModel(tiny_frame_classifier_config(corpus, train_ds=None, validation_ds=None)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()  # in training, its statistics are those of a process's own batch
    model.log_speed = lambda: None
    return model


def test_the_frame_classifier_has_the_gradient_of_the_joint_batch(corpus, tmp_path, exact):
    batch = speech(torch.Generator().manual_seed(3), 4)
    model = classifier_of_frames(corpus)
    model.training_step(PretrainBatch(batch, None), 0).backward()

    def one(rank, _):
        own = classifier_of_frames(corpus)
        own.training_step(PretrainBatch(half(batch, rank), None), 0).backward()
        assert torch.equal(own.class_counts, model.class_counts)
        return averaged(own)

    check(gradients(model), in_two(one, tmp_path))


def text_to_unit(folder):
    torch.manual_seed(0)
    model = still(TextToUnitModel(tiny_text_to_unit_config(folder)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model._trainer = SimpleNamespace(optimizers=[optimizer])  # the rate of which it logs
    return model


def paired(rows):
    """Of four sentences, of which the first has one phone of two frames."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.tensor([1, 5, 3, 4])
    heard = torch.arange(5) < lengths.unsqueeze(1)
    durations = torch.randint(1, 4, (4, 5), generator=generator).where(heard, 0)
    durations[0, 0] = 2
    phones = torch.randint(1, 10, (4, 5), generator=generator).where(heard, 0)
    frames = durations.sum(1)
    units = torch.randint(6, (4, int(frames.max())), generator=generator)
    units = units.where(torch.arange(units.shape[1]) < frames.unsqueeze(1), PAD_UNIT)
    longest = int(frames[rows].max())
    return PairedBatch(phones[rows], lengths[rows], durations[rows], units[rows, :longest], None)


def test_text_to_unit_has_the_gradient_of_the_joint_batch(tmp_path, exact):
    model = text_to_unit(tmp_path)
    model.training_step(paired(slice(0, 4)), 0).backward()

    def one(rank, folder):
        (own := folder / f"inventories_{rank}").mkdir()
        model = text_to_unit(own)
        model.training_step(paired(slice(0, 1) if rank == 0 else slice(1, 4)), 0).backward()
        return averaged(model)

    check(gradients(model), in_two(one, tmp_path))


def text_classifier(start):
    torch.manual_seed(0)
    cfg = {
        "init_from_pretrained": str(start), "pretrained_weights": True, "encoder_overrides": None, "dropout": 0.0,
        "text_dropout": 0.0, "lower_case": True, "unknown_characters": "error", "text_columns": ["sentence"],
        "label_column": "label", "classes": ["0", "1", "2"], "max_tokens": 64,
    }  # fmt: skip
    return still(SLAMTextClassifier(OmegaConf.create(cfg)))


def test_slams_text_classifier_has_the_gradient_of_the_joint_batch(corpus, tmp_path, exact):
    SLAMModel(tiny_slam_config(corpus, train_ds=None, validation_ds=None)).save_to(str(tmp_path / "slam.nemo"))
    generator = torch.Generator().manual_seed(5)
    fields = (
        torch.randint(1, 10, (4, 6), generator=generator),
        torch.tensor([2, 6, 3, 5]),
        torch.tensor([0, 1, 1, 2]),
    )

    def trained(rows):
        model = text_classifier(tmp_path / "slam.nemo")
        model.training_step(ClassifiedBatch(*(field[rows] for field in fields)), 0).backward()
        return model

    joint = gradients(trained(slice(0, 4)))
    check(joint, in_two(lambda rank, _: averaged(trained(slice(0, 1) if rank == 0 else slice(1, 4))), tmp_path))


# --- validation ------------------------------------------------------------------------------------------------------


def validated(build, config, rank=0, world=1):
    """The figures of a validation, as the trainer's hooks come."""
    torch.manual_seed(0)
    model = build(config)
    figures = {}
    model.log = lambda name, value, **_: figures.update({name: float(value)})
    model.log_dict = lambda values, **_: figures.update({name: float(value) for name, value in values.items()})
    model.world_size = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "global_rank", property(lambda _: rank))
        model.eval().setup_validation_data(model._cfg.validation_ds)
    loaders = model._validation_dl if isinstance(model._validation_dl, list) else [model._validation_dl]
    with torch.no_grad():
        model.on_validation_epoch_start()
        steps = [[model.validation_step(batch, i) for i, batch in enumerate(loader)] for loader in loaders]
        if hasattr(model, "validation_means"):
            model.validation_means.on_validation_epoch_end(None, model)
        model.on_validation_epoch_end()
    return {"steps": torch.tensor([len(step) for step in steps]), **figures}


def check_validation(one, ranks):
    assert one.keys() - {"steps"}
    assert ranks[0]["steps"].tolist() == ranks[1]["steps"].tolist()
    for found in ranks:
        assert found.keys() == one.keys()
        for name in one.keys() - {"steps"}:
            assert found[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9), name


def test_a_validation_of_pretraining_is_the_same_on_two_ranks(corpus, tmp_path):
    config = tiny_pretrain_config(corpus)
    config.loss.umlm_unmasked = 0.3
    config.validation_ds.speech.batch_duration = 3
    config.validation_ds.text.batch_tokens = 300
    one = validated(SpeechLMModel, config)
    ranks = in_two(lambda rank, _: validated(SpeechLMModel, config, rank, WORLD), tmp_path)
    assert any(steps % 2 for steps in one["steps"].tolist()), "one rank has to repeat a batch, which does not count"
    check_validation(one, ranks)
    assert {"val_loss", "val_umlm_shared", "val_uctc", "val_text_cer"} <= one.keys()


def test_a_validation_of_text_to_unit_is_the_same_on_two_ranks(tmp_path):
    pairs = tiny_paired_corpus(tmp_path)
    manifests = {"phones_manifest_filepath": str(pairs.phone_manifest), "batch_frames": 120}
    data = {"manifest_filepath": str(pairs.hidden_manifest), **manifests}
    config = tiny_text_to_unit_config(tmp_path, validation_ds=data)
    one = validated(TextToUnitModel, config)
    ranks = in_two(lambda rank, _: validated(TextToUnitModel, config, rank, WORLD), tmp_path)
    assert {"val_loss", "val_unit_accuracy", "val_duration_error_frames", "val_sentence_duration_error"} <= one.keys()
    check_validation(one, ranks)


def validated_transducer(config, rank=0, world=1):
    """As :func:`validated`; a transducer's loaders are made with it, so it has to know its rank before."""
    figures = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeechLMRNNTModel, "global_rank", property(lambda _: rank))
        patch.setattr(SpeechLMRNNTModel, "world_size", property(lambda _: world, lambda *_: None), raising=False)
        torch.manual_seed(0)
        model = still(build_transducer(config)).eval()
        model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        model.log_dict = lambda values, **_: figures.update({name: float(value) for name, value in values.items()})
        batches = [TranscribedBatch((batch[0].double(), *batch[1:]), batch.ids, stand_in=batch.stand_in)
                   for batch in model._validation_dl]  # fmt: skip
        with torch.no_grad():
            for number, batch in enumerate(batches):
                model.validation_step(batch, number)
            model.on_validation_epoch_end()
    return {"steps": torch.tensor([len(batches)]), **figures}


@pytest.mark.parametrize(("fused", "reduction"), [(True, "mean_volume"), (False, "mean_batch")])
def test_a_validation_of_a_transducer_is_the_same_on_two_ranks(corpus, tmp_path, exact, fused, reduction):
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 3, "shuffle": False}
    config = transducer_config(fused, rnnt_reduction=reduction, validation_ds=data)
    config.decoding.greedy.max_symbols = 1  # it has learned nothing, and would write ten in each frame
    one = validated_transducer(config)
    assert one["steps"].item() % 2, "one rank has to repeat a batch, which does not count"
    assert one.keys() == {"steps", "val_loss", "val_wer", "val_cer"}
    ranks = in_two(lambda rank, _: validated_transducer(config, rank, WORLD), tmp_path)
    check_validation(one, ranks)
    config.validation_ds.batch_duration = 30
    other = validated_transducer(config)
    assert {name: other[name] for name in one if name != "steps"} == pytest.approx(
        {name: value for name, value in one.items() if name != "steps"}, rel=1e-6
    )


def test_a_validation_of_the_frame_classifier_is_the_same_on_two_ranks(corpus, tmp_path):
    config = tiny_frame_classifier_config(corpus)
    one = validated(FrameClassifierModel, config)
    check_validation(one, in_two(lambda rank, _: validated(FrameClassifierModel, config, rank, WORLD), tmp_path))


# --- the parts -------------------------------------------------------------------------------------------------------


def test_alone_it_is_the_plain_mean():
    total = torch.tensor(6.0, requires_grad=True)
    means = joint_means({"a": (total, 4), "none": (torch.tensor(0.0), torch.tensor(0))})
    assert (means["a"].loss.item(), float(means["none"].mean)) == (1.5, 0.0)
    means["a"].loss.backward()
    assert float(total.grad) == 0.25
    assert not means["a"].mean.requires_grad
    assert (float(means["a"].number), float(means["none"].number)) == (4, 0)


def test_means_of_a_validation():
    means = ValidationMeans()
    means.add("a", torch.tensor(3.0), 1)
    means.add("a", torch.tensor(1.0), torch.tensor(3))
    means.add("nothing", 0.0, 0)
    assert {name: float(value) for name, value in means.take(torch.device("cpu")).items()} == {"a": 1.0}
    assert means.take(torch.device("cpu")) == {}


def test_a_batch_that_weighs_nothing_may_be_anything():
    values = [torch.tensor(2.0), torch.tensor(float("nan"))]
    assert float(joint_average(values, [torch.tensor(3.0), torch.tensor(0.0)])) == 2.0


# --- SLAM ------------------------------------------------------------------------------------------------------------


def slam(corpus):
    torch.manual_seed(0)
    model = still(SLAMModel(tiny_slam_config(corpus, tasks=SLAM_TASKS)))
    model.w2v_bert.quantizer.set_num_updates(100)
    return model


SLAM_TASKS = {"w2v_bert": 1.0, "masked_text": 0.5, "tlm": 2.0, "stm": 1.0, "ctc": 0.3}


def slam_batch(rank):
    """Of the second process, twice as much as of the first."""
    generator = torch.Generator().manual_seed(rank)
    rows = 2 * (rank + 1)
    audio = torch.randn(rows, 16000, generator=generator, dtype=torch.float64)
    lengths = torch.randint(8000, 16001, (rows,), generator=generator)
    tokens = torch.randint(1, 10, (rows, 6), generator=generator)
    token_lengths = torch.randint(3, 7, (rows,), generator=generator)
    text = (tokens, token_lengths)
    return PretrainBatch(SpeechBatch(audio, lengths), TokenBatch(*text), PairBatch(audio, lengths, *text))


def check_counts(make, batch, tmp_path):
    """The gradients and the log of two processes are those of the joint batch."""
    model = make()
    figures = [
        model.figures(batch(rank), model.tasks, lambda _, rank=rank: Generator().manual_seed(rank))[0]
        for rank in range(WORLD)
    ]
    joint = {name: sum(f[name].total for f in figures) / sum(f[name].number for f in figures) for name in figures[0]}
    sum(joint[name] * weight for name, weight in model.loss_weights.items()).backward()

    def own(rank, folder):
        model = make()
        loss, log = model.compute_loss(batch(rank), seed=rank)
        loss.backward()
        return {"gradients": averaged(model), "log": log}

    ranks = in_two(own, tmp_path)
    check(gradients(model), [rank["gradients"] for rank in ranks])
    for rank in ranks:
        for name, mean in joint.items():
            torch.testing.assert_close(rank["log"][name].double(), mean.detach().double(), rtol=1e-6, atol=1e-6)


def test_slam_divides_by_the_counts_of_all_processes(corpus, tmp_path, exact):
    check_counts(lambda: slam(corpus), slam_batch, tmp_path)


def test_a_validation_of_slam_is_the_same_on_two_ranks(corpus, tmp_path):
    config = tiny_slam_config(corpus)
    config.validation_ds.speech.batch_duration = config.validation_ds.pairs.batch_duration = 4
    config.validation_ds.text.batch_tokens = 60
    one = validated(SLAMModel, config)
    assert {"val_loss", "val_codebook_perplexity", "val_stm", "val_masked_text"} <= one.keys()
    check_validation(one, in_two(lambda rank, _: validated(SLAMModel, config, rank, WORLD), tmp_path))


def check_batches_do_not_matter(build, config, of_a_batch):
    """All figures are those of examples, but for these of batches."""
    found = []
    for seconds, tokens in ((4, 60), (30, 1000)):
        config.validation_ds.speech.batch_duration = config.validation_ds.pairs.batch_duration = seconds
        config.validation_ds.text.batch_tokens = tokens
        found.append(validated(build, config))
    small, large = (
        {name: value for name, value in one.items() if name not in ("steps", *of_a_batch)} for one in found
    )
    assert len(small) > 8
    assert small == pytest.approx(large, rel=1e-4)


def test_a_validation_of_slam_does_not_depend_on_the_batches(corpus):
    """Whose text an utterance gets in STM must, and so must the diversity, which is of a batch's codes."""
    of_a_batch = ("val_loss", "val_stm", "val_stm_accuracy", "val_diversity")
    check_batches_do_not_matter(SLAMModel, tiny_slam_config(corpus), of_a_batch)


# --- MAESTRO ---------------------------------------------------------------------------------------------------------


def maestro(corpus):
    torch.manual_seed(0)
    model = still(MAESTROModel(tiny_maestro_config(corpus, train_ds=None, validation_ds=None)))
    model.w2v_bert.quantizer.set_num_updates(100)
    return model


def maestro_batch(rank):
    speech, text, pairs = slam_batch(rank)[:3]
    phones = {"phones": text.tokens + 1, "phone_lengths": text.token_lengths}
    return PretrainBatch(speech, text._replace(**phones), pairs._replace(**phones))


def test_maestro_divides_by_the_counts_of_all_processes(corpus, tmp_path, exact):
    check_counts(lambda: maestro(corpus), maestro_batch, tmp_path)


def test_a_validation_of_maestro_is_the_same_on_two_ranks(corpus, tmp_path):
    config = tiny_maestro_config(corpus)
    config.validation_ds.speech.batch_duration = config.validation_ds.pairs.batch_duration = 4
    config.validation_ds.text.batch_tokens = 60
    one = validated(MAESTROModel, config)
    assert {"val_loss", "val_rnnt_phones", "val_matching", "val_mlm_graphemes"} <= one.keys()
    check_validation(one, in_two(lambda rank, _: validated(MAESTROModel, config, rank, WORLD), tmp_path))


def test_a_validation_of_maestro_does_not_depend_on_the_batches(corpus):
    check_batches_do_not_matter(MAESTROModel, tiny_maestro_config(corpus), ("val_loss", "val_diversity"))


def test_a_term_of_which_no_process_has_anything_is_0(tmp_path):
    def one(rank, _):
        total = torch.tensor(6.0 * rank, requires_grad=True)
        means = joint_means({"none": (0 * total, 0), "some": (total, 4 * rank)})
        sum(mean.loss for mean in means.values()).backward()
        return [float(value) for mean in means.values() for value in (mean.loss, mean.mean, mean.number)] + [
            float(total.grad)
        ]

    assert in_two(one, tmp_path) == [[0, 0, 0, 0, 1.5, 4, 0.5], [0, 0, 0, 3, 1.5, 4, 0.5]]
