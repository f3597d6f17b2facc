"""The recordings that a user names, and other options of transcribing that are checked before a model is loaded."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.audio.files import check_channel
from nemo_speechlm.data.corpora.folder import find_audio
from nemo_speechlm.errors import InputError, SpeechLMError

FORMATS = ("text", "json", "srt")


def find_recordings(inputs: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """The recordings that files and folders stand for, each with its path below what was named.

    Raises:
        InputError: if there are none in a folder, or there is no file of what is named.
    """
    found: list[tuple[Path, Path]] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found += [(path, path.relative_to(entry)) for path in find_audio(entry)]
        else:
            found.append((entry, Path(entry.name)))  # a missing file is reported with the other failures
    if not found:
        raise InputError("nothing to do: no input was given")
    if not any(path.exists() for path, _ in found):
        raise InputError("no such audio file", found[0][0])
    return found


def inputs_of(cfg: DictConfig) -> list[tuple[Path, Path]]:
    """The recordings of a config, after its options were checked; called before a model is loaded.

    Raises:
        SpeechLMError: on a format that is none, or several for the terminal.
    """
    formats = list(cfg.format) if isinstance(cfg.format, ListConfig) else [cfg.format]
    for kind in formats:
        if kind not in FORMATS:
            raise SpeechLMError(f"format is {kind!r}, expected one of {', '.join(FORMATS)}, or a list of them")
    if cfg.output is None and len(formats) != 1:
        raise SpeechLMError("several formats need output=FOLDER")
    check_cutting(cfg)
    return find_recordings(list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input])


def check_cutting(cfg: DictConfig) -> None:
    """Check the options by which recordings are cut.

    Raises:
        SpeechLMError: naming the key that is wrong.
    """
    for key in ("min_segment", "max_segment"):
        check_number(key, cfg[key], above=0)
    if cfg.min_segment >= cfg.max_segment:
        raise SpeechLMError(f"min_segment is {cfg.min_segment}, expected seconds between 0 and max_segment")
    if cfg.silence is not None:
        check_number("silence", cfg.silence, below=0)
    check_channel(cfg.channel)
