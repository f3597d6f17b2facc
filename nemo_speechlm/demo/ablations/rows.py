"""The rows of an ablation, as a config lists them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.checks import check_choice, check_whole
from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.errors import InputError, SpeechLMError

FINE_TUNING = {
    "ctc": "speechlm_finetune_ctc.py",
    "rnnt": "speechlm_finetune_rnnt.py",
    "encdec": "speechlm_finetune_encdec.py",
}
"""The command that fine-tunes each kind of recognizer."""

SYSTEMS = ("speechlm_p", "speechlm_h", "mixed", "w2v_bert", "slam", "maestro")
"""What may be pretrained: phoneme units, hidden units, hidden units for speech and phonemes for text, and others."""

WITH_CTC_HEAD = ("speechlm_p", "speechlm_h", "mixed")
"""Systems that learn a CTC head from text, which fine-tuning begins with."""

WITHOUT_TEXT = (None, "w2v_bert")
"""Systems that read no text in pretraining."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: in names of files.
        title: in the table.
        system: one of ``SYSTEMS``; None: there is no pretraining.
        text: sentences of text; 0: none; None: all.
        set: options of pretraining beyond the system's.
        finetune_set: by kind of recognizer, options of fine-tuning beyond the recipe's.
        curve: belongs to the curve of WER against text.
    """

    name: str
    title: str
    system: str | None = None
    text: int | None = None
    set: tuple[str, ...] = ()
    finetune_set: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    curve: bool = False

    @property
    def reads_text(self) -> bool:
        """Whether text is among its data."""
        return self.system not in WITHOUT_TEXT and self.text != 0


def read_rows(config: Mapping[str, Any], only: Collection[str] | None = None) -> list[Row]:
    """The rows of a config, in its order.

    Args:
        config: by name, the fields of :class:`Row`; None where a recipe leaves out a row of the one that it changes.
        only: names of those that are wanted; None: all.

    Raises:
        SpeechLMError: naming the key that is wrong.
    """
    given: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    plain = {name: values for name, values in given.items() if values is not None}
    known = {each.name for each in fields(Row)} - {"name"}
    if only is not None and (unknown := [name for name in only if name not in plain]):
        raise SpeechLMError(f"only has {unknown[0]!r}, which is no row; there are: {', '.join(plain)}")
    rows = []
    for name, values in plain.items():
        if only is not None and name not in only:
            continue
        if strange := sorted(set(values) - known):
            raise SpeechLMError(f"rows.{name}.{strange[0]} is no key of a row; there are: {', '.join(sorted(known))}")
        tuning = _finetune_set(name, values.get("finetune_set", ()))
        row = Row(name, **{"title": name, **values, "set": tuple(values.get("set", ())), "finetune_set": tuning})
        if row.system is not None:
            check_choice(f"rows.{name}.system", row.system, SYSTEMS)
        if row.text is not None:
            check_whole(f"rows.{name}.text", row.text)
        if row.text == 0 and row.system == "mixed":
            raise SpeechLMError(
                f"rows.{name}.text is 0, and without text mixed is speechlm_h; give that as its system"
            )
        if row.text is not None and row.system in WITHOUT_TEXT:
            raise SpeechLMError(
                f"rows.{name}.text is {row.text}, and its system ({row.system or 'null'}) reads no text; leave it out"
            )
        rows.append(row)
    if not rows:
        raise SpeechLMError("only is empty; expected names of rows, or null for all")
    return rows


def _finetune_set(row: str, given: Any) -> dict[str, tuple[str, ...]]:
    """By kind of recognizer; a list is for all."""
    options = given if isinstance(given, dict) else dict.fromkeys(FINE_TUNING, given)
    for kind in options:
        check_choice(f"a key of rows.{row}.finetune_set", kind, tuple(FINE_TUNING))
    return {kind: tuple(words) for kind, words in options.items()}


def rows_with_enough_text(
    rows: Collection[Row], text: str | Path | None, sentences: int
) -> tuple[list[Row], list[Row]]:
    """Rows whose amount of text there is, and those that would be the same as one with all.

    Args:
        rows: any.
        text: the file of text; None: it is yet to be made.
        sentences: in it, if it is yet to be made.
    """
    most = max((row.text or 0 for row in rows), default=0)
    there = sentences if text is None else sum(1 for _ in islice(read_sentences(text), most + 1))
    enough = [row for row in rows if not row.text or row.text < there]
    return enough, [row for row in rows if row not in enough]


@dataclass(frozen=True)
class Data:
    """The files that all rows share.

    Attributes:
        train: transcribed speech.
        unlabeled: speech without transcripts; None if there is none.
        valid: transcribed speech by which the best checkpoint is chosen.
        test: transcribed speech that is measured.
        text: sentences.
    """

    train: Path
    unlabeled: Path | None
    valid: Path
    test: Path
    text: Path

    @classmethod
    def in_folder(cls, folder: str | Path) -> "Data":
        """``train.json``, ``unlabeled.json`` (not needed), ``valid.json``, ``test.json`` and ``text.txt`` or ``.gz``.

        Raises:
            InputError: naming the file that is not there.
        """
        folder = Path(folder)
        texts = [folder / name for name in ("text.txt", "text.txt.gz", "text.json", "text.json.gz")]
        text = next((path for path in texts if path.exists()), texts[0])
        for path in (folder / "train.json", folder / "valid.json", folder / "test.json", text):
            if not path.exists():
                raise InputError(
                    "no such file; data=FOLDER needs train.json, valid.json, test.json and text.txt", path
                )
        unlabeled = folder / "unlabeled.json"
        return cls(
            folder / "train.json", unlabeled if unlabeled.exists() else None, folder / "valid.json",
            folder / "test.json", text,
        )  # fmt: skip
