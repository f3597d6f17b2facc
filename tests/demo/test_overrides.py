import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.demo.ablations.rows import read_rows
from nemo_speechlm.demo.ablations.steps import ablation_steps
from nemo_speechlm.demo.inputs import input_files
from nemo_speechlm.demo.overrides import option, value_of
from nemo_speechlm.demo.steps import demo_steps
from nemo_speechlm.demo.workflow import Step, run_steps
from nemo_speechlm.errors import SpeechLMError

ODD = ["Über (1)", "a,b", "[x]", "a=b", "it's", 'say "a"', "back\\", "{a}", "~a#b", "12", "null", " a "]


@pytest.mark.parametrize("name", ODD)
def test_hydra_reads_the_path_that_was_meant(name):
    assert value_of(option("output", name)) == name
    assert value_of(option("output", Path(name, "x.json"))) == f"{name}/x.json"
    assert value_of(option("manifest", [name, "b.json"])) == [name, "b.json"]


@pytest.mark.parametrize("path", ["demo/units.json", "/data/a b/x-y_1.0/z.json.gz", "../a+b@c%d:e"])
def test_simple_paths_stay_as_they_are(path):
    assert option("output", path) == f"output={path}"
    assert option("manifest", [path, "b.json"]) == f"manifest=[{path},b.json]"


def test_every_option_of_a_step_is_one_that_hydra_reads():
    folder = Path('Über (1), "a"=[b]')
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose("ablation_small", overrides=["decoders=[ctc,rnnt]"])
    steps = [
        *demo_steps(OmegaConf.load(CONF / "demo.yaml"), folder),
        *ablation_steps(cfg, folder, read_rows(cfg.rows)),
    ]
    named = [word for step in steps for word in step.command if "Über" in word]
    assert len(named) > 300
    for word in named:
        value = value_of(word)
        assert all(path.startswith(f"{folder}/") for path in (value if isinstance(value, list) else [value])), word


@pytest.mark.parametrize("name", ODD)
def test_files_of_odd_names_are_on_record(name, tmp_path):
    """As are those of names with commas between them, and moving them is no change."""
    code = "import sys; from nemo_speechlm.demo.overrides import value_of; open(value_of(sys.argv[1]), 'w')"

    def step(folder):
        made, data = folder / "made", [folder / "a.json", folder / "b.json"]
        return Step(
            "a", ("-c", code, option("output", made), option("manifest", data), option("units", data[0])), made
        )

    folder = tmp_path / name
    folder.mkdir()
    for file in ("a.json", "b.json"):
        (folder / file).write_text("one")
    files = [*step(folder).command, option("both", f"{folder}/a.json,{folder}/b.json")]
    expected = {"manifest[0]", "manifest[1]", "units[0]", *(() if "," in name else ("both[0]", "both[1]"))}
    assert expected <= set(input_files(files))
    run_steps([step(folder)], folder / "logs", jobs=1)
    assert shlex.split((folder / "logs" / "a.log").read_text())[2:] == list(step(folder).command)
    moved = folder.rename(tmp_path / "moved")
    run_steps([step(moved)], moved / "logs", jobs=1)
    (moved / "b.json").write_text("two")
    with pytest.raises(SpeechLMError, match=r"manifest\[1\] is "):
        run_steps([step(moved)], moved / "logs", jobs=1)
