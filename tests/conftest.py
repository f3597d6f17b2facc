"""What holds for all tests."""

import gc
import logging
import os
from contextlib import nullcontext
from functools import lru_cache

# Tiny models gain nothing from threads, and lose much where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Many tests fork processes that compute gradients. In a process that sees a GPU, PyTorch starts threads for the first
# gradient, and refuses to compute any in a process that is forked later. `make test` runs the kernels' tests on a GPU
# by themselves.
if os.environ.get("GPU_TESTS") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.long_forms import LONG
from tests.quick_configs import quick_configs

# Triton reads it when it is first imported, which other libraries do too.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Collecting the tests imports everything: a million objects that stay. To look for garbage among them takes a quarter
# of that time.
gc.disable()

# NeMo's log handlers keep the stream that was captured for the first test that logged, which is closed after it.
logging.raiseExceptions = False

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Take what the imports have made, a million objects, out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)  # tests make little garbage


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One process more than there are cores: some tests wait for processes of their own."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session", autouse=True)
def configs_composed_quickly():
    """Recipes are composed thousands of times, and copied several times by each training; not in the long form."""
    with nullcontext() if LONG else quick_configs():
        yield


@pytest.fixture(scope="session", autouse=True)
def libraries_ask_once():
    """A fifth of a tiny training's time goes into what is found out anew and always the same; not in the long form."""
    from lightning.fabric.utilities import registry
    from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
    from nv_one_logger.core.internal import safe_execution

    if LONG:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        # Each trainer looks through all that is installed for callbacks.
        patch.setattr(registry, "entry_points", lru_cache(registry.entry_points))
        # Each step, NeMo's telemetry sets up its logger to say that it is off.
        patch.setattr(safe_execution, "_get_logger", lru_cache(safe_execution._get_logger))
        # Each figure that is logged is searched for tensors on other devices.
        if not torch.cuda.is_available():
            patch.setattr(_ResultMetric, "to", lambda self, *_, **__: self)
        # Each seed is noted for devices that are not there, with the caller's stack.
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                patch.setattr(device, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def small_buffers():
    """Tiny corpora would be read a hundred times to fill buffers that are meant for millions of lines."""
    from nemo_speechlm.data.pretraining import config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_BUCKET_BUFFER", 200)
        patch.setattr(config, "_BINS_SAMPLE", 200)
        yield
