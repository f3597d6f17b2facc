"""What tokenizers of speech and of text have in common: they are described by the values of a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nemo_speechlm.data.audio.files import Channel


@dataclass(frozen=True)
class Tokenizing:
    """Description of a tokenizer. It is picklable.

    Its ``repr`` must contain everything that affects the output, except file contents.

    Its fields are the keys of its config.
    """

    def files(self) -> Sequence[str | Path]:
        """Files whose content decides the result, such as a lexicon or a model."""
        return ()

    def prepared(self, manifest: str | Path, output: str | Path, channel: Channel = "mix") -> Self:
        """Do what is needed once before the job, and return the description to use; called in the main process.

        Args:
            manifest: the source.
            output: of the job; files that are made here lie beside it.
            channel: which one the job reads of audio with several.
        """
        return self

    @property
    def libraries(self) -> Sequence[str]:
        """Libraries whose version decides the result."""
        return ()

    @property
    def batch_size(self) -> int:
        """How many lines a tokenizer is given at once; 1 if more would not be faster."""
        return 1

    @property
    def max_workers(self) -> int | None:
        """The most processes to start unless the user names a number; None is one per core."""
        return None
