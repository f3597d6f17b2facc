import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_speechlm.demo.workflow import Step, StepsFailed, _Running, run_steps, step_state
from nemo_speechlm.errors import SpeechLMError


def writes(name, path, needs=(), text="x"):
    return Step(name, ("-c", f"open({str(path)!r}, 'w').write({text!r}); print('3/3 [')"), path, needs)


def test_order_logs_and_nothing_twice(tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    copy = Step("b", ("-c", f"open({str(b)!r}, 'w').write(open({str(a)!r}).read())"), b, ("a",))
    steps = [copy, writes("a", a, text="made")]
    run_steps(steps, tmp_path / "logs", jobs=2)
    assert b.read_text() == "made"
    assert "3/3" in (tmp_path / "logs" / "a.log").read_text()
    a.write_text("by hand")
    run_steps(steps, tmp_path / "logs", jobs=2)
    assert a.read_text() == "by hand"
    assert "done before" in capsys.readouterr().out


def test_the_bar_of_a_step_that_goes_on_knows_its_rate(tmp_path):
    code = (
        "import time\nfor i in (631, 632):\n    print(f'{i}/900 [', flush=True)\n    time.sleep(3 + 60 * (i == 632))"
    )
    (tmp_path / "logs").mkdir()
    running = _Running(Step("a", ("-c", code), tmp_path / "a"), tmp_path / "logs", 0, 1)
    try:
        while running.bar.n != 632:
            assert not running.update()
            time.sleep(0.1)
    finally:
        running.close()
    shown = running.bar.format_dict
    assert (shown["initial"], shown["total"]) == (631, 900)


def test_what_was_made_with_other_settings_is_not_taken_for_done(tmp_path):
    (tmp_path / "demo").mkdir()

    def step(folder, steps):
        command = ("-c", f"open('{folder}/a','w').write('x')", f"trainer.max_steps={steps}", f"output={folder}/a")
        return Step("train", command, folder / "a")

    run_steps([step(tmp_path / "demo", 100)], tmp_path / "demo" / "logs", jobs=1)
    states = [step_state(step(tmp_path / "demo", steps), tmp_path / "demo" / "logs") for steps in (100, 900)]
    assert states[0] == "done"
    assert states[1].startswith("refused: train: ")
    with pytest.raises(SpeechLMError, match=r"was made with trainer.max_steps=100, now it is trainer.max_steps=900"):
        run_steps([step(tmp_path / "demo", 900)], tmp_path / "demo" / "logs", jobs=1)
    (tmp_path / "demo").rename(tmp_path / "moved")
    run_steps([step(tmp_path / "moved", 100)], tmp_path / "moved" / "logs", jobs=1)


def test_all_steps_that_would_be_done_differently_are_named(tmp_path):
    def steps(number):
        return [
            Step(name, ("-c", f"open('{tmp_path}/{name}','w')", f"seed={number}"), tmp_path / name)
            for name in ("first", "second")
        ]

    run_steps(steps(1), tmp_path / "logs", jobs=2)
    with pytest.raises(
        SpeechLMError, match=r"first: .*seed=1, now it is seed=2(.|\n)*second: .*seed=1, now it is seed=2"
    ):
        run_steps(steps(2), tmp_path / "logs", jobs=2)


def test_another_model_of_the_hub_is_another_setting(tmp_path):
    """Its name looks like a path, and no file tells of it."""

    def step(model):
        return Step("kmeans", ("-c", f"open({str(tmp_path / 'k')!r}, 'w')", f"model={model}"), tmp_path / "k")

    run_steps([step("me/small")], tmp_path / "logs", jobs=1)
    run_steps([step("me/small")], tmp_path / "logs", jobs=1)
    with pytest.raises(SpeechLMError, match=r"was made with model=me/small, now it is model=me/large"):
        run_steps([step("me/large")], tmp_path / "logs", jobs=1)


def test_the_users_number_of_threads_counts(tmp_path, monkeypatch):
    made = tmp_path / "threads"
    step = Step("a", ("-c", f"import os; open({str(made)!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"), made)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_steps([step], tmp_path / "logs", jobs=1)
    assert made.read_text() == "7"


def test_a_failure_says_what_the_log_says(tmp_path):
    bad = Step("bad", ("-c", "raise SystemExit('the reason')"), tmp_path / "never")
    slow = Step("slow", ("-c", "import time; time.sleep(60)"), tmp_path / "slow")
    after = writes("after", tmp_path / "after", ("bad",))
    with pytest.raises(SpeechLMError, match=r"bad failed(.|\n)*the reason"):
        run_steps([bad, slow, after], tmp_path / "logs", jobs=2)
    assert not (tmp_path / "after").exists()


def test_needs_that_nobody_makes(tmp_path):
    with pytest.raises(SpeechLMError, match="nowhere"):
        run_steps([writes("a", tmp_path / "a", ("nowhere",))], tmp_path / "logs", jobs=1)


def test_each_process_has_a_device_of_its_own(tmp_path):
    code = "import os, time; open({!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"
    steps = [Step(name, ("-c", code.format(str(tmp_path / name))), tmp_path / name) for name in "ab"]
    run_steps(steps, tmp_path / "logs", jobs=5, devices=["2", "4,5"])
    assert sorted((tmp_path / name).read_text() for name in "ab") == ["2", "4,5"]


def test_what_does_not_need_a_failed_step_goes_on(tmp_path):
    bad = Step("bad", ("-c", "raise SystemExit('the reason')"), tmp_path / "never")
    after = writes("after", tmp_path / "after", ("bad",))
    last = writes("last", tmp_path / "last", ("after",))
    other = writes("other", tmp_path / "other")
    with pytest.raises(StepsFailed, match=r"failed: bad; for want of them: after, last\. Their logs") as caught:
        run_steps([bad, after, last, other], tmp_path / "logs", jobs=1, keep_going=True)
    assert caught.value.outputs == {step.output for step in (bad, after, last)}
    assert (tmp_path / "other").exists()
    assert not (tmp_path / "after").exists()


def copies(name, source, path, needs=()):
    return Step(name, ("-c", _COPY, f"source=[{source}]", f"output={path}"), path, needs)


_COPY = """
import sys
read, written = (word.partition("=")[2].strip("[]") for word in sys.argv[1:])
open(written, "w").write(open(read).read())
"""


def test_what_was_made_from_other_data_is_not_taken_for_done(tmp_path):
    data, logs = tmp_path / "data.json", tmp_path / "logs"
    data.write_text("one")
    first, second = tmp_path / "first", tmp_path / "second"
    steps = [copies("a", data, first), copies("b", first, second, ("a",))]
    run_steps(steps, logs, jobs=1)
    run_steps(steps, logs, jobs=1)

    moved = tmp_path / "moved.json"  # the same content at another place is the same
    moved.write_text("one")
    run_steps([copies("a", moved, first), steps[1]], logs, jobs=1)

    other = tmp_path / "other.json"
    other.write_text("two")
    with pytest.raises(
        SpeechLMError, match=r"a: .*first was made from other data: source\[0\] is .*other.json.*data.json"
    ):
        run_steps([copies("a", other, first), steps[1]], logs, jobs=1)
    data.write_text("two")
    with pytest.raises(SpeechLMError, match="it was made from another content of that file"):
        run_steps(steps, logs, jobs=1)

    first.unlink()  # made anew, it is not what the second step was made from
    with pytest.raises(SpeechLMError, match=r"b: .*second was made from other data: source\[0\] is .*first"):
        run_steps(steps, logs, jobs=1)
    assert second.read_text() == "one"
    second.unlink()
    run_steps(steps, logs, jobs=1)
    assert second.read_text() == "two"


def test_more_or_fewer_files_than_before_are_other_data(tmp_path):
    """As where a corpus gets untranscribed speech after a first run."""
    data, more, made, logs = tmp_path / "data.json", tmp_path / "more.json", tmp_path / "made", tmp_path / "logs"
    for path in (data, more):
        path.write_text("one")

    def step(*words):
        return Step("a", ("-c", f"open({str(made)!r}, 'w').write('x')", *words), made)

    alone, both = step(f"manifest=[{data}]"), step(f"manifest=[{data},{more}]")
    run_steps([alone], logs, jobs=1)
    with pytest.raises(
        SpeechLMError, match=r"was made with manifest=\[.*data.json\], now it is manifest=\[.*more.json\]"
    ):
        run_steps([both], logs, jobs=1)
    with pytest.raises(SpeechLMError, match=r"was made with fewer settings, now it is units=.*more.json"):
        run_steps([step(f"manifest=[{data}]", f"units={more}")], logs, jobs=1)
    run_steps([alone], logs, jobs=1)
    made.unlink()
    run_steps([both], logs, jobs=1)
    more.unlink()
    with pytest.raises(SpeechLMError, match="was made with manifest"):
        run_steps([alone], logs, jobs=1)


_DEMO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from nemo_speechlm.demo.workflow import Step, _Running, run_steps, step_state
made = Path(sys.argv[2])
run_steps([Step("a", ("-c", sys.argv[3], sys.argv[2], "steps=100"), made)], made.parent / "logs", jobs=1)
"""

_SLOW = """
import sys, time
from pathlib import Path
made = Path(sys.argv[1])
made.with_name("begun").touch()
while not made.with_name("go").exists():
    time.sleep(0.05)
made.write_text("x")
"""


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_a_step_that_goes_on_after_a_kill_keeps_its_settings(tmp_path):
    """While its command lives, another is refused; afterwards another's settings do not become those of the output."""
    made, logs = tmp_path / "made", tmp_path / "logs"
    same = Step("a", ("-c", _SLOW, str(made), "steps=100"), made)
    other = Step("a", ("-c", "raise SystemExit('another process is making it')", str(made), "steps=900"), made)
    demo = [sys.executable, "-c", _DEMO, str(Path(__file__).parents[2]), str(made), _SLOW]
    with subprocess.Popen(demo) as process:
        try:
            wait_for(tmp_path / "begun")
            with pytest.raises(SpeechLMError, match=rf"another process runs these steps \(process {process.pid} on "):
                run_steps([other], logs, jobs=1)
        finally:
            process.send_signal(signal.SIGKILL)
    with pytest.raises(SpeechLMError, match="a failed"):
        run_steps([other], logs, jobs=1)
    (tmp_path / "go").touch()
    wait_for(made)
    with pytest.raises(SpeechLMError, match=r"was made with (.|\n)*steps=100, now it is (.|\n)* steps=900"):
        run_steps([other], logs, jobs=1)
    run_steps([same], logs, jobs=1)


def test_the_record_of_a_step_is_there_when_it_has_ended_well(tmp_path):
    made, logs = tmp_path / "made", tmp_path / "logs"
    with pytest.raises(SpeechLMError, match="a failed"):
        run_steps([Step("a", ("-c", "raise SystemExit(1)", "steps=100"), made)], logs, jobs=1)
    assert [path.name for path in logs.iterdir()] == ["a.log"]
    fails_late = f"open({str(made)!r}, 'w'); raise SystemExit(1)"
    with pytest.raises(SpeechLMError, match="a failed"):
        run_steps([Step("a", ("-c", fails_late, "steps=200"), made)], logs, jobs=1)
    with pytest.raises(SpeechLMError, match=r"now it is .*steps=300"):
        run_steps([Step("a", ("-c", fails_late, "steps=300"), made)], logs, jobs=1)
    made.unlink()
    run_steps([Step("a", ("-c", f"open({str(made)!r}, 'w')", "steps=300"), made)], logs, jobs=1)
    assert sorted(path.name for path in logs.iterdir()) == ["a.inputs.json", "a.log"]
