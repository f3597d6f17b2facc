"""Utterances with their texts: the pairs of SLAM and MAESTRO, as Lhotse cuts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from lhotse import MonoCut

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.pretraining.audio_reader import AudioReader, seconds
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key
from nemo_speechlm.data.pretraining.token_reader import encoded_phones, encoded_text, with_encoder
from nemo_speechlm.data.text.characters import TextEncoder
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record


class PairsReader(AudioReader):
    """Cuts of an ordinary NeMo manifest with ``text``; their ``custom`` holds ``tokens``, ``phones`` and ``text``.

    A pair is never cropped: its text would no longer be that of its audio.

    Args:
        manifests: NeMo manifests with ``text``.
        encoder: writes a text as ids.
        order: see :class:`Order`.
        text_field: the text's key.
        max_text: ids; pairs with longer texts are left out.
        phone_encoder: writes a text as phones, or None.
        phone_rate: phones that a second of audio has room for; a text with more of them is not that of its audio.
        audio: arguments of :class:`AudioReader`.
    """

    type: ClassVar[str] = "pairs"
    kind: ClassVar[int] = 3
    options: ClassVar[tuple[str, ...]] = (*AudioReader.options, "text_field", "max_text")
    facts: ClassVar[tuple[str, ...]] = (*AudioReader.facts, "encoder", "phone_encoder", "phone_rate")

    def __init__(
        self,
        manifests: Sequence[str],
        encoder: TextEncoder,
        order: Order = Order(),  # noqa: B008 - immutable
        text_field: str = "text",
        max_text: int | None = None,
        phone_encoder: TextEncoder | None = None,
        phone_rate: float | None = None,
        **audio: Any,
    ):
        super().__init__(manifests, order, **audio)
        self.encoder, self.phone_encoder, self.phone_rate = encoder, phone_encoder, phone_rate
        self.text_field = text_field
        self.required = (*AudioReader.required, text_field)  # type: ignore[misc]
        self.max_text = max_text or float("inf")
        self._survey()
        self._check_audio()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make it from an ``input_cfg`` item, in which ``labels`` or ``tokenizer`` say how text is written."""
        if config.get("truncate_duration"):
            raise InputError("data config: pairs.truncate_duration cannot be used, texts would no longer fit")
        return super().from_config(with_encoder(config))

    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> MonoCut | str:
        recorded = seconds(record, "duration", file, number)
        tokens = encoded_text(record[self.text_field], self.text_field, self.encoder, file, number)
        if reason := self._left_out(recorded):
            return reason
        if recorded > self.longest:
            return f"longer than the encoder has positions for ({self.longest:g} s)"
        if not tokens:
            return "without a text"
        if len(tokens) > self.max_text:
            return f"with a text longer than {self.max_text:g} tokens"
        phones = encoded_phones(record[self.text_field], self.phone_encoder, file, number)
        room = float("inf") if phones is None or self.phone_rate is None else recorded * self.phone_rate
        if phones is not None and len(phones) > room:
            raise InputError(
                f"{len(phones)} phones in {recorded:g} s, which are {room:.0f} frames of the "
                "encoder; expected at most one phone a frame. Does the text belong to the audio?",
                file.path,
                number,
            )
        custom = {"tokens": np.asarray(tokens, dtype=np.int32), "phones": phones, "text": record[self.text_field]}
        speed = self._speed(key, recorded)
        if phones is not None and len(phones) > room / speed:
            speed = 1.0
        return self._cut(record, file, number, (0.0, recorded / speed), custom, key, speed)
