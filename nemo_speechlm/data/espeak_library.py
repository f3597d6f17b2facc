"""The files of espeak-ng that a package brings, at a path short enough for its library."""

import tempfile
from functools import cache
from pathlib import Path

from nemo_speechlm.errors import SpeechLMError

_LONGEST_PATH = 140  # espeak-ng keeps its data path in 160 bytes and appends names to it


def espeak_files() -> tuple[Path, Path]:
    """The library and its data's folder, whose path is short enough for it.

    Raises:
        SpeechLMError: if the extra ``languages`` is not installed.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise SpeechLMError(
            "the demo's voices and languages other than English need espeak-ng (GPL): "
            "pip install 'nemo_speechlm[languages]'"
        ) from error
    return Path(espeakng_loader.get_library_path()), _short_path(Path(espeakng_loader.get_data_path()))


@cache
def _short_path(folder: Path) -> Path:
    if len(str(folder).encode()) <= _LONGEST_PATH:
        return folder
    link = Path(tempfile.mkdtemp(prefix="espeak")) / "espeak-ng-data"  # stays: voices are read from it later
    link.symlink_to(folder, target_is_directory=True)
    return link
