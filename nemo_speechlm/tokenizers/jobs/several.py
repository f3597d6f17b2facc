"""A job for each of several manifests; those that are done are not done again."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.data.manifests.shards import paired
from nemo_speechlm.files import file_digest, plain, refuse_input_as_output
from nemo_speechlm.jobs.progress import skipped_path
from nemo_speechlm.jobs.shards import written_path
from nemo_speechlm.locks import only_writer

_LACKS = "lacks bad lines"


def done_path(output: str | Path) -> Path:
    """What says of an output, while the others are made, what it was made of."""
    output = Path(output)
    return output.with_name(f".done.{output.name}")


def for_each(
    manifests: str | Sequence,
    output: str,
    options: Mapping[str, Any],
    work: Callable[[str, str], str],
    files: Sequence[str | Path] = (),
    key: str = "manifest",
    skip_bad: bool = True,
    shard: str | None = None,
) -> str:
    """Work on a manifest, or on each of several.

    Args:
        manifests: one, a list, or a name that stands for several (``a_{0..9}.json``).
        output: a file, or a name that stands for as many.
        options: that decide the result; an output that was made with others is not taken for done.
        work: given a manifest and its output, makes it; returns what was done, for the user.
        files: whose content decides the result, such as a model; likewise.
        key: the option that names the manifests, for messages.
        skip_bad: bad lines are left out. If not, an output that lacks some is not taken for done.
        shard: part of each manifest that is worked on here, see :mod:`nemo_speechlm.jobs.shards`; parts have marks and
            locks of their own.

    Returns:
        what was done, a line or more for each.

    Raises:
        InputError: if there are not as many outputs as manifests, or what ``work`` raises.
    """
    pairs = paired(manifests, output, key)
    if len(pairs) == 1:
        return work(*pairs[0])
    refuse_input_as_output([made for _, made in pairs], {key: [source for source, _ in pairs]})
    said = []
    content = [file_digest(path) for path in files]
    for source, output in pairs:
        made = written_path(output, shard)
        mark = done_path(made)
        with only_writer(made):
            expected = {"source": file_digest(source), "content": content, **plain(options)}
            if _says(mark, made, expected, skip_bad):
                said.append(f"{made}: was made before the interruption")
                continue
            said.append(work(source, output))
            record = {"output": file_digest(made), _LACKS: skip_bad and skipped_path(made).exists(), **expected}
            mark.write_text(json.dumps(record), encoding="utf-8")
    for _, output in pairs:
        done_path(written_path(output, shard)).unlink(missing_ok=True)
    return "\n".join(said)


def _says(mark: Path, made: Path, expected: Mapping[str, Any], skip_bad: bool) -> bool:
    """Whether a mark says that an output is what it is to be."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        lacks = found.pop(_LACKS, False)
        return found == {"output": file_digest(made), **expected} and (skip_bad or not lacks)
    except (FileNotFoundError, ValueError):
        return False
