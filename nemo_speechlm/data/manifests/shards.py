"""Names that stand for several files, as NeMo writes them: ``a__OP_0..15_CL_.json`` or ``a_{0..15}.json``."""

from collections.abc import Sequence

from braceexpand import braceexpand


def expand_shards(paths: str | Sequence[str]) -> list[str]:
    """The files that paths stand for, in order.

    >>> expand_shards("a__OP_0..1_CL_.json")
    ['a_0.json', 'a_1.json']
    """
    patterns = [paths] if isinstance(paths, str) else list(paths)
    return [
        path
        for pattern in patterns
        for path in braceexpand(str(pattern).replace("_OP_", "{").replace("_CL_", "}"), escape=False)
    ]
