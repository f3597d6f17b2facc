import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.demo.steps import SYSTEMS, UNTUNED, demo_steps, demo_table, run_demo
from nemo_speechlm.errors import SpeechLMError


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


def test_all_systems_get_as_many_updates_in_all(cfg):
    """The baseline is fine-tuned for as long as the others are pretrained and fine-tuned."""
    cfg.seeds = 2
    updates = {}
    for step in demo_steps(cfg, Path("out")):
        steps = [int(a.partition("=")[2]) for a in step.command if a.startswith("trainer.max_steps=")]
        kind, _, rest = step.name.partition("_")
        if steps:
            updates.setdefault(rest, {})[kind] = steps[0]
    assert set(updates) == {f"{system}_seed{seed}" for system in SYSTEMS for seed in (0, 1)}
    for name, own in updates.items():
        assert sum(own.values()) == cfg.pretrain_steps + cfg.finetune_steps
        assert ("pretrain" in own) == (not name.startswith("none"))
    assert OmegaConf.load(CONF / "fine_tuning.yaml").save == "best"
    assert "save" not in OmegaConf.load(CONF / "demo_ctc.yaml")


def test_seeds_share_the_corpus_and_nothing_that_is_trained(cfg):
    one = demo_steps(cfg, Path("out"))
    cfg.seeds = 2
    two = demo_steps(cfg, Path("out"))
    assert two[: len(one)] == one  # a second seed adds to what is there
    outputs = [step.output for step in two]
    assert len(set(outputs)) == len(outputs)
    more = two[len(one) :]
    assert all("seed=1" in step.command for step in more if not step.name.startswith("evaluate"))
    assert all(step.output.is_relative_to("out/seed1") for step in more)


@pytest.fixture
def results(tmp_path):
    for seed, wers in enumerate([(0.9, 0.6, 0.45), (0.8, 0.5, 0.40)]):
        for system, wer in zip((*SYSTEMS, UNTUNED), (*wers, 0.7), strict=True):
            folder = tmp_path / f"seed{seed}" / f"test_{system}"
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps({"wer": wer, "cer": wer / 2}))
    return tmp_path


def test_table(cfg, results):
    *_, seeds, _, _, none, umlm, speechlm_p, untuned, _, _, _ = demo_table(results, cfg).splitlines()
    assert seeds.startswith("One seed")
    assert none.split()[-5:] == ["0", "+", "1250", "90.0", "45.0"]
    assert umlm.endswith("-33%")
    assert "900 + 350" in umlm
    assert speechlm_p.startswith("SpeechLM-P")
    assert speechlm_p.endswith("-50%")
    assert untuned.split()[-7:] == ["fine-tuning", "900", "+", "0", "70.0", "35.0", "-22%"]


def test_table_of_two_seeds_has_the_spread(cfg, results):
    cfg.seeds = 2
    *_, seeds, _, _, none, umlm, _, _, _, _, _ = demo_table(results, cfg).splitlines()
    assert seeds == "2 seeds: mean (lowest - highest)."
    assert none.endswith("85.0 (80.0 - 90.0)  42.5 (40.0 - 45.0)")
    assert umlm.split()[-1] == "-35%"


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"seeds": "two"}, {"finetune_steps": 0}, {"jobs": 0}])
def test_numbers_that_are_none(cfg, wrong, tmp_path):
    with pytest.raises(SpeechLMError, match=f"{next(iter(wrong))} is"):
        run_demo(OmegaConf.merge(cfg, {"output": str(tmp_path / "demo"), **wrong}))
    assert not (tmp_path / "demo").exists()
