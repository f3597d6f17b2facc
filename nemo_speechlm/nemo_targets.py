"""Let NeMo build our classes from configs.

NeMo 3 instantiates ``_target_`` and ``target`` only from namespaces on an allow-list that has no public way in. Ours
is put on it when ``nemo_speechlm.modules`` or ``nemo_speechlm.models`` is imported, so a program that restores one of
our files through NeMo's own classes imports one of them first.
"""

from nemo.core.classes import common

PREFIX = "nemo_speechlm."


def allow_targets() -> None:
    """Put ``nemo_speechlm.`` on NeMo's list of namespaces that configs may name."""
    prefixes = getattr(common, "ALLOWED_TARGET_PREFIXES", None)  # NeMo before 2.6 had no such list
    if prefixes is not None and PREFIX not in prefixes:
        prefixes.append(PREFIX)
