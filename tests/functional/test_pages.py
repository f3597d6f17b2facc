"""The commands of the pages run as they are written, one after the other, only smaller.

``make test`` runs the pages that say ``commands: run``; ``LONG_TESTS=1`` those that say so, too. See tests/pages.py.
"""

import gzip
import re
import shlex
import shutil
from pathlib import Path

import pytest

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from tests.functional.commands import run_example
from tests.long_forms import LONG
from tests.pages import PAGES, ROOT, Block, blocks, command_lines, mode

pytest.importorskip("espeakng_loader")
pytest.importorskip("phonemizer")

FIRST = "docs/getting-started.md"
"""What other pages begin with."""
ORDER = [FIRST, "docs/how-to/tokenize.md", "docs/how-to/pretrain-slam.md"]
"""Pages that others follow."""
AMOUNTS = {
    "valid_lines": "20",
    "train_minutes": "0.3",
    "untranscribed_minutes": "0.05",
    "valid_minutes": "0.1",
    "test_minutes": "0.1",
    "sentences": "100",
    "clusters": "12",
    "vocab_size": "40",
    "beam_size": "2",
}
"""Values of options that only say how much."""
TRAINING = ["trainer.max_steps=2", "trainer.val_check_interval=2", "exp_manager.exp_dir=$OUT/runs"]
SMALL_SPEECH = ["model.train_ds.speech.batch_duration=10", "model.train_ds.text.batch_tokens=400"]
MORE = {
    "prepare_data": ["workers=1"],
    "prepare_text": ["workers=1"],
    "tokenize_speech": ["workers=1"],
    "tokenize_text": ["workers=1"],
    "make_tarred": ["workers=1"],
    "train_aligner": ["plan.passes=4", "plan.settle=1", "plan.components=300", "threads=1"],
    "train_frame_classifier": ["trainer.max_steps=2", "trainer.val_check_interval=2", "exp_manager.exp_dir=$OUT/runs"],
    "train_text_to_unit": TRAINING,
    "speechlm_pretrain": [*TRAINING, *SMALL_SPEECH],
    "slam_pretrain": [*TRAINING, "model.stages=null"],
    "maestro_pretrain": TRAINING,
    "speechlm_finetune_ctc": [*TRAINING, "model.train_ds.batch_duration=12"],
    "speechlm_finetune_rnnt": [*TRAINING, "model.train_ds.batch_duration=12"],
    "speechlm_finetune_encdec": [*TRAINING, "model.train_ds.batch_duration=12"],
    "speechlm_evaluate": ["draws=20"],
    "probe": ["trainer.max_steps=2", "trainer.val_check_interval=2", "draws=20"],
    "shared_space": ["limit=4", "draws=20"],
    "ablations": ["dry_run=true"],
}
"""Options that make a command short, if it has them."""


def smaller(command: list[str]) -> list[str]:
    """The command's arguments, with smaller amounts."""
    example, arguments = command[0], command[1:]
    cut = [
        re.sub(r"^([\w.]+)=.*", lambda m: f"{m[1]}={AMOUNTS[m[1]]}" if m[1] in AMOUNTS else m[0], a) for a in arguments
    ]
    given = {argument.split("=")[0] for argument in cut}
    absent = tuple(f"{argument.removesuffix('null').rstrip('=')}." for argument in cut if argument.endswith("=null"))
    more = [one for one in MORE.get(example, []) if one.split("=")[0] not in given and not one.startswith(absent)]
    return [*cut, *more]


def corpus(folder: Path) -> None:
    """What the pages call ``$DATA``: four manifests, folders with the same, recordings, text."""
    status = run_example(
        "prepare_data.py", "corpus=demo", f"output={folder / 'corpus'}", "train_minutes=0.7", "test_minutes=0.2",
        "untranscribed_minutes=0.2", "valid_minutes=0.2", "sentences=300", "seed=3",
    )  # fmt: skip
    assert not status
    for part in ("train", "valid", "test", "untranscribed"):
        name = part.replace("untranscribed", "unlabeled")
        records = [record for _, record in read_manifest(folder / "corpus" / f"{part}.json")]
        (folder / name).mkdir()
        for record in records:
            audio = folder / "corpus" / record["audio_filepath"]
            record["audio_filepath"] = f"corpus/{record['audio_filepath']}"
            shutil.copy(audio, folder / name / audio.name)
            if "text" in record:
                (folder / name / f"{audio.stem}.txt").write_text(record["text"])
        write_manifest(folder / f"{name}.json", records)
    (folder / "recordings").mkdir()
    first = sorted(path for path in (folder / "test").iterdir() if path.suffix != ".txt")
    for name in ("recordings/interview", "more"):
        shutil.copy(first[0], folder / f"{name}{first[0].suffix}")
    for name in ("text", "domain"):
        with gzip.open(folder / f"{name}.txt.gz", "wt") as file:
            file.write((folder / "corpus" / "text.txt").read_text())
    shutil.copy(folder / "test.json", folder / "domain_test.json")


def run_block(block: Block, data: Path, out: Path) -> list[str]:
    """Run a block; returns the commands that failed."""
    if block.language == "python":
        recording = next(path for path in (data / "recordings").iterdir())
        code = (
            block.code.replace("runs/small", str(out))
            .replace("one.wav", str(recording))
            .replace("two.wav", str(recording))
        )
        exec(compile(code, f"{block.page}:{block.line}", "exec"), {})
        return []
    failed = []
    code = re.sub(r"^\w+=\S+(\s+#.*)?$", "", block.code, flags=re.MULTILINE)  # DATA and OUT are ours
    for line in command_lines(code):
        words = shlex.split(line)
        assert words[0] == "python", (
            f"{block.page}:{block.line}: {line!r} is no command of ours: mark why it is not run"
        )
        arguments = smaller([Path(words[1]).stem, *words[2:]])
        recording = next(path for path in (data / "recordings").iterdir())
        filled = [
            a.replace("$DATA", str(data)).replace("$OUT", str(out)).replace(".wav", recording.suffix)
            for a in arguments
        ]
        status = run_example(Path(words[1]).name, *filled)
        if status:
            failed.append(f"{block.page}:{block.line}: {line}")
    return failed


def pages() -> list[Path]:
    """Those that are run, in the order in which they need each other."""
    wanted = [
        path for path in PAGES if (said := mode(path)) and (said == "run" or (LONG and said.startswith("run with")))
    ]
    names = [path.relative_to(ROOT).as_posix() for path in wanted]
    assert FIRST in names
    known = [name for name in ORDER if name in names]
    return [ROOT / name for name in [*known, *(name for name in names if name not in known)]]


@pytest.mark.timeout(3600 if LONG else 600)
def test_the_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    data, out = tmp_path / "data", tmp_path / "out"
    corpus(data)
    ran, failed = 0, []
    for path in pages():
        for block in blocks(path):
            if block.language in ("bash", "python") and block.reason is None:
                failed += run_block(block, data, out)
                ran += 1
    assert not failed, "\n".join(failed)
    assert ran > 5
    assert (out / "ctc.nemo").exists()
    assert (out / "test" / "summary.json").exists()
