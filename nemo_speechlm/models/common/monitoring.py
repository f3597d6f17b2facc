"""What a training run tells about its speed."""

from time import perf_counter


class Throughput:
    """Audio hours that this process has passed per hour of training, since the first batch; as long as it is heard.

    Speech at 0.9 of its speed counts as longer than its recording.
    """

    def __init__(self):
        self._started = 0.0
        self._seconds = 0.0
        self._under_way = 0.0
        self._rate: float | None = None

    def add(self, audio_seconds: float) -> None:
        """Count a batch that is about to be trained on; those before it are done."""
        now = perf_counter()
        if not self._under_way:
            self._started = now
        else:
            self._seconds += self._under_way
            self._rate = self._seconds / (now - self._started)
        self._under_way = audio_seconds

    def rates(self) -> dict[str, float]:
        """``audio_hours_per_hour``, from the second batch on."""
        return {} if self._rate is None else {"audio_hours_per_hour": self._rate}
