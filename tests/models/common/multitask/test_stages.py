import pytest

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.stages import (
    Stage,
    check_all_learned,
    check_stages,
    read_stages,
    stage_at,
    updates_of,
)
from nemo_speechlm.models.common.multitask.tasks import read_weights, term_weights
from nemo_speechlm.models.slam.tasks import TASKS

ALL = {"w2v_bert": 1.0, "masked_text": 1.0, "tlm": 1.0, "stm": 0.5}
PAPERS = [
    {"steps": 5, "tasks": ["masked_text", "w2v_bert"]},
    {"steps": 3, "tasks": ["w2v_bert", "masked_text", "tlm", "stm"]},
    {"steps": None, "tasks": ["w2v_bert"]},
]


def test_stages_of_a_config():
    stages = read_stages(PAPERS, TASKS, ALL)
    assert stages[0] == Stage(5, ("w2v_bert", "masked_text"))
    assert stages[0].streams(TASKS) == {"speech", "text"}
    assert [stage_at(stages, step) for step in range(10)] == [0] * 5 + [1] * 3 + [2] * 2
    assert read_stages(None, TASKS, ALL) == [Stage(None, tuple(ALL))]
    assert read_stages([{"steps": None, "tasks": None}], TASKS, ALL) == [Stage(None, tuple(ALL))]


def test_a_task_without_a_weight_is_left_out():
    without = {name: weight for name, weight in ALL.items() if name != "masked_text"}
    assert [stage.tasks for stage in read_stages(PAPERS, TASKS, without)] == [
        ("w2v_bert",), ("w2v_bert", "tlm", "stm"), ("w2v_bert",)
    ]  # fmt: skip


def test_behind_the_end_the_last_stage_goes_on():
    assert stage_at([Stage(2, ("w2v_bert",)), Stage(1, ("tlm",))], 7) == 1


def test_tasks_of_a_config():
    assert read_weights({"w2v_bert": 1, "tlm": 0.0, "stm": 0.5}, TASKS) == {"w2v_bert": 1.0, "stm": 0.5}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"w2v": 1.0}, r"model\.tasks\.w2v is no task; there are: w2v_bert, masked_text, tlm, stm, ctc"),
        ({"tlm": -1}, r"model\.tasks\.tlm is -1"),
        ({"tlm": 0.0}, "nothing to learn"),
    ],
)
def test_tasks_that_are_none(config, message):
    with pytest.raises(SpeechLMError, match=message):
        read_weights(config, TASKS)


def test_weights_of_terms():
    weights = {"w2v_bert": 0.5, "stm": 2.0}
    assert term_weights(TASKS, weights, {"diversity": 0.1, "tlm_text": 3}) == {
        "contrastive": 0.5, "masked_codes": 0.5, "diversity": 0.05, "stm": 2.0,
    }  # fmt: skip
    with pytest.raises(SpeechLMError, match=r"model\.loss\.tlm is no term of the loss; there are: contrastive, mask"):
        term_weights(TASKS, weights, {"tlm": 0.1})
    with pytest.raises(SpeechLMError, match=r"model\.loss\.diversity is -0\.1, expected a number of at least 0"):
        term_weights(TASKS, weights, {"diversity": -0.1})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], r"model\.stages is empty"),
        ([{"steps": 0, "tasks": ["tlm"]}], r"model\.stages\[0\]\.steps is 0"),
        ([{"tasks": ["tlm"]}, {"steps": 2, "tasks": ["tlm"]}], r"model\.stages\[0\]\.steps is not given"),
        ([{"steps": 2, "tasks": []}], r"model\.stages\[0\]\.tasks is empty"),
        ([{"steps": 2, "tasks": ["mlm"]}], r"model\.stages\[0\]\.tasks has 'mlm', which is no task"),
        ([{"steps": 2, "tasks": ["ctc"]}], r"model\.stages\[0\] has no task to learn: model\.tasks\.ctc is 0"),
        ([{"step": 2, "tasks": ["tlm"]}], r"model\.stages\[0\]\.step is not a key"),
    ],
)
def test_stages_that_are_none(config, message):
    with pytest.raises(SpeechLMError, match=message):
        read_stages(config, TASKS, ALL)


def test_a_stage_without_its_data():
    with pytest.raises(SpeechLMError, match=r"model\.stages\[1\]\.tasks has 'tlm'.*model\.train_ds\.pairs"):
        check_stages(read_stages(PAPERS, TASKS, ALL), TASKS, {"speech", "text"}, 100)
    with pytest.raises(SpeechLMError, match=r"model\.tasks has 'masked_text'.*model\.train_ds\.text"):
        check_stages(read_stages(None, TASKS, ALL), TASKS, {"speech"}, 100)


def test_stages_shorter_than_the_training():
    stages = read_stages(PAPERS[:2], TASKS, ALL)
    streams = {"speech", "text", "pairs"}
    check_stages(stages, TASKS, streams, 8)
    for steps in (9, -1):
        with pytest.raises(SpeechLMError, match=rf"last 8 steps together, and trainer\.max_steps is {steps}"):
            check_stages(stages, TASKS, streams, steps)


def test_a_stage_that_never_begins(monkeypatch):
    said = []
    monkeypatch.setattr("nemo_speechlm.models.common.multitask.stages.logging.warning", said.append)
    stages, streams = read_stages(PAPERS, TASKS, ALL), {"speech", "text", "pairs"}
    for steps in (9, -1):
        check_stages(stages, TASKS, streams, steps)
    assert not said
    for steps, number, begins in ((8, 2, 8), (5, 1, 5), (4, 1, 5)):
        check_stages(stages, TASKS, streams, steps)
        assert said.pop().startswith(
            f"model.stages[{number}] begins after {begins} updates, and trainer.max_steps is {steps}: it never begins"
        )
        assert not said


def test_updates_of_a_task_are_those_of_its_stages():
    learning = {"a": [True] * 3 + [False] * 4 + [True] * 20, "b": [False] * 3 + [True] * 24}
    stages = [Stage(3, ("a",)), Stage(4, ("b",)), Stage(None, ("a", "b"))]
    for task, taken in learning.items():
        for step in range(20):
            assert updates_of(stages, task, step) == sum(taken[:step])
    assert updates_of(stages[:2], "b", 9) == 6, "behind the end, the last stage goes on"


def test_a_task_that_no_stage_learns():
    stages = [Stage(3, ("tlm",)), Stage(None, ("tlm", "stm"))]
    check_all_learned(stages, ["tlm", "stm"])
    with pytest.raises(SpeechLMError, match=r"model\.tasks\.ctc has a weight, and no stage .* model\.tasks\.ctc=0"):
        check_all_learned(stages, ["tlm", "ctc"])
