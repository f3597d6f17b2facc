"""Write a CTC model as a fine-tuned checkpoint of the released code, with its characters beside it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_speechlm.data.text.target_vocabulary import SPECIAL
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.interop.parts.fine_tuned import fine_tuned_checkpoint, fine_tuning_settings
from nemo_speechlm.interop.plan import CTC_HEAD
from nemo_speechlm.interop.reading.dictionaries import MASK, NEVER
from nemo_speechlm.models.common.pretrained import PretrainedFile

_WAY_OUT = "--encoder-only writes the encoder alone"
_TASK = {
    "_name": "joint_sc2t_pretraining",
    "fine_tuning": True,
    "labels": ["ltr"],
    "label_rate": -1,
    "sample_rate": 16000,
    "single_target": True,
}


def ctc_symbols(model: PretrainedFile) -> list[str]:
    """Fairseq's dictionary of a CTC model: a symbol per class, the blank ``<s>`` first.

    Labels of converted models keep their order. Those of our own have no special symbols, which fairseq's dictionaries
    begin with.

    Raises:
        InputError: if its output layer or its labels cannot be the released code's.
    """
    target = str(model.cfg.decoder.get("_target_", ""))
    if not target.endswith(".SpeechLMCTCHead"):
        raise InputError(f"has a {target}; the released code has a SpeechLMCTCHead only ({_WAY_OUT})", model.path)
    if str(model.cfg.get("target")).endswith("BPE") or not model.cfg.get("labels"):
        raise InputError(
            f"writes tokens; the released code's CTC spells with characters only ({_WAY_OUT})", model.path
        )
    symbols = _symbols(model)
    twice = [symbol for symbol, count in Counter(symbols).items() if count > 1]
    if twice:
        raise InputError(
            f"has a label {twice[0]!r}; in the released code's dictionaries that is "
            f"{'the space' if twice[0] == '|' else 'the blank'} ({_WAY_OUT})",
            model.path,
        )
    if tuple(symbols[: len(SPECIAL)]) == SPECIAL:
        return symbols
    return [*SPECIAL, *(symbol for symbol in symbols if symbol not in (*SPECIAL, MASK)), MASK]


def _symbols(model: PretrainedFile) -> list[str]:
    return [SPECIAL[0], *("|" if label == " " else label for label in model.cfg.labels)]


def ctc_checkpoint(
    model: PretrainedFile,
    encoder: dict[str, Tensor],
    pretraining: dict[str, Any],
    symbols: Sequence[str],
    units: int | None = None,
) -> dict[str, Any]:
    """The checkpoint that fairseq would have written for a CTC model.

    Args:
        model: the ``.nemo`` file.
        encoder: its encoder's parameters under fairseq's names.
        pretraining: ``cfg`` of a checkpoint of the encoder alone.
        symbols: those of :func:`ctc_symbols`.
        units: how many units pretraining had. The released code owns tables of them without using them, and loads a
            checkpoint only where they are; they are zeros. None: they are left out.
    """
    weights = dict(encoder)
    if units is not None:
        final_dim, width = encoder["final_proj_list.0.weight"].shape
        weights |= {f"label_embs_list.{level}": torch.zeros(units, final_dim) for level in (0, 1)}
        weights |= {f"{name}.weight": torch.zeros(units, width) for name in _EMBEDDINGS}
    weights = {f"w2v_encoder.w2v_model.{name}": value for name, value in weights.items()}
    head = model.part(model.ctc_head or "")
    for theirs, ours in CTC_HEAD.items():
        value = head[ours]
        if ours.startswith("linear."):
            value = _in_order(value, _symbols(model), symbols, NEVER if ours.endswith("bias") else 0.0)
        # The released model has the head under two names.
        for name in ("w2v_encoder.proj", "w2v_encoder.w2v_model.unit_encoder_ctc_head"):
            weights[f"{name}.{theirs}"] = value
    settings = {"_name": "speechlm_ctc"}
    settings |= fine_tuning_settings(model.cfg, pretraining, float(model.cfg.decoder.get("dropout", 0.1)))
    return fine_tuned_checkpoint(settings, _TASK | {"normalize": settings["normalize"]}, weights)


_EMBEDDINGS = ("unit_embed_tokens", "unit_encoder.embed_tokens")


def _in_order(value: Tensor, own: Sequence[str], symbols: Sequence[str], filling: float) -> Tensor:
    """Rows of our output layer, whose blank is the last, in the order of fairseq's dictionary."""
    rows = {symbol: row for row, symbol in enumerate([*own[1:], own[0]])}
    filled = torch.cat([value, value.new_full((1, *value.shape[1:]), filling)])
    return filled[[rows.get(symbol, len(value)) for symbol in symbols]]


def label_dictionary_path(output: Path) -> Path:
    """Where the dictionary of characters stands beside a checkpoint."""
    return output.with_name(f"{output.stem}.dict.ltr.txt")


def write_label_dictionary(symbols: Sequence[str], output: Path) -> None:
    """Write the characters beside a checkpoint, as fairseq reads them."""
    own = symbols[len(SPECIAL) :]
    with atomic_write(label_dictionary_path(output)) as file:
        file.writelines(f"{symbol} 1\n" for symbol in own)
