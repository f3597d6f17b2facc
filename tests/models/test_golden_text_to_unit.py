"""The converted text-to-unit model against the released one: durations, units, losses and gradients."""

import json

import pytest
import torch

from nemo_speechlm.data.batch import PAD_UNIT
from nemo_speechlm.data.paired_units import PairedBatch
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.models import TextToUnitModel
from tests.golden import GOLDEN, converted, load, needs_golden, ours_of, relative_error

pytestmark = needs_golden
PAD = 1


@pytest.fixture(scope="module")
def golden():
    return load("fasttext2unit_tiny/outputs.pt")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The tiny checkpoint has no dictionaries of its own."""
    folder = tmp_path_factory.mktemp("dictionaries")
    symbols = json.loads((GOLDEN / "fasttext2unit_tiny/dictionaries.json").read_text())
    for name, own in symbols.items():
        (folder / name).write_text("".join(f"{symbol} 1\n" for symbol in own[4:]))
    return Options(phone_dictionary=folder / "src_dict", unit_dictionary=folder / "tgt_dict")


@pytest.fixture(scope="module", params=["checkpoint.pt", "checkpoint_plain.pt"])
def case(request, options):
    return converted(f"fasttext2unit_tiny/{request.param}", options)


def test_inventories(case):
    model, _ = case
    symbols = json.loads((GOLDEN / "fasttext2unit_tiny/dictionaries.json").read_text())
    assert list(model.phones.symbols) == symbols["src_dict"]
    assert model.phones.silence == "<SIL>"
    assert list(model.inventory.symbols) == symbols["tgt_dict"]
    assert (model.inventory.kind, model.inventory.frame_rate) == ("hidden", 50)


@torch.no_grad()
def test_states_and_units_under_given_durations(case, golden):
    model, _ = case
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for name, stack in (("enc", model.encoder), ("dec", model.decoder)):
        for number, layer in enumerate(stack.layers):
            hooks.append(layer.register_forward_hook(_keep(seen, f"{name}_layer_{number}")))
        hooks.append(stack.layers[0].register_forward_pre_hook(_keep_input(seen, f"{name}_layer_in")))
    output = model(golden["src_tokens"], golden["src_lengths"], golden["durations"])
    for hook in hooks:
        hook.remove()
    assert len(seen) == 6
    for name, ours in seen.items():
        assert relative_error(ours, golden[name]) < 1e-5, name
    assert relative_error(output.log_durations, golden["log_dur_out"]) < 1e-5
    assert relative_error(output.logits, golden["forced_unit_logits"]) < 1e-5
    assert torch.equal(output.lengths, golden["forced_out_lens"])


def _keep(seen, name):
    return lambda _module, _inputs, output: seen.__setitem__(name, output)


def _keep_input(seen, name):
    return lambda _module, inputs: seen.__setitem__(name, inputs[0])


@torch.no_grad()
def test_own_durations(case, golden):
    model, _ = case
    output = model(golden["src_tokens"], golden["src_lengths"])
    assert torch.equal(output.lengths, golden["free_out_lens"])
    assert relative_error(output.logits, golden["free_unit_logits"]) < 1e-5
    for row, length in enumerate(golden["src_lengths"].tolist()):
        alone = model(golden["src_tokens"][row : row + 1, :length], golden["src_lengths"][row : row + 1])
        assert relative_error(alone.logits, golden[f"single{row}_free_unit_logits"]) < 1e-5
        theirs = golden[f"single{row}_log_dur"][:, :length]
        assert relative_error(alone.log_durations[:, :length], theirs) < 1e-5


@torch.no_grad()
def test_generated_units(case, golden):
    model, _ = case
    phones, lengths = golden["src_tokens"], golden["src_lengths"]
    output = model(phones, lengths)
    for row, length in enumerate(lengths.tolist()):
        units = output.logits[row, : output.lengths[row]].argmax(1)
        assert torch.equal(units, golden[f"gen{row}_unit"])
        durations = golden[f"gen{row}_duration"]
        assert torch.equal(phones[row, :length].repeat_interleave(durations), golden[f"gen{row}_fa_src"])
    both = model.generate([phones[row, :length].tolist() for row, length in enumerate(lengths.tolist())])
    for row, spoken in enumerate(both):
        assert spoken.phone_durations == golden[f"gen{row}_duration"].tolist()
    # The decoder gets its own batches, so in one batch of both the longer sentence has no padding.
    assert both[0].units == golden["gen0_unit"].tolist()
    assert both[1].units == golden["gen1_unit"].tolist()


def batch_of(golden):
    units = golden["target"].masked_fill(golden["target"] == PAD, PAD_UNIT)
    return PairedBatch(golden["src_tokens"], golden["src_lengths"], golden["durations"], units, None)


def test_losses_and_gradients(case, golden):
    model, plan = case
    batch = batch_of(golden)
    output = model(batch.phones, batch.phone_lengths, batch.durations)
    unit_loss, duration_loss = model.losses(output, batch)
    assert unit_loss.item() == pytest.approx(golden["ce_loss"], rel=1e-5)
    assert duration_loss.item() == pytest.approx(golden["dur_loss"], rel=1e-5)
    loss = unit_loss + duration_loss
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-5, atol=0)
    assert ((output.logits.argmax(2) == batch.units) & (batch.units != PAD_UNIT)).sum() == golden["n_correct"]
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    compared = 0
    for name, theirs in golden.items():
        if name.startswith("grad."):
            ours, theirs = ours_of(plan, name.removeprefix("grad."), theirs)
            assert relative_error(parameters[ours].grad, theirs) < 1e-4, name
            compared += 1
    assert compared == 6
    left = {name for name in golden["no_grad_params"].split() if name in plan.left}
    assert left == set(golden["no_grad_params"].split()), "what gets no gradient has no place in our model"


@torch.no_grad()
def test_without_the_released_padding_a_batch_does_not_matter(golden, options):
    exact, _ = converted("fasttext2unit_tiny/checkpoint.pt", Options(**{**vars(options), "released_padding": False}))
    assert isinstance(exact, TextToUnitModel)
    phones, lengths = golden["src_tokens"], golden["src_lengths"]
    output = exact(phones, lengths)
    for row, length in enumerate(lengths.tolist()):
        single = golden[f"single{row}_free_unit_logits"]
        assert int(output.lengths[row]) == single.shape[1]
        assert relative_error(output.logits[row : row + 1, : single.shape[1]], single) < 1e-5
        theirs = golden[f"single{row}_log_dur"]
        assert relative_error(output.log_durations[row : row + 1, :length], theirs[:, :length]) < 1e-5
