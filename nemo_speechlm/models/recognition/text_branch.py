"""The text branch of fine-tuning: it makes states of the shared transformer from text that nobody has spoken.

A recognizer learns new words, or a new domain, from text beside transcribed speech. Each kind of branch is the text
side of a pretraining: :class:`UnitText` is SpeechLM's (section 3.3).

Axis legend: B sentences, L frames of text, U characters or tokens, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Generator, Tensor, nn

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.pretraining.streams import Stream, UnitTextStream
from nemo_speechlm.data.recognition.loader import has_text
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.inventories import read_inventory
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_strictly, read_pretrained
from nemo_speechlm.models.common.uctc import encode_text
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.units.inventory import UnitInventory


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


class Found(NamedTuple):
    """The text side that a file has.

    Attributes:
        config: of the branch.
        weights: of the branch, by their names in it.
        path: of the file.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
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

    @abstractmethod
    def stream(self, encoder: SpeechLMEncoder, writing: Writing) -> Stream:
        """How text is read for an encoder and what a recognizer writes."""

    @abstractmethod
    def encode(self, encoder: SpeechLMEncoder, batch: Any, generator: Generator | None = None) -> Encoded:
        """A batch of text, masked, as states of the shared transformer; masks are drawn with the generator."""


class UnitText(TextBranch):
    """Units with durations: embedding, mask, shared transformer. UCTC as in pretraining, of the same code.

    Args:
        d_model: D.
        inventory: the units, as ``units.json`` has them.
        masking: fields of :class:`SpanMask`.
        frame_rate: frames of text per second; None: as many as the encoder has.
    """

    kind: ClassVar[str] = "units"

    def __init__(
        self,
        d_model: int,
        inventory: Mapping[str, Any],
        masking: Mapping[str, Any],
        frame_rate: float | None = None,
    ):
        super().__init__()
        self.inventory = UnitInventory.from_dict(dict(inventory))
        self.masking = SpanMask(**masking)
        self.frame_rate = frame_rate
        self.unit_embedding = nn.Embedding(len(self.inventory), d_model)

    @classmethod
    def found_in(cls, source: PretrainedFile) -> Found | None:
        """The units and their embedding of a SpeechLM model."""
        weights = source.part("unit_embedding")
        if not weights:
            return None
        key = "text_units" if source.cfg.get("text_units") else "units"
        inventory = read_inventory(source.path, key, "a SpeechLM model")
        masking = OmegaConf.to_container(source.cfg.text_masking, resolve=True)
        config = {
            "inventory": inventory.to_dict(),
            "masking": masking,
            "frame_rate": source.cfg.get("text_frame_rate"),
        }
        weights = {f"unit_embedding.{name}": value for name, value in weights.items()}
        return Found(config, weights, source.path)

    def stream(self, encoder: SpeechLMEncoder, writing: Writing) -> UnitTextStream:
        """Text manifests with units."""
        rate = self.frame_rate or encoder.frame_rate
        return UnitTextStream(self.inventory, writing.labels, rate, encoder.max_frames, writing.tokenizer)

    def encode(self, encoder: SpeechLMEncoder, batch: Any, generator: Generator | None = None) -> Encoded:
        """As far as pretraining's CTC head."""
        states, _ = encode_text(encoder, self.unit_embedding, self.masking, batch, generator=generator)
        return Encoded(states, batch.unit_lengths, batch.targets, batch.target_lengths)


KINDS: dict[str, type[TextBranch]] = {branch.kind: branch for branch in (UnitText,)}


def take_text_branch(cfg: DictConfig, source: PretrainedFile | None) -> Found | None:
    """Complete ``text_branch`` in a model's config where its ``train_ds`` has text.

    Args:
        cfg: of the model; ``text_branch`` has ``weight``, and may have ``init_from`` and values for other keys than
            those of the file. It is changed: ``kind`` and what the branch is made of are added.
        source: the file that the model starts from, None if it starts from none.

    Returns:
        the weights to start from; None where there is no text, or the config describes its branch already.

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
    return found


def _found_in(file: PretrainedFile) -> Found | None:
    own = file.cfg.get("text_branch") or {}
    if own.get("kind"):  # of a recognizer that was fine-tuned with text
        config: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
        config.pop("weight", None)
        return Found(config, file.part("text_branch"), file.path)
    for kind, branch in KINDS.items():
        if (found := branch.found_in(file)) is not None:
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
        return KINDS[kind](d_model, **own)
    except (TypeError, ValueError) as error:
        raise SpeechLMError(f"model.text_branch: {error}") from error


def load_text_branch(branch: TextBranch, found: Found) -> None:
    """Start a branch from a file's weights.

    Raises:
        InputError: if they do not fit.
    """
    load_strictly(branch, found.weights, found.path, "text_branch")
    logging.info(f"Text branch ({branch.kind}) from {found.path}")
