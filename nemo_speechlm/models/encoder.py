"""An encoder by itself: what is converted from HuBERT, wav2vec 2.0 or a checkpoint without output layers."""

from typing import Any, ClassVar

from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT, PretrainedModelInfo
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.nemo_targets import name_publicly


class SpeechLMEncoderModel(FeatureExtraction, ModelPT):
    """Preprocessor and :class:`SpeechLMEncoder`: a teacher for hidden units, or a start for fine-tuning.

    It is not trained by itself; ``speechlm_finetune_ctc.py model.init_from_pretrained=`` takes its file.

    Args:
        cfg: ``preprocessor``, ``encoder`` and ``sample_rate``.
        trainer: Lightning trainer.
    """

    parts: ClassVar[Parts] = Parts()

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)
        self.preprocessor = self.from_config_dict(self._cfg.preprocessor)
        self.encoder = self.from_config_dict(self._cfg.encoder)
        self.encoder.take_input_rate(self._cfg)

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) -> encoded (B, D, T) and lengths (B,)."""
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return self.encoder(audio_signal=signal, length=length)

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """There is no training of an encoder alone."""
        raise SpeechLMError("an encoder alone has no loss to train with; pretrain or fine-tune from its file")

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """There is no validation of an encoder alone."""
        self.setup_training_data(val_data_config)

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """There are none to download; checkpoints of others are converted."""
        return []

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """There is nothing to gather."""
        return {}
