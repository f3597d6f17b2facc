"""How features are extracted and written."""

from dataclasses import dataclass

from nemo_speechlm.checks import check_choice
from nemo_speechlm.errors import InputError


@dataclass(frozen=True)
class FeatureOptions:
    """How features are made; see ``conf/extract_features.yaml``."""

    layers: tuple[int, ...] | None = None
    format: str = "npy"
    dtype: str = "float32"
    batch_duration: float | None = None
    num_workers: int = 0
    precision: str = "float32"

    def __post_init__(self):
        for name, allowed in (
            ("format", ("npy", "safetensors", "huggingface")),
            ("dtype", ("float32", "float16")),
            ("precision", ("float32", "bfloat16", "float16")),
        ):
            check_choice(name, getattr(self, name), allowed)
        if self.layers is not None and not all(isinstance(layer, int) and layer for layer in self.layers):
            raise InputError(f"layers is {list(self.layers)}, expected whole numbers from 1 on, or -1 for the last")
        if self.batch_duration is not None and not self.batch_duration >= 0:
            raise InputError(f"batch_duration is {self.batch_duration}, expected seconds, or 0 for one by one")
        if self.layers == ():
            raise InputError("layers is empty; null takes all")

    def layer_numbers(self, count: int) -> list[int]:
        """The layers, counted from 1, of a model that has ``count``.

        Raises:
            InputError: if there is no such layer.
        """
        numbers = [layer if layer > 0 else count + 1 + layer for layer in self.layers or range(1, count + 1)]
        wrong = [number for number in numbers if not 1 <= number <= count]
        if wrong or len(set(numbers)) < len(numbers):
            raise InputError(f"layers is {list(self.layers or ())}; the model has layers 1 to {count}, each once")
        return numbers
