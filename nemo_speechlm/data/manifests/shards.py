"""Names that stand for several files, as NeMo writes them: ``a__OP_0..15_CL_.json`` or ``a_{0..15}.json``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from nemo_speechlm.errors import InputError
from nemo_speechlm.storage import is_url

_OTHER_BRACKETS = re.compile(r"[(\[<]([^][(){}<>]*(?:\.\.|,)[^][(){}<>]*)[)\]>]")
"""A range in other brackets than braces, which NeMo takes for them."""


def expand_shards(paths: str | Path | Sequence) -> list[str]:
    """The files that paths stand for, in order.

    Args:
        paths: a path, one with a range of numbers, or a list of them, each alone or in a list with its weight. A path
            of a file that is there stands for itself, whatever brackets are in it.

    >>> expand_shards("a__OP_0..1_CL_.json")
    ['a_0.json', 'a_1.json']
    >>> expand_shards([["a_[0..1].json", 0.5], "b (1).json"])
    ['a_0.json', 'a_1.json', 'b (1).json']
    """
    patterns = [paths] if isinstance(paths, str | Path) else [p if isinstance(p, str | Path) else p[0] for p in paths]
    return [path for pattern in patterns for path in _expanded(str(pattern))]


def paired(manifests: str | Sequence, output: str, key: str = "manifest") -> list[tuple[str, str]]:
    """Each manifest with the output that is made of it.

    Args:
        manifests: see :func:`expand_shards`.
        output: a name that stands for as many.
        key: the option that names the manifests, for the message.

    Raises:
        InputError: if the names of several manifests and of the outputs are not as many.

    >>> paired("a_{0..1}.json", "b__OP_0..1_CL_.json")
    [('a_0.json', 'b_0.json'), ('a_1.json', 'b_1.json')]
    """
    inputs = expand_shards(manifests)
    if len(inputs) == 1:
        return [(inputs[0], output)]
    outputs = expand_shards(output)
    if len(inputs) != len(outputs):
        raise InputError(
            f"{key} names {len(inputs)} files, output {len(outputs)}; expected as many, such as "
            f"units__OP_0..{len(inputs) - 1}_CL_.json",
            output,
        )
    return list(zip(inputs, outputs, strict=True))


def one_file(path: Any, key: str) -> str:
    """The file of an option that takes one.

    Args:
        path: the option's value.
        key: its name.

    Raises:
        InputError: if it is a list, or a name that stands for several.

    >>> one_file("a (1).jsonl", "a")
    'a (1).jsonl'
    """
    if isinstance(path, str) and len(expand_shards(path)) == 1:
        return path
    names = [path] if isinstance(path, str) else path
    found = f"{len(expand_shards(names))} files" if isinstance(names, Sequence) else repr(path)
    raise InputError(f"{key} is {found}, expected one; join several with cat")


def label(manifests: str | Path | Sequence) -> str:
    """What messages and reports call a manifest or several."""
    return str(manifests) if isinstance(manifests, str | Path) else ",".join(map(str, manifests))


def _expanded(pattern: str) -> list[str]:
    if not is_url(pattern) and Path(pattern).exists():
        return [pattern]
    braces = _OTHER_BRACKETS.sub(r"{\1}", pattern.replace("_OP_", "{").replace("_CL_", "}"))
    try:
        return list(braceexpand(braces, escape=False))
    except ValueError:  # brackets that are no pattern
        return [pattern]
