"""Make an n-gram model with KenLM's lmplz or IRSTLM if one is installed, else with our own builder."""

import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_speechlm.checks import check_whole
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import atomic_write, open_text
from nemo_speechlm.language_models.kneser_ney import train_ngram_model
from nemo_speechlm.language_models.mixing import Mixture, best_weight, mixed

BUILDERS = ("auto", "kenlm", "irstlm", "own")
UNKNOWN = "<unk>"


@dataclass(frozen=True)
class NGramOptions:
    """What model to make.

    Args:
        order: length of the longest n-grams.
        cutoffs: how often n-grams of length 2, 3, ... must occur to be kept; where not given, as the last one that is.
        vocabulary_size: keep this many of the most frequent words; None keeps all.
        builder: one of ``BUILDERS``; ``auto`` takes the first of the others that is installed.
    """

    order: int = 3
    cutoffs: tuple[int, ...] = ()
    vocabulary_size: int | None = None
    builder: str = "auto"

    def __post_init__(self) -> None:
        for cutoff in self.cutoffs:
            check_whole("each of cutoffs", cutoff, 1)


def find_builder(name: str) -> str:
    """The builder that ``name`` stands for.

    Raises:
        SpeechLMError: if there is no such builder, or it is not installed.
    """
    programs = {"kenlm": "lmplz", "irstlm": "irstlm"}
    if name == "auto":
        return next((key for key, program in programs.items() if shutil.which(program)), "own")
    if name not in BUILDERS:
        raise SpeechLMError(f"builder is {name!r}, expected one of {', '.join(BUILDERS)}")
    if name in programs and shutil.which(programs[name]) is None:
        raise SpeechLMError(f"builder is {name}, but there is no program {programs[name]}; builder=own needs none")
    return name


def make_arpa(sentences: Iterable[Sequence[str]], output: str | Path, options: NGramOptions) -> str:
    """Write an ARPA model of sentences, gzipped where the name ends in ``.gz``; the unknown word is ``<unk>``.

    Args:
        sentences: words (or tokens) of each.
        output: the file.
        options: order, cutoffs, vocabulary and builder.

    Returns:
        the builder that made it.

    Raises:
        InputError: if there are no words.
        SpeechLMError: if another program fails; with its output.
    """
    builder = find_builder(options.builder)
    if builder == "own":
        model = train_ngram_model(sentences, options.order, options.vocabulary_size, options.cutoffs)
        model.write_arpa(output, UNKNOWN)
        return builder
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        vocabulary = _write_text(sentences, text, options.vocabulary_size)
        make = _kenlm if builder == "kenlm" else _irstlm
        arpa = make(text, vocabulary, options)
        with open(arpa, encoding="utf-8") as source, atomic_write(output) as target:
            shutil.copyfileobj(source, target)
    return builder


def make_mixed_arpa(
    sentences: Iterable[Sequence[str]],
    domain: Sequence[Sequence[str]],
    output: str | Path,
    options: NGramOptions,
    weight: float | None = None,
) -> Mixture:
    """Write the mixture of a model of sentences with one of a new domain's; by our own builder.

    Args:
        sentences: words (or tokens) of each.
        domain: words of each sentence of the new domain; cutoffs and size of the vocabulary are not for these.
        output: ARPA file, gzipped where the name ends in ``.gz``.
        options: of the model of sentences.
        weight: of the new domain's model, above 0 and below 1; None: :func:`best_weight`.

    Returns:
        the weight, and the perplexities that it was chosen by; those are not a number where it was given.

    Raises:
        InputError: if there are no words, or too few sentences to choose a weight.
        SpeechLMError: if ``options.builder`` is another one than ours.
    """
    if options.builder not in ("auto", "own"):
        raise SpeechLMError(f"builder is {options.builder}, but only our own mixes models: builder=own")
    model = train_ngram_model(sentences, options.order, options.vocabulary_size, options.cutoffs)
    chosen = Mixture(weight, 0, math.nan, math.nan) if weight is not None else best_weight(model, domain)
    mixed(model, train_ngram_model(domain, options.order), chosen.weight).write_arpa(output, UNKNOWN)
    return chosen


def _write_text(sentences: Iterable[Sequence[str]], path: Path, vocabulary_size: int | None) -> set[str] | None:
    """Write a sentence a line; returns the words to keep, or None for all."""
    counts: Counter[str] = Counter()
    with open(path, "w", encoding="utf-8") as file:
        for words in sentences:
            if words:
                file.write(" ".join(words) + "\n")
                if vocabulary_size is not None:
                    counts.update(words)
    if not path.stat().st_size:
        raise InputError("no words to make a language model of")
    return None if vocabulary_size is None else {word for word, _ in counts.most_common(vocabulary_size)}


def _kenlm(text: Path, vocabulary: set[str] | None, options: NGramOptions) -> Path:
    arpa = text.with_suffix(".arpa")
    command = ["lmplz", "-o", str(options.order), "--text", str(text), "--arpa", str(arpa), "-S", "40%"]
    command += ["-T", str(text.parent / "sort"), "--discount_fallback"]
    if options.cutoffs:
        # lmplz drops n-grams that occur at most so often, and wants a number for unigrams too
        command += ["--prune", "0", *(str(cutoff - 1) for cutoff in options.cutoffs)]
    if vocabulary is not None:
        words = text.with_suffix(".words")
        words.write_text("\n".join(sorted(vocabulary)), encoding="utf-8")
        command += ["--limit_vocab_file", str(words)]
    _run(command, text.parent)
    return arpa


def _irstlm(text: Path, vocabulary: set[str] | None, options: NGramOptions) -> Path:
    marked, counts, arpa = (text.with_suffix(suffix) for suffix in (".marked", ".ilm.gz", ".arpa"))
    with open_text(text) as source, open(marked, "w", encoding="utf-8") as target:
        for line in source:
            words = line.rstrip("\n").split(" ")
            if vocabulary is not None:
                words = [word if word in vocabulary else UNKNOWN for word in words]
            target.write(f"<s> {' '.join(words)} </s>\n")
    command = ["irstlm", "build-lm", "-i", str(marked), "-n", str(options.order), "-o", str(counts), "-k", "1"]
    command += ["-s", "improved-kneser-ney", "-t", str(text.parent / "parts")]
    if options.cutoffs:
        # IRSTLM knows singletons only, and drops them from trigrams on
        if set(options.cutoffs) - {1, 2} or options.cutoffs[0] != 1:
            raise SpeechLMError(f"cutoffs {list(options.cutoffs)}: IRSTLM has none but [1,2]; take builder=own")
        if options.cutoffs[-1] == 2:
            command.append("-p")
    _run(command, text.parent)
    if not counts.exists():
        raise SpeechLMError("IRSTLM made no model: its Kneser-Ney needs more text; take builder=own")
    _run(["irstlm", "compile-lm", str(counts), "--text=yes", str(arpa)], text.parent)
    return arpa


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise SpeechLMError(f"{' '.join(command[:2])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
