"""Compiled layers, fused optimizers and apex's norms: same numbers, picked up where they are."""

import sys
import types

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from nemo.core.optim import optimizers
from omegaconf import OmegaConf
from torch import nn
from torch._dynamo.testing import CompileCounter

from nemo_speechlm.kernels import norm
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.models.common.acceleration import Accelerated
from nemo_speechlm.modules import ConvFrontEnd, RelativeTransformer
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.testing.trainer import tiny_trainer


def transformer():
    torch.manual_seed(0)
    sizes = {"n_layers": 3, "d_model": 16, "n_heads": 2, "d_ff": 24, "conv_kernel": 8, "conv_groups": 2}
    return RelativeTransformer(**sizes, position="conv", max_distance=10, dropout=0.0, attention_dropout=0.0)


def states_and_gradients(model, frames):
    x = torch.randn(2, frames, 16, generator=torch.Generator().manual_seed(frames))
    padding = torch.arange(frames) >= torch.tensor([[frames], [frames * 2 // 3]])
    model.zero_grad()
    y, _ = model(x, padding)
    (y * x).sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters())]


def test_layers_are_traced_once_for_all_lengths():
    # In a process of its own: where PyTorch is built for CUDA, gradients through a graph of Dynamo start threads, and
    # processes that are forked after that can compute no gradient any more.
    assert run_in_processes(_trace, 1) == [0]


def _trace(rank):
    """Dynamo's graphs, run as they are: what a backend makes of them is PyTorch's business and takes minutes."""
    plain, compiled, graphs = transformer(), transformer(), CompileCounter()
    for layer in compiled.layers:
        layer.compile(backend=graphs, dynamic=True)
    counts = []
    for frames in (50, 70, 33, 21, 120, 64):
        for ours, theirs in zip(
            states_and_gradients(compiled, frames), states_and_gradients(plain, frames), strict=True
        ):
            assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())
        counts.append(graphs.frame_count)
    assert counts[0] == counts[-1] == 1


def test_compiling_is_an_option_of_training(tmp_path, monkeypatch):
    corpus, compiled = tiny_corpus(tmp_path), []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append((type(self).__name__, options)))
    for wanted in (False, True):
        model = SpeechLMModel(tiny_pretrain_config(corpus, compile=wanted))
        model.on_fit_start()
        layers = [*model.encoder.speech_transformer.layers, *model.encoder.shared_transformer.layers]
        assert compiled == [("TransformerLayer", {"dynamic": True})] * (len(layers) if wanted else 0)


class Recorded:
    """Stands for an optimizer."""

    def __init__(self, parameters, **options):
        self.options, self.param_groups = options, [{"params": list(parameters), "lr": 1.0, **options}]


@pytest.mark.parametrize(
    ("gpu", "apex", "precision", "divided", "expected"),
    [
        (False, True, "32-true", None, ("adamw", {})),
        (True, True, "bf16-mixed", None, ("fused_adam", {})),
        (True, True, "bf16-mixed", ModelParallelStrategy(), ("adamw", {"fused": True})),
        (True, False, "bf16-mixed", None, ("adamw", {"fused": True})),
        (True, False, "16-mixed", None, ("adamw", {})),
    ],
)
def test_fused_optimizers(gpu, apex, precision, divided, expected, monkeypatch):
    asked = []

    class Host:
        def __init__(self):
            self._cfg = {}

        def _optim_config_copy(self, config):
            return config

        def setup_optimization(self, config, kwargs):
            asked.append((config.name, kwargs or {}))

    class Model(Accelerated, Host):
        pass

    if apex:
        monkeypatch.setitem(optimizers.AVAILABLE_OPTIMIZERS, "fused_adam", Recorded)
    else:
        monkeypatch.delitem(optimizers.AVAILABLE_OPTIMIZERS, "fused_adam", raising=False)
    model = Model()
    accelerator = CUDAAccelerator() if gpu else None
    strategy = SingleDeviceStrategy() if divided is None else divided
    model._trainer = types.SimpleNamespace(accelerator=accelerator, precision=precision, strategy=strategy)
    model.setup_optimization(OmegaConf.create({"name": "adamw", "lr": 1.0}))
    assert asked == [expected]


def test_apex_norm_is_picked_up(monkeypatch):
    norm._layer_norm_class.cache_clear()
    assert type(norm.layer_norm(4)) is nn.LayerNorm

    class FusedLayerNorm(nn.LayerNorm):
        pass

    normalization = types.ModuleType("apex.normalization")
    normalization.FusedLayerNorm = FusedLayerNorm
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.normalization", normalization)
    norm._layer_norm_class.cache_clear()
    try:
        assert isinstance(transformer().layers[0].final_norm, FusedLayerNorm)
    finally:
        norm._layer_norm_class.cache_clear()


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_checkpointing_changes_nothing(kind, monkeypatch):
    torch.manual_seed(0)
    front_ends = [ConvFrontEnd([(8, 10, 5), (8, 3, 2), (8, 2, 2)], norm=kind, checkpoint=c) for c in (False, True)]
    front_ends[1].load_state_dict(front_ends[0].state_dict())
    audio, lengths = torch.randn(2, 1, 900), torch.tensor([900, 500])
    results = []
    for front_end in front_ends:
        monkeypatch.setattr(front_end, "_by_kernels", lambda audio: False)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            features, _ = front_end(audio, lengths)
        features.square().sum().backward()
        results.append((features.detach(), sum(saved), [p.grad for p in front_end.parameters()]))
    (plain, kept, gradients), (again, less, same) = results
    assert torch.equal(plain, again)
    assert less < kept / 2
    assert all(torch.allclose(a, b) for a, b in zip(gradients, same, strict=True))


def test_lengths_of_text_stay_on_the_host(tmp_path):
    corpus = tiny_corpus(tmp_path)
    model = SpeechLMModel(tiny_pretrain_config(corpus))
    model.setup_training_data(tiny_pretrain_config(corpus).train_ds)
    batch = next(iter(model.train_dataloader()))
    moved = model.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.text.units.is_meta
    assert moved.speech.audio.is_meta
    assert moved.text.unit_lengths.is_cpu
    assert moved.text.target_lengths.is_cpu


class Clipped(Accelerated, LightningModule):
    """What fine-tuning and pretraining have in common, with an optimizer as they get one on GPUs."""

    cfg = OmegaConf.create({})

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum() * 1000

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), fused=True)


def test_gradients_of_fused_optimizers_are_clipped_in_bf16(tmp_path):
    """Lightning's own clipping refuses to, and so ended encdec_base's training on GPUs at its first step."""
    trainer = tiny_trainer(2, precision="bf16-mixed", gradient_clip_val=1.0, default_root_dir=tmp_path)
    model = Clipped()
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2))
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert norm == pytest.approx(1.0, rel=1e-4)
    assert trainer.callback_metrics["grad_norm"] > 1000
