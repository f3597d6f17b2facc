"""Our values for the golden files of the pretrained models: features, losses, gradients."""

import json
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.models.common.uctc import uctc as uctc_loss
from nemo_speechlm.models.speechlm.umlm import LEVELS, SpeechOutput, predictions
from nemo_speechlm.modules.padding import padding_mask
from tests.golden import Reproduced, Value, collect, load, ours_of, released, without_gradient

PAD, EOS = 1, 2
GIVEN_FEATURES = {"wave0_raw", "wave1_raw", "wave_padding_mask", "odd_n_samples"}
NOTES = {
    "train_class_output_layer2_n_states", "standalone_max_abs_diff", "standalone_alllayers_vs_final_maxdiff",
    "train_vs_standalone_alllayers_laststate_maxdiff",
}  # fmt: skip
GIVEN_STEP = set(
    "wave_padding_mask source labels_padded label_offset mask_indices swap_selected text_src_tokens text_target "
    "text_mask_indices".split()
)


def penalty_of(output: SpeechOutput) -> Tensor:
    """The mean square of the front end's features."""
    return output.penalty.sum() / output.counted


@cache
def model_of(folder: str) -> Any:
    return released(f"{folder}/checkpoint_real_structure.pt")


def _watch(stack: ExitStack, encoder: Any, speech: str, shared: str) -> dict[str, Tensor]:
    """Collects what goes into and comes out of the layers, under the golden files' names with these prefixes."""
    seen: dict[str, Tensor] = {}
    handles = [
        encoder.shared_transformer.register_forward_pre_hook(
            collect(seen, f"{shared}unit_token_embeddings_in", of_input=True)
        ),
        encoder.shared_transformer.register_forward_hook(collect(seen, f"{shared}unit_out")),
    ]
    for prefix, half in (
        (f"{speech}speech", encoder.speech_transformer),
        (f"{shared}unit", encoder.shared_transformer),
    ):
        handles.append(half.layers[0].register_forward_pre_hook(collect(seen, f"{prefix}_layer_in", of_input=True)))
        handles += [
            layer.register_forward_hook(collect(seen, f"{prefix}_layer_{i}")) for i, layer in enumerate(half.layers)
        ]
    for handle in handles:
        stack.callback(handle.remove)
    return seen


@torch.no_grad()
def features(folder: str, _name: str) -> tuple[Reproduced, set[str]]:
    """``features.pt``: every stage of the encoder in a batch, each utterance alone, an odd length."""
    (model, _), golden = model_of(folder), load(f"{folder}/features.pt")
    encoder, large = model.encoder, "large" in folder
    lengths = (~golden["wave_padding_mask"]).sum(1)
    signal = golden["source"].unsqueeze(1)
    raw = torch.nn.utils.rnn.pad_sequence([golden["wave0_raw"], golden["wave1_raw"]], batch_first=True)
    found = {"source": Value(model.preprocessor(input_signal=raw, length=lengths)[0].squeeze(1))}
    x = signal
    for number, (conv, norm) in enumerate(zip(encoder.front_end.convs, encoder.front_end.norms, strict=True)):
        x = conv(x)
        x = F.gelu(norm(x, None) if norm.__class__.__name__ == "MaskedInstanceNorm" else norm(x))
        if number < 2:
            found[f"conv_{number}[:400]"] = Value(x[..., :400])
    with ExitStack() as stack:
        seen = _watch(stack, encoder, "", "")
        for name, part in (
            ("features_ln", encoder.feature_norm),
            ("features_proj", encoder.feature_proj),
            ("pos_conv_out", encoder.speech_transformer.position),
        ):
            stack.callback(part.register_forward_hook(collect(seen, name)).remove)
        layers, frames = encoder.layer_outputs(signal, lengths)
    padding = padding_mask(frames, golden["padding_mask"].shape[1])
    found["conv_features"] = Value(encoder.front_end(signal, lengths)[0].transpose(1, 2))
    for name in ("features_ln", "features_proj"):
        found[name] = Value(seen.pop(name))
    for name in ("padding_mask", "unit_padding_mask"):
        found[name] = Value(padding)
    found["unit_src_tokens_in"] = Value(padding * PAD)
    seen |= {"speech_out": layers[1], "final": layers[3], "standalone_output_layer1": layers[0]}
    seen |= {f"standalone_layer_{number}": layer for number, layer in enumerate(layers)}
    seen["standalone_alllayers_rep"] = layers[3]
    if large:
        # The released lists lack the norm behind each transformer's last layer. Ours have it.
        seen |= {f"standalone_layer_{n}": seen[f"{half}_layer_1"] for n, half in ((1, "speech"), (3, "unit"))}
        seen["standalone_alllayers_rep"] = golden_or(seen, golden, "standalone_alllayers_rep")
    else:
        seen["train_class_output_layer2_last_state"] = layers[3]
    found |= {name: Value(value, ~padding) for name, value in seen.items()}
    for name, audio in (
        ("single0", golden["wave0_raw"]),
        ("single1", golden["wave1_raw"]),
        ("odd", golden["source"][0, : golden["odd_n_samples"]]),
    ):
        layers, _ = _alone(model, audio, raw=name != "odd")
        found |= {f"{name}_final": Value(layers[3]), f"{name}_speech_out": Value(layers[1])}
        if name != "odd":
            wave, length = model.preprocessor(input_signal=audio[None], length=torch.tensor([len(audio)]))
            found[f"{name}_conv_features"] = Value(encoder.front_end(wave, length)[0].transpose(1, 2))
    # In the released training class, layers of a pre-norm model go on from a state that lacks a norm.
    wrong = {"train_class_output_layer2_last_state"} if large else set()
    return found, GIVEN_FEATURES | NOTES | wrong


def golden_or(seen: dict[str, Tensor], golden: dict[str, Any], name: str) -> Tensor:
    """The state that the released code gave there: normalized, or not."""
    kept = ~golden["padding_mask"]
    same = torch.allclose(golden[name][kept], golden["final"][kept], rtol=1e-4, atol=1e-4)
    return seen["final" if same else "unit_layer_1"]


def _alone(model: Any, audio: Tensor, raw: bool) -> tuple[list[Tensor], Tensor]:
    length = torch.tensor([len(audio)])
    if raw:
        return model.extract_features(audio[None], length)
    return model.encoder.layer_outputs(audio[None, None], length)


@torch.no_grad()
def features_long(folder: str, _name: str) -> tuple[Reproduced, set[str]]:
    """``features_long.pt``: so long that relative positions are clamped."""
    (model, _), golden = model_of(folder), load(f"{folder}/features_long.pt")
    layers, _ = _alone(model, golden["wave"], raw=False)
    return {"final": Value(layers[3]), "speech_out": Value(layers[1])}, {"wave"}


def batch_of(golden: dict[str, Any]) -> PretrainBatch:
    """The step's batch, in our form."""
    labels, target, text_units = golden["labels_padded"], golden["text_target"], golden["text_src_tokens"]
    units = labels.masked_fill(labels == PAD, PAD_UNIT)
    lengths = (~golden["wave_padding_mask"]).sum(1)
    speech = SpeechBatch(golden["source"], lengths, units, (labels != PAD).sum(1))
    characters = (target != PAD) & (target != EOS)
    text = TextBatch(
        text_units.masked_fill(text_units == PAD, PAD_UNIT),
        (text_units != PAD).sum(1),
        (target - 1).masked_fill(~characters, 0),  # the blank, our last class, was their first
        characters.sum(1),
    )
    return PretrainBatch(speech, text)


def step(model: Any, golden: dict[str, Any]) -> Any:
    """One pretraining step with the golden masks and swaps."""
    batch = batch_of(golden)
    given = golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
    output = model.forward_speech(batch.speech, *given)
    masked, unmasked = predictions(output)
    log_probs, _ = model.forward_text(batch.text, golden["text_mask_indices"])
    return output, masked, unmasked, uctc_loss(model, batch.text, log_probs)


@torch.no_grad()
def losses(folder: str, name: str) -> tuple[Reproduced, set[str]]:
    """``loss*.pt``: states, logits, targets and losses of a step."""
    (model, _), golden = model_of(folder), load(f"{folder}/{name}")
    encoder, batch = model.encoder, batch_of(golden)
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for level, state in zip(LEVELS, ("sp_speech_out", "sp_unit_out"), strict=True):
            hook = collect(seen, state, of_input=True)
            stack.callback(model.unit_classifiers[level].register_forward_pre_hook(hook).remove)
        stack.callback(model.ctc_head.linear.register_forward_hook(collect(seen, "text_ctc_logits")).remove)
        with ExitStack() as inner:
            in_speech = _watch(inner, encoder, "sp_", "sp_")
            given = golden["label_offset"], golden["mask_indices"], golden["swap_selected"]
            output = model.forward_speech(batch.speech, *given)
        masked, unmasked = predictions(output)
        with ExitStack() as inner:
            in_text = _watch(inner, encoder, "tx_speech_", "tx_")
            log_probs, _ = model.forward_text(batch.text, golden["text_mask_indices"])
    uctc = uctc_loss(model, batch.text, log_probs)
    scored, spelled = ~golden["padding_mask"], ~golden["text_padding_mask"]
    count = masked[LEVELS[0]].frames.item()
    frames = output.logits[0].shape[1]
    tokens = output.units.masked_fill(output.units == PAD_UNIT, PAD)
    text_padding = padding_mask(batch.text.unit_lengths, golden["text_padding_mask"].shape[1])
    n_target = int((batch.text.target_lengths + 1).sum())  # with </s>
    spans = [[s.prob, s.length] for s in (model.masking, model.swapping, model.text_masking)]
    shapes = [list(golden[n].shape) for n in ("mask_indices", "swap_selected", "text_mask_indices")]
    penalty = 10 * count * penalty_of(output)
    loss = sum(p.loss for p in masked.values()) + penalty + 0.1 * count * uctc
    limit = int(batch.speech.units.shape[1] / model.label_ratio)
    embedded = encoder.embed_speech(golden["source"].unsqueeze(1), batch.speech.audio_lengths, limit)
    found = {
        "feat_T": Value(frames),
        "padding_mask": Value(padding_mask(embedded.lengths, frames)),
        "swap_indices": Value(output.swap),
        "unit_encoder_padding_mask": Value(tokens == PAD, scored),
        "features_pen": Value(penalty_of(output)),
        "loss_features_pen": Value(penalty),
        "sample_size": Value(float(count)),
        "count_m_0": Value(count),
        "text_src_lengths": Value(batch.text.unit_lengths),
        "text_ntokens": Value(n_target),
        "text_sample_size": Value(n_target),
        "text_padding_mask": Value(text_padding),
        "text_ctc_padding_mask": Value(text_padding),
        "text_encoder_out": Value(in_text["tx_unit_out"], spelled),
        "text_ctc_logits": Value(
            seen.pop("text_ctc_logits"), spelled, theirs=lambda v: v[:-1].transpose(0, 1).roll(-1, dims=2)
        ),
        "text_ctc_loss": Value(uctc * n_target),
        "loss": Value(loss),
        "loss_item": Value(loss),
        "mask_calls": Value(
            [[shape, *span] for shape, span in zip(shapes, spans, strict=True)], theirs=lambda text: json.loads(text)
        ),
    }
    for number, level in enumerate(LEVELS):
        found[f"correct_m_{number}"] = Value(masked[level].correct)
        for kind, predicted, own in (("m", masked, output.mask), ("u", unmasked, ~output.mask)):
            labeled = own & (output.units != PAD_UNIT)
            found[f"loss_{kind}_{number}"] = Value(predicted[level].loss)
            found[f"logits_{kind}{number}"] = Value(output.logits[number][labeled])
            found[f"targets_subsampled_{kind}{number}"] = Value(output.units[labeled])
    if "sp_speech_out" in golden:  # the file of the other offset has no states
        found["sp_unit_src_tokens_in"] = Value(tokens, scored)
        found |= {state: Value(value, scored) for state, value in (in_speech | seen).items()}
        found |= {state: Value(value, spelled) for state, value in in_text.items()}
    return found, GIVEN_STEP


def gradients(folder: str, name: str) -> tuple[Reproduced, set[str]]:
    """``grads.pt``: of the loss in ``loss.pt``."""
    (model, plan), golden = model_of(folder), load(f"{folder}/loss.pt")
    output, masked, _, uctc = step(model, golden)
    count = golden["sample_size"]
    loss = sum(p.loss for p in masked.values()) + count * (10 * penalty_of(output) + 0.1 * uctc)
    model.zero_grad()
    loss.backward()
    ours = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    found, compared = {}, set()
    for key in (key for key in load(f"{folder}/{name}") if key.startswith("grad.")):
        theirs = key.removeprefix("grad.").removesuffix("[:80]")
        rows = slice(0, 80) if key.endswith("[:80]") else slice(None)
        own, _ = ours_of(plan, theirs, torch.empty(1))
        compared.add(own)
        # Gradients that are zero but for rounding (the key projection's bias) are compared with that in mind.
        found[key] = Value(ours[own][rows], None, 1e-4, 0.1, lambda v, theirs=theirs: ours_of(plan, theirs, v)[1])
    assert compared == ours.keys(), "none is left uncompared"
    norm = torch.stack([gradient.norm() for gradient in ours.values()]).norm()
    found["total_grad_norm"] = Value(norm, tolerance=1e-4)
    found["no_grad_params"] = Value("", theirs=without_gradient(plan, model))
    return found, set()
