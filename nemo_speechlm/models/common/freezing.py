"""Parts of the encoder that fine-tuning leaves alone, for all or for the first of its steps."""

from lightning.pytorch.strategies import DDPStrategy
from nemo.utils import logging

from nemo_speechlm.checks import check_whole
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.modules.encoder import SpeechLMEncoder


class EncoderFreezingMixin:
    """For Lightning modules with an ``encoder``; config keys ``freeze_front_end`` and ``freeze_encoder_steps``.

    ``freeze_front_end`` keeps ``encoder.front_end`` as it is throughout (wav2vec 2.0 section 4.3); it is refused
    where a training begins with random weights (``check_frozen``). While ``freeze_encoder_steps`` last only the rest
    of the model is trained, so that a fresh output layer does not begin by spoiling a pretrained encoder; masking and
    dropout stay on in the encoder meanwhile.
    """

    encoder: SpeechLMEncoder

    def setup_freezing(self, freeze_front_end: bool = False, freeze_encoder_steps: int = 0) -> None:
        """Freeze the front end now and remember how long to freeze the encoder. Called by the constructor."""
        front_end = getattr(self.encoder, "front_end", None)
        if freeze_front_end:
            if front_end is None:
                raise SpeechLMError(
                    f"freeze_front_end: {type(self.encoder).__name__} has no front_end; set it to false"
                )
            front_end.requires_grad_(False)
        check_whole("freeze_encoder_steps", freeze_encoder_steps)
        self.freeze_encoder_steps = freeze_encoder_steps
        self._trainable = [p for p in self.encoder.parameters() if p.requires_grad]
        self._encoder_frozen = False

    def on_fit_start(self) -> None:
        """Refuse a strategy that waits for the gradients of frozen parameters."""
        super().on_fit_start()  # type: ignore[misc]
        strategy = self.trainer.strategy  # type: ignore[attr-defined]
        if self.freeze_encoder_steps and isinstance(strategy, DDPStrategy):
            finds_unused = strategy._ddp_kwargs.get("find_unused_parameters", False)
            if not finds_unused:
                raise SpeechLMError(
                    "freeze_encoder_steps on several devices needs trainer.strategy=ddp_find_unused_parameters_true"
                )

    def on_train_batch_start(self, batch, batch_idx: int, unused: int = 0) -> int | None:
        """Freeze or free the encoder as the step demands."""
        frozen = self.trainer.global_step < self.freeze_encoder_steps  # type: ignore[attr-defined]
        if frozen != self._encoder_frozen:
            for parameter in self._trainable:
                parameter.requires_grad_(not frozen)
            self._encoder_frozen = frozen
            logging.info(f"step {self.trainer.global_step}: encoder {'frozen' if frozen else 'trained from here on'}")  # type: ignore[attr-defined]
        return super().on_train_batch_start(batch, batch_idx, unused)  # type: ignore[misc]
