"""Speech and text manifests with units as NeMo data types: ``speech_units`` and ``text_units``.

Importing this module registers both with NeMo's Lhotse data loading, where they stand in an ``input_cfg`` beside
NeMo's own types. They read lines in a fresh random order of the whole manifest in every pass, endlessly, and share the
lines of a pass among ranks and workers; with ``force_finite`` they read one pass, and in the file's order unless
``shuffle``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lhotse import CutSet
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.pretraining.order import Order
from nemo_speechlm.data.pretraining.speech_reader import SpeechUnitsReader
from nemo_speechlm.data.pretraining.text_reader import TextUnitsReader
from nemo_speechlm.units.inventory import UnitInventory


@data_type_parser("speech_units")
def read_speech_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`SpeechUnitsReader` and :class:`Order`."""
    keys = ("sample_rate", "min_duration", "max_duration", "truncate_duration", "truncate_offset_type", "longest")
    return CutSet(SpeechUnitsReader(**_shared(config), **_present(config, keys))), True


@data_type_parser("text_units")
def read_text_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`TextUnitsReader` and :class:`Order`."""
    keys = ("labels", "frame_rate", "min_tokens", "max_tokens", "unknown_characters", "max_frames")
    return CutSet(TextUnitsReader(**_shared(config), **_present(config, keys))), True


def _present(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    values = {key: config.get(key) for key in keys}
    return {
        key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        for key, value in values.items()
        if value is not None
    }


def _shared(config: DictConfig) -> dict[str, Any]:
    manifests = _present(config, ("manifest_filepath",))["manifest_filepath"]
    inventory = config["inventory"]
    if isinstance(inventory, str):
        units = UnitInventory.load(inventory)
    else:
        units = UnitInventory.from_dict(OmegaConf.to_object(inventory))
    order = _present(config, ("seed", "rank", "world_size", "shuffle"))
    return {
        "manifests": [manifests] if isinstance(manifests, str) else list(manifests),
        "inventory": units,
        "order": Order(finite=bool(config.get("force_finite")), **order),
    }
