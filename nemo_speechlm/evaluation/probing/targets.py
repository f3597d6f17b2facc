"""What a head has to say of an utterance: phones, characters, or classes; and how its answer is judged."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.manifests.lines import read_manifests, text_of
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, character_errors, count_errors, word_errors
from nemo_speechlm.files import Record
from nemo_speechlm.pronouncing.phone_encoder import PhoneEncoder

KINDS = ("phones", "characters", "classes")


class Targets(ABC):
    """The answers of a task.

    Attributes:
        outputs: of the head.
        symbols: of a sequence; None where the answer is a class.
        measures: error rates by the key of their counts, the deciding one first; see :mod:`.report`.
        keys: what a manifest line must have.
    """

    outputs: int
    symbols: Sequence[str] | None = None
    measures: ClassVar[Mapping[str, str]]
    keys: Sequence[str]

    @abstractmethod
    def encode(self, record: Record, path: str | Path, line: int) -> list[int]:
        """The right answer as ids.

        Raises:
            InputError: if the record has none, or one that the task does not know.
        """

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """An answer to be read."""

    @abstractmethod
    def errors(self, right: Sequence[int], answer: Sequence[int]) -> dict[str, ErrorCounts]:
        """What is wrong with an answer, by measure."""


class PhoneTargets(Targets):
    """The phones of the text, without stress and silences."""

    symbols: Sequence[str]

    measures: ClassVar = {"per": "phones"}
    keys = ("text",)

    def __init__(self, language: Mapping[str, Any], symbols: Sequence[str]):
        self._encoder = PhoneEncoder(language, silence=False, symbols=symbols)
        self.symbols = self._encoder.symbols
        self.outputs = len(self.symbols) + 1

    @staticmethod
    def learned(language: Mapping[str, Any], manifests: Iterable[str | Path]) -> list[str]:
        """The phones of a language: all of English, or those of the manifests' texts."""
        encoder = PhoneEncoder(language, silence=False)
        if not encoder.english:
            encoder.learn(record["text"] for _, _, record in read_manifests(list(manifests), ["text"]))
        return list(encoder.symbols)

    def encode(self, record: Record, path: str | Path, line: int) -> list[int]:
        """The usual pronunciation of each word."""
        return self._encoder(text_of(record, "text", path, line), path, line)

    def text(self, ids: Sequence[int]) -> str:
        """Phones, with spaces between them."""
        return " ".join(self.symbols[i] for i in ids)

    def errors(self, right: Sequence[int], answer: Sequence[int]) -> dict[str, ErrorCounts]:
        """Edits of phones."""
        return {"per": count_errors(right, answer)}


class CharacterTargets(Targets):
    """The characters of the text."""

    symbols: Sequence[str]

    measures: ClassVar = {"wer": "words", "cer": "characters"}
    keys = ("text",)

    def __init__(self, symbols: Sequence[str]):
        self._encoder = CharacterEncoder(symbols)
        self.symbols = self._encoder.labels
        self.outputs = len(self.symbols) + 1

    def encode(self, record: Record, path: str | Path, line: int) -> list[int]:
        """Each character of the text."""
        return self._encoder(text_of(record, "text", path, line), path, line)

    def text(self, ids: Sequence[int]) -> str:
        """The text."""
        return " ".join("".join(self.symbols[i] for i in ids).split())

    def errors(self, right: Sequence[int], answer: Sequence[int]) -> dict[str, ErrorCounts]:
        """Edits of words and of characters."""
        texts = self.text(right), self.text(answer)
        return {"wer": word_errors(*texts), "cer": character_errors(*texts)}


class ClassTargets(Targets):
    """A value of each of some keys of the manifest; an answer is right if all of them are."""

    measures: ClassVar = {"error": "labels"}

    def __init__(self, classes: Mapping[str, Sequence[str]]):
        self.classes = {key: list(values) for key, values in classes.items()}
        self.keys = tuple(self.classes)
        self.sizes = [len(values) for values in self.classes.values()]
        self.outputs = sum(self.sizes)
        self._ids = {key: {value: i for i, value in enumerate(values)} for key, values in self.classes.items()}

    @staticmethod
    def learned(keys: Sequence[str], manifests: Iterable[str | Path]) -> dict[str, list[str]]:
        """The values that the keys have in manifests, in the order of the alphabet.

        Raises:
            InputError: if a line lacks a key, or a key has but one value.
        """
        found: dict[str, set[str]] = {key: set() for key in keys}
        paths = list(manifests)
        for path, number, record in read_manifests(paths, keys):
            for key in keys:
                found[key].add(_value(record, key, path, number))
        for key, values in found.items():
            if len(values) < 2:
                raise InputError(f"{key!r} is always {next(iter(values))!r}, expected two values at least", paths[0])
        return {key: sorted(values) for key, values in found.items()}

    def encode(self, record: Record, path: str | Path, line: int) -> list[int]:
        """The number of each key's value."""
        ids = []
        for key, known in self._ids.items():
            value = _value(record, key, path, line)
            if value not in known:
                shown = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
                raise InputError(f"{key!r} is {value!r}, which is not in the training data: {shown}", path, line)
            ids.append(known[value])
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The values, with spaces between them."""
        return " ".join(values[i] for values, i in zip(self.classes.values(), ids, strict=True))

    def errors(self, right: Sequence[int], answer: Sequence[int]) -> dict[str, ErrorCounts]:
        """One error of one if any value is wrong."""
        return {"error": ErrorCounts(int(list(right) != list(answer)), 0, 0, 1)}


def _value(record: Record, key: str, path: str | Path, line: int) -> str:
    value = record.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool):
        found = f"is {value!r}" if key in record else "is missing"
        raise InputError(f"{key!r} {found}, expected a name or a number", path, line)
    return str(value)


def learn_answers(kind: str, keys: Sequence[str], language: Any, train: Sequence[str], all_: Sequence[str]) -> Any:
    """What :func:`make_targets` needs: symbols, or the classes of each key.

    Args:
        kind: one of ``KINDS``.
        keys: of classes.
        language: values of a file in ``conf/language/``.
        train: manifests whose classes there are.
        all_: manifests whose phones there are, where the language's source does not know them beforehand.
    """
    check_choice("kind", kind, KINDS)
    if kind == "classes":
        if not keys:
            raise SpeechLMError("label_keys is empty; expected keys of the manifest, such as [speaker]")
        return ClassTargets.learned(list(keys), train)
    if kind == "phones":
        return PhoneTargets.learned(language, all_)
    return list(language["characters"])


def make_targets(kind: str, answers: Any, language: Any) -> Targets:
    """The answers of a task, from what :func:`learn_answers` found."""
    check_choice("kind", kind, KINDS)
    plain: Any = OmegaConf.to_container(answers) if OmegaConf.is_config(answers) else answers
    if kind == "classes":
        return ClassTargets(plain)
    if kind == "characters":
        return CharacterTargets(plain)
    values: Any = OmegaConf.to_container(language) if isinstance(language, DictConfig) else language
    return PhoneTargets(values, plain)
