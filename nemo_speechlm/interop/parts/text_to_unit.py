"""The released text-to-unit model (fairseq's FastSpeech 2 with units for spectra), read and written."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading import dictionaries
from nemo_speechlm.interop.reading.shown import shown
from nemo_speechlm.units.inventory import UnitInventory

if TYPE_CHECKING:
    from nemo_speechlm.interop.plan import Options, Plan

FRAME_RATE = 50
"""Of the hidden units in the paper; checkpoints do not say it."""

_NAMES = {
    "phone_embedding": "encoder.embed_tokens",
    "encoder.position_scale": "encoder.pos_emb_alpha",
    "decoder.position_scale": "encoder.dec_pos_emb_alpha",
    "speaker_embedding": "encoder.embed_speaker",
    "speaker_proj": "encoder.spk_emb_proj",
    "unit_proj": "encoder.out_proj",
}
_PREDICTOR = {"conv1": "conv1.0", "norm1": "ln1", "conv2": "conv2.0", "norm2": "ln2", "proj": "proj"}
_BLOCK = {"conv1": "ffn.ffn.0", "conv2": "ffn.ffn.2", "final_norm": "ffn.layer_norm", "self_attn_norm": "layer_norm"}
_PREDICTOR_PATH = "encoder.var_adaptor.duration_predictor"

_LEFT = {
    r"encoder\.embed_positions\._float_tensor": "remembers a type",
    r"encoder\.var_adaptor\.(pitch_predictor|embed_pitch)\..*": "of a pitch that is not used",
    r"encoder\.var_adaptor\.(energy_predictor|embed_energy)\..*": "of an energy that is not used",
}

_SETTINGS = ("use_pitch", "use_energe", "add_postnet")
"""Parts that the released recipe leaves out (the second one's name is as it is written there)."""


def released_name(name: str) -> str:
    """The released code's name of one of our model's parameters.

    >>> released_name("encoder.layers.0.conv1.weight")
    'encoder.encoder_fft_layers.0.ffn.ffn.0.weight'
    """
    if name in _NAMES:
        return _NAMES[name]
    part, _, rest = name.partition(".")
    if part in _NAMES:
        return f"{_NAMES[part]}.{rest}"
    if part == "duration_predictor":
        inner, _, kind = rest.partition(".")
        return f"{_PREDICTOR_PATH}.{_PREDICTOR[inner]}.{kind}"
    if found := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(\w+)\.(.*)", name):
        stack, number, inner, kind = found.groups()
        return f"encoder.{stack}_fft_layers.{number}.{_BLOCK.get(inner, inner)}.{kind}"
    raise InputError(f"its parameter {name} has no counterpart in the released code")


def our_name(name: str) -> str | None:
    """Our name of one of the released model's parameters; None where it has none."""
    for ours, theirs in _NAMES.items():
        if name == theirs or name.startswith(theirs + "."):
            return ours + name[len(theirs) :]
    if found := re.fullmatch(re.escape(_PREDICTOR_PATH) + r"\.(.*)\.(weight|bias)", name):
        return _find(_PREDICTOR, found[1], "duration_predictor.{}.{}", found[2])
    if found := re.fullmatch(r"encoder\.(encoder|decoder)_fft_layers\.(\d+)\.(.*)\.(weight|bias)", name):
        prefix = f"{found[1]}.layers.{found[2]}."
        if found[3].startswith("self_attn."):
            return f"{prefix}{found[3]}.{found[4]}"
        return _find(_BLOCK, found[3], prefix + "{}.{}", found[4])
    return None


def _find(names: Mapping[str, str], theirs: str, form: str, kind: str) -> str | None:
    return next((form.format(ours, kind) for ours, name in names.items() if name == theirs), None)


def fill_plan(plan: "Plan", options: "Options") -> None:
    """Put config, weights and inventories of a text-to-unit checkpoint into a plan.

    Raises:
        InputError: if a setting has no counterpart here, a size can neither be seen nor read, or a dictionary is
            missing.
    """
    source = plan.source
    weights, settings = source.weights, source.settings
    for name in _SETTINGS:
        if settings.get(name):
            raise InputError(f"its setting {name} is {shown(settings[name])}; only False can be converted")
    for key in weights:
        ours = our_name(key)
        if ours is not None:
            plan.put(ours, key)
        for pattern, reason in _LEFT.items():
            if re.fullmatch(pattern, key):
                plan.left[key] = reason
    phones, d_model = _shape(weights, "encoder.embed_tokens.weight", 2)
    plan.phones = _phones(plan, options, phones)
    plan.inventory = _units(plan, options, _shape(weights, "encoder.out_proj.weight", 2)[0])
    hidden, _, kernel = _shape(weights, f"{_PREDICTOR_PATH}.conv1.0.weight", 3)
    released = True if options.released_padding is None else options.released_padding
    plan.config = {
        "d_model": d_model,
        "released_padding": released,
        "encoder": _stack(plan, "encoder") | {"input_dropout": float(settings.get("dropout", 0.0))},
        "decoder": _stack(plan, "decoder"),
        "duration_predictor": {
            "_target_": "nemo_speechlm.modules.DurationPredictor",
            "d_hidden": hidden,
            "kernel": kernel,
            "dropout": float(settings.get("var_pred_dropout", 0.5)),
        },
        "loss": {"label_smoothing": 0.1, "duration": 1.0},
    }
    if "encoder.embed_speaker.weight" in weights:
        count, dim = _shape(weights, "encoder.embed_speaker.weight", 2)
        plan.config |= {"speakers": _speakers(settings.get("speaker_to_id"), count), "speaker_dim": dim}


def _speakers(names: Any, count: int) -> list[str]:
    numbered = isinstance(names, dict) and all(isinstance(number, int) for number in names.values())
    if numbered and sorted(names.values()) == list(range(count)):
        return [str(name) for name in sorted(names, key=names.__getitem__)]
    return [str(number) for number in range(count)]


def _stack(plan: "Plan", stack: str) -> dict[str, Any]:
    weights, settings = plan.source.weights, plan.source.settings
    prefix = f"encoder.{stack}_fft_layers"
    numbers = {int(found[1]) for key in weights if (found := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))}
    if not numbers or numbers != set(range(len(numbers))):
        raise InputError(f"has layers {shown(sorted(numbers))} in {prefix}, expected 0, 1, ...")
    d_ff, d_model, kernel = _shape(weights, f"{prefix}.0.ffn.ffn.0.weight", 3)
    heads = settings.get(f"{stack}_attention_heads")
    if not isinstance(heads, int) or heads < 1 or d_model % heads:
        raise InputError(
            f"its number of attention heads is {shown(heads)}; expected a divisor of its width, {d_model}"
        )
    return {
        "_target_": "nemo_speechlm.modules.FFTransformer",
        "n_layers": len(numbers),
        "n_heads": heads,
        "d_ff": d_ff,
        "kernel": kernel,
        "dropout": float(settings.get("dropout", 0.0)),
        "attention_dropout": float(settings.get("attention_dropout", 0.0)),
    }


def _phones(plan: "Plan", options: "Options", size: int) -> UnitInventory:
    symbols = _symbols(plan, options.phone_dictionary, ("src_dict", "source_dictionary"), size, "phones", "--phone")
    inventory = dictionaries.inventory(symbols, FRAME_RATE, options.language)
    silence = next((s for s in ("SIL", "<SIL>") if s in symbols), None)
    return replace(inventory, kind="phoneme", silence=silence, durations={})


def _units(plan: "Plan", options: "Options", size: int) -> UnitInventory:
    symbols = _symbols(plan, options.unit_dictionary, ("tgt_dict", "target_dictionary"), size, "units", "--unit")
    return UnitInventory("hidden", options.language, FRAME_RATE, tuple(symbols))


def _symbols(plan: "Plan", path: Any, names: tuple[str, ...], size: int, what: str, option: str) -> list[str]:
    if path is not None:
        return dictionaries.read_dictionary(path, size)
    found = next((s for name in names if len(s := plan.source.dictionaries.get(name, [])) == size), None)
    if found is None:
        raise InputError(f"holds no dictionary of its {size} {what}; give the file: {option}-dictionary dict.txt")
    return found


def _shape(weights: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    value = weights.get(name)
    if value is None or value.dim() != dims:
        found = "none" if value is None else f"one of shape {tuple(value.shape)}"
        raise InputError(f"expected a tensor {name} of {dims} dimensions, found {found}")
    return tuple(value.shape)
