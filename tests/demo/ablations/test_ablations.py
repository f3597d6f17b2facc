"""Ablations: their steps, what they read and make, and their table. No training is run."""

import csv
import json
import shutil
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.demo.ablations import run as module
from nemo_speechlm.demo.ablations.rows import read_rows, rows_with_enough_text
from nemo_speechlm.demo.ablations.run import run_ablation
from nemo_speechlm.demo.ablations.steps import ablation_steps
from nemo_speechlm.demo.workflow import StepsFailed
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.models import MAESTROModel, SLAMModel
from nemo_speechlm.models.common.multitask.stages import read_stages
from nemo_speechlm.models.common.multitask.tasks import read_weights

OUTPUTS = ("output=", "valid_output=", "units=", "exp_manager.exp_dir=")


def config(*overrides, name="ablation_small"):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name, overrides=list(overrides))


def data_folder(folder, sentences=20, unlabeled=True):
    for name in ("train", "valid", "test", *(["unlabeled"] if unlabeled else [])):
        write_manifest(folder / f"{name}.json", [{"audio_filepath": "a.wav"}])
    (folder / "text.txt").write_text("".join(f"sentence {i}\n" for i in range(sentences)))
    return folder


@pytest.mark.parametrize("given", [False, True])
def test_every_input_is_some_steps_output(tmp_path, given):
    cfg = config("seeds=2", *([f"data={data_folder(tmp_path, unlabeled=False)}"] if given else []))
    steps = ablation_steps(cfg, Path("out"), read_rows(cfg.rows))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert len({step.output for step in steps}) == len(steps)
    made = {str(step.output): step.name for step in steps}
    made |= {"out/valid_text.json": "text", "out/tokens": "tokens", "out/phones.json": "phones_train"}
    made |= {"out/units.json": "units_train", "out/hidden_units.json": "hidden_train"}
    made |= {
        "out/corpus/" + name: "corpus" for name in ("train.json", "untranscribed.json", "valid.json", "test.json")
    }
    needs = {step.name: step.needs for step in steps}

    def comes_before(first, last):
        return any(need == first or comes_before(first, need) for need in needs[last])

    read = 0
    for step in steps:
        assert Path(step.command[0]).exists()
        assert set(step.needs) <= set(names[: names.index(step.name)]), step.name
        for argument in step.command[1:]:
            for path in argument.partition("=")[2].strip("[]").split(","):
                if path.startswith("out/") and not argument.startswith(OUTPUTS):
                    assert path in made, (step.name, argument)
                    assert comes_before(made[path], step.name), (step.name, path)
                    read += 1
    assert read > 150
    assert any("untranscribed" in word for step in steps for word in step.command) is not given


@cache
def recipe_of(name):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name)


def with_options(name, options):
    """A recipe with ``key=value``; a key that it has not is an error, as in the command."""
    recipe = deepcopy(recipe_of(name))
    for option in OverridesParser.create().parse_overrides(options):
        if option.is_delete():
            parent, _, key = option.key_or_group.rpartition(".")
            with open_dict(recipe):
                del OmegaConf.select(recipe, parent)[key]
        elif option.is_add():
            assert OmegaConf.select(recipe, option.key_or_group) is None
            OmegaConf.update(recipe, option.key_or_group, option.value(), force_add=True)
        else:
            OmegaConf.update(recipe, option.key_or_group, option.value())
    return recipe


def test_every_training_is_a_config_that_its_command_takes():
    """With recipes of both sizes and all kinds of recognizers; tasks and stages of SLAM and MAESTRO fit each other."""
    models = {"slam_pretrain": SLAMModel, "maestro_pretrain": MAESTROModel}
    checked = 0
    for name in ("ablation_small", "ablation_base"):
        kinds = "ctc,rnnt" if name == "ablation_small" else "ctc,rnnt,encdec"
        cfg = config("data=null", f"decoders=[{kinds}]", name=name)
        for step in ablation_steps(cfg, Path("out"), read_rows(cfg.rows)):
            words = list(step.command[1:])
            if "--config-name" not in words:
                continue
            recipe = with_options(words[1], words[2:])
            if model := models.get(Path(step.command[0]).stem):
                weighted = read_weights(recipe.model.tasks, model.all_tasks)
                stages = read_stages(recipe.model.stages, model.all_tasks, weighted)
                streams = {model.all_tasks[task].stream for stage in stages for task in stage.tasks}
                assert all(recipe.model.train_ds[stream] for stream in streams), step.name
            if step.name.startswith("finetune"):
                updates = cfg.finetune_steps + (cfg.pretrain_steps if "_none_" in step.name else 0)
                assert recipe.trainer.max_steps == updates
                if "_none_" in step.name:
                    assert recipe.model.init_from_pretrained is None
                    assert not recipe.model.freeze_front_end
                has_head = not any(f"_{row}_" in step.name for row in ("none", "speech", "w2v_bert"))
                if any(name in step.name for name in ("slam", "maestro", "w2v_bert")):  # a Conformer
                    assert "speech_transformer" not in recipe.model.encoder_overrides
                has_head &= "slam" not in step.name and "maestro" not in step.name
                if words[1].startswith("ctc"):
                    assert recipe.model.reuse_ctc_head is has_head, step.name
                else:
                    assert f"finetune_{words[1].partition('_')[0]}" in Path(step.command[0]).stem.replace(
                        "speechlm_", ""
                    )
            checked += 1
    assert checked == 66 + 92


def test_rows_of_the_papers_size_are_alike():
    """On 8 GPUs each system has as much audio in an update, to a tenth; text lasts as long as the paper's."""
    cfg = config("data=null", name="ablation_base")
    steps = ablation_steps(cfg, Path("out"), read_rows(cfg.rows))
    seconds = {}
    for step in steps:
        if step.name.startswith(("pretrain", "finetune")):
            recipe = with_options(step.command[2], step.command[3:])
            data = recipe.model.train_ds
            batch = data.batch_duration if step.name.startswith("finetune") else data.speech.batch_duration
            seconds[step.name] = 8 * batch * recipe.trainer.accumulate_grad_batches
            if step.name == "finetune_none_seed0":
                assert recipe.model.optim.lr == 5e-4, "weights are random: not the rate of fine-tuning"
            elif step.name.startswith(("finetune_slam", "finetune_maestro", "finetune_w2v_bert")):
                assert (recipe.model.optim.lr, recipe.model.optim_param_groups.encoder.lr) == (1e-3, 3e-4)
    assert {s for name, s in seconds.items() if name.startswith("finetune")} == {800}
    assert all(2500 <= s <= 2800 for name, s in seconds.items() if name.startswith("pretrain")), seconds
    spoken = [step for step in steps if "tokenize_text" in step.command[0] and step.name.startswith("units_")]
    assert len(spoken) == 7
    assert all("durations=paper" in step.command for step in spoken)


def test_small_rows_hear_as_much():
    """Each update of pretraining has 40 s of speech, whatever the row; SLAM's rows weigh w2v-BERT alike."""
    cfg = config()
    weights = {}
    for step in ablation_steps(cfg, Path("out"), read_rows(cfg.rows)):
        if step.name.startswith("pretrain"):
            recipe = with_options(step.command[2], step.command[3:])
            data = recipe.model.train_ds
            streams = [data.speech, data.get("pairs")]
            assert sum(stream.batch_duration for stream in streams if stream) == 40, step.name
            if "slam" in step.name:
                weights[step.name] = recipe.model.tasks.w2v_bert
    assert len(weights) == 5
    assert set(weights.values()) == {0.2}


def test_a_row_may_be_left_out():
    cfg = config("rows.slam=null")
    assert "slam" not in {row.name for row in read_rows(cfg.rows)}
    with pytest.raises(SpeechLMError, match="only has 'slam', which is no row"):
        read_rows(cfg.rows, ["slam"])


def test_rows_differ_in_what_they_say(tmp_path):
    cfg = config()
    steps = {step.name: step for step in ablation_steps(cfg, Path("out"), read_rows(cfg.rows))}
    one, other = (set(steps[f"pretrain_{name}_seed0"].command) for name in ("speechlm_p", "no_swapping"))
    assert {word.partition("=")[0] for word in one ^ other} == {"name", "output", "model.swapping.prob"}
    assert (
        "model.train_ds.text.manifest_filepath=out/text_10000.units.json" in steps["pretrain_text_10k_seed0"].command
    )
    assert "model.train_ds.text=null" in steps["pretrain_speech_seed0"].command
    assert "model.text_units=out/units.json" in steps["pretrain_mixed_seed0"].command
    assert "model.units=out/hidden_units.json" in steps["pretrain_mixed_seed0"].command
    few = ablation_steps(cfg, Path("out"), read_rows(cfg.rows, ["none"]))
    assert [step.name for step in few] == ["corpus", "finetune_none_seed0", "evaluate_none_seed0"]


def test_each_kind_of_recognizer_starts_from_the_same_pretraining():
    cfg = config("decoders=[rnnt,ctc]")
    steps = {step.name: step for step in ablation_steps(cfg, Path("out"), read_rows(cfg.rows, ["slam"]))}
    assert list(steps)[-5:] == [
        "pretrain_slam_seed0", "finetune_slam_rnnt_seed0", "evaluate_slam_rnnt_seed0", "finetune_slam_seed0",
        "evaluate_slam_seed0",
    ]  # fmt: skip
    commands = [steps[f"finetune_slam{kind}_seed0"].command for kind in ("", "_rnnt")]
    assert [Path(command[0]).name for command in commands] == ["speechlm_finetune_ctc.py", "speechlm_finetune_rnnt.py"]
    for command in commands:
        assert "model.init_from_pretrained=out/seed0/pretrained_slam.nemo" in command
    assert "model=out/seed0/rnnt_slam.nemo" in steps["evaluate_slam_rnnt_seed0"].command


def test_a_row_has_options_for_each_kind_of_recognizer():
    both = {"set": ["a=1"], "finetune_set": ["b=2"]}
    own = {"finetune_set": {"ctc": ["c=3"]}}
    one, other = read_rows(OmegaConf.create({"one": both, "other": own}))
    assert one.finetune_set["ctc"] == one.finetune_set["rnnt"] == ("b=2",)
    assert other.finetune_set == {"ctc": ("c=3",)}
    with pytest.raises(SpeechLMError, match=r"a key of rows\.a\.finetune_set is 'ctx', expected ctc, rnnt or encdec"):
        read_rows(OmegaConf.create({"a": {"finetune_set": {"ctx": []}}}))


def test_rows_without_text_have_no_sentences():
    rows = {row.name: row.reads_text for row in read_rows(config().rows)}
    assert [name for name, reads in rows.items() if not reads] == ["none", "speech", "w2v_bert", "maestro_pairs"]


@pytest.mark.parametrize("size", ["small", "base"])
def test_rows_without_text_are_given_none(size, tmp_path):
    cfg = config("only=[maestro_pairs]", f"data={data_folder(tmp_path)}", name=f"ablation_{size}")
    steps = {step.name: step for step in ablation_steps(cfg, tmp_path, read_rows(cfg.rows, cfg.only))}
    words = steps["pretrain_maestro_pairs_seed0"].command
    assert {"model.train_ds.text=null", "model.validation_ds.text=null"} <= set(words)
    assert not any(word.startswith("model.train_ds.text.") for word in words)


def test_amounts_that_are_not_there(tmp_path):
    rows = read_rows(config().rows, ["speech", "text_1k", "text_10k", "speechlm_p"])
    folder = data_folder(tmp_path, sentences=2000)
    enough, without = rows_with_enough_text(rows, folder / "text.txt", 0)
    assert [row.name for row in enough] == ["speech", "text_1k", "speechlm_p"]
    assert [row.name for row in without] == ["text_10k"]


def test_wrong_rows():
    with pytest.raises(SpeechLMError, match="only has 'all', which is no row"):
        read_rows(config().rows, ["all"])
    with pytest.raises(SpeechLMError, match=r"rows\.a\.system is 'wavlm'"):
        read_rows(OmegaConf.create({"a": {"system": "wavlm"}}))
    with pytest.raises(SpeechLMError, match=r"rows\.a\.lr is no key"):
        read_rows(OmegaConf.create({"a": {"lr": 1}}))
    with pytest.raises(SpeechLMError, match=r"rows\.a\.text is 0, and without text mixed is speechlm_h"):
        read_rows(OmegaConf.create({"a": {"system": "mixed", "text": 0}}))
    for system, said in (("w2v_bert", "w2v_bert"), (None, "null")):
        with pytest.raises(SpeechLMError, match=rf"rows\.a\.text is 5, and its system \({said}\) reads no text"):
            read_rows(OmegaConf.create({"a": {"system": system, "text": 5}}))


@pytest.fixture
def evaluations(tmp_path):
    """Two seeds of four rows: errors of 10 words in each of 30 utterances; one seed of the last is missing."""
    (tmp_path / "text.json").write_text("{}\n" * 5000)
    (tmp_path / "text_1000.json").write_text("{}\n" * 1000)
    wrong = {"none": (8, 9), "speech": (7, 7), "text_1k": (6, 5), "speechlm_p": (4,)}
    for name, seeds in wrong.items():
        for seed, errors in enumerate(seeds):
            folder = tmp_path / f"seed{seed}" / f"test_{name}"
            lines = [
                {
                    "audio_filepath": f"{i}.wav",
                    "text": "x",
                    "pred_text": "y",
                    "words": asdict(ErrorCounts(errors - i % 2, 0, 0, 10)),
                    "characters": asdict(ErrorCounts(errors, 0, 0, 40)),
                }
                for i in range(30)
            ]
            write_manifest(folder / "utterances.jsonl", lines)
            summary = {"wer": (errors - 0.5) / 10, "cer": errors / 40}
            (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_table_csv_and_curve(evaluations, monkeypatch, capsys):
    asked = {}

    def fake(steps, logs, jobs, devices, keep_going):
        asked.update(jobs=jobs, devices=devices, keep_going=keep_going)
        raise StepsFailed("failed: pretrain_no_swapping_seed0")

    monkeypatch.setattr(module, "run_steps", fake)
    only = "only=[none,speech,text_1k,speechlm_p,no_swapping]"
    with pytest.raises(SpeechLMError, match="failed: pretrain_no_swapping_seed0"):
        run_ablation(config(f"output={evaluations}", "seeds=2", only, "devices=[0,3]", "draws=200"))
    assert asked == {"jobs": 2, "devices": ["0", "3"], "keep_going": True}
    with open(evaluations / "ablation.csv") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["none", "speech", "text_1k", "speechlm_p"]
    assert rows["none"]["wer"] == "0.8000"
    assert rows["none"]["wer_of_seeds"] == "0.7500;0.8500"
    assert rows["none"]["p_wer_against_none"] == ""
    assert float(rows["speech"]["p_wer_against_none"]) < 0.01
    assert rows["speechlm_p"]["p_wer_against_none"] == "", "it has another number of seeds"
    assert [row["sentences"] for row in rows.values()] == ["0", "0", "1000", "5000"]
    assert (rows["none"]["pretrain_updates"], rows["none"]["finetune_updates"]) == ("0", "1250")
    for row in rows.values():
        assert float(row["wer_low"]) < float(row["wer"]) < float(row["wer_high"])
    table = (evaluations / "table.txt").read_text()
    assert table in capsys.readouterr().out
    assert "(1 of 2 seeds)" in next(line for line in table.splitlines() if line.startswith("SpeechLM-P  "))
    assert next(line for line in table.splitlines() if "without swapping" in line).endswith("not done")
    assert (evaluations / "text_curve.png").stat().st_size > 5000


def test_what_is_there_of_a_lost_step_is_not_shown(evaluations, monkeypatch):
    """An evaluation of before, whose fine-tuning had to be done again and failed."""
    lost = [
        evaluations / f"seed{seed}" / f"test_{row}" / "summary.json" for seed, row in ((1, "speech"), (0, "text_1k"))
    ]

    def fake(*_):
        raise StepsFailed("failed: some", lost)

    monkeypatch.setattr(module, "run_steps", fake)
    with pytest.raises(StepsFailed):
        run_ablation(config(f"output={evaluations}", "seeds=2", "only=[none,speech,text_1k]", "draws=200"))
    with open(evaluations / "ablation.csv") as file:
        rows = {row["row"]: row["wer_of_seeds"] for row in csv.DictReader(file)}
    assert rows == {"none": "0.7500;0.8500", "speech": "0.6500", "text_1k": "0.4500"}


def test_kinds_of_recognizers_are_parts_of_the_table(evaluations, monkeypatch, capsys):
    for name in ("speech", "speechlm_p"):
        folder = evaluations / "seed0" / f"test_{name}"
        shutil.copytree(folder, folder.with_name(f"test_{name}_rnnt"))
    monkeypatch.setattr(module, "run_steps", lambda *_: None)
    only = "only=[none,speech,speechlm_p]"
    run_ablation(config(f"output={evaluations}", only, "against=speech", "decoders=[ctc,rnnt]", "draws=200"))
    with open(evaluations / "ablation.csv") as file:
        rows = [(row["decoder"], row["row"], row["p_wer_against_speech"]) for row in csv.DictReader(file)]
    assert [row[:2] for row in rows] == [
        ("ctc", "none"), ("ctc", "speech"), ("ctc", "speechlm_p"), ("rnnt", "speech"), ("rnnt", "speechlm_p"),
    ]  # fmt: skip
    assert [bool(row[2]) for row in rows] == [True, False, True, False, True]
    ctc, rnnt = capsys.readouterr().out.split("\nrnnt ")
    assert "not done" not in ctc
    assert next(line for line in rnnt.splitlines() if line.startswith("no pretraining")).endswith("not done")
    assert (evaluations / "text_curve.png").stat().st_size > 5000


def test_a_dry_run_only_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "run_steps", None)
    run_ablation(config(f"output={tmp_path}/o", "only=[none]", "dry_run=true"))
    printed = capsys.readouterr().out
    assert "# finetune_none_seed0: to do\npython " in printed
    assert "speechlm_finetune_ctc.py --config-name ctc_small" in printed
    assert not (tmp_path / "o").exists()


def test_what_is_wrong_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run_steps", None)
    with pytest.raises(InputError, match=r"train\.json: no such file"):
        run_ablation(config(f"data={tmp_path}"))
    with pytest.raises(SpeechLMError, match="expected each once"):
        run_ablation(config("devices=[0,0]"))
    with pytest.raises(SpeechLMError, match="against is 'all', which is no row; there are: none, speech"):
        run_ablation(config("against=all"))
    for kinds, told in (("[]", "at least one"), ("[ctc,ctc]", "each once"), ("[ctc,hmm]", "'hmm', expected ctc")):
        with pytest.raises(SpeechLMError, match=told):
            run_ablation(config(f"decoders={kinds}"))
    with pytest.raises(SpeechLMError, match=r"recipes\.encdec names no recipe"):
        run_ablation(config("decoders=[encdec]"))
