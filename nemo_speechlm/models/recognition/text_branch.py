"""The text branch of fine-tuning: it makes states of the shared transformer from text that nobody has spoken.

A recognizer learns new words, or a new domain, from text beside transcribed speech. Each kind of branch is the text
side of a pretraining: :class:`~nemo_speechlm.models.speechlm.unit_text.UnitText` is that of SpeechLM,
:class:`~nemo_speechlm.models.maestro.phone_text.PhoneText` that of MAESTRO.

Axis legend: B sentences, L frames of text, U characters or tokens, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra.utils import get_class
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.pretraining.streams import Stream
from nemo_speechlm.data.recognition.loader import has_text
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_strictly, read_pretrained
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.encoder import SpeechLMEncoder


class Encoded(NamedTuple):
    """A batch of text behind the shared transformer.

    Attributes:
        states: (B, L, D).
        lengths: (B,) frames.
        targets: (B, U) characters or tokens.
        target_lengths: (B,).
    """

    states: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


class Writing(NamedTuple):
    """What a recognizer writes.

    Attributes:
        labels: its characters, None where it writes tokens.
        tokenizer: content of the SentencePiece model, where it writes tokens.
    """

    labels: Sequence[str] | None = None
    tokenizer: bytes | None = None


def writing_of(encoder: CharacterEncoder | TokenEncoder) -> Writing:
    """What a recognizer writes, by what encodes its transcripts."""
    if isinstance(encoder, TokenEncoder):
        return Writing(tokenizer=encoder.content)
    return Writing(labels=encoder.labels)


class Found(NamedTuple):
    """The text side that a file has.

    Attributes:
        config: of the branch.
        weights: of the branch, by their names in it; None where it is to begin with random ones.
        path: of the file.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor] | None
    path: Path


class TextBranch(nn.Module, ABC):
    """What fine-tuning does with text.

    Attributes:
        kind: names it in a config (``text_branch.kind``).
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def found_in(cls, source: PretrainedFile) -> Found | None:
        """The text side of a pretrained model's file; None where it has none of this kind."""

    def check_untrained(self) -> None:
        """Check that the branch may begin with random weights.

        Raises:
            SpeechLMError: if it may not.
        """

    @abstractmethod
    def stream(self, encoder: SpeechLMEncoder, writing: Writing) -> Stream:
        """How text is read for an encoder and what a recognizer writes."""

    @abstractmethod
    def encode(self, encoder: SpeechLMEncoder, batch: Any, generator: Draws = None) -> Encoded:
        """A batch of text, masked, as states of the shared transformer; masks are drawn with the generator."""


KINDS = {
    "units": "nemo_speechlm.models.speechlm.unit_text.UnitText",
    "phones": "nemo_speechlm.models.maestro.phone_text.PhoneText",
}
"""The classes of branches. They stand with the models that they come from, which import this module."""


def _kind(name: str) -> type[TextBranch]:
    return get_class(KINDS[name])


def take_text_branch(cfg: DictConfig, source: PretrainedFile | None) -> Found | None:
    """Complete ``text_branch`` in a model's config where its ``train_ds`` has text.

    Args:
        cfg: of the model; ``text_branch`` has ``weight``, and may have ``init_from`` and values for other keys than
            those of the file. It is changed: ``kind`` and what the branch is made of are added. If
            ``pretrained_weights`` is false, the branch begins with random weights, unless ``init_from`` names a file.
        source: the file that the model starts from, None if it starts from none.

    Returns:
        what the branch starts from; None where there is no text, or the config describes its branch already.

    Raises:
        InputError: if the file has no text branch.
        SpeechLMError: if there is no file to take it from, or a weight that is none.
    """
    settings = cfg.get("text_branch") or OmegaConf.create({})
    if settings.get("kind"):
        return None
    if not has_text(cfg.get("train_ds")):
        with open_dict(cfg):
            cfg.pop("text_branch", None)
        return None
    other = settings.get("init_from")
    file = source if other is None else read_pretrained(other)
    if file is None:
        raise SpeechLMError(
            "model.train_ds.text needs a text branch: give model.init_from_pretrained, or model.text_branch.init_from"
        )
    found = _found_in(file)
    if found is None:
        raise InputError(
            "this model has no text branch; expected one that was pretrained on text, or fine-tuned with it. Or leave "
            "model.train_ds.text out",
            file.path,
        )
    given = {key: value for key, value in settings.items() if value is not None and key != "init_from"}
    check_number("model.text_branch.weight", given.setdefault("weight", 1.0), 0)
    with open_dict(cfg):
        cfg.text_branch = OmegaConf.merge(found.config, given)
        cfg.train_ds.defer_setup = True  # its loader needs the encoder
    return found if other is not None or cfg.get("pretrained_weights", True) else found._replace(weights=None)


def _found_in(file: PretrainedFile) -> Found | None:
    own = file.cfg.get("text_branch") or {}
    if own.get("kind"):  # of a recognizer that was fine-tuned with text
        config: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
        config.pop("weight", None)
        return Found(config, file.part("text_branch"), file.path)
    for kind in KINDS:
        if (found := _kind(kind).found_in(file)) is not None:
            return found._replace(config={"kind": kind, **found.config})
    return None


def build_text_branch(cfg: DictConfig, d_model: int) -> TextBranch | None:
    """The branch that a model's config describes (``text_branch``); None where it describes none.

    Args:
        cfg: as :func:`take_text_branch` leaves it.
        d_model: width of the encoder.

    Raises:
        SpeechLMError: on a kind that there is not, or a key that the branch does not have.
    """
    settings = cfg.get("text_branch") or OmegaConf.create({})
    if not settings.get("kind"):
        return None
    own: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    kind = own.pop("kind")
    own.pop("weight", None)
    if kind not in KINDS:
        raise SpeechLMError(f"model.text_branch.kind is {kind!r}, expected {' or '.join(KINDS)}")
    try:
        return _kind(kind)(d_model, **own)
    except (TypeError, ValueError) as error:
        raise SpeechLMError(f"model.text_branch: {error}") from error


def load_text_branch(branch: TextBranch, found: Found) -> None:
    """Start a branch from a file's weights, where it is to have them.

    Raises:
        InputError: if they do not fit.
        SpeechLMError: if there are to be none, and the branch cannot do without.
    """
    if found.weights is None:
        branch.check_untrained()
        return
    load_strictly(branch, found.weights, found.path, "text_branch")
    logging.info(f"Text branch ({branch.kind}) from {found.path}")
