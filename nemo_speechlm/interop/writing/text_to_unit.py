"""Write a text-to-unit model as a checkpoint of the released code, with its two dictionaries beside it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from nemo_speechlm.data.text.target_vocabulary import SPECIAL
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.interop.parts.text_to_unit import released_name
from nemo_speechlm.interop.reading.dictionaries import MASK, NEVER
from nemo_speechlm.models.text_to_unit.model import TextToUnitModel
from nemo_speechlm.units.inventory import UnitInventory

_BINS = 256


def text_to_unit_checkpoint(model: TextToUnitModel) -> dict[str, Any]:
    """The checkpoint that fairseq would have written.

    Our own models have no ``<s>``, ``<pad>``, ``</s>`` and ``<unk>``; the released code's dictionaries begin with
    them, so they get rows that do nothing.

    Raises:
        InputError: if a part of the model is of another kind than the released code's.
    """
    settings = _settings(model.cfg)
    weights = {released_name(name): value.detach().cpu() for name, value in model.state_dict().items()}
    embedding, projection = "encoder.embed_tokens.weight", "encoder.out_proj"
    if not _has_specials(model.phones):
        weights[embedding] = _with_rows(weights[embedding], 0.0)
    if not _has_specials(model.inventory):
        weights[f"{projection}.weight"] = _with_rows(weights[f"{projection}.weight"], 0.0)
        weights[f"{projection}.bias"] = _with_rows(weights[f"{projection}.bias"], NEVER)
    settings["output_frame_dim"] = len(weights[f"{projection}.bias"])
    weights["encoder.embed_positions._float_tensor"] = torch.zeros(1)
    # The released model owns predictors of pitch and energy without using them; its state dict wants them.
    adaptor = "encoder.var_adaptor."
    for name in [name for name in weights if name.startswith(f"{adaptor}duration_predictor.")]:
        for other in ("pitch_predictor", "energy_predictor"):
            weights[name.replace("duration_predictor", other)] = torch.zeros_like(weights[name])
    for name in ("embed_pitch", "embed_energy"):
        weights[f"{adaptor}{name}.weight"] = torch.zeros(_BINS, model.cfg.d_model)
    if model.speakers:
        settings["speaker_to_id"] = {name: number for number, name in enumerate(model.speakers)}
    return {"args": None, "cfg": {"model": settings, "task": dict(settings)}, "model": weights}


def dictionary_paths(output: Path) -> tuple[Path, Path]:
    """Where the dictionaries of phones and of units stand beside a checkpoint."""
    return output.with_name(f"{output.stem}.phones.dict.txt"), output.with_name(f"{output.stem}.units.dict.txt")


def write_dictionaries(model: TextToUnitModel, output: Path) -> None:
    """Write both dictionaries beside a checkpoint, as fairseq reads them."""
    for path, inventory in zip(dictionary_paths(output), (model.phones, model.inventory), strict=True):
        with atomic_write(path) as file:
            file.writelines(f"{symbol} 1\n" for symbol in _own(inventory.symbols))


def _own(symbols: Iterable[str]) -> list[str]:
    return [symbol for symbol in symbols if symbol not in (*SPECIAL, MASK)]


def _has_specials(inventory: UnitInventory) -> bool:
    return inventory.symbols[: len(SPECIAL)] == SPECIAL


def _with_rows(value: Tensor, filling: float) -> Tensor:
    return torch.cat([value.new_full((len(SPECIAL), *value.shape[1:]), filling), value])


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """``cfg.model`` of fairseq's checkpoint."""
    encoder, decoder, predictor = cfg.encoder, cfg.decoder, cfg.duration_predictor
    for part, target in ((encoder, "FFTransformer"), (decoder, "FFTransformer"), (predictor, "DurationPredictor")):
        if not str(part.get("_target_", "")).endswith(f".{target}"):
            raise InputError(f"has a {part.get('_target_')}; the released code has a {target} only")
    for name in ("d_ff", "kernel", "dropout", "attention_dropout"):
        if encoder.get(name) != decoder.get(name):
            raise InputError(
                f"{name} is {encoder.get(name)} in the encoder and {decoder.get(name)} in the decoder; "
                "the released code knows one for both"
            )
    return {
        "_name": "fasttext2unit_s",
        "arch": "fasttext2unit_s",
        "task": "fast_text_to_unit",
        "config_yaml": "config.yaml",
        "max_source_positions": 2048,
        "max_target_positions": 1024,
        "n_frames_per_step": 1,
        "dropout": encoder.get("dropout", 0.1),
        "attention_dropout": encoder.get("attention_dropout", 0.1),
        "encoder_embed_dim": cfg.d_model,
        "decoder_embed_dim": cfg.d_model,
        "fft_hidden_dim": encoder.d_ff,
        "fft_kernel_size": encoder.get("kernel", 9),
        "encoder_layers": encoder.n_layers,
        "decoder_layers": decoder.n_layers,
        "encoder_attention_heads": encoder.n_heads,
        "decoder_attention_heads": decoder.n_heads,
        "var_pred_n_bins": _BINS,
        "var_pred_hidden_dim": predictor.get("d_hidden", 256),
        "var_pred_kernel_size": predictor.get("kernel", 3),
        "var_pred_dropout": predictor.get("dropout", 0.5),
        "speaker_embed_dim": cfg.get("speaker_dim", 256),
        "add_postnet": False,
        "use_pitch": False,
        "use_energe": False,
        "pitch_min": 0.0,
        "pitch_max": 1.0,
        "energy_min": 0.0,
        "energy_max": 1.0,
        "speaker_to_id": None,
        "speaker_embedding_type": None,
    }
