"""What a command imports before it answers: help and wrong options need no PyTorch, data tools no NeMo."""

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_speechlm.testing.corpora import tiny_corpus

HEAVY = (
    "torch nemo lightning lhotse transformers scipy sklearn matplotlib pandas librosa tensorboard huggingface_hub ray "
    "submitit starlette uvicorn"
).split()
"""What neither help nor data tools import."""
ALSO = "numpy soundfile soxr tqdm multiprocessing asyncio unittest".split()
"""What data tools may import, and the help of other commands does not."""
DATA_TOOLS = (
    "prepare_data prepare_text make_lexicon make_tarred tokenize_speech tokenize_text train_aligner train_kmeans "
    "train_ngram"
).split()

EXAMPLES = Path(__file__).parent.parent / "examples"

# Each line: the command, the modules that it must not import, the status that it must end with, its arguments.
PROGRAM = """
import contextlib, io, runpy, sys
before = set(sys.modules)
import nemo_speechlm
if (found := set(sys.modules) - before) != {{"nemo_speechlm"}}:
    sys.exit(f"import nemo_speechlm imports {{found}}")
for name, modules, status, *arguments in {runs!r}:
    sys.argv = [{examples!r} + "/" + name + ".py", *arguments]
    output = io.StringIO()
    ended = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            ended = end.code or 0
    if ended != status:
        sys.exit(f"{{name}} {{arguments}}: status {{ended}}, expected {{status}}: {{output.getvalue()}}")
    for module in modules:
        if module in sys.modules:
            sys.exit(f"{{name}} {{arguments}} imported {{module}}")
"""


def check(runs):
    """Run commands one after the other in a fresh process."""
    program = PROGRAM.format(runs=[[str(each) if isinstance(each, Path) else each for each in run] for run in runs],
                             examples=str(EXAMPLES))  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def corpus(tmp_path):
    return tiny_corpus(tmp_path, n_speech=2)


def test_help_imports_next_to_nothing():
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert set(DATA_TOOLS) < set(names)
    check([
        *((name, [*HEAVY, *ALSO], 0, "--help") for name in names if name not in DATA_TOOLS),
        *((name, HEAVY, 0, "--help") for name in DATA_TOOLS),
    ])  # fmt: skip


def test_wrong_options_need_neither_torch_nor_nemo(tmp_path, corpus):
    model = tmp_path / "model.nemo"
    model.write_bytes(b"")
    audio = f"input={next((tmp_path / 'audio').iterdir())}"
    (tmp_path / "made.nemo").write_bytes(b"")
    transcribe = ("transcribe", HEAVY, 1, f"model={model}")
    train = [
        f"output={tmp_path / 'new.nemo'}", f"model.units={corpus.units}",
        f"model.train_ds.speech.manifest_filepath={corpus.speech}",
        f"model.train_ds.text.manifest_filepath={corpus.text}",
        f"model.validation_ds.speech.manifest_filepath={corpus.speech}",
        f"model.validation_ds.text.manifest_filepath={corpus.text}",
    ]  # fmt: skip
    check([
        ("transcribe", HEAVY, 1, "model=nowhere.nemo", audio),
        (*transcribe, "input=nowhere.wav"),
        (*transcribe, audio, "min_segment=99"),
        (*transcribe, audio, "device=cud"),
        ("speechlm_evaluate", HEAVY, 1, f"model={model}", "manifest=nowhere.json", f"output={tmp_path / 'out'}"),
        ("speechlm_pretrain", HEAVY, 1, *train, f"output={tmp_path / 'made.nemo'}"),
        ("speechlm_pretrain", HEAVY, 1, *train, "trainer.max_steps=0"),
        ("speechlm_pretrain", HEAVY, 1, *train, "model.units=nowhere.json"),
    ])  # fmt: skip


def test_data_tools_do_not_import_nemo(tmp_path, corpus):
    (tmp_path / "text.txt").write_text("one two three four\nfive six seven eight\n" * 3)
    clean, units = f"source={tmp_path / 'clean.json'}", f"units={tmp_path / 'units2.json'}"
    check([
        ("prepare_data", HEAVY, 0, "corpus=folder", f"source={tmp_path / 'audio'}", "workers=1",
         f"output={tmp_path / 'speech2.json'}"),
        ("prepare_text", HEAVY, 0, f"source={tmp_path / 'text.txt'}", f"output={tmp_path / 'clean.json'}",
         "workers=1"),
        ("make_lexicon", HEAVY, 0, "language=en", "phonemizer=english", clean, units,
         f"output={tmp_path / 'words.tsv'}"),
        ("train_ngram", HEAVY, 0, clean, f"output={tmp_path / 'words.arpa'}", "order=2"),
        ("tokenize_text", HEAVY, 0, clean.replace("source", "manifest"), f"output={tmp_path / 'text2.json'}", units,
         "workers=1"),
    ])  # fmt: skip
