"""A second head in fine-tuning: CTC of the phones of the transcripts, beside that of the characters.

Letters of English tell little about sounds; phones do. The head learns on the output of the speech transformer, or on
that of the encoder, and is not used after training.

Axis legend: B utterances, T frames, P phones, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nemo.collections.asr.modules import ConformerEncoder
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from nemo_speechlm.checks import check_choice, check_number
from nemo_speechlm.data.manifests.lines import read_texts
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.ctc import ctc_figure
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.pronouncing.phone_encoder import PhoneEncoder

LAYERS = ("speech", "shared")


class PhoneCTC(nn.Module):
    """A linear layer to phones and blank.

    Args:
        d_model: D.
        number: of phones.
        layer: ``speech``: on the output of the speech transformer; ``shared``: on that of the encoder.
    """

    def __init__(self, d_model: int, number: int, layer: str = "speech"):
        super().__init__()
        check_choice("model.phone_ctc.layer", layer, LAYERS)
        self.layer = layer
        self.linear = nn.Linear(d_model, number + 1)
        self._states: Tensor | None = None
        self._lengths: Tensor | None = None

    @contextmanager
    def watching(self, encoder: SpeechLMEncoder) -> Iterator[None]:
        """Keep the states that an encoder computes in a block."""
        half = getattr(encoder, f"{self.layer}_transformer")

        def keep_states(module: nn.Module, _: Any, output: Any) -> None:
            states = output[0]
            self._states = states.transpose(1, 2) if isinstance(module, ConformerEncoder) else states

        def keep_lengths(module: nn.Module, _: Any, output: Any) -> None:
            self._lengths = output[1]

        hooks = [half.register_forward_hook(keep_states), encoder.register_forward_hook(keep_lengths)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def figure(self, phones: Tensor, lengths: Tensor) -> Figure:
        """The CTC loss of the states that were seen last, and how many phones it is of.

        Args:
            phones: (B, P).
            lengths: (B,).
        """
        states, frames = self._states, self._lengths
        assert states is not None
        assert frames is not None
        self._states, self._lengths = None, None
        return ctc_figure(self.linear(states), frames, phones, lengths)


def complete_phone_ctc(cfg: DictConfig) -> None:
    """Put the phones into a model's config, or take ``phone_ctc`` out where its weight is 0.

    English has the phones of CMUdict. Those of other languages are the phones that occur in the transcripts of
    ``train_ds``, all of which are read for it.

    Args:
        cfg: of the model; ``phone_ctc`` has ``weight``, ``layer``, ``language`` and ``phones``, the arguments of
            :class:`PhoneEncoder`. It is changed.

    Raises:
        SpeechLMError: on a value that is none, or if there are neither phones nor transcripts.
    """
    settings = cfg.get("phone_ctc")
    check_number("model.phone_ctc.weight", (settings or {}).get("weight", 0.0), 0)
    if not settings or not settings.get("weight"):
        with open_dict(cfg):
            cfg.pop("phone_ctc", None)
        return
    if settings.phones.get("symbols"):
        return
    encoder = phone_encoder_of(cfg)
    _check_language(cfg)
    if not encoder.english:
        encoder.learn(_transcripts(cfg))
    if not encoder.symbols:
        raise SpeechLMError(
            f"model.phone_ctc.phones.symbols is not given, and no transcript of model.train_ds tells the phones of "
            f"{settings.language.code!r}"
        )
    with open_dict(cfg):
        settings.phones.symbols = encoder.symbols


def _check_language(cfg: DictConfig) -> None:
    """Check that labels are letters of the language whose phones are learned; English would read any Latin text."""
    language = cfg.phone_ctc.language
    foreign = [
        label for label in cfg.get("labels") or () if label.isalpha() and label.lower() not in language.characters
    ]
    if foreign:
        raise SpeechLMError(
            f"model.phone_ctc.language is {language.code!r}, whose alphabet has no {foreign[0]!r}, and model.labels "
            "has; give the language of the transcripts, as in language=cs"
        )


def phone_encoder_of(cfg: DictConfig) -> PhoneEncoder:
    """What writes transcripts as the phones of a model's config."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.phone_ctc, resolve=True)  # type: ignore[assignment]
    return PhoneEncoder(settings["language"], **settings["phones"])


def _transcripts(cfg: DictConfig) -> Iterator[str]:
    data = cfg.get("train_ds") or {}
    paths = data.get("manifest_filepath") or []
    field = data.get("text_field") or "text"
    for *_, text in read_texts(paths, field, data.get("on_bad") == "skip"):
        yield text


def build_phone_ctc(cfg: DictConfig, d_model: int) -> PhoneCTC | None:
    """The head that a model's config describes (``phone_ctc``); None where it describes none.

    Args:
        cfg: as :func:`complete_phone_ctc` leaves it.
        d_model: width of the encoder.
    """
    settings = cfg.get("phone_ctc")
    return None if not settings else PhoneCTC(d_model, len(settings.phones.symbols), settings.get("layer", "speech"))
