"""Where corpora are published, with the checksums of their archives; and how they come from there."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from nemo_speechlm.data.corpora.archives import check_digest
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import partial_path
from nemo_speechlm.locks import only_writer


class Published(NamedTuple):
    """A file as its publisher offers it.

    Attributes:
        name: of the file.
        folder: the address that it is in.
        digest: hexadecimal, SHA-256 or (32 digits) MD5; None: not known.
    """

    name: str
    folder: str
    digest: str | None


_OPENSLR = "https://www.openslr.org/resources"
_LIBRI_LIGHT = "https://dl.fbaipublicfiles.com/librilight/data"

PUBLISHED: dict[str, dict[str, Published]] = {
    "librispeech": {
        part: Published(f"{part}.tar.gz", f"{_OPENSLR}/12", digest)
        for part, digest in {
            "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
            "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
            "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
            "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
            "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
            "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
            "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
        }.items()
    }
    | {part: Published(f"{part}.tar.gz", f"{_OPENSLR}/31", None) for part in ("dev-clean-2", "train-clean-5")},
    "libri_light": {
        "small": Published("small.tar", _LIBRI_LIGHT, "c49207eb86a8e8ac895561c37232041e"),
        "medium": Published("medium.tar", _LIBRI_LIGHT, "c75e7ac62471bfbf2db77528d62a9b74"),
        "large": Published("large.tar", _LIBRI_LIGHT, "4dfbac018f50b99797ece101fc9f0c30"),
    },
    "librispeech_lm": {"text": Published("librispeech-lm-norm.txt.gz", f"{_OPENSLR}/11", None)},
}
"""By corpus and part. Common Voice is not among them: its publisher wants an account."""


def download_corpus(
    corpus: str, parts: Sequence[str] | None, folder: str | Path, mirror: str | None = None
) -> list[Path]:
    """Fetch the archives of a corpus into a folder; those that are there already are not fetched again.

    Args:
        corpus: a key of :data:`PUBLISHED`.
        parts: of the corpus; None where there is only one.
        folder: made if it is not there.
        mirror: address to fetch from instead of the publisher's; the files are the same, so are their checksums.

    Returns:
        the files.

    Raises:
        InputError: if a checksum is not that of the publisher.
        SpeechLMError: if the corpus or a part is not known, or there is no connection.
    """
    if corpus not in PUBLISHED:
        raise SpeechLMError(
            f"corpus={corpus} cannot be downloaded from here, only {', '.join(PUBLISHED)}; fetch it yourself and give "
            "its folder or archive as source"
        )
    known = PUBLISHED[corpus]
    wanted = parts or (list(known) if len(known) == 1 else [])
    if not wanted:
        raise SpeechLMError(f"parts is not given; say which to download, of {', '.join(known)}")
    for part in wanted:
        if part not in known:
            raise SpeechLMError(f"parts has {part!r}, expected of {', '.join(known)}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = []
    for file in (known[part] for part in wanted):
        path = Path(folder) / file.name
        fetch(f"{(mirror or file.folder).rstrip('/')}/{file.name}", path, file.digest)
        found.append(path)
    return found


def fetch(url: str, path: str | Path, digest: str | None = None, tries: int = 3) -> None:
    """Download a file, going on where an earlier try stopped.

    It takes its name when it is whole and its checksum is right. (Lhotse's own downloader appends a whole file to a
    part of it where the server knows no ranges, does not notice a connection that ends early, and checks no sum.)

    Args:
        url: http, https or file.
        path: the file to make; nothing is done if it is there.
        digest: SHA-256 or MD5 of the whole file.
        tries: connections that may break.

    Raises:
        InputError: if what came has another checksum; it is deleted.
        SpeechLMError: if there is no connection, or the server has no such file.
    """
    path = Path(path)
    if path.is_file():
        return
    with only_writer(path):
        partial = partial_path(path)
        for left in reversed(range(tries)):
            try:
                _fetch_rest(url, partial)
                break
            except urllib.error.HTTPError as error:
                raise SpeechLMError(f"cannot download {url}: the server says {error.code} {error.reason}") from error
            except ValueError as error:  # of urllib, to an address without http:// or the like
                raise SpeechLMError(f"cannot download {url}: {error}") from error
            except (OSError, http.client.HTTPException, _BrokenOff) as error:
                if not left:
                    reason = getattr(error, "reason", error)
                    raise SpeechLMError(
                        f"cannot download {url}: {reason}; what came is kept, and the same command goes on. Without a "
                        f"network, fetch it elsewhere, put it at {path}, and give the same command"
                    ) from error
        if digest is not None:
            try:
                check_digest(partial, digest)
            except InputError:
                partial.unlink()
                raise
        partial.replace(path)


class _BrokenOff(Exception):
    """The connection ended before the file did."""


def _fetch_rest(url: str, partial: Path) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return None  # all of it was there
        if error.code != 416:
            raise
        partial.unlink()  # longer than the file, so a part of something else
        return _fetch_rest(url, partial)
    with response:
        if start and response.status != 206:  # the server sends all of it
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(partial, "r+b" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar,
        ):
            file.seek(start)
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise _BrokenOff(f"the connection ended after {file.tell()} of {total} bytes")
    return None
