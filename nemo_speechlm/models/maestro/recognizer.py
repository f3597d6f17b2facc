"""The recognizer inside a pretrained MAESTRO model, as one of NeMo's transducers."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo.collections.asr.models import EncDecRNNTModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.recognition.transducer import build_transducer

if TYPE_CHECKING:
    from nemo_speechlm.models.maestro.model import MAESTROModel


def recognizer_of(model: "MAESTROModel") -> EncDecRNNTModel:
    """NeMo's transducer with the encoder and the grapheme decoder of a pretrained model, which it shares with it.

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
