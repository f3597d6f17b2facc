import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.evaluation.demo import SYSTEMS, demo_steps, demo_table


@pytest.fixture
def cfg():
    return OmegaConf.load(CONF / "demo.yaml")


def test_every_input_is_some_steps_output(cfg):
    steps = demo_steps(cfg, Path("out"))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    made = {str(step.output): step.name for step in steps}
    for step in steps:
        assert Path(step.command[0]).exists()
        assert set(step.needs) <= set(names[: names.index(step.name)])
        for argument in step.command[1:]:
            key, _, value = argument.partition("=")
            for path in value.strip("[]").split(","):
                if key not in ("output", "units", "model.units") and path in made and path != str(step.output):
                    assert _comes_before(made[path], step.name, steps), (step.name, path)


def _comes_before(first, last, steps):
    needs = {step.name: step.needs for step in steps}
    return any(need == first or _comes_before(first, need, steps) for need in needs[last])


def test_table(cfg, tmp_path):
    for system, wer in zip(SYSTEMS, (0.9, 0.6, 0.45), strict=True):
        (tmp_path / f"test_{system}").mkdir()
        (tmp_path / f"test_{system}" / "summary.json").write_text(json.dumps({"wer": wer, "cer": wer / 2}))
    *_, none, umlm, speechlm_p = demo_table(tmp_path, cfg).splitlines()
    assert none.split()[-2:] == ["90.0", "45.0"]
    assert umlm.endswith("-33%")
    assert speechlm_p.startswith("SpeechLM-P")
    assert speechlm_p.endswith("-50%")
