"""Hydra's composing and OmegaConf's copying, several times as fast: tests compose and copy thousands of configs.

A process that a test starts anew has their own.
"""

import copy
from collections import defaultdict
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import omegaconf._utils
import omegaconf.base
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.base import Metadata, Node
from omegaconf.nodes import ValueNode

_LEAVES = (AnyNode, StringNode, IntegerNode, FloatNode, BooleanNode)

# What OmegaConf has, to compare with.
COPY_OF_OMEGACONF = {kind: kind.__deepcopy__ for kind in (DictConfig, ListConfig, *_LEAVES)}
LEAF_OF_OMEGACONF = ValueNode.__init__
MERGE_OF_HYDRA = ConfigLoaderImpl._compose_config_from_defaults_list
PARSE_OF_HYDRA = OverridesParser.parse_rule


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


def _parsed(text: str) -> Any:
    """A config's text by the parser in C; None where it is no mapping, or has a mistake that is better told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)
        loader = omegaconf._utils.get_yaml_loader()
    try:
        found = yaml.load(text, loader)
    except yaml.YAMLError:
        return None
    return OmegaConf.create(found) if isinstance(found, dict) else None


def _load_once(load):
    parsed = {}

    def load_once(file):
        if isinstance(file, str | Path):
            text = Path(file).read_text(encoding="utf-8")
        else:
            start = file.tell()
            text = file.read()
            file.seek(start)
        if text not in parsed:
            found = _parsed(text)
            parsed[text] = load(file) if found is None else found  # what is wrong is said with the file's name
        return copy.deepcopy(parsed[text])

    return load_once


def _structured_once(structured):
    made = {}

    def structured_once(obj, parent=None, flags=None):
        if not isinstance(obj, type) or parent is not None or flags is not None:
            return structured(obj, parent, flags)
        if obj not in made:
            made[obj] = structured(obj)
        return copy.deepcopy(made[obj])

    return structured_once


def _merge_once(merge):
    """The files of a recipe, before a command's options change it, are the same until one is written anew."""
    merged = {}

    def merge_once(self, defaults, repo):
        sources = [(source.scheme(), source.path) for source in repo.get_sources()]
        files = [
            Path(folder) / f"{str(default.config_path).removesuffix('.yaml')}.yaml"
            for scheme, folder in sources if scheme == "file"
            for default in defaults
        ]  # fmt: skip
        stats = [(file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files]
        key = repr((sources, defaults, stats))
        if key not in merged:
            merged[key] = merge(self, defaults, repo)
        found = copy.deepcopy(merged[key])
        OmegaConf.clear_cache(found)  # of the time, say, at which they were merged
        return found

    return merge_once


def _parse_once(parse):
    parsed = {}

    def parse_once(self, text, rule):
        if rule != "override" or self.config_loader is not None:
            return parse(self, text, rule)
        if text not in parsed:
            parsed[text] = parse(self, text, rule)
        return copy.deepcopy(parsed[text])

    return parse_once


@contextmanager
def quick_configs():
    """Within it, configs are copied quickly; what files, classes and options say is found out once."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in COPY_OF_OMEGACONF:
            patch.setattr(kind, "__deepcopy__", _leaf if kind in _LEAVES else _container)
        patch.setattr(ValueNode, "__init__", _new_leaf)
        patch.setattr(OmegaConf, "load", staticmethod(_load_once(OmegaConf.load)))
        patch.setattr(OmegaConf, "structured", staticmethod(_structured_once(OmegaConf.structured)))
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", lru_cache(10_000)(module.parse))
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", _merge_once(MERGE_OF_HYDRA))
        patch.setattr(OverridesParser, "parse_rule", _parse_once(PARSE_OF_HYDRA))
        yield
