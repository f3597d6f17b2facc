"""The recognizer inside a pretrained MAESTRO model, as one of NeMo's transducers."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import torch
from nemo.collections.asr.models import EncDecRNNTModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.maestro.transducer import TransducerBranch
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.modules.encoder import SpeechLMEncoder


class Pretrained(Protocol):
    """What is asked of a pretrained model.

    Attributes:
        tokenizer_bytes: the SentencePiece model of its graphemes, None where they are characters.
    """

    cfg: Any
    tokenizer_bytes: bytes | None
    preprocessor: Any
    encoder: SpeechLMEncoder
    graphemes: TransducerBranch

    @property
    def tasks(self) -> Collection[str]:
        """The tasks that have a weight."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...


def recognizer_of(model: Pretrained) -> EncDecRNNTModel:
    """NeMo's transducer in evaluation mode, with a copy of a pretrained model's grapheme decoder, and its encoder.

    Raises:
        SpeechLMError: if the model was trained without RNN-T.
    """
    if "rnnt" not in model.tasks:
        raise SpeechLMError(
            "the model was pretrained with model.tasks.rnnt=0, so its RNN-T decoder has learned nothing"
        )
    sizes = model.cfg.transducer
    config: dict[str, Any] = {
        "sample_rate": model.cfg.sample_rate,
        "preprocessor": OmegaConf.to_container(model.cfg.preprocessor, resolve=True),
        "encoder": OmegaConf.to_container(model.cfg.encoder, resolve=True),
        "model_defaults": {"pred_hidden": sizes.pred_hidden, "joint_hidden": sizes.joint_hidden},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": sizes.pred_hidden,
                "pred_rnn_layers": sizes.pred_rnn_layers,
                "t_max": None,
                "dropout": sizes.dropout,
            },
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": sizes.joint_hidden, "activation": "relu", "dropout": sizes.dropout},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "default"},
        "rnnt_reduction": "mean_volume",
        "train_ds": None,
        "validation_ds": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        if model.tokenizer_bytes is None:
            config["labels"] = list(model.cfg.vocabulary)
        else:
            (Path(folder) / "tokenizer.model").write_bytes(model.tokenizer_bytes)
            (Path(folder) / "vocab.txt").write_text("\n".join(model.cfg.vocabulary), encoding="utf-8")  # NeMo wants it
            config["tokenizer"] = {"dir": folder, "type": "bpe"}
        recognizer = build_transducer(OmegaConf.create(config))
    recognizer.preprocessor, recognizer.encoder = model.preprocessor, model.encoder
    recognizer.decoder.load_state_dict(model.graphemes.decoder.state_dict())
    recognizer.joint.load_state_dict(model.graphemes.joint.state_dict())
    return recognizer.to(model.device).eval()
