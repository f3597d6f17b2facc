"""The recognizer inside a pretrained SpeechLM: its encoder, and the CTC head that learned from text alone."""

from typing import Any, Protocol

import torch
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.modules.encoder import SpeechLMEncoder


class Pretrained(Protocol):
    """What is asked of a pretrained model."""

    cfg: Any
    labels: list[str]
    preprocessor: Any
    encoder: SpeechLMEncoder

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...


def recognizer_of(model: Pretrained) -> SpeechLMCTCModel:
    """A CTC model in evaluation mode, with a copy of the text CTC head of a pretrained model, whose encoder it shares.

    The head has only seen states of text. Random swapping, and units that speech and text share, make those of speech
    alike (SpeechLM section 3.3).

    Raises:
        SpeechLMError: if the model was pretrained without text.
    """
    head = getattr(model, "ctc_head", None)
    if head is None:
        raise SpeechLMError(
            "the model was pretrained with model.loss.uctc=0, so it has no CTC head to recognize with: "
            "fine-tune it first"
        )
    config = {
        "sample_rate": model.cfg.get("sample_rate", 16000),
        "preprocessor": OmegaConf.to_container(model.cfg.preprocessor, resolve=True),
        "encoder": OmegaConf.to_container(model.cfg.encoder, resolve=True),
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
    recognizer.preprocessor, recognizer.encoder = model.preprocessor, model.encoder
    recognizer.decoder.load_state_dict(head.state_dict())
    return recognizer.to(model.device).eval()
