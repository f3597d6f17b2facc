"""OmegaConf's copies of configs, several times as fast: tests compose, copy and resolve thousands of configs.

A process that a test starts anew has OmegaConf's own.
"""

import copy
from collections import defaultdict
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import omegaconf._utils
import omegaconf.base
import pytest
from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.base import Metadata, Node
from omegaconf.nodes import ValueNode

_LEAVES = (AnyNode, StringNode, IntegerNode, FloatNode, BooleanNode)

# What OmegaConf has, to compare with.
COPY_OF_OMEGACONF = {kind: kind.__deepcopy__ for kind in (DictConfig, ListConfig, *_LEAVES)}
LEAF_OF_OMEGACONF = ValueNode.__init__


def _metadata(metadata: Metadata, memo: dict[int, Any]) -> Metadata:
    """Types and keys are shared, as ``deepcopy`` shares them; flags and what resolvers gave are copied."""
    new = object.__new__(type(metadata))
    fields = new.__dict__
    fields.update(metadata.__dict__)
    if fields["flags"] is not None:
        fields["flags"] = dict(fields["flags"])
    cache = fields["resolver_cache"]
    fields["resolver_cache"] = copy.deepcopy(cache, memo) if cache else defaultdict(dict)
    return new


def _leaf(node: ValueNode, memo: dict[int, Any]) -> ValueNode:
    new = object.__new__(type(node))
    old = node.__dict__
    new.__dict__.update(
        _metadata=_metadata(old["_metadata"], memo), _parent=old["_parent"], _flags_cache=None, _val=old["_val"]
    )
    return new


def _child(node: Node, parent: Node, memo: dict[int, Any]) -> Node:
    """A copy that belongs to ``parent``, which is itself a copy."""
    new = memo.get(id(node))
    if new is None:
        kind = type(node)
        if kind is DictConfig or kind is ListConfig:
            new = memo[id(node)] = _container(node, memo)
        elif kind in _LEAVES:
            new = memo[id(node)] = _leaf(node, memo)
        else:  # such as a union or an enumeration: without its parent, or that would be copied, too
            old, node.__dict__["_parent"] = node.__dict__["_parent"], None
            try:
                new = copy.deepcopy(node, memo)
            finally:
                node.__dict__["_parent"] = old
    new.__dict__["_parent"] = parent
    return new


def _container(node: DictConfig | ListConfig, memo: dict[int, Any]) -> DictConfig | ListConfig:
    new = object.__new__(type(node))
    old = node.__dict__
    content, cache = old["_content"], old["_flags_cache"]
    if isinstance(content, dict):
        content = {key: _child(child, new, memo) for key, child in content.items()}
    elif isinstance(content, list):
        content = [_child(child, new, memo) for child in content]
    new.__dict__.update(
        _metadata=_metadata(old["_metadata"], memo),
        _parent=old["_parent"],
        _flags_cache=None if cache is None else dict(cache),
        _content=content,
    )
    return new


def _new_leaf(self: ValueNode, parent: Node | None, value: Any, metadata: Metadata) -> None:
    """OmegaConf opens each node for writing and closes it, which only those need that would be read-only."""
    if metadata.flags or (parent is not None and parent._get_flag("readonly")):
        LEAF_OF_OMEGACONF(self, parent, value, metadata)
        return
    Node.__init__(self, parent=parent, metadata=metadata)
    self._set_value(value)
    self._invalidate_flags_cache()


@contextmanager
def quick_configs():
    """Within it, configs are copied quickly; a dataclass is turned into a config and an interpolation parsed once."""
    structured, made = OmegaConf.structured, {}

    def structured_once(obj, parent=None, flags=None):
        if not isinstance(obj, type) or parent is not None or flags is not None:
            return structured(obj, parent, flags)
        if obj not in made:
            made[obj] = structured(obj)
        return copy.deepcopy(made[obj])

    with pytest.MonkeyPatch.context() as patch:
        for kind in COPY_OF_OMEGACONF:
            patch.setattr(kind, "__deepcopy__", _leaf if kind in _LEAVES else _container)
        patch.setattr(ValueNode, "__init__", _new_leaf)
        patch.setattr(OmegaConf, "structured", staticmethod(structured_once))
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", lru_cache(10_000)(module.parse))
        yield
