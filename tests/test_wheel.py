"""The wheel has all that is needed without the clone: the package, the recipes, the commands, the program."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from nemo_speechlm import __version__
from nemo_speechlm.testing.corpora import tiny_corpus
from tests.long_forms import LONG
from tests.pages import ROOT
from tests.wheel import build_wheel

CTC = ROOT / "tests" / "assets" / "before" / "ctc.nemo"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_has_recipes_and_commands_and_nothing_of_the_clone_besides(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist() if not name.endswith("/")}
    package = {path.relative_to(ROOT) for path in (ROOT / "nemo_speechlm").rglob("*.py")}
    package |= {path.relative_to(ROOT) for path in (ROOT / "nemo_speechlm/serving/page").iterdir()}
    recipes = {Path("nemo_speechlm", path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    commands = {Path("nemo_speechlm/commands", path.name) for path in (ROOT / "examples").glob("*.py")}
    about = Path(f"nemo_speechlm-{__version__}.dist-info")
    assert {name for name in names if name.parts[0] != about.name} == package | recipes | commands
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
        assert "nemo-speechlm = nemo_speechlm.program:main" in archive.read(f"{about}/entry_points.txt").decode()
    assert {"gpu", "languages", "lm"} <= set(metadata.get_all("Provides-Extra"))
    assert any(line.startswith("nemo_toolkit[asr]") for line in metadata.get_all("Requires-Dist"))
    assert about / "licenses" / "LICENSE" in names


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """Runs the installed program in an environment that has the libraries of this one, and not the clone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # As a path alone: what an editable install put there to find the clone is not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments, cwd):
        command = [folder / "bin" / "nemo-speechlm", *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    run.site = site
    return run


@pytest.mark.skipif(not LONG, reason="half a minute; LONG_TESTS=1 runs it")
def test_it_works_without_the_clone(program, tmp_path):
    listed = program("--help", cwd=tmp_path).stdout
    assert "    transcribe " in listed
    text = program("transcribe", "--help", cwd=tmp_path).stdout
    assert str(program.site / "nemo_speechlm" / "conf" / "transcribe.yaml") in text
    assert str(ROOT) not in text

    corpus = tiny_corpus(tmp_path, n_speech=16, n_text=60)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "mine.yaml").write_text(
        "defaults: [demo_pretrain, _self_]\n"
        "name: mine\n"
        "model: {train_ds: {num_workers: 0, speech: {batch_duration: 6}, text: {batch_tokens: 200}}}\n"
        "trainer: {accelerator: cpu, max_steps: 2, val_check_interval: 2}\n"
    )
    done = program(
        "speechlm_pretrain", "--config-dir", recipes, "--config-name", "mine", "output=out.nemo",
        f"model.units={corpus.units}",
        *(f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")),
        *(f"model.{part}.text.manifest_filepath={corpus.text}" for part in ("train_ds", "validation_ds")),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == ""
    assert "Wrote out.nemo" in done.stderr
    assert "NeMo I" not in done.stderr
    assert "OneLogger" not in done.stderr
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "run.json").exists()

    audio = next((tmp_path / "audio").iterdir())
    done = program("transcribe", f"model={CTC}", f"input={audio}", "device=cpu", cwd=tmp_path)
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.strip()
    messages = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert all(line.startswith(("Transcribing", "max_segment")) for line in messages), messages
