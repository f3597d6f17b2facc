"""MAESTRO's text branch in fine-tuning: phones, predicted durations, Resampler, Refiner, shared encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

from omegaconf import OmegaConf
from torch import nn

from nemo_speechlm.data.pretraining.streams import TokenTextStream
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.pretrained import PretrainedFile
from nemo_speechlm.models.maestro.aligned_mlm import Repetition, encode_text
from nemo_speechlm.models.maestro.phones import TARGET
from nemo_speechlm.models.recognition.text_branch import Encoded, Found, TextBranch, Writing
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import CoveringMask
from nemo_speechlm.modules.text_branch import ConvTextEncoder, LightweightDurations, Refiner

_TRAINED = ("text_encoder", "refiner")
_AVERAGED = ("text_encoder", "duration_model")
"""Those whose averages predict durations; fine-tuning leaves them as they are."""


class PhoneText(TextBranch):
    """Text as MAESTRO's aligned MLM has it, of the same code; durations are those that pretraining has learned.

    Args:
        d_model: D.
        language: values of a file in ``conf/language/``.
        phones: arguments of :class:`~nemo_speechlm.pronouncing.phone_encoder.PhoneEncoder`, with ``symbols``.
        text_encoder: of :class:`ConvTextEncoder`.
        duration_model: of :class:`LightweightDurations`.
        refiner: of :class:`Refiner`.
        repetition: of :class:`Repetition`.
        masking: of :class:`CoveringMask`: ``time`` and ``features``.
    """

    kind: ClassVar[str] = "phones"

    def __init__(
        self,
        d_model: int,
        language: Mapping[str, Any],
        phones: Mapping[str, Any],
        text_encoder: Mapping[str, Any],
        duration_model: Mapping[str, Any],
        refiner: Mapping[str, Any],
        repetition: Mapping[str, Any],
        masking: Mapping[str, Any],
    ):
        super().__init__()
        self.phones = {"_target_": TARGET, "language": dict(language), **phones}
        number = len(phones["symbols"])
        self.text_encoder = ConvTextEncoder(number, d_model, **text_encoder)
        self.refiner = Refiner(d_model, **refiner)
        averaged: dict[str, nn.Module] = {
            "text_encoder": ConvTextEncoder(number, d_model, **text_encoder),
            "duration_model": LightweightDurations(d_model, **duration_model),
        }
        self.average = nn.ModuleDict(averaged).requires_grad_(False)
        self.repetition = Repetition(**repetition)
        self.mlm_time, self.mlm_features = (CoveringMask(**masking[name]) for name in ("time", "features"))

    def train(self, mode: bool = True) -> "PhoneText":
        """Leave what predicts durations in evaluation mode."""
        super().train(mode)
        self.average.eval()
        return self

    @classmethod
    def found_in(cls, source: PretrainedFile) -> Found | None:
        """The text side of a MAESTRO model."""
        if not all(source.part(name) for name in ("refiner", *_AVERAGED)):
            return None
        config: dict[str, Any] = OmegaConf.to_container(source.cfg, resolve=True)  # type: ignore[assignment]
        names = ("language", "phones", "text_encoder", "duration_model", "refiner", "repetition")
        found = {name: config[name] for name in names} | {"masking": config["mlm_masking"]}
        weights = {f"{part}.{key}": value for part in _TRAINED for key, value in source.part(part).items()}
        weights |= {
            f"average.{part}.{key}": value
            for part in _AVERAGED
            for key, value in source.part(f"average.parts.{part}").items()
        }
        return Found(found, weights, source.path)

    def check_untrained(self) -> None:
        """Check that durations do not come from a model that has learned none; fine-tuning does not train it.

        Raises:
            SpeechLMError: if they do.
        """
        if self.repetition.kind == "learned":
            raise SpeechLMError(
                "model.pretrained_weights=false leaves no learned durations for text; set "
                "model.text_branch.repetition.kind to fixed or random, or model.text_branch.init_from to the file"
            )

    def stream(self, encoder: SpeechLMEncoder, writing: Writing) -> TokenTextStream:
        """Text manifests without units.

        Raises:
            InputError: if the pronunciations of pretraining came from a lexicon, which is not where it was.
        """
        if str(lexicon := self.phones.get("lexicon") or "").startswith("nemo:"):
            raise InputError(
                "model.text_branch.phones.lexicon is not given; expected the file of pronunciations that the model "
                f"was pretrained with, {lexicon.removeprefix('nemo:')}"
            )
        return TokenTextStream(writing.labels, writing.tokenizer, phones=self.phones)

    def encode(self, encoder: SpeechLMEncoder, batch: Any, generator: Draws = None) -> Encoded:
        """As far as pretraining's RNN-T decoders."""
        states, frames = encode_text(self, encoder, batch, generator)
        return Encoded(states, frames, batch.tokens, batch.token_lengths)
