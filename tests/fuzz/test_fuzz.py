"""Wrong input to every command ends in one line that says what was found and what was expected, and changes nothing.

``cases.txt`` has a case a line: a command with options, an arrow, and what its error must say. They run in a folder
that :mod:`tests.fuzz.workspace` fills; an option that a case leaves out is taken from ``BASE``. Cases that begin with
``~`` run with LONG_TESTS=1 only.
"""

import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.functional.commands import EXAMPLES, run_example
from tests.fuzz.workspace import make_models, make_workspace
from tests.long_forms import LONG

LABELS = "model.labels=[' ',a,b,d,e,i,k,l,n,o,s,t]"
RUN = ["output=new.nemo", "exp_manager.exp_dir=runs", "trainer.accelerator=cpu", "trainer.max_steps=1",
       "exp_manager.create_tensorboard_logger=false"]  # fmt: skip
FINE = [*RUN, "model.init_from_pretrained=pretrained.nemo", "model.train_ds.manifest_filepath=speech.json",
        "model.validation_ds.manifest_filepath=speech.json", "model.train_ds.num_workers=0", LABELS]  # fmt: skip


def data(*streams: str) -> list[str]:
    """Options that name the data of each stream."""
    files = {"speech": "speech.json", "text": "text.json", "pairs": "speech.json"}
    parts = [f"model.{part}_ds.{s}.manifest_filepath={files[s]}" for part in ("train", "validation") for s in streams]
    return [*RUN, *parts, "model.train_ds.num_workers=0"]


BASE = {
    "prepare_data": ["output=new.json", "workers=1"],
    "prepare_text": ["source=words.txt", "output=new.json", "workers=1"],
    "compare_results": ["a=speech.json", "b=speech.json"],
    "make_tarred": ["manifest=speech.json", "output=new", "workers=1"],
    "make_lexicon": ["source=words.txt", "output=new.txt", "language=cs"],
    "train_ngram": ["source=words.txt", "output=new.arpa", "builder=own"],
    "train_tokenizer": ["source=long.txt", "output=new"],
    "tokenize_text": ["manifest=text.json", "output=new.json", "units=new_units.json", "workers=1"],
    "tokenize_speech": ["manifest=speech.json", "output=new.json", "units=new_units.json", "workers=1"],
    "train_aligner": ["manifest=speech.json", "output=new.gmm"],
    "train_kmeans": ["manifest=speech.json", "output=new.npz", "clusters=4"],
    "speechlm_evaluate": ["model=pretrained.nemo", "manifest=speech.json", "output=new"],
    "export": ["model=pretrained.nemo", "output=new.onnx", "part=encoder"],
    "extract_features": ["model=pretrained.nemo", "input=speech.json", "output=new"],
    "pseudo_label": ["model=pretrained.nemo", "manifest=speech.json", "output=new.json"],
    "transcribe": ["model=pretrained.nemo", "input=audio/0000.wav", "output=new"],
    "serve": ["model=pretrained.nemo", "port=0", "device=cpu"],
    "translate": ["model=pretrained.nemo", "input=audio/0000.wav", "output=new"],
    "convert_checkpoint": [],
    "speechlm_pretrain": [*data("speech", "text"), "model.units=units.json", LABELS],
    "slam_pretrain": data("speech", "text", "pairs"),
    "maestro_pretrain": data("speech", "text", "pairs"),
    "speechlm_finetune_ctc": FINE,
    "speechlm_finetune_rnnt": FINE,
    "speechlm_finetune_encdec": FINE,
    "train_frame_classifier": [*data("speech"), "model.units=units.json"],
    "train_text_to_unit": [*RUN, "model.phones=units.json", "model.units=units.json",
                           "model.train_ds.manifest_filepath=speech.json",
                           "model.validation_ds.manifest_filepath=speech.json"],
    "finetune_text": [*RUN, "model.init_from_pretrained=pretrained.nemo", "model.train_ds.file=words.txt",
                      "model.validation_ds.file=words.txt"],
    "demo": ["output=new"],
    "probe": ["model=pretrained.nemo", "train=speech.json", "valid=speech.json", "test=speech.json", "output=new"],
    "shared_space": ["models=pretrained.nemo", "manifest=speech.json", "output=new"],
    "info": [],
    "ablations": ["output=new"],
    "push_to_hub": ["model=pretrained.nemo", "name=user/name", "licence=mit", "folder=new"],
}  # fmt: skip
"""Options of each command that would do; a case overrides those whose keys it names."""


class Case(NamedTuple):
    """A line of cases.txt.

    Attributes:
        command: its file in examples/, without the ending.
        arguments: those of the case.
        says: what the error's line must have in it.
        long: whether it runs with LONG_TESTS=1 only.
    """

    command: str
    arguments: list[str]
    says: str
    long: bool


def read_cases() -> list[Case]:
    found = []
    for line in (Path(__file__).parent / "cases.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            command, _, says = line.removeprefix("~").partition(" -> ")
            name, *arguments = shlex.split(command)
            found.append(Case(name, arguments, says, line.startswith("~")))
    return found


CASES = read_cases()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    home = tmp_path_factory.mktemp("fuzz")
    make_workspace(home)
    make_models(home)
    return home


def state(home: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(home)): (p.stat().st_size, p.stat().st_mtime_ns) for p in home.rglob("*") if p.is_file()}


def full(case: Case) -> list[str]:
    """The case's arguments, and those of its command's base that it does not name."""
    named = {argument.partition("=")[0] for argument in case.arguments}
    return [*(base for base in BASE[case.command] if base.partition("=")[0] not in named), *case.arguments]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([case.command, *case.arguments]))
def test_wrong_input_ends_in_a_line(case, workspace, monkeypatch, capfd):
    if case.long and not LONG:
        pytest.skip("LONG_TESTS=1")
    monkeypatch.chdir(workspace)
    before = state(workspace)
    status = run_example(f"{case.command}.py", *full(case))
    printed = capfd.readouterr()
    after = state(workspace)
    try:
        assert status in (1, 2), printed.out + printed.err
        assert "Traceback" not in printed.err
        assert "Error executing job" not in printed.err
        last = printed.err.rstrip().rpartition("\n")[2].rpartition("\r")[2]
        assert "error: " in last
        assert case.says in last
        assert {name: after.get(name) for name in before} == before
        made = [name for name in after.keys() - before.keys() if not is_progress(name)]
        assert not made
    finally:
        for name in after.keys() - before.keys():
            (workspace / name).unlink(missing_ok=True)
        for name in ("runs", "new", *(path.name for path in workspace.glob(".job.*"))):
            shutil.rmtree(workspace / name, ignore_errors=True)


def is_progress(name: str) -> bool:
    """Whether a file is what a command goes on from: of a job (whose units come first), or in a run's folder."""
    return name.startswith((".", "runs/", "new_units.json"))


def test_there_are_as_many_cases_as_were_promised():
    assert len(CASES) >= 300
    assert {case.command for case in CASES} == set(BASE)
    assert set(BASE) == {path.stem for path in EXAMPLES.glob("*.py")}
