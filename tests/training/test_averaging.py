"""Averages of weights: along a training, and of its best checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.average import WeightAverage
from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.testing.configs import tiny_recipe
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training import run as training
from nemo_speechlm.training.averaging import KEY, ExponentialAverage, judged_weights, mean_of_checkpoints
from tests.training.test_run import OneWeight, numbers

SCHEDULE = {"name": "PolynomialDecayAnnealing", "power": 1.0, "max_steps": 100, "min_lr": 0.0}


@pytest.fixture
def recipe(tmp_path):
    data = tmp_path / "data"
    model = {
        "init_from_pretrained": None,
        "train_ds": {"manifest_filepath": numbers(data / "train.json", 1.0, 2.0, 3.0), "num_workers": 0},
        "validation_ds": {"manifest_filepath": numbers(data / "valid.json", 2.0)},
        "optim": {"name": "adamw", "lr": 0.1, "betas": [0.9, 0.98], "weight_decay": 0.0, "sched": SCHEDULE},
    }
    return tiny_recipe(tmp_path, model, 9, val_check_interval=3)


class Watch(Callback):
    """The weight after each update, and what validations see; breaks off after so many updates."""

    def __init__(self, end=None):
        self.trained, self.validated, self.end = [], [], end

    def on_train_batch_start(self, *_):
        if len(self.trained) == self.end:
            raise KeyError("killed")

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained.append(pl_module.weight.item())

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.validated.append(pl_module.weight.item())


def train(recipe, tmp_path, name, end=None, model_class=OneWeight, **changes):
    watch = Watch(end)
    cfg = recipe.copy()
    cfg.output = str(tmp_path / f"{name}.nemo")
    for key, value in changes.items():
        cfg[key] = value

    def build(model, trainer):
        trainer.callbacks.append(watch)
        return model_class(cfg=model, trainer=trainer)

    return read_nemo(training.train(cfg, build)).weights["weight"].item(), watch


def plain_average(start, weights, decay):
    """What the average is after each update, number by number."""
    average, found = start, []
    for update, weight in enumerate(weights, start=1):
        kept = min(decay, (update + 1) / (update + 10))
        average = kept * average + (1 - kept) * weight
        found.append(average)
    return found


def test_the_average_is_validated_and_written(recipe, tmp_path):
    weight, watch = train(recipe, tmp_path, "out", ema_decay=0.4, save="last")
    expected = plain_average(0.0, watch.trained, 0.4)
    assert watch.validated == pytest.approx([expected[2], expected[5], expected[8]])
    assert weight == pytest.approx(expected[8])
    assert abs(weight - watch.trained[8]) > 0.01
    best, _ = train(recipe, tmp_path, "best", ema_decay=0.4, save="best")
    assert best == pytest.approx(min(watch.validated, key=lambda value: abs(value - 2)))


def test_a_resumed_run_has_the_average_of_the_whole_one(recipe, tmp_path):
    with pytest.raises(KeyError, match="killed"):
        train(recipe, tmp_path, "resumed", end=7, ema_decay=0.4, save="last")
    resumed, rest = train(recipe, tmp_path, "resumed", ema_decay=0.4, save="last")
    recipe.exp_manager.name = "another"
    whole, watch = train(recipe, tmp_path, "whole", ema_decay=0.4, save="last")
    assert rest.trained == watch.trained[-len(rest.trained) :]
    assert len(rest.trained) == 3
    assert resumed == whole


def test_the_mean_of_the_best_checkpoints(recipe, tmp_path):
    recipe.exp_manager.checkpoint_callback_params.save_top_k = 2
    weight, watch = train(recipe, tmp_path, "out", save="average")
    best = sorted(watch.validated, key=lambda value: abs(value - 2))[:2]
    assert weight == pytest.approx(sum(best) / 2)
    assert watch.validated == [watch.trained[2], watch.trained[5], watch.trained[8]]
    last, _ = train(recipe, tmp_path, "last", save="last")
    assert last == watch.trained[8]


class TiedWeight(OneWeight):
    """The weight has a second name, as the output layer of a decoder with ``tie_embeddings``."""

    def __init__(self, cfg, trainer=None):
        super().__init__(cfg, trainer)
        self.second = self.weight


@pytest.mark.parametrize("save", ["best", "average", "last"])
def test_a_tied_weight_is_averaged_under_both_names(recipe, tmp_path, save):
    recipe.exp_manager.checkpoint_callback_params.save_top_k = 2 if save == "average" else 1
    tied, seen = train(recipe, tmp_path, "tied", ema_decay=0.4, save=save, model_class=TiedWeight)
    best = sorted(seen.validated, key=lambda value: abs(value - 2))
    expected = {
        "last": plain_average(0.0, seen.trained, 0.4)[8], "best": best[0], "average": sum(best[:2]) / 2,
    }  # fmt: skip
    assert tied == pytest.approx(expected[save])
    assert read_nemo(tmp_path / "tied.nemo").weights["second"].item() == tied


def test_parts_of_an_averaged_matrix_are_themselves(tmp_path):
    whole = torch.zeros(2, 2)
    content = {
        "whole": whole,
        "row": whole[:1],
        "turned": whole.t(),
        "empty": torch.zeros(0),
        "none": torch.zeros(0, 3),
    }
    average = {"whole": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "empty": torch.zeros(0)}
    torch.save({"state_dict": content, KEY: {"weights": average, "updates": 1}}, tmp_path / "a.ckpt")
    judged = judged_weights(tmp_path / "a.ckpt")
    assert {name: value.shape for name, value in judged.items()} == {name: v.shape for name, v in content.items()}
    assert torch.equal(judged["whole"], average["whole"])
    assert not judged["row"].any()


def test_the_mean_is_exact_and_leaves_counts_alone(tmp_path):
    for number in range(3):
        content = {"w": torch.tensor([0.1 * number, 1.0]), "count": torch.tensor(number)}
        torch.save({"state_dict": content}, tmp_path / f"{number}.ckpt")
    torch.save({"state_dict": content, KEY: {"weights": {"w": torch.ones(2)}, "updates": 1}}, tmp_path / "3.ckpt")
    mean = mean_of_checkpoints([tmp_path / f"{number}.ckpt" for number in (1, 0, 2)])
    assert mean["w"].tolist() == pytest.approx([0.1, 1.0])
    assert mean["count"] == 1
    assert judged_weights(tmp_path / "3.ckpt")["w"].tolist() == [1.0, 1.0]


class Frozen(LightningModule):
    """One parameter that is frozen for a step, a buffer, and updates of two batches."""

    def __init__(self):
        super().__init__()
        self.free = torch.nn.Parameter(torch.zeros(3))
        self.later = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.later.requires_grad_(batch_idx > 1)
        return (self.free - batch).square().sum() + self.later.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_updates_of_several_batches_and_parameters_frozen_at_first():
    average, watch = ExponentialAverage(0.5), []

    class Weights(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step > len(watch):
                watch.append((pl_module.free[0].item(), pl_module.later[0].item()))

    trainer = tiny_trainer(3, callbacks=[average, Weights()], accumulate_grad_batches=2)
    model = Frozen()
    trainer.fit(model, torch.utils.data.DataLoader(torch.rand(20, 3), batch_size=None))
    assert average.updates == 3
    average.put_into(model)
    for place, (name, start) in enumerate((("free", 0.0), ("later", 1.0))):
        expected = plain_average(start, [weights[place] for weights in watch], 0.5)[-1]
        assert getattr(model, name)[0].item() == pytest.approx(expected)
    assert model.seen == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_in_bf16_has_an_average_in_fp32(dtype):
    """Validations leave it as it is. The average of a checkpoint made before may be in bf16."""
    average = ExponentialAverage(0.9999)
    checkpoint = {KEY: {"weights": {"weight": torch.ones(2, dtype=dtype)}, "updates": 100_000}}
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.full((2,), 2.0, dtype=torch.bfloat16))
    trainer = SimpleNamespace(global_step=0)
    average.on_load_checkpoint(trainer, model, checkpoint)
    average.on_train_start(trainer, model)
    for step in range(1, 1001):
        trainer.global_step = step
        average.on_train_batch_end(trainer, model)
        if step % 100 == 0:
            average.on_validation_start(trainer, model)
            assert (model.weight < 2).all()
            average.on_validation_end(trainer, model)
            assert (model.weight == 2).all()
    average.on_save_checkpoint(trainer, model, checkpoint)
    assert checkpoint[KEY]["weights"]["weight"].tolist() == [pytest.approx(2 - 0.9999**1000, rel=1e-4)] * 2


@pytest.mark.parametrize("decay", [-0.1, 1.5, "much", True])
def test_decays_that_are_none(decay):
    with pytest.raises(SpeechLMError, match=r"ema_decay is .*, expected a number from 0 to 1"):
        ExponentialAverage(decay)


def test_nemos_average_is_refused(recipe, tmp_path):
    recipe.exp_manager.ema = {"enable": True}
    with pytest.raises(
        SpeechLMError, match=r"exp_manager\.ema\.enable: .* cannot be resumed; set it to false"
    ) as error:
        train(recipe, tmp_path, "out")
    assert "\n" not in str(error.value)


def test_an_average_within_the_model_is_not_averaged_again():
    model = torch.nn.ModuleDict({"part": torch.nn.Linear(2, 2)})
    model["average"] = WeightAverage({"part": model["part"]}, 0.5)
    average = ExponentialAverage(0.0)
    average.on_train_start(SimpleNamespace(global_step=0), model)
    with torch.no_grad():
        model["part"].weight.add_(1)
        model["average"].parts["part"].weight.add_(5)
    inner = model["average"].parts["part"].weight.clone()
    outer = model["part"].weight.clone()
    average.on_train_batch_end(SimpleNamespace(global_step=1), model)
    with torch.no_grad():
        model["part"].weight.add_(1)
    average.put_into(model)
    assert torch.equal(model["average"].parts["part"].weight, inner)
    torch.testing.assert_close(model["part"].weight, outer)


def test_of_a_figure_that_rises_the_best_checkpoint_is_the_highest(recipe, tmp_path):
    recipe.exp_manager.checkpoint_callback_params.update(mode="max", save_top_k=2)
    weight, watch = train(recipe, tmp_path, "best", save="best")
    assert weight == max(watch.validated, key=lambda value: abs(value - 2))
    mean, _ = train(recipe, tmp_path, "mean", save="average")
    assert mean == pytest.approx(sum(sorted(watch.validated, key=lambda value: -abs(value - 2))[:2]) / 2)


def test_a_run_resumed_within_an_update_counts_updates_alone():
    average, model, trainer = ExponentialAverage(0.5), torch.nn.Linear(1, 1), SimpleNamespace(global_step=5)
    average.on_load_checkpoint(trainer, model, {KEY: {"weights": dict(model.named_parameters()), "updates": 5}})
    average.on_train_start(trainer, model)
    average.on_train_batch_end(trainer, model)  # the first of the batches of an update
    assert average.updates == 5
    trainer.global_step = 6
    average.on_train_batch_end(trainer, model)
    assert average.updates == 6
