"""`info`: what is said to be used is what the code would use."""

import json
import sys
import types

import pytest
import torch

from nemo_speechlm import __version__, environment
from nemo_speechlm.environment import find_environment
from nemo_speechlm.kernels import norm
from nemo_speechlm.kernels.backend import BACKEND_VARIABLE
from tests.functional.commands import run_example


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has a GPU."""
    found = types.SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(environment, "_why_no_cuda_graphs", lambda gpu: "the driver is too old")
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)


@pytest.fixture
def apex(monkeypatch):
    """NVIDIA's apex, as far as it is asked for."""

    class FusedLayerNorm(torch.nn.LayerNorm):
        pass

    for name, content in (
        ("normalization", {"FusedLayerNorm": FusedLayerNorm}),
        ("optimizers", {"FusedAdam": object}),
    ):
        module = types.ModuleType(f"apex.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"apex.{name}", module)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    norm._layer_norm_class.cache_clear()
    yield
    norm._layer_norm_class.cache_clear()


def missing(found):
    return {each.name for each in found.missing}


def test_without_a_gpu(cpu):
    found = find_environment()
    assert found.package == __version__
    assert found.versions["torch"] == torch.__version__
    assert found.devices[0].startswith("cpu: ")
    assert found.devices[1].startswith("no GPU: ")
    assert found.in_use["masking, swapping, padding, RNN-T lattice"] == "PyTorch's"
    assert found.in_use["optimizer adamw"] == found.in_use["layer norm"] == "PyTorch's"
    assert found.in_use["CUDA graphs in NeMo's transducer decoders"] == "not used: no GPU"
    assert not {"apex", "triton", "cuda.bindings"} & missing(found)  # they would bring nothing here


def test_with_a_gpu_and_nothing_for_it(monkeypatch, gpu):
    there = environment.find_spec
    monkeypatch.setattr(
        environment, "find_spec", lambda name: None if name in ("triton", "cuda.bindings") else there(name)
    )
    found = find_environment()
    assert found.devices[1] == "cuda:0: A card, 80 GiB, compute capability 9.0"
    assert found.in_use["masking, swapping, padding, RNN-T lattice"] == "PyTorch's: triton is missing"
    assert found.in_use["optimizer adamw"] == "PyTorch's, fused (not in 16-mixed)"
    assert found.in_use["CUDA graphs in NeMo's transducer decoders"] == "not used: the driver is too old"
    assert {"apex", "triton", "cuda.bindings"} <= missing(found)
    way = next(each.way for each in found.missing if each.name == "triton")
    assert way == "pip install 'nemo_speechlm[gpu]'"


def test_with_a_gpu_and_apex(gpu, apex):
    found = find_environment()
    assert found.in_use["layer norm"] == "apex's"
    assert found.in_use["optimizer adamw"] == "apex's FusedAdam"
    assert "apex" not in missing(found)


def test_what_the_environment_asks_for(monkeypatch, gpu):
    monkeypatch.setenv(BACKEND_VARIABLE, "torch")
    kernels = find_environment().in_use["masking, swapping, padding, RNN-T lattice"]
    assert kernels == f"torch everywhere ({BACKEND_VARIABLE}=torch)"


def test_the_command(capsys, cpu):
    assert run_example("info.py", "format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == find_environment().to_dict()
    assert run_example("info.py") == 0
    text = capsys.readouterr().out
    assert text == find_environment().text() + "\n"
    assert f"nemo_speechlm {__version__}, Python " in text
    assert "  optimizer adamw                            PyTorch's\n" in text
    assert run_example("info.py", "format=xml") == 1
    assert "format is 'xml', expected text or json" in capsys.readouterr().err
