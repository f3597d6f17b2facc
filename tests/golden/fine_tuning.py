"""Our values for the golden files of the fine-tuned models: CTC, translation, text to units."""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.data.phone_units import PairedBatch
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.decoding.attention_search import EOS, SearchSettings
from nemo_speechlm.losses.label_smoothing import smoothed_cross_entropy
from nemo_speechlm.modules.padding import padding_mask
from tests.golden import Reproduced, Value, collect, load, ours_of, released, without_gradient

PAD = 1


def _classes(theirs: Tensor) -> Tensor:
    """(T + 1, B, V) with the blank first -> (B, T, V) with the blank last."""
    return theirs[:-1].transpose(0, 1).roll(-1, dims=2)


def ctc(folder: str, name: str) -> tuple[Reproduced, set[str]]:
    """``outputs.pt`` of CTC: log probabilities, tokens, loss and gradients."""
    (model, plan), golden = released(f"{folder}/checkpoint.pt"), load(f"{folder}/{name}")
    lengths = (~golden["wave_padding_mask"]).sum(1)
    seen: dict[str, Tensor] = {}
    handle = model.decoder.linear.register_forward_hook(collect(seen, "logits"))
    log_probs, frames = _log_probs(model, golden["source"], lengths)
    handle.remove()
    padding = padding_mask(frames, log_probs.shape[1])
    loss = F.ctc_loss(
        log_probs.transpose(0, 1),
        golden["target"] - 1,
        frames,
        golden["target_lengths"],
        blank=log_probs.shape[2] - 1,
        reduction="sum",
    )
    model.zero_grad()
    loss.backward()
    path = (log_probs.argmax(-1) + 1) % log_probs.shape[2]
    found = {
        "ctc_logits": Value(seen["logits"], ~padding, theirs=_classes),
        "lprobs": Value(log_probs, ~padding, theirs=_classes),
        "padding_mask": Value(padding),
        "input_lengths": Value(frames),
        "ctc_loss_sum": Value(loss),
        "greedy_path": Value(path, ~padding, theirs=lambda value: value[:, :-1]),
        "no_grad_params": Value("", theirs=without_gradient(plan, model)),
    }
    for row, length in enumerate(frames):
        tokens = [token for token, _ in groupby(path[row, :length].tolist()) if token]
        found[f"greedy_tokens_{row}"] = Value(tokens)
        alone, _ = _log_probs(model, golden["source"][row : row + 1, : lengths[row]], lengths[row : row + 1])
        found[f"single{row}_lprobs"] = Value(alone, theirs=_classes)
    # The head is in the checkpoint twice; its gradients are under the name that we leave.
    names = {"w2v_model.unit_encoder_ctc_head.": "proj."}
    found |= _gradients(model, plan, golden, names)
    failed = {"get_logits_padded_batch"}  # what the released code says when it fails
    return found, {"source", "wave_padding_mask", "target", "target_lengths"} | failed


def _log_probs(model: Any, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    encoded, frames = model.encoder(audio_signal=audio.unsqueeze(1), length=lengths)
    return model.decoder(encoder_output=encoded), frames


def _gradients(model: Any, plan: Any, golden: dict[str, Any], names: dict[str, str]) -> Reproduced:
    parameters, found = dict(model.named_parameters()), {}
    for key in (key for key in golden if key.startswith("grad.")):
        theirs = key.removeprefix("grad.")
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        own, _ = ours_of(plan, theirs, torch.empty(1))
        gradient = parameters[own].grad
        found[key] = Value(gradient, tolerance=1e-4, theirs=lambda v, theirs=theirs: ours_of(plan, theirs, v)[1])
    return found


SEARCHES = {
    "beam5": SearchSettings(beam_size=5, max_length=40),
    "beam5_lenpen0.5": SearchSettings(beam_size=5, length_penalty=0.5, max_length=25),
    "beam1": SearchSettings(beam_size=1, max_length=40),
}


@torch.no_grad()
def translation(folder: str, name: str) -> tuple[Reproduced, set[str]]:
    """``outputs.pt`` of translation: states, logits, losses, hypotheses."""
    (model, _), golden = released(f"{folder}/checkpoint.pt"), load(f"{folder}/{name}")
    encoded, _, frames = model.forward(input_signal=golden["source"], input_signal_length=golden["src_lengths"])
    padding = padding_mask(frames, encoded.shape[1])
    found = {"encoder_out": Value(encoded, ~padding), "encoder_padding_mask": Value(padding)}
    tokens, target = golden["prev_output_tokens"], golden["target"]
    written = tokens.ne(PAD)
    seen = {"decoder_layer_in": model.decoder._embed(tokens, 0)}
    handles = [
        layer.register_forward_hook(collect(seen, f"decoder_layer_{i}"))
        for i, layer in enumerate(model.decoder.layers)
    ]
    seen["decoder_logits"] = model.decoder(tokens, golden["encoder_out"], golden["encoder_padding_mask"])
    for handle in handles:
        handle.remove()
    found |= {state: Value(value, written) for state, value in seen.items()}
    own = target.ne(PAD) & target.ne(EOS)
    logits, targets = model.score(encoded, frames, target[:, :-1], own.sum(1))
    found["target"] = Value(targets)
    for loss, smoothing in (("nll_sum", 0.0), ("label_smoothed_nll_sum", 0.0), ("label_smoothed_loss_sum", 0.1)):
        found[loss] = Value(smoothed_cross_entropy(logits, targets, smoothing, PAD))
    for search, settings in SEARCHES.items():
        model.change_decoding_strategy(settings.__dict__)
        found |= _hypotheses(search, model.search_states(encoded, frames))
    model.change_decoding_strategy(SEARCHES["beam5"].__dict__)
    single = [
        model.generate(audio[None, :length], length[None])[0]
        for audio, length in zip(golden["source"], golden["src_lengths"], strict=True)
    ]
    alone = _hypotheses("beam5_single", single)
    found |= {key: value for key, value in alone.items() if ".hyp0." in key and not key.endswith("positional_scores")}
    return found, {"source", "src_lengths", "prev_output_tokens"}


def _hypotheses(search: str, found: list[Any]) -> Reproduced:
    values = {}
    for row, hypotheses in enumerate(found):
        for rank, hypothesis in enumerate(hypotheses):
            key = f"{search}.utt{row}.hyp{rank}"
            values[f"{key}.tokens"] = Value(hypothesis.tokens)
            values[f"{key}.score"] = Value(hypothesis.score)
            # Differences of two log probabilities, so their own size says nothing of the rounding.
            values[f"{key}.positional_scores"] = Value(hypothesis.token_scores, tolerance=1e-4)
    return values


def text_to_unit(folder: str, name: str) -> tuple[Reproduced, set[str]]:
    """``outputs.pt`` of text to units: states, durations, units, losses and gradients."""
    (model, plan), golden = released(f"{folder}/checkpoint.pt"), load(f"{folder}/{name}")
    phones, lengths, durations = (golden[key] for key in ("src_tokens", "src_lengths", "durations"))
    units = golden["target"].masked_fill(golden["target"] == PAD, PAD_UNIT)
    batch = PairedBatch(phones, lengths, durations, units, None)
    seen: dict[str, Tensor] = {}
    handles = []
    for prefix, stack in (("enc", model.encoder), ("dec", model.decoder)):
        handles.append(stack.layers[0].register_forward_pre_hook(collect(seen, f"{prefix}_layer_in", of_input=True)))
        handles += [
            layer.register_forward_hook(collect(seen, f"{prefix}_layer_{number}"))
            for number, layer in enumerate(stack.layers)
        ]
    output = model(phones, lengths, durations)
    for handle in handles:
        handle.remove()
    unit_loss, duration_loss = model.losses(output, batch)
    model.zero_grad()
    (unit_loss + duration_loss).backward()
    correct = (output.logits.argmax(2) == units) & (units != PAD_UNIT)
    found = {state: Value(value) for state, value in seen.items()} | {
        "log_dur_out": Value(output.log_durations),
        "forced_unit_logits": Value(output.logits),
        "forced_out_lens": Value(output.lengths),
        "target_lengths": Value(output.lengths),
        "ce_loss": Value(unit_loss),
        "dur_loss": Value(duration_loss),
        "loss": Value(unit_loss + duration_loss),
        "n_correct": Value(correct.sum()),
        "no_grad_params": Value("", theirs=without_gradient(plan, model)),
    }
    found |= _gradients(model, plan, golden, {})
    with torch.no_grad():
        free = model(phones, lengths)
        found |= {"free_unit_logits": Value(free.logits), "free_out_lens": Value(free.lengths)}
        # The decoder gets its own batches, so in one batch of both the longer sentence has no padding.
        spoken = model.generate([phones[row, :length].tolist() for row, length in enumerate(lengths.tolist())])
        for row, length in enumerate(lengths.tolist()):
            alone = model(phones[row : row + 1, :length], lengths[row : row + 1])
            found[f"single{row}_free_unit_logits"] = Value(alone.logits)
            found[f"single{row}_log_dur"] = Value(alone.log_durations[:, :length])
            own = torch.tensor(spoken[row].phone_durations)
            found[f"gen{row}_unit"] = Value(spoken[row].units)
            found[f"gen{row}_duration"] = Value(own)
            found[f"gen{row}_fa_src"] = Value(phones[row, :length].repeat_interleave(own))
    return found, {"src_tokens", "src_lengths", "durations", "target", "loss_sample_size"}
