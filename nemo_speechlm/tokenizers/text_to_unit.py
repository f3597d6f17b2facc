"""Hidden units for text: a text tokenizer makes phones, a text-to-unit model makes units of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.jobs.report import CUT_PHONES
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.inventories import read_inventory
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.text_to_unit.model import TextToUnitModel
from nemo_speechlm.tokenizers.text import TextTokenizer, TextTokenizing, TokenizedText
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence

_SILENCE = "SIL"
"""What tokenizers of text call silence; the released model's phones call it ``<SIL>``."""


@dataclass(frozen=True)
class TextToUnitTokenizing(TextTokenizing):
    """How text becomes hidden units.

    Attributes:
        model: ``.nemo`` file of a :class:`TextToUnitModel`, or ``user/name`` of the hub.
        phone_tokenizer: config of the tokenizer that makes the model's phones of text (of ``conf/text_tokenizer/``).
        speaker: the voice, if the model has speakers; None draws one for each sentence.
        speed: durations are divided by it.
        sentences: how many are sorted by length, to be computed in batches.
        batch_frames: in a batch of the model, padding included.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.
    """

    model: str
    phone_tokenizer: dict[str, Any] = field(default_factory=dict)
    speaker: str | None = None
    speed: float = 1.0
    sentences: int = 256
    batch_frames: int = 4000
    device: str = "auto"

    def __post_init__(self):
        for name in ("sentences", "batch_frames"):
            check_whole(name, getattr(self, name), 1)
        check_number("speed", self.speed, above=0)

    def inventory(self) -> UnitInventory:
        """The model's hidden units."""
        return read_inventory(model_file(self.model), "units")

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless the model's units are those of an inventory, and its phones those of the phone tokenizer."""
        own = self.inventory()
        for key in ("kind", "frame_rate"):
            wanted, found = getattr(own, key), getattr(inventory, key)
            if wanted != found:
                raise InputError(f"unit inventory: {key} is {found!r}, but that of {self.model} is {wanted!r}", path)
        inventory.check_maker(own, path)
        inventory.encode(own.symbols, path)
        self._phone_tokenizing.check(self._phones, self.model)

    def make(self, inventory: UnitInventory) -> "TextToUnitTokenizer":
        """The tokenizer."""
        return TextToUnitTokenizer(self, self._phone_tokenizing.make(self._phones), self._phones)

    @property
    def libraries(self) -> Sequence[str]:
        """What the model is computed by, and what the phone tokenizer needs."""
        return ("torch", "nemo_toolkit", *self._phone_tokenizing.libraries)

    def files(self) -> Sequence[str | Path]:
        """The model, and what the phone tokenizer reads."""
        return (model_file(self.model), *self._phone_tokenizing.files())

    @property
    def batch_size(self) -> int:
        """Sentences."""
        return self.sentences

    @property
    def max_workers(self) -> int | None:
        """One on a GPU; on CPUs one per core, of one thread each: results do not depend on the number of workers."""
        on_gpu = torch.cuda.is_available() if self.device == "auto" else self.device != "cpu"
        return 1 if on_gpu else None

    @cached_property
    def _phone_tokenizing(self) -> TextTokenizing:
        values = dict(self.phone_tokenizer)
        target = values.pop("_target_", None)
        try:
            kind = hydra.utils.get_class(str(target))
            made = kind(**values)
        except Exception as error:  # of importing it, or of its fields
            raise SpeechLMError(f"phone_tokenizer cannot be made: {error}") from error
        if not isinstance(made, TextTokenizing) or isinstance(made, TextToUnitTokenizing):
            raise SpeechLMError(f"phone_tokenizer is {target!r}, expected a tokenizer that makes phones of text")
        return made

    @cached_property
    def _phones(self) -> UnitInventory:
        """The model's phones, silence called as tokenizers of text call it."""
        phones = read_inventory(model_file(self.model), "phones")
        if phones.silence in (None, _SILENCE) or _SILENCE in phones.symbols:
            return phones
        symbols = tuple(_SILENCE if symbol == phones.silence else symbol for symbol in phones.symbols)
        return replace(phones, symbols=symbols, silence=_SILENCE, durations={})


class TextToUnitTokenizer(TextTokenizer):
    """Turns sentences into hidden units with durations, many at once.

    If phones of a sentence last as long as the model's ``max_phone_seconds`` allows, its line counts them as
    ``cut_phones``, and the job reports the total. What the phone tokenizer adds to a line is added.

    Args:
        how: see :class:`TextToUnitTokenizing`.
        phone_tokenizer: makes phones of text.
        phones: the model's, as ``phone_tokenizer`` calls them.
    """

    def __init__(self, how: TextToUnitTokenizing, phone_tokenizer: TextTokenizer, phones: UnitInventory):
        self._how, self._phone_tokenizer, self._phones = how, phone_tokenizer, phones
        self._model = restore_file(TextToUnitModel, how.model, how.device)
        # Where padding is seen, a sentence is alone: its units are to depend on nothing else.
        self._batch_frames = 0 if self._model.released_padding else how.batch_frames
        if self._model.device.type == "cpu":
            torch.set_num_threads(1)
        speakers = self._model.speakers
        if how.speaker is not None and how.speaker not in speakers:
            known = f"its {len(speakers)} are {', '.join(speakers[:5])} ..." if speakers else "it has none"
            raise InputError(f"has no speaker {how.speaker!r}; {known}", how.model)

    def tokenize(self, text: str, rng: np.random.Generator) -> TokenizedText:
        """The hidden units of a sentence."""
        (found,) = self.tokenize_batch([text], [rng])
        if isinstance(found, Exception):
            raise found
        return found

    def tokenize_batch(
        self, texts: Sequence[str], rngs: Sequence[np.random.Generator]
    ) -> list[TokenizedText | InputError | SkipItem]:
        """The hidden units of several sentences."""
        results: list[TokenizedText | InputError | SkipItem] = self._phone_tokenizer.tokenize_batch(texts, rngs)
        good: list[int] = []
        extras: list[Mapping[str, Any]] = []
        phones: list[list[int]] = []
        for number, made in enumerate(results):
            if isinstance(made, TokenizedText):
                try:
                    phones.append(self._phones.encode(made.units.split()))
                    good.append(number)
                    extras.append(made.extra)
                except InputError as error:
                    results[number] = error
        spoken = self._model.generate(phones, self._speakers(rngs, good), self._batch_frames, self._how.speed)
        for number, sentence, extra in zip(good, spoken, extras, strict=True):
            runs = UnitSequence.from_frames(sentence.units)
            if runs.ids:
                cut = {CUT_PHONES: sentence.cut_phones} if sentence.cut_phones else {}
                results[number] = TokenizedText(
                    " ".join(self._model.inventory.decode(runs.ids)), runs.durations, {**extra, **cut}
                )
            else:
                results[number] = SkipItem("the model gives no phone of it a frame")
        return results

    def _speakers(self, rngs: Sequence[np.random.Generator], places: Sequence[int]) -> list[int] | None:
        names = self._model.speakers
        if not names:
            return None
        if self._how.speaker is not None:
            return [names.index(self._how.speaker)] * len(places)
        return [_speaker(rngs[place], len(names)) for place in places]


def _speaker(rng: np.random.Generator, speakers: int) -> int:
    """One of the speakers, drawn from numbers that no silence of the line was drawn from."""
    rng.bit_generator.advance(1 << 64)  # type: ignore[attr-defined]  # of Philox and of NumPy's default
    return int(rng.integers(speakers))
