"""SpeechLM's text branch in fine-tuning: masked units, shared transformer, as in pretraining (section 3.3)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from omegaconf import OmegaConf
from torch import nn

from nemo_speechlm.data.pretraining.streams import UnitTextStream
from nemo_speechlm.models.common.inventories import read_inventory
from nemo_speechlm.models.common.pretrained import PretrainedFile
from nemo_speechlm.models.common.uctc import encode_text
from nemo_speechlm.models.recognition.text_branch import Encoded, Found, TextBranch, Writing
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.units.inventory import UnitInventory


class UnitText(TextBranch):
    """Units with durations: embedding, mask, shared transformer. UCTC as in pretraining, of the same code.

    Args:
        d_model: D.
        inventory: the units, as ``units.json`` has them.
        masking: fields of :class:`SpanMask`.
        frame_rate: frames of text per second; None: as many as the encoder has.
    """

    kind: ClassVar[str] = "units"

    def __init__(
        self,
        d_model: int,
        inventory: Mapping[str, Any],
        masking: Mapping[str, Any],
        frame_rate: float | None = None,
    ):
        super().__init__()
        self.inventory = UnitInventory.from_dict(dict(inventory))
        self.masking = SpanMask(**masking)
        self.frame_rate = frame_rate
        self.unit_embedding = nn.Embedding(len(self.inventory), d_model)

    @classmethod
    def found_in(cls, source: PretrainedFile) -> Found | None:
        """The units and their embedding of a SpeechLM model."""
        weights = source.part("unit_embedding")
        if not weights:
            return None
        key = "text_units" if source.cfg.get("text_units") else "units"
        inventory = read_inventory(source.path, key, "a SpeechLM model")
        masking = OmegaConf.to_container(source.cfg.text_masking, resolve=True)
        config = {
            "inventory": inventory.to_dict(),
            "masking": masking,
            "frame_rate": source.cfg.get("text_frame_rate"),
        }
        weights = {f"unit_embedding.{name}": value for name, value in weights.items()}
        return Found(config, weights, source.path)

    def stream(self, encoder: SpeechLMEncoder, writing: Writing) -> UnitTextStream:
        """Text manifests with units."""
        rate = self.frame_rate or encoder.frame_rate
        return UnitTextStream(self.inventory, writing.labels, rate, encoder.max_frames, writing.tokenizer)

    def encode(self, encoder: SpeechLMEncoder, batch: Any, generator: Draws = None) -> Encoded:
        """As far as pretraining's CTC head."""
        states, _ = encode_text(encoder, self.unit_embedding, self.masking, batch, generator=generator)
        return Encoded(states, batch.unit_lengths, batch.targets, batch.target_lengths)
