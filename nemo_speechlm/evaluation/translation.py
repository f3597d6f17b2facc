"""BLEU and chrF of translations, and whether a manifest has the languages of a model."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo.collections.asr.models import ASRModel
from sacrebleu.metrics import CHRF

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.models.common.text_counts import bleu_of


def translation_scores(
    hypotheses: Sequence[str], references: Sequence[str], target_lang: str | None = None
) -> dict[str, Any]:
    """Score translations against one reference each, case and punctuation included.

    Args:
        hypotheses: what was written.
        references: what should have been, in the same order.
        target_lang: of both; decides how BLEU cuts them into words, as in validation.

    Returns:
        ``bleu`` and ``chrf`` (0 to 100; None where no reference has text: they are undefined then), their signatures
        as sacrebleu writes them, and ``bleu_details``: n-gram precisions, brevity penalty and lengths.
    """
    bleu, chrf = bleu_of(target_lang), CHRF()
    written, wanted = ([unicodedata.normalize("NFC", text) for text in texts] for texts in (hypotheses, references))
    score, characters = (metric.corpus_score(written, [wanted]) for metric in (bleu, chrf))
    defined = any(reference.strip() for reference in references)
    return {
        "bleu": round(score.score, 2) if defined else None,
        "chrf": round(characters.score, 2) if defined else None,
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
        "bleu_details": str(score),
    }


def check_languages(model: ASRModel, records: Sequence[Record], manifest: str | Path) -> None:
    """Check that a model's languages are those of a manifest, where both name them.

    Args:
        model: with ``source_lang`` and ``target_lang`` in its config.
        records: lines of the manifest.
        manifest: for the message.

    Raises:
        InputError: if a language is another.
    """
    for key in ("source_lang", "target_lang"):
        own = model.cfg.get(key)
        found = next((r[key] for r in records if own is not None and r.get(key) not in (None, own)), None)
        if found is not None:
            raise InputError(f"{key!r} is {found!r} in a line; the model's is {own!r}", manifest)
