"""Configs that tests copy quickly are those that OmegaConf makes."""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import ReadonlyConfigError, ValidationError
from omegaconf.nodes import ValueNode

from tests.quick_configs import COPY_OF_OMEGACONF, LEAF_OF_OMEGACONF

CONF = Path(__file__).resolve().parents[1] / "conf"


class Colour(Enum):
    RED = 1


@dataclass
class Inner:
    rate: float = 0.5
    name: str | None = None
    many: list[int] = field(default_factory=lambda: [1, 2])


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    colour: Colour = Colour.RED
    either: int | str = 3
    missing: int = "???"
    flag: bool = True
    path: Path = Path("a")


def described(node, parent=None):
    """All that a node has, but for what it remembers of its flags; its children with it."""
    assert parent is None or node._get_parent() is parent
    content = node.__dict__.get("_content", node.__dict__.get("_val"))
    if isinstance(content, dict):
        content = {key: described(child, node) for key, child in content.items()}
    elif isinstance(content, list):
        content = [described(child, node) for child in content]
    elif isinstance(content, ValueNode):  # of a union
        content = described(content, node)
    return type(node), vars(node._metadata), node.__dict__.keys(), content


def configs():
    found = [OmegaConf.load(path) for path in sorted(CONF.rglob("*.yaml"))]
    found += [
        OmegaConf.structured(Outer),
        OmegaConf.structured(Outer(inner=Inner(rate=2))),
        OmegaConf.create([1, [2]]),
    ]
    locked = OmegaConf.create({"a": {"b": "${c}", "d": [None, "???", 1.5, b"x"]}, "c": "x", "e": None})
    OmegaConf.set_struct(locked, True)
    OmegaConf.set_readonly(locked.a, True)
    return [*found, locked]


@pytest.fixture
def own():
    """Within it, OmegaConf does as it does elsewhere."""

    @contextmanager
    def own():
        with pytest.MonkeyPatch.context() as patch:
            for kind, function in COPY_OF_OMEGACONF.items():
                patch.setattr(kind, "__deepcopy__", function)
            patch.setattr(ValueNode, "__init__", LEAF_OF_OMEGACONF)
            yield

    return own


def test_copies_are_omegaconfs(own):
    for config in configs():
        before = described(config)
        quick = copy.deepcopy(config)
        with own():
            assert described(copy.deepcopy(config)) == described(quick) == before
        assert described(config) == before


def test_new_configs_are_omegaconfs(own):
    made = [described(config) for config in configs()]
    with own():
        for file, quick in zip(sorted(CONF.rglob("*.yaml")), made, strict=False):
            assert described(OmegaConf.create(yaml.load(file.read_text(), get_yaml_loader()))) == quick, file
        assert described(OmegaConf.create(Outer)) == described(OmegaConf.structured(Outer))


def test_a_copy_is_apart_from_what_it_is_of():
    config = OmegaConf.create({"a": {"b": "${c}", "d": [1, 2]}, "c": "x"})
    part, whole = copy.deepcopy(config.a), copy.deepcopy(config)
    whole.a.d.append(3)
    whole.c = "y"
    OmegaConf.set_readonly(whole, True)
    assert part._get_parent() is config, "a part still finds what it refers to"
    assert (part.b, config.a.b, whole.a.b) == ("x", "x", "y")
    assert config.a.d == part.d == [1, 2]
    config.c = "z"
    with pytest.raises(ReadonlyConfigError):
        copy.deepcopy(whole).a.d[0] = 5


def test_what_is_made_of_a_class_is_made_anew():
    OmegaConf.structured(Outer).inner.many.append(7)
    assert OmegaConf.structured(Outer).inner.many == [1, 2]
    with pytest.raises(ValidationError):
        OmegaConf.structured(Outer).flag = "perhaps"
