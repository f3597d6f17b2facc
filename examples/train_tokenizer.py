"""Train a SentencePiece tokenizer on text, for models that write tokens instead of characters.

    python examples/train_tokenizer.py source=train.json output=tokenizer vocab_size=256

The text should be as clean as the transcripts: text that the tokens cannot spell cannot be trained on. The folder is
what model.tokenizer.dir of the fine-tuning commands takes.
"""

from itertools import chain
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.text.sentencepiece_training import FILES, train_tokenizer
from nemo_speechlm.files import refuse_input_as_output


@command("train_tokenizer")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "vocab_size", "max_lines", least=1)
    whole_numbers(cfg, "sample_size")
    sources = expand_shards(cfg.source)
    refuse_input_as_output([Path(cfg.output) / name for name in FILES], {"source": sources})
    size = train_tokenizer(
        chain.from_iterable(read_sentences(source, cfg.text_field, cfg.max_lines) for source in sources),
        cfg.output,
        cfg.vocab_size,
        cfg.kind,
        cfg.character_coverage,
        cfg.sample_size,
        cfg.overwrite,
    )
    print(f"{cfg.output}: {size} tokens")


if __name__ == "__main__":
    main()
