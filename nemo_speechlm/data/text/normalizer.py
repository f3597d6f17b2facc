"""Numbers, dates and abbreviations as words, by nemo_text_processing."""

import functools
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import SpeechLMError

_SEVERAL_READINGS = ("ru",)
NEEDS_NORMALIZER = re.compile(r"[\d$£€¥₽%&@#°½¼¾№]|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Capt|Col|Gen|Lt|Rev|Hon|etc|vs)\.")


def nemo_normalizer(cleaning: TextCleaning) -> Callable[[str], str]:
    """NeMo's normalizer, built when the first sentence needs it."""

    @functools.cache
    def normalizer() -> Any:
        from nemo_text_processing.text_normalization.normalize import Normalizer

        logging.getLogger("NeMo-text-processing").setLevel(logging.WARNING)
        return Normalizer(input_case="cased", lang=cleaning.language, cache_dir=cleaning.normalizer_cache)

    if cleaning.language in _SEVERAL_READINGS:
        return _first_reading(cleaning)
    return lambda text: normalizer().normalize(text, verbose=False)


def _first_reading(cleaning: TextCleaning) -> Callable[[str], str]:
    """The normalizer of a language in which NeMo gives all readings of a number; takes the first by spelling."""

    @functools.cache
    def normalizer() -> Any:
        from nemo_text_processing.text_normalization.normalize_with_audio import NormalizerWithAudio

        logging.getLogger("NeMo-text-processing").setLevel(logging.WARNING)
        return NormalizerWithAudio(input_case="cased", lang=cleaning.language, cache_dir=cleaning.normalizer_cache)

    def first(text: str) -> str:
        found = normalizer().normalize(text, n_tagged=1, verbose=False)
        return found if isinstance(found, str) else min(found)  # a set: its own order is another in each process

    return first


def check_normalizer(cleaning: TextCleaning) -> None:
    """Check before a job that its normalizer is installed, and build the cache once, before the workers start.

    Raises:
        SpeechLMError: if it is not installed.
    """
    if cleaning.normalizer == "none":
        return
    if cleaning.language is None:
        raise SpeechLMError("normalizer=nemo does not have this language; normalizer=none, and numbers are left out")
    if find_spec("nemo_text_processing") is None:
        raise SpeechLMError("normalizer=nemo needs nemo_text_processing: pip install 'nemo_speechlm[normalize]'")
    if cleaning.normalizer_cache is not None:
        _build_grammars(cleaning, Path(cleaning.normalizer_cache))


def _build_grammars(cleaning: TextCleaning, cache: Path) -> None:
    """Build the grammars under another name and rename them: a partial grammar would be taken for a whole one."""
    if any(cache.glob(f"*{cleaning.language}_tn*.far")):
        return
    print(f"building the grammars of {cleaning.language}, once; minutes ...")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial.", dir=cache) as building:
        nemo_normalizer(replace(cleaning, normalizer_cache=building))("1")
        for grammar in sorted(Path(building).iterdir()):
            os.replace(grammar, cache / grammar.name)
