"""Configs that tests copy and compose quickly are those that OmegaConf and Hydra make."""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import ReadonlyConfigError, ValidationError
from omegaconf.nodes import ValueNode

from tests.quick_configs import COPY_OF_OMEGACONF, LEAF_OF_OMEGACONF, MERGE_OF_HYDRA, PARSE_OF_HYDRA

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
    """Within it, OmegaConf and Hydra do as they do elsewhere."""

    @contextmanager
    def own():
        with pytest.MonkeyPatch.context() as patch:
            for kind, function in COPY_OF_OMEGACONF.items():
                patch.setattr(kind, "__deepcopy__", function)
            patch.setattr(ValueNode, "__init__", LEAF_OF_OMEGACONF)
            patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", MERGE_OF_HYDRA)
            patch.setattr(OverridesParser, "parse_rule", PARSE_OF_HYDRA)
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


def test_recipes_are_composed_anew_where_a_file_has_changed(tmp_path):
    def composed(*options):
        with initialize_config_dir(config_dir=str(tmp_path), version_base=None):
            return compose("whole", list(options))

    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "a.yaml").write_text("x: 1\n")
    (tmp_path / "kind" / "b.yaml").write_text("x: 2\n")
    (tmp_path / "whole.yaml").write_text("defaults: [kind: a, _self_]\ny: [1]\n")
    first = composed("kind.x=5")
    first.y.append(3)
    assert composed() == {"kind": {"x": 1}, "y": [1]}
    assert composed("kind=b") == {"kind": {"x": 2}, "y": [1]}
    (tmp_path / "kind" / "a.yaml").write_text("x: 10\n")
    assert composed("kind.x=5") == {"kind": {"x": 5}, "y": [1]}
    assert composed() == {"kind": {"x": 10}, "y": [1]}


def test_a_recipe_is_the_one_that_hydra_composes(own):
    def composed(name):
        with initialize_config_dir(config_dir=str(CONF), version_base=None):
            config = compose(name, ["output=x", "+model.more={a:[1,null]}", "~seed"])
        OmegaConf.clear_cache(config)
        return described(config)

    for name in ("maestro_small", "speechlm_p_base", "st_slam"):
        first = composed(name)
        assert composed(name) == first
        with own():
            assert composed(name) == first
