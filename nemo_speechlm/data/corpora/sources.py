"""All corpora by name: from what a user gives as source to a listing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.data.corpora.archives import is_archive, unpack
from nemo_speechlm.data.corpora.common_voice import list_common_voice
from nemo_speechlm.data.corpora.covost2 import list_covost2
from nemo_speechlm.data.corpora.festvox import list_festvox
from nemo_speechlm.data.corpora.folder import list_folder
from nemo_speechlm.data.corpora.huggingface import list_huggingface
from nemo_speechlm.data.corpora.kaldi import list_kaldi
from nemo_speechlm.data.corpora.lhotse_cuts import list_lhotse, list_recipe
from nemo_speechlm.data.corpora.libri_light import list_libri_light
from nemo_speechlm.data.corpora.librispeech import list_librispeech
from nemo_speechlm.data.corpora.published import download_corpus
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import partial_path

Options = Mapping[str, Any]
"""Keys of ``conf/prepare_data.yaml``."""

Lister = Callable[[Path, Path, Options], list[str]]
"""From a source (folder or file) and a listing to write to what a user should know of it."""


def _folder(source: Path, listing: Path, options: Options) -> list[str]:
    keys = ("transcripts", "transcribed", "speaker_level")
    return list_folder(source, listing, **{key: options[key] for key in keys})


def _covost2(source: Path, listing: Path, options: Options) -> list[str]:
    keys = ("clips", "source_lang", "target_lang")
    list_covost2(source, listing, **{key: options[key] for key in keys})
    return []


def _huggingface(source: Path, listing: Path, options: Options) -> list[str]:
    output = Path(options["output"])
    return list_huggingface(source, listing, options["parts"], f"{output}.audio", output)


def recipe_folder(output: str | Path) -> Path:
    """Where Lhotse's recipes keep what they go on from until ``output`` is there."""
    return partial_path(f"{output}.lhotse")


def _recipe(source: Path, listing: Path, options: Options) -> list[str]:
    return list_recipe(
        source,
        listing,
        options["parts"],
        options["recipe"],
        recipe_folder(options["output"]),
        options["workers"] or 1,
        options["overwrite"],
    )


LISTERS: dict[str, Lister] = {
    "folder": _folder,
    "covost2": _covost2,
    "librispeech": lambda source, listing, options: list_librispeech(source, listing, options["parts"]),
    "libri_light": lambda source, listing, options: list_libri_light(
        source, listing, options["parts"], options["join_up_to"]
    ),
    "common_voice": lambda source, listing, options: list_common_voice(source, listing, options["parts"]),
    "kaldi": lambda source, listing, options: list_kaldi(source, listing),
    "lhotse": lambda source, listing, options: list_lhotse(source, listing),
    "festvox": lambda source, listing, options: list_festvox(source, listing),
    "recipe": _recipe,
    "huggingface": _huggingface,
}
"""By what ``corpus=`` calls them."""


_OF = {
    "parts": ("librispeech", "libri_light", "librispeech_lm", "common_voice", "recipe", "huggingface"),
    "recipe": ("recipe",),
    "join_up_to": ("libri_light",),
    **dict.fromkeys(("transcripts", "transcribed", "speaker_level"), ("folder",)),
    **dict.fromkeys(("clips", "source_lang", "target_lang"), ("covost2",)),
    **dict.fromkeys(("text_field", "fix_duration"), ("manifest",)),
}
"""Options by the corpora that they have an effect on."""
_DEFAULTS = {"join_up_to": 16, "text_field": "text", "fix_duration": False}


def refuse_without_effect(corpus: str, options: Options) -> None:
    """Raise if an option is given that has no effect: who gave it takes the manifest for another one.

    Raises:
        SpeechLMError: naming the option and the corpora that it is for.
    """
    for key, corpora in _OF.items():
        if corpus not in corpora and options[key] != _DEFAULTS.get(key):
            raise SpeechLMError(f"{key} has no effect with corpus={corpus}, only with {', '.join(corpora)}")


def check_parts(parts: Any) -> list[str] | None:
    """The option ``parts`` as a list of names.

    Raises:
        SpeechLMError: if it is anything else.
    """
    if parts is None:
        return None
    names = [parts] if isinstance(parts, str) else parts
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise SpeechLMError(f"parts is {parts!r}, expected names of parts, such as parts=[train,dev]")
    return list(names)


def ready_source(corpus: str, options: Options, say: Callable[[str], object]) -> Path:
    """The folder or file to read: what is given, or what was downloaded or unpacked.

    Args:
        corpus: its name.
        options: ``source`` is a path or a list of archives; see ``conf/prepare_data.yaml`` for the others.
        say: told what a user should know.

    Raises:
        InputError: if an archive cannot be unpacked.
        SpeechLMError: if it cannot be downloaded.
    """
    given = options["source"]
    if not given or not all(isinstance(path, str) for path in (given if isinstance(given, list | tuple) else [given])):
        raise SpeechLMError(f"source is {given!r}, expected a path, or a list of archives")
    sources = [Path(path) for path in (given if isinstance(given, list | tuple) else [given])]
    if options["download"]:
        if len(sources) != 1:
            raise SpeechLMError("download=true: source must be one folder, where the corpus is to lie")
        if sources[0].exists() and not sources[0].is_dir():
            raise InputError("is no folder; with download=true, source is where the corpus is to lie", sources[0])
        archives = download_corpus(corpus, options["parts"], sources[0], options["mirror"])
        if not all(map(is_archive, archives)):
            return archives[0]
        return _unpacked(archives, sources[0], options, say)
    if len(sources) > 1 or is_archive(sources[0]):
        others = [path for path in sources if not is_archive(path)]
        if others:
            raise InputError("is no archive (.tar, .tar.gz, ...); a list of sources is one of archives", others[0])
        folder = options["unpack_to"] or sources[0].with_name(f"{sources[0].name}.unpacked")
        return _unpacked(sources, Path(folder), options, say)
    return sources[0]


def _unpacked(archives: list[Path], folder: Path, options: Options, say: Callable[[str], object]) -> Path:
    for note in unpack(archives, folder, options["checksums"]):
        say(note)
    return folder
