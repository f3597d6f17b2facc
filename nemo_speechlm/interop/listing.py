"""Describe the content of a foreign checkpoint in words."""

from collections.abc import Iterator

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.plan import Options, Plan
from nemo_speechlm.interop.planning import make_plan
from nemo_speechlm.interop.reading.kinds import NOT_SAID, Kind, Source
from nemo_speechlm.interop.reading.shown import shown

_SETTINGS = ("layer_norm_first", "conv_feature_layers", "encoder_layerdrop", "dropout", "mask_prob", "mask_length")


def describe(source: Source, options: Options = Options()) -> Iterator[str]:  # noqa: B008
    """Lines that say what a checkpoint is, what it would become, and where each of its parameters would go."""
    number = sum(value.numel() for value in source.weights.values())
    yield f"{source.path}: {source.kind.value}, {len(source.weights)} tensors, {number / 1e6:.1f} M values"
    if source.kind is not Kind.TEXT_TO_UNIT:
        assumed = f" ({NOT_SAID})" if source.normalize_assumed else ""
        yield f"  input: {'zero mean and unit variance per utterance' if source.normalize else 'as it is'}{assumed}"
    if source.label_rate:
        yield f"  labels: {source.label_rate:g} a second"
    for name, symbols in source.dictionaries.items():
        yield f"  {name}: {len(symbols)} symbols, {' '.join(symbols[4:9])} ..."
    found = [f"{name}={shown(source.settings[name])}" for name in _SETTINGS if name in source.settings]
    yield f"  settings: {', '.join(found) or 'none; sizes are taken from the tensors'}"
    plan: Plan | None = None
    try:
        plan = make_plan(source, options)
        yield f"  becomes: {plan.model}, {_sizes(plan)}"
    except InputError as error:
        yield f"  cannot be converted as it is: {error.reason}"
    ours = {theirs: name for name, theirs in plan.names.items()} if plan else {}
    left = plan.left if plan else {}
    for name, value in source.weights.items():
        place = f"-> {ours[name]}" if name in ours else f"left: {left[name]}" if name in left else "has no place"
        yield f"    {name} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" + (
            f" {place}" if plan else ""
        )


def _sizes(plan: Plan) -> str:
    encoder = plan.config["encoder"]
    if plan.source.kind is Kind.TEXT_TO_UNIT:
        layers = f"{encoder['n_layers']} + {plan.config['decoder']['n_layers']} layers of {plan.config['d_model']}"
        return (
            f"{layers}, {encoder['n_heads']} heads, {len(plan.phones or ())} phones, {len(plan.inventory or ())} units"
        )
    speech, shared = encoder["speech_transformer"], encoder["shared_transformer"]
    return (
        f"{speech['n_layers']} + {shared['n_layers']} layers of {encoder['d_model']}, "
        f"{speech['n_heads']} heads, {'pre' if speech['pre_norm'] else 'post'}-norm"
    )
