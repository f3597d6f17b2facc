"""Job files for SLURM, with stand-ins for srun and scontrol; the image's health check; scripts by shellcheck."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from nemo_speechlm.cli import CONF
from tests.functional.commands import EXAMPLES

ROOT = EXAMPLES.parent
JOBS = sorted((EXAMPLES / "cluster").glob("*.sbatch"))
OPTIONS = ["--config-name", "speechlm_p_base", "output=a b.nemo", "model.units=units.json"]


def test_scripts_are_sound():
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*JOBS, ROOT / "docker" / "entrypoint.sh", ROOT / ".ci" / "run"]
    found = subprocess.run([checker, *scripts], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


@pytest.fixture
def submit(tmp_path):
    """Runs a job as SLURM would; srun ends with a status. Returns its status and both programs' arguments."""

    def submit(job, status):
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        for name, ends_with in (("srun", status), ("scontrol", 0)):
            program = programs / name
            program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.txt\nexit {ends_with}\n')
            program.chmod(0o755)
            (tmp_path / f"{name}.txt").unlink(missing_ok=True)
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "4",
            "SLURM_SUBMIT_DIR": str(ROOT), "IMAGE": "image.sqsh", "DATA": "/data of us", "RUNS": str(tmp_path),
        }  # fmt: skip
        ended = subprocess.run(["bash", str(job), *OPTIONS], env=environment, timeout=60, cwd=tmp_path)
        said = [tmp_path / f"{name}.txt" for name in ("srun", "scontrol")]
        return ended.returncode, *(path.read_text().splitlines() if path.exists() else None for path in said)

    return submit


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (1, False), (137, False)])
def test_a_job_goes_back_into_the_queue_only_where_it_is_unfinished(job, status, requeued, submit):
    found, _, control = submit(job, status)
    assert found == status
    assert control == (["requeue", "17"] if requeued else None)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_what_a_job_runs(job, submit):
    _, command, _ = submit(job, 0)
    place = command.index("--config-name")
    program = command[place - 1]
    assert (Path(program) if program.startswith("/") else EXAMPLES / f"{program}.py").exists()
    options = [*command[place + 2 :]]
    assert options[0] == "output=a b.nemo"
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose(command[place + 1], options)
    directives = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in job.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert cfg.trainer.num_nodes == 4 == int(directives["nodes"])
    assert cfg.trainer.devices == int(directives["ntasks-per-node"]) == int(directives["gpus-per-node"])
    assert directives["signal"].startswith("USR1@")
    assert "requeue" in directives


def test_a_job_that_sbatch_does_not_run_says_so(tmp_path):
    ended = subprocess.run(["bash", str(JOBS[0])], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "run this by sbatch" in ended.stderr


def test_the_image_is_healthy(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docker"))
    import health  # type: ignore[import-not-found]

    health.main()
    assert "healthy: an update on the CPU, loss " in capsys.readouterr().out


def test_an_image_whose_training_changes_nothing_is_not(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docker"))
    import health

    monkeypatch.setattr("torch.optim.AdamW.step", lambda self, closure=None: closure())
    with pytest.raises(SystemExit, match=r"unhealthy: .*weights changed: False"):
        health.main()
