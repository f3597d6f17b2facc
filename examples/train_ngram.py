r"""Make an n-gram language model of text, for CTC decoding by speechlm_evaluate.py and transcribe.py.

Of words, for the lexicon decoder (decoding=lexicon):

    python examples/train_ngram.py source=text.json output=words.arpa.gz order=3 vocabulary_size=50000

Of a model's own characters or tokens, for NeMo's n-gram fusion (decoding=ngram):

    python examples/train_ngram.py source=text.json output=tokens.nemo tokens_of=ctc.nemo order=6

KenLM's lmplz or IRSTLM does the counting where it is installed, else our own builder (modified Kneser-Ney), which
takes a minute or so for 40 MB of text. The text should look like the model's transcripts.

For a new domain of which there is little text, mixed with a model of much other text:

    python examples/train_ngram.py source=text.json adapt_to=domain.json output=domain.arpa.gz
"""

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nemo_speechlm.checks import check_number
from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import refuse_overwrite, whole_file
from nemo_speechlm.language_models.arpa import ArpaModel, labels_beside
from nemo_speechlm.language_models.builders import NGramOptions, find_builder, make_arpa, make_mixed_arpa
from nemo_speechlm.language_models.mixing import Mixture


@command("train_ngram", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "order", "vocabulary_size", "max_lines", least=1)
    output = Path(cfg.output)
    is_nemo = output.suffix == ".nemo"
    if is_nemo and cfg.tokens_of is None:
        raise SpeechLMError("a .nemo language model is one of tokens: say tokens_of=, or an output ending in .arpa")
    refuse_overwrite(output, cfg.overwrite)
    if cfg.perplexity_of is not None:
        next(
            read_sentences(cfg.perplexity_of, cfg.text_field, 1), None
        )  # before the model is made: it may not be there
    if cfg.adapt_weight is not None:
        if cfg.adapt_to is None:
            raise SpeechLMError("adapt_weight is the weight of adapt_to, which is null")
        check_number("adapt_weight", cfg.adapt_weight, above=0, below=1)
    options = NGramOptions(
        cfg.order or (3 if cfg.tokens_of is None else 6),
        tuple(cfg.cutoffs),
        cfg.vocabulary_size,
        find_builder("own" if cfg.adapt_to is not None and cfg.builder == "auto" else cfg.builder),
    )
    split = _Splitter(cfg.tokens_of)
    sentences = _sentences(cfg.source, cfg)
    with tempfile.TemporaryDirectory() as folder, whole_file(output) as partial:
        arpa = Path(folder) / "lm.arpa" if is_nemo else partial
        if cfg.adapt_to is None:
            builder = make_arpa(split(sentences), arpa, options)
            said = [f"{output}: {options.order}-grams by {builder}{split.left_out()}"]
        else:
            new = _Splitter(cfg.tokens_of, split)
            domain = list(new(_sentences(cfg.adapt_to, cfg)))
            mixture = make_mixed_arpa(split(sentences), domain, arpa, options, cfg.adapt_weight)
            said = [f"{output}: {options.order}-grams by own{split.left_out()}", _told(mixture, cfg, new)]
        if cfg.perplexity_of is not None:
            other = _Splitter(cfg.tokens_of, split)
            found = ArpaModel(arpa).perplexity(other(read_sentences(cfg.perplexity_of, cfg.text_field)))
            said.append(f"{cfg.perplexity_of}: {found}{other.left_out()}")
        if split.labels is None:
            labels_beside(output).unlink(missing_ok=True)  # of an earlier model
        else:
            from nemo_speechlm.decoding.fusion import put_labels_beside, save_ngram

            if is_nemo:
                save_ngram(arpa, partial, split.labels)
            else:
                put_labels_beside(output, split.labels)
    print("\n".join(said))


def _sentences(source: Any, cfg: DictConfig) -> Iterator[str]:
    paths = expand_shards(source)
    return chain.from_iterable(read_sentences(path, cfg.text_field, cfg.max_lines) for path in paths)


def _told(mixture: Mixture, cfg: DictConfig, new: "_Splitter") -> str:
    said = f"mixed with {cfg.adapt_to}, which has {mixture.weight:.2f} of the weight{new.left_out()}"
    if cfg.adapt_weight is not None:
        return said
    return (
        f"{said}; parts of it that were left out have a perplexity of {mixture.after:.1f}, by source alone "
        f"{mixture.before:.1f} ({mixture.words} words and ends, without those that source does not know)"
    )


class _Splitter:
    """Sentences into words, or into the tokens of a model; those that it cannot spell are left out and counted."""

    def __init__(self, model: str | None, like: "_Splitter | None" = None):
        self.unspelled, self.first = 0, ""
        self.encode, self.labels = (like.encode, like.labels) if like else (None, None)
        if model is not None and like is None:
            from nemo_speechlm.decoding.tokens import labels_of, require_ctc, text_encoder
            from nemo_speechlm.inference.recognition import restore

            ctc = require_ctc(restore(model, "cpu"))
            self.encode, self.labels = text_encoder(ctc), labels_of(ctc)

    def __call__(self, sentences: Iterator[str]) -> Iterator[list[str]]:
        if self.encode is None:
            yield from (sentence.split() for sentence in sentences)
            return
        from nemo_speechlm.decoding.tokens import as_lm_tokens

        for sentence in sentences:
            try:
                yield as_lm_tokens(self.encode(sentence))
            except SpeechLMError as error:
                self.unspelled, self.first = self.unspelled + 1, self.first or str(error)

    def left_out(self) -> str:
        return f"; {self.unspelled} sentences left out, the first: {self.first}" if self.unspelled else ""


if __name__ == "__main__":
    main()
