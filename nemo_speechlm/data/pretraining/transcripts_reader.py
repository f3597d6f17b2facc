"""Utterances with their transcripts, for the fine-tuning of recognition models, as Lhotse cuts."""

from collections.abc import Sequence
from typing import Any, ClassVar

from lhotse import MonoCut

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.pretraining.audio_reader import AudioReader, seconds
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key
from nemo_speechlm.files import Record


class TranscriptsReader(AudioReader):
    """Cuts of a NeMo manifest with transcripts; their ``custom`` holds ``text``.

    It surveys nothing: fine-tuning reads its manifests through before it starts.

    Args:
        manifests: NeMo manifests with a transcript in each line.
        order: see :class:`Order`.
        text_field: the transcript's key.
        audio: arguments of :class:`AudioReader`.
    """

    type: ClassVar[str] = "transcripts"
    kind: ClassVar[int] = 5
    options: ClassVar[tuple[str, ...]] = (*AudioReader.options, "text_field")

    def __init__(
        self,
        manifests: Sequence[str],
        order: Order = Order(),  # noqa: B008 - immutable
        text_field: str = "text",
        **audio: Any,
    ):
        super().__init__(manifests, order, **audio)
        self.text_field = text_field
        self.required = (*AudioReader.required, text_field)  # type: ignore[misc]
        if self.tarred:
            self._check_audio()

    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> MonoCut | str:
        duration = seconds(record, "duration", file, number)
        if reason := self._left_out(duration):
            return reason
        speed = self._speed(key)
        return self._cut(record, file, number, (0.0, duration / speed), {"text": record[self.text_field]}, key, speed)
