"""Sentences of text manifests as tokens of the model: characters or SentencePiece pieces, without units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from hydra.utils import instantiate
from nemo.collections.common.data.lhotse.text_adapters import Formattable

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key, ManifestReader
from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record


@dataclass
class TextTokens(Formattable):
    """A sentence as tokens, as NeMo's and Lhotse's samplers see it.

    Attributes:
        id: where it came from.
        tokens: (U,) ids.
        phones: (P,) ids, or None.
    """

    id: str
    tokens: np.ndarray
    phones: np.ndarray | None = None

    @property
    def input_length(self) -> int:
        """Tokens: what ``batch_tokens`` and the buckets count."""
        return len(self.tokens)

    output_length = total_length = input_length

    def with_id(self, id_: str) -> "TextTokens":
        """The same sentence under another name."""
        return TextTokens(id_, self.tokens, self.phones)


class TokensReader(ManifestReader):
    """Sentences of a text manifest as :class:`TextTokens`.

    Args:
        manifests: JSON lines with ``text``.
        encoder: writes a text as ids.
        order: see :class:`Order`.
        min_tokens: shorter sentences are left out.
        max_tokens: longer sentences are left out.
        max_frames: tokens that the model can encode; longer sentences are left out.
        text_field: the text's key.
        phone_encoder: writes a text as phones, or None.
    """

    type: ClassVar[str] = "text_tokens"
    kind: ClassVar[int] = 4
    options: ClassVar[tuple[str, ...]] = ("min_tokens", "max_tokens", "text_field")
    facts: ClassVar[tuple[str, ...]] = ("encoder", "phone_encoder", "max_frames")

    def __init__(
        self,
        manifests: Sequence[str],
        encoder: TextEncoder,
        order: Order = Order(),  # noqa: B008 - immutable
        min_tokens: int | None = None,
        max_tokens: int | None = None,
        max_frames: int | None = None,
        text_field: str = "text",
        phone_encoder: TextEncoder | None = None,
    ):
        super().__init__(manifests, order)
        self.encoder, self.phone_encoder = encoder, phone_encoder
        self.text_field = text_field
        self.required = (text_field,)  # type: ignore[misc]
        self.min_tokens = min_tokens or 1
        self.max_tokens = min(max_tokens or float("inf"), max_frames or float("inf"))
        self._survey()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make it from an ``input_cfg`` item, in which ``labels`` or ``tokenizer`` say how text is written."""
        return super().from_config(with_encoder(config))

    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> TextTokens | str:
        tokens = encoded_text(record[self.text_field], self.text_field, self.encoder, file, number)
        if len(tokens) < self.min_tokens:
            return f"shorter than {self.min_tokens:g} tokens"
        if len(tokens) > self.max_tokens:
            return f"longer than {self.max_tokens:g} tokens"
        phones = encoded_phones(record[self.text_field], self.phone_encoder, file, number)
        return TextTokens(f"{file.path}:{number}", np.asarray(tokens, dtype=np.int32), phones)


def encoded_text(text: Any, field: str, encoder: TextEncoder, file: IndexedManifest, number: int) -> list[int]:
    """The ids of a line's text.

    Raises:
        InputError: if it is no string, or the encoder cannot write it.
    """
    if not isinstance(text, str):
        raise InputError(f"{field!r} is {text!r}, expected a string", file.path, number)
    return encoder(text, file.path, number)


def encoded_phones(text: str, encoder: TextEncoder | None, file: IndexedManifest, number: int) -> np.ndarray | None:
    """The phones (P,) of a line's text, where there is an encoder.

    Raises:
        InputError: if a word has no pronunciation.
    """
    return None if encoder is None else np.asarray(encoder(text, file.path, number), dtype=np.int32)


def with_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the encoders that it describes.

    ``encoder`` is that of ``tokenizer`` (SentencePiece model: file or content) or ``labels``. ``phone_encoder`` is
    made of ``phones``, whose ``_target_`` names its class.
    """
    tokenizer, phones = config.get("tokenizer"), config.get("phones")
    encoder: TextEncoder = TokenEncoder(tokenizer) if tokenizer else CharacterEncoder(list(config.get("labels") or ()))
    phone_encoder = None if phones is None else instantiate(phones, _convert_="all")
    return {**config, "encoder": encoder, "phone_encoder": phone_encoder}
