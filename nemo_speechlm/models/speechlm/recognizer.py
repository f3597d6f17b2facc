"""The recognizer inside a pretrained SpeechLM: its encoder, and the CTC head that learned from text alone."""

from typing import Any, Protocol

import torch
from omegaconf import OmegaConf
from torch import nn

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.units.inventory import UnitInventory


class Pretrained(Protocol):
    """What is asked of a pretrained model."""

    cfg: Any
    labels: list[str]
    preprocessor: Any
    encoder: SpeechLMEncoder
    inventory: UnitInventory
    text_inventory: UnitInventory
    unit_classifiers: nn.ModuleDict
    unit_embedding: nn.Embedding
    released_labels: bool

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...


def recognizer_of(model: Pretrained, swapping: bool | None = None) -> SpeechLMCTCModel:
    """A CTC model in evaluation mode, with a copy of the text CTC head of a pretrained model, whose encoder it shares.

    The head has only seen states of text. Random swapping, and units that speech and text share, make those of speech
    alike (SpeechLM section 3.3), and :class:`~nemo_speechlm.modules.SwappingEncoder` makes them more so.

    Args:
        model: a pretrained one.
        swapping: whether all frames are swapped for their units; False: the head reads the states of speech. None:
            with phonemes, where it was measured to be better, but not in converted models.

    Raises:
        SpeechLMError: if the model was pretrained without text, or is to swap units that text does not have.
    """
    head = getattr(model, "ctc_head", None)
    if head is None:
        raise SpeechLMError(
            "the model was pretrained with model.loss.uctc=0, so it has no CTC head to recognize with: "
            "fine-tune it first"
        )
    same = model.inventory == model.text_inventory
    if swapping and not same:
        raise SpeechLMError("recognizer(swapping=True): units of speech that are not those of text have no embedding")
    if swapping is None:
        swapping = same and model.inventory.kind == "phoneme" and not model.released_labels
    encoder = OmegaConf.to_container(model.cfg.encoder, resolve=True)
    if swapping:
        encoder |= {  # type: ignore[operator]
            "_target_": "nemo_speechlm.modules.SwappingEncoder",
            "num_units": len(model.inventory),
            "unit_classifier": OmegaConf.to_container(model.cfg.unit_classifier, resolve=True),
        }
    config = {
        "sample_rate": model.cfg.get("sample_rate", 16000),
        "preprocessor": OmegaConf.to_container(model.cfg.preprocessor, resolve=True),
        "encoder": encoder,
        "labels": list(model.labels),
        "decoder": {
            "_target_": "nemo_speechlm.modules.SpeechLMCTCHead",
            "feat_in": model.encoder.d_model,
            **OmegaConf.to_container(model.cfg.ctc_head, resolve=True),  # type: ignore[dict-item]
        },
        "ctc_reduction": "mean_volume",
        "train_ds": None,
        "validation_ds": None,
    }
    recognizer = SpeechLMCTCModel(OmegaConf.create(config))
    recognizer.preprocessor = model.preprocessor
    if swapping:
        recognizer.encoder.take_parts(model.encoder, model.unit_classifiers["shared"], model.unit_embedding)
    else:
        recognizer.encoder = model.encoder
    recognizer.decoder.load_state_dict(head.state_dict())
    return recognizer.to(model.device).eval()
