"""Two mends of NeMo's transcribing, for recognizers of ours; they go before NeMo's class among the bases."""

from typing import TYPE_CHECKING, Any

from nemo.collections.asr.parts.mixins import TranscribeConfig

from nemo_speechlm.models.common.spaces import keep_spaces

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel as _Host  # as types are checked
else:
    _Host = object


class KeepsMode(_Host):
    """After ``transcribe``, a model is in the mode that it was in: NeMo leaves encoder and decoder training."""

    def _transcribe_on_end(self, trcfg: TranscribeConfig) -> None:
        super()._transcribe_on_end(trcfg)
        self.train(trcfg._internal.training_mode)


class KeepsSpaces(KeepsMode):
    """A new decoding strategy or vocabulary deletes no space either; see :func:`keep_spaces`."""

    def change_decoding_strategy(self, *args: Any, **kwargs: Any) -> None:
        """NeMo's."""
        super().change_decoding_strategy(*args, **kwargs)
        keep_spaces(self)

    def change_vocabulary(self, *args: Any, **kwargs: Any) -> None:
        """NeMo's."""
        super().change_vocabulary(*args, **kwargs)
        keep_spaces(self)
