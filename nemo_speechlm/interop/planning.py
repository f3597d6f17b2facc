"""Decide what a foreign checkpoint becomes: which model, with which config, from which weights."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nemo_speechlm import models
from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.parts import text_to_unit, translation
from nemo_speechlm.interop.parts.encoder_config import encoder_config, number
from nemo_speechlm.interop.parts.encoder_names import encoder_name
from nemo_speechlm.interop.parts.fine_tuned import take_fine_tuning
from nemo_speechlm.interop.plan import CTC_HEAD, Options, Plan
from nemo_speechlm.interop.reading import dictionaries
from nemo_speechlm.interop.reading.kinds import Kind, Source, naming
from nemo_speechlm.units.inventory import UnitInventory


def make_plan(source: Source, options: Options | None = None) -> Plan:
    """Plan the conversion of a checkpoint.

    Raises:
        InputError: if its kind or a setting cannot be converted, an option has no effect on its kind, or a
            dictionary is missing or of another size.
    """
    options = options or Options()
    with naming(source.path):
        _refuse_unused(source.kind, options)
        if source.kind is Kind.PRETRAINED:
            return _pretrained(source, options)
        if source.kind is Kind.CTC:
            return _ctc(source, options)
        if source.kind is Kind.TRANSLATION:
            plan = _encoder_alone(source, options, "SpeechLMEncDecModel")
            translation.fill_plan(plan, options)
            return plan
        if source.kind is Kind.TEXT_TO_UNIT:
            plan = Plan(source, "TextToUnitModel", {})
            text_to_unit.fill_plan(plan, options)
            return plan
        return _encoder_alone(source, options)


_WITH_UNITS = (Kind.PRETRAINED, Kind.TEXT_TO_UNIT)
_WITH_CHARACTERS = (Kind.PRETRAINED, Kind.CTC, Kind.TRANSLATION)
_USED_BY = {
    "unit_dictionary": _WITH_UNITS,
    "language": _WITH_UNITS,
    "phone_dictionary": (Kind.TEXT_TO_UNIT,),
    "label_dictionary": _WITH_CHARACTERS,
    "lowercase": _WITH_CHARACTERS,
    "speech_layers": (Kind.HUBERT, Kind.WAV2VEC2),
}
"""The kinds of checkpoints on which an option has an effect; others hold for all."""


def _refuse_unused(kind: Kind, options: Options) -> None:
    for name, kinds in _USED_BY.items():
        if kind not in kinds and getattr(options, name) != getattr(Options, name):
            known = "; ".join(one.value for one in kinds)
            raise InputError(f"is a {kind.value}; --{name.replace('_', '-')} has an effect on these alone: {known}")


def _encoder(source: Source, options: Options, model: str) -> Plan:
    weights, speech_layers = source.encoder_weights(), None
    if not source.kind.is_speechlm:
        count = sum(bool(re.fullmatch(r"encoder\.layers\.\d+\.fc1\.weight", key)) for key in weights)
        speech_layers = count // 2 if options.speech_layers is None else options.speech_layers
    padding = source.kind.is_speechlm if options.released_padding is None else options.released_padding
    config = encoder_config(weights, source.settings, padding, speech_layers)
    take_fine_tuning(config, source.fine_tuning)
    plan = Plan(source, model, {"sample_rate": 16000, "encoder": config})
    plan.config["preprocessor"] = {
        "_target_": "nemo_speechlm.modules.WaveformPreprocessor",
        "normalize": source.normalize,
        "sample_rate": 16000,
    }
    for key in weights:
        half = "shared" if key.startswith("unit_encoder.") else "speech"
        ours = encoder_name(key, config[f"{half}_transformer"]["pre_norm"], speech_layers)
        if ours is not None:
            plan.put(f"encoder.{ours}", source.prefix + key)
        elif ".norm_k." in key:
            plan.left[source.prefix + key] = "post-norm layers own it without using it"
    plan.left |= {key: "a version number" for key in source.weights if key.endswith(".version")}
    return plan


_HEADS = {
    r"(final_proj_list|label_embs_list|label_embs_concat|final_proj|target_glu)\b.*": "predicts units in pretraining",
    r"(unit_embed_tokens|unit_encoder\.embed_tokens)\b.*": "embeds units in pretraining",
    r"unit_encoder_ctc_head\b.*": "spells text in pretraining",
    r"(quantizer|project_q|project_hid)\b.*": "quantizes in pretraining",
}
_FINE_TUNED_HEADS = r"(w2v_encoder\.proj|lm_head|projector|classifier|layer_weights)\b.*"


def _leave_heads(plan: Plan) -> None:
    placed = set(plan.names.values())
    for key in plan.source.weights:
        if key in placed:
            continue
        for pattern, reason in _HEADS.items():
            if re.fullmatch(re.escape(plan.source.prefix) + pattern, key):
                plan.left[key] = reason
        if not plan.source.kind.is_speechlm and re.fullmatch(_FINE_TUNED_HEADS, key):
            plan.left[key] = "an output layer; only the encoder is converted"


def _encoder_alone(source: Source, options: Options, model: str = "SpeechLMEncoderModel") -> Plan:
    plan = _encoder(source, options, model)
    _leave_heads(plan)
    return plan


def _put_ctc_head(plan: Plan, theirs: str) -> None:
    ours = getattr(models, plan.model).parts.ctc_head
    for key, name in CTC_HEAD.items():
        value = plan.source.weights.get(theirs + key)
        if name.startswith("linear.") and value is not None:
            value = value.roll(-1, dims=0)  # our blank is the last class, theirs the first
        plan.put(f"{ours}.{name}", theirs + key, value)


def _ctc(source: Source, options: Options) -> Plan:
    plan = _encoder(source, options, "SpeechLMCTCModel")
    head = "w2v_encoder.proj."
    if f"{head}5.weight" not in source.weights:
        raise InputError(f"has no {head}5.weight: its CTC head is of another kind than SpeechLM's")
    _put_ctc_head(plan, head)
    labels = _labels(source, options, len(source.weights[f"{head}5.weight"]), ("target_dictionary", "text_dictionary"))
    plan.config |= {
        "labels": labels,
        "ctc_reduction": "mean_volume",
        "log_prediction": False,
        "freeze_front_end": source.fine_tuning.get("feature_grad_mult") == 0,
        "decoder": {
            "_target_": "nemo_speechlm.modules.SpeechLMCTCHead",
            "feat_in": plan.config["encoder"]["d_model"],
            "num_classes": len(labels),
            "vocabulary": labels,
            "dropout": float(source.fine_tuning.get("final_dropout") or 0.0),
        },
    }
    _leave_heads(plan)
    return plan


def _pretrained(source: Source, options: Options) -> Plan:
    plan = _encoder(source, options, "SpeechLMModel")
    weights, settings = source.weights, source.settings
    for half, level in enumerate(("speech", "shared")):
        plan.put(f"unit_classifiers.{level}.unit_vectors", f"label_embs_list.{half}")
        for name in ("weight", "bias"):
            plan.put(f"unit_classifiers.{level}.proj.{name}", f"final_proj_list.{half}.{name}")
    plan.put("unit_embedding.weight", "unit_embed_tokens.weight")
    copy = weights.get("unit_encoder.embed_tokens.weight")
    if copy is not None and torch.equal(copy, weights["unit_embed_tokens.weight"]):
        plan.left["unit_encoder.embed_tokens.weight"] = "the same as unit_embed_tokens.weight"
    has_ctc = "unit_encoder_ctc_head.5.weight" in weights
    labels: list[str] = []
    if has_ctc:
        _put_ctc_head(plan, "unit_encoder_ctc_head.")
        labels = _labels(source, options, len(weights["unit_encoder_ctc_head.5.weight"]), ("text_dictionary",))
    plan.inventory = _inventory(source, options, len(weights["unit_embed_tokens.weight"]))
    spans = {"prob": number(settings, "mask_prob", 0.8), "length": number(settings, "mask_length", 10), "min_spans": 2}
    no_spans = spans | {"prob": 0.0, "min_spans": 0}
    halved = spans | {"prob": spans["prob"] / 2, "length": spans["length"] // 2}
    plan.config |= {
        "labels": labels,
        "released_labels": "<pad>" in plan.inventory.symbols,
        "text_frame_rate": plan.inventory.frame_rate,
        "unit_classifier": {
            "final_dim": _first(weights, "label_embs_list.0", plan).shape[1],
            "temperature": number(settings, "logit_temp", 0.1),
        },
        "masking": spans,
        "swapping": halved if settings.get("mix_with_unit", True) else no_spans,
        "text_masking": spans if settings.get("mask_u2t", True) else no_spans,
        "ctc_head": {"dropout": 0.1},
        "loss": {"umlm": 1.0, "umlm_unmasked": 0.0, "uctc": 0.1 if has_ctc else 0.0, "feature_penalty": 10.0},
    }
    return plan


def _first(weights: Mapping[str, Tensor], name: str, plan: Plan) -> Tensor:
    value = weights.get(name)
    if value is None or value.dim() != 2:
        raise InputError(f"has no matrix {name}", plan.source.path)
    return value


def _inventory(source: Source, options: Options, size: int) -> UnitInventory:
    if source.label_rate is None:
        raise InputError("does not say how many labels a second has (label_rate)")
    if options.unit_dictionary is not None:
        symbols = dictionaries.read_dictionary(options.unit_dictionary, size)
    else:
        # The speech side's own may hold numbers for the same phones, in the same order: the text side's has the names.
        found = [source.dictionaries.get(name) for name in ("text_src_dictionary", "dictionaries")]
        symbols = next((s for s in found if s is not None and len(s) == size), [])
        if not symbols:
            raise InputError(
                f"holds no dictionary of its {size} units ({_sizes(source)}); give the file: "
                "--unit-dictionary dict.phn.txt"
            )
    return dictionaries.inventory(symbols, source.label_rate, options.language)


def _labels(source: Source, options: Options, size: int, names: tuple[str, ...]) -> list[str]:
    if options.label_dictionary is not None:
        symbols = dictionaries.read_dictionary(options.label_dictionary, size)
    else:
        symbols = next((s for name in names if len(s := source.dictionaries.get(name, [])) == size), [])
        if not symbols:
            raise InputError(
                f"holds no dictionary of its {size} characters ({_sizes(source)}); give the file: "
                "--label-dictionary dict.ltr.txt"
            )
    return dictionaries.labels(symbols, options.lowercase)


def _sizes(source: Source) -> str:
    sizes = [f"{name}: {len(symbols)} symbols" for name, symbols in source.dictionaries.items()]
    return ", ".join(sizes) or "none at all"
