"""What the tests of SLAM and MAESTRO share: a training that is watched, a front end in float64, the sum of streams."""

import torch
from lightning.pytorch.callbacks import Callback

from nemo_speechlm.data.pretraining.batch import PretrainBatch
from nemo_speechlm.testing.trainer import tiny_trainer


class History(Callback):
    """Keeps what each step logged. Each step draws from a seed of its own, so that resumed ones draw the same."""

    def __init__(self):
        self.steps, self.validated = [], {}

    def on_train_batch_start(self, trainer, *_):
        torch.manual_seed(trainer.global_step)

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer, *_):
        self.validated = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(kind, config, steps, checkpoint=None, callbacks=(), **options):
    """Train a model of a class for some steps; returns it and its history."""
    torch.manual_seed(0)
    history = History()
    trainer = tiny_trainer(
        steps, enable_checkpointing=bool(callbacks), callbacks=[history, *callbacks], gradient_clip_val=1.0,
        log_every_n_steps=1, **options,
    )  # fmt: skip
    model = kind(config, trainer)
    trainer.fit(model, ckpt_path=checkpoint)
    return model, history


class Mels(torch.nn.Module):
    """Mel features (B, F, T) in float64: frames of the samples themselves, a signal that nothing is lost of."""

    def forward(self, input_signal, length):
        return input_signal.double().unfold(1, 20, 160).transpose(1, 2), (length - 20) // 160 + 1


def check_that_an_update_is_the_sum_of_three(model, batch, untrained=()):
    """The gradient of a step on three streams is the sum of those of three steps on one stream each.

    Returns:
        the loss, as a number, and its terms.
    """
    model.train()
    model.w2v_bert.quantizer.set_num_updates(100)
    separate = dict.fromkeys((name for name, _ in model.named_parameters()), 0.0)
    for stream in ("speech", "text", "pairs"):
        model.zero_grad()
        model.compute_loss(PretrainBatch(**{stream: getattr(batch, stream)}), seed=5)[0].backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                separate[name] = separate[name] + parameter.grad
    model.zero_grad()
    loss, log = model.compute_loss(batch, seed=5)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(untrained)):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, f"{name} learns from nothing"
        torch.testing.assert_close(parameter.grad, separate[name], rtol=0, atol=1e-10, msg=name)
    return float(loss.detach()), {name: float(value) for name, value in log.items()}


def check_that_unused_parameters_are_told(kind, config, off):
    """A step over all streams leaves no parameter without a gradient, unless the model says why.

    Args:
        kind: class of the model.
        config: with all tasks and streams; it is changed.
        off: tasks whose weight becomes 0.
    """
    config.tasks.update(dict.fromkeys(off, 0.0))
    torch.manual_seed(0)
    model = kind(config).train()
    model.setup_training_data(model.cfg.train_ds)
    model.compute_loss(next(iter(model._train_dl)))[0].backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert bool(unused) == bool(model.unused_parameters()), (unused, model.unused_parameters())
