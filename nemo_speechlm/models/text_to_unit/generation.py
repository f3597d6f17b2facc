"""From text to units with durations, by a trained model."""

from typing import NamedTuple

from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)


class Spoken(NamedTuple):
    """The hidden units of one sentence.

    Attributes:
        units: one id per frame.
        phone_durations: frames of each phone.
        cut_phones: how many of them have the longest duration that is allowed, or would have had a longer one.
    """

    units: list[int]
    phone_durations: list[int]
    cut_phones: int = 0
