import contextlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nemo_speechlm.alignment.aligner import GmmAligner
from nemo_speechlm.alignment.file import load_aligner, save_aligner
from nemo_speechlm.alignment.graph import Topology
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.mixtures import Mixtures
from nemo_speechlm.errors import InputError


def tiny_aligner():
    topology = Topology(("SIL", "\u02c8\u0251", "b"), "SIL", states=3, silence_states=5)
    torch.manual_seed(0)
    shape = (topology.num_states, 2, 39)
    mixtures = Mixtures(torch.full(shape[:2], 0.5).log(), torch.randn(shape), torch.rand(shape) + 0.1)
    return GmmAligner(topology, mixtures, torch.full((topology.num_states,), 0.6), 0.4, "SIL", Mfcc(bands=26))


def test_round_trip(tmp_path):
    aligner, path = tiny_aligner(), tmp_path / "new" / "a.safetensors"
    save_aligner(path, aligner, {"words": ["ы"]}, {"more": torch.arange(3)})
    saved = load_aligner(path)
    found = saved.aligner
    assert (found.topology, found.silence_probability, found.mfcc) == (aligner.topology, 0.4, Mfcc(bands=26))
    for name in ("log_weights", "means", "variances"):
        assert torch.equal(getattr(found.mixtures, name), getattr(aligner.mixtures, name))
    assert torch.equal(found.stay, aligner.stay)
    assert saved.extra == {"words": ["ы"]}
    assert torch.equal(saved.tensors["more"], torch.arange(3))
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("aligner") / "a.safetensors"
    save_aligner(path, tiny_aligner(), {})
    return path.read_bytes()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_file_is_an_error(content, tmp_path_factory, data):
    """Cut off, or with other bytes in its header: either it says so, or the header still means an aligner."""
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(InputError, match=r"a\.safetensors: "):
            load_aligner(path)
        return
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(InputError):
        load_aligner(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(version=2), "an aligner of format 2, expected 1"),
        (lambda h, t: h.pop("mfcc"), "a damaged aligner: KeyError: 'mfcc'"),
        (lambda h, t: h["topology"].update(states=4), r"log_weights is \(11, 2\) .* shape \(13, 2\)"),
        (lambda h, t: h["topology"].update(silence="x"), "silence 'x' is not among the phones"),
        (lambda h, t: t["means"].fill_(float("nan")), "means is .* expected finite"),
        (lambda h, t: t.pop("stay"), "KeyError: 'stay'"),
    ],
)
def test_what_does_not_fit(content, tmp_path, change, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    tensors = load_file(path)
    header = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["aligner"])
    change(header, tensors)
    save_file(tensors, path, {"aligner": json.dumps(header)})
    with pytest.raises(InputError, match=message):
        load_aligner(path)


def test_other_files(tmp_path):
    with pytest.raises(InputError, match=r"no such file; examples/train_aligner\.py makes"):
        load_aligner(tmp_path / "none.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="but not one of an aligner"):
        load_aligner(tmp_path / "other.safetensors")
