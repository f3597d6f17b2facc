"""What holds the project together: metadata, pins, make targets, the image's scripts."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.split()[-1] for line in PROJECT["classifiers"] if line.startswith("Programming Language :: Python ::")]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_is_exact_and_fits_any_platform():
    for pin in PINS:
        assert re.fullmatch(r"==[^+*]+", str(pin.specifier)), pin


def test_no_pinned_torchaudio():
    assert not [pin for pin in PINS if canonical(pin.name) == "torchaudio"]


@pytest.mark.parametrize("python", PYTHONS)
def test_all_dependencies_are_pinned_once_within_their_bounds(python):
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonical(pin.name) for pin in pins]
    assert len(names) == len(set(names))
    versions = {canonical(pin.name): str(pin.specifier)[2:] for pin in pins}
    for extra in (None, *PROJECT["optional-dependencies"]):
        for requirement in brought(extra, environment):
            if requirement.name != "torchaudio":  # it must match the wheel of torch
                assert requirement.specifier.contains(versions[canonical(requirement.name)]), (extra, requirement)


def brought(extra, environment):
    """What an extra (None: the package itself) brings in an environment; other extras that it names aside."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    wanted = [Requirement(line) for line in lines]
    environment = environment | {"sys_platform": "linux"}
    return [
        each for each in wanted
        if each.name != PROJECT["name"] and (each.marker is None or each.marker.evaluate(environment))
    ]  # fmt: skip


def test_the_pages_say_what_an_extra_lacks_on_which_python():
    page = (ROOT / "docs" / "getting-started.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", page, flags=re.MULTILINE))
    assert rows.keys() == PROJECT["optional-dependencies"].keys()
    for extra, row in rows.items():
        lacking = [
            python for python in PYTHONS
            if len(brought(extra, {"python_version": python})) < len(brought(extra, {"python_version": PYTHONS[0]}))
        ]  # fmt: skip
        assert re.findall(r"not (?:on|for) Python (3\.\d+)", row) == lacking, extra


def test_the_pythons_are_the_same_everywhere():
    bounds = PROJECT["requires-python"]
    assert bounds == f">={PYTHONS[0]},<3.{int(PYTHONS[-1].split('.')[1]) + 1}"
    listed = f"{', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}"
    assert listed in (ROOT / "Makefile").read_text()
    for page in ("README.md", "docs/getting-started.md"):
        assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / page).read_text()
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_a_test_that_hangs_ends(pytestconfig):
    """By a signal; or, where none gets through, by pytest's faulthandler, a little later."""
    assert pytestconfig.pluginmanager.hasplugin("timeout")
    assert 0 < float(pytestconfig.getini("timeout")) < float(pytestconfig.getini("faulthandler_timeout"))
    assert pytestconfig.getini("timeout_method") == "signal"
    assert pytestconfig.getini("faulthandler_exit_on_timeout")


def test_version_is_that_of_the_changelog():
    from nemo_speechlm import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text()
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## [")[0].strip()
    if unreleased:  # what was made by the last release must be told from what is made now
        assert ".dev" in __version__
    else:
        assert f"## [{__version__}]" in changelog


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_names_the_python_it_needs(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.9.1;; *) exit 1;; esac\n')
    python.chmod(0o755)
    command = ["make", "-C", str(ROOT), "venv", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run([*command, f"PYTHON={python}"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "not a Python 3.11, 3.12 or 3.13 (Python 3.9.1)" in done.stderr
    done = subprocess.run([*command, "PYTHON=no-such-python"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-such-python" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def image_requirements():
    spec = importlib.util.spec_from_file_location("image_requirements", ROOT / "docker" / "requirements.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_image_keeps_its_torch(image_requirements):
    present = {"torch": "2.9.0a0+nv25.10", "nvidia_cublas_cu13": "13.1", "nemo-toolkit": "3.0.1", "PyYAML": "6.0"}
    pins = ["# a comment", "", "torch==2.13.0", "PyYAML==6.0.3", "soxr==1.1.0", 'a-b==1; python_version == "3.12"']
    assert image_requirements.constraints(present, pins) == [
        "nemo-toolkit==3.0.1",
        "nvidia-cublas-cu13==13.1",
        "torch==2.9.0a0+nv25.10",
        "soxr==1.1.0",
        'a-b==1; python_version == "3.12"',
    ]


def test_image_requirements_of_extras(image_requirements):
    lines = image_requirements.requirements(PROJECT, ["languages"])
    assert set(PROJECT["dependencies"]) < set(lines)
    assert any(line.startswith("espeakng-loader") for line in lines)
    with pytest.raises(SystemExit, match="no extra nonsense"):
        image_requirements.requirements(PROJECT, ["nonsense"])


def entrypoint(*arguments):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(ROOT / "docker" / "entrypoint.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path})


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_entrypoint_lists_the_commands(arguments):
    done = entrypoint(*arguments)
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.split("commands:\n")[1].splitlines()}
    assert listed == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("name", ["speechlm_pretrain", "info.py"])
def test_entrypoint_runs_a_command(name):
    done = entrypoint(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: nemo-speechlm {name.removesuffix('.py')} ")


def test_entrypoint_runs_anything_else():
    assert entrypoint("echo", "one two").stdout == "one two\n"
    done = entrypoint("transcrib")
    assert done.returncode == 2
    assert "no command 'transcrib'; did you mean transcribe?" in done.stderr
