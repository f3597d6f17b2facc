"""Pretraining that starts from the encoder of another file: HuBERT, wav2vec 2.0, or SpeechLM with other units."""

import inspect
import re
from typing import Any, NamedTuple

import torch
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.parts import SHARED
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_strictly, read_pretrained
from nemo_speechlm.modules.transformer import RelativeTransformer

HALVES = ("speech_transformer", "shared_transformer")

_DEFAULTS = {name: p.default for name, p in inspect.signature(RelativeTransformer).parameters.items()}
_SIZES = ("d_model", "n_heads", "d_ff", "pre_norm", "conv_kernel", "conv_groups")
_LAYER = re.compile(r"(speech|shared)_transformer\.layers\.(\d+)\.(.*)")


class Start(NamedTuple):
    """What of an encoder was filled from a file.

    Attributes:
        filled: parameters.
        zero: those that the file lacks and that began with zeros, so that its layers still give what they gave.
        fresh: those that it lacks and that keep their initial values.
    """

    filled: list[str]
    zero: list[str]
    fresh: list[str]


def start_from(cfg: DictConfig) -> PretrainedFile | None:
    """Give a pretraining config the architecture of the file that it is to start from, if it names one.

    Preprocessor, front end, sizes and norms become the file's; what the file has no say in stays the recipe's:
    dropout, layer drop, and the positions that SpeechLM's transformers have and HuBERT's lack.

    Args:
        cfg: with ``init_from_pretrained`` (a ``.nemo`` file or None) and ``speech_layers`` (how many of the file's
            layers become the speech transformer; None: as they are divided there). Changed in place.

    Raises:
        InputError: if the file is not one of a model with a SpeechLM encoder, or cannot be divided so.
        SpeechLMError: if ``speech_layers`` is given without a file.
    """
    wanted = cfg.get("speech_layers")
    if cfg.get("init_from_pretrained") is None:
        if wanted is not None:
            raise SpeechLMError(
                "model.speech_layers divides the layers of model.init_from_pretrained, which is not given"
            )
        return None
    source = read_pretrained(cfg.init_from_pretrained)
    theirs = source.cfg.encoder
    counts = [_layers(source, half) for half in HALVES]
    if wanted is not None and wanted != counts[0]:
        _check_division(source, wanted, sum(counts))
        counts = [wanted, sum(counts) - wanted]
    cfg.preprocessor, cfg.sample_rate = source.cfg.preprocessor, source.cfg.get("sample_rate", 16000)
    encoder = cfg.encoder
    front_end = OmegaConf.to_container(theirs.front_end)
    if encoder.front_end.get("_target_") == theirs.front_end.get("_target_") and "gradient_scale" in encoder.front_end:
        front_end["gradient_scale"] = encoder.front_end.gradient_scale  # type: ignore[index, call-overload]
    encoder.front_end, encoder.d_model = front_end, theirs.d_model
    encoder.project_features = bool(source.part("encoder.feature_proj"))
    for half, count in zip(HALVES, counts, strict=True):
        encoder[half] = _transformer(encoder[half], source, half, count)
    return source


def _layers(source: PretrainedFile, half: str) -> int:
    found = {int(m[2]) for key in source.part("encoder") if (m := _LAYER.fullmatch(key)) and key.startswith(half)}
    if not found:
        raise InputError(f"its encoder has no layers in its {half}", source.path)
    return len(found)


def _check_division(source: PretrainedFile, speech_layers: Any, total: int) -> None:
    if not isinstance(speech_layers, int) or not 1 <= speech_layers < total:
        raise InputError(
            f"model.speech_layers is {speech_layers!r}; it has {total} layers, so 1 to {total - 1}", source.path
        )
    between = [
        key
        for key in source.part("encoder")
        if re.match(
            r"shared_transformer\.(position|relative_positions|input_norm)\.|speech_transformer\.(output_norm|relative)",
            key,
        )
    ]
    if between or any(not _is_ours(source.cfg.encoder[half]) for half in HALVES):
        raise InputError(
            "its two transformers have positions or norms of their own, so they cannot be divided elsewhere; leave "
            "model.speech_layers out (HuBERT and wav2vec 2.0 can be divided anywhere)",
            source.path,
        )


def _is_ours(transformer: DictConfig) -> bool:
    return str(transformer.get("_target_", "")).endswith(RelativeTransformer.__name__)


def _transformer(own: DictConfig, source: PretrainedFile, half: str, layers: int) -> Any:
    theirs = source.cfg.encoder[half]
    if not _is_ours(theirs):
        return theirs
    if not _is_ours(own):
        raise InputError(
            f"its {half} is a {RelativeTransformer.__name__}, the recipe's a {own.get('_target_')}; "
            "take another recipe",
            source.path,
        )
    sizes = {name: theirs.get(name, _DEFAULTS[name]) for name in _SIZES}
    merged: dict[str, Any] = {**dict(own), **sizes, "n_layers": layers}
    if theirs.get("position") is not None:
        merged |= {"position": theirs.position, "max_frames": theirs.get("max_frames", _DEFAULTS["max_frames"])}
    if theirs.get("max_distance", _DEFAULTS["max_distance"]):
        merged["max_distance"] = theirs.get("max_distance", _DEFAULTS["max_distance"])
    for norm in ("input_norm", "output_norm"):
        if source.part(f"encoder.{half}.{norm}"):
            merged[norm] = True
    return merged


def load_start(model: nn.Module, source: PretrainedFile) -> Start:
    """Fill preprocessor and encoder from the file; log what it does not fill, the other parts of the model included.

    Args:
        model: made of a config that :func:`start_from` changed.
        source: what that returned.

    Raises:
        InputError: if a weight of the file has no place, or another shape.
    """
    left = source.left_behind()
    load_strictly(model.preprocessor, source.part("preprocessor"), source.path, "preprocessor")  # type: ignore[arg-type]
    encoder = model.encoder
    weights = _divided(source.part("encoder"), _layers(source, HALVES[0]), len(encoder.speech_transformer.layers))  # type: ignore[union-attr, arg-type]
    own = encoder.state_dict()  # type: ignore[union-attr, operator]
    missing = sorted(own.keys() - weights.keys())
    strange_layers = sorted({key for key in missing if (m := _LAYER.fullmatch(key)) and ".norm_k." not in m[3]})
    problems = [f"no weight for encoder.{key}" for key in strange_layers]
    problems = problems or [f"no weight for encoder.{key}" for key in missing if not key.startswith(HALVES)]
    if problems:
        raise InputError(f"weights do not fit the model: {'; '.join(problems[:8])}", source.path)
    zero = [key for key in missing if _starts_at_zero(key, model)]
    weights |= {key: torch.zeros_like(own[key]) for key in zero}
    fresh = [key for key in missing if key not in zero]
    weights |= {key: own[key] for key in fresh}
    load_strictly(encoder, weights, source.path, "encoder")  # type: ignore[arg-type]
    start = Start(sorted(own.keys() - set(missing)), zero, fresh)
    _report(model, source, start, left)
    return start


def _divided(weights: dict[str, Tensor], before: int, after: int) -> dict[str, Tensor]:
    """The encoder's weights with ``after`` instead of ``before`` layers in its speech transformer."""
    divided = {}
    for key, value in weights.items():
        if found := _LAYER.fullmatch(key):
            number = int(found[2]) + (before if found[1] == "shared" else 0)
            half, number = ("speech", number) if number < after else ("shared", number - after)
            key = f"{half}_transformer.layers.{number}.{found[3]}"
        divided[key] = value
    return divided


def _starts_at_zero(key: str, model: nn.Module) -> bool:
    """Whether a new parameter must be zero so that it adds nothing to what the file's layers compute.

    Relative positions add nothing through a table of zeros; pre-norm layers normalize its rows, so there it is the
    scale of that norm that must be zero.
    """
    if ".norm_k.weight" in key:
        return True
    if key.endswith("relative_positions.table.weight"):
        half = key.split(".")[0]
        return not getattr(model.encoder, half).pre_norm
    return key.endswith("position.table.weight")


def _report(model: nn.Module, source: PretrainedFile, start: Start, left: list[str]) -> None:
    own = model.encoder.state_dict()  # type: ignore[union-attr, operator]
    count = sum(own[key].numel() for key in start.filled)
    others = [
        name for name, part in model.named_children() if name not in SHARED and any(True for _ in part.parameters())
    ]
    message = [f"Encoder from {source.path}: {count / 1e6:.1f} M parameters filled."]
    for names, what in (
        (_grouped([f"encoder.{key}" for key in start.zero]), "From zero, so that its layers give what they gave"),
        ([*_grouped([f"encoder.{key}" for key in start.fresh]), *others], "Not in it, so from their initial values"),
        (left, "Not taken over"),
    ):
        if names:
            message.append(f"{what}: {', '.join(names)}.")
    logging.info(" ".join(message))


def _grouped(names: list[str]) -> list[str]:
    """The same parameter of several layers once."""
    return list(dict.fromkeys(re.sub(r"\.layers\.\d+\.", ".layers.*.", name) for name in names))
