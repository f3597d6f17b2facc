"""Trainings for kill_and_resume.py: commands on a tiny corpus, in one process and in two, killed and run again.

Each process is forked from one that has imported everything, and runs the command's own file with its arguments: a
start takes seconds instead of a quarter of a minute. Two processes find each other as those of torchrun do. After a
kill of one of them, the other must end by itself.
"""

import hashlib
import os
import random
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads would not survive a fork

import torch

from benchmarks.killing import Outcome
from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.testing.corpora import LETTERS, TinyCorpus, tiny_corpus, tiny_paired_corpus
from nemo_speechlm.testing.maestro import TINY_MAESTRO_OPTIONS
from nemo_speechlm.testing.processes import free_port, torchrun_environment
from nemo_speechlm.testing.slam import TINY_SLAM_OPTIONS, tiny_slam_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATIENCE = 120
"""Seconds that the process whose peer was killed has to end."""


@dataclass(frozen=True)
class Training:
    """A training to kill.

    Args:
        name: of the row.
        script: in examples/.
        arguments: of the command; its output is ``out.nemo`` in the folder that it is run in.
        processes: that train together.
    """

    name: str
    script: str
    arguments: Sequence[str]
    processes: int = 1


def weights(output: Path) -> dict[str, str]:
    """The digest of each tensor in a ``.nemo`` file."""
    return {
        name: hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in read_nemo(output).weights.items()
    }


def start(training: Training, folder: Path, port: int) -> list[int]:
    """Fork the processes of a training; returns their numbers. Each leads a group of its own, its workers'."""
    sys.stdout.flush()
    processes = []
    for rank in range(training.processes):
        process = os.fork()
        if not process:
            _become(training, folder, rank, port)
        processes.append(process)
    return processes


def _become(training: Training, folder: Path, rank: int, port: int) -> None:
    """Run the command in this process, and end it."""
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if training.processes > 1:
            os.environ |= torchrun_environment(rank, training.processes, port)
        script = str(EXAMPLES / training.script)
        sys.argv = [script, *training.arguments]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(processes: Sequence[int], seconds: float | None) -> dict[int, int]:
    """The statuses of those processes that ended within so many seconds; None waits for all."""
    ended: dict[int, int] = {}
    deadline = None if seconds is None else time.monotonic() + seconds
    while len(ended) < len(processes) and (deadline is None or time.monotonic() < deadline):
        for process in processes:
            if process not in ended:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    ended[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return ended


def met(port: int, processes: int) -> bool:
    """Whether all processes of a training have come to where they meet, a port of the first one."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    connected = [
        local for _, local, _, state, *_ in lines if state == "01" and int(local.rpartition(":")[2], 16) == port
    ]
    return len(connected) >= processes


def kill(processes: Sequence[int], draw: random.Random, log: Path, alone: bool) -> None:
    """SIGKILL one of the processes or all, sometimes with their workers, and wait until everything has ended.

    Those that are left must end by themselves. If they are ``alone``, because not all have met so far, they wait for
    the others for PyTorch's half an hour, and are killed as torchrun and srun do.
    """
    chosen = draw.choice([list(processes), *([process] for process in processes)])
    with_workers = draw.random() < 0.5
    for process in chosen:
        (os.killpg if with_workers else os.kill)(process, signal.SIGKILL)
    if alone:
        for process in set(processes) - set(chosen):
            os.kill(process, signal.SIGKILL)
    ended = wait(processes, PATIENCE)
    if len(ended) < len(processes):
        for process in processes:
            if process not in ended:
                os.killpg(process, signal.SIGKILL)
        raise RuntimeError(f"a process does not end although the other was killed; see {log}")
    deadline = time.monotonic() + PATIENCE
    while any(map(_is_there, processes)):  # workers that outlive their parent for a moment
        if time.monotonic() > deadline:
            raise RuntimeError("workers outlive their parent")
        time.sleep(0.05)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.with_suffix(".log").unlink(missing_ok=True)


def disturb(training: Training, folder: Path, kills: int, seed: int = 0, say: Callable[[str], Any] = print) -> Outcome:
    """Train undisturbed, then with so many kills at random moments, and compare the weights, bit for bit."""
    draw = random.Random(seed)
    calm, troubled = folder / "calm", folder / "troubled"
    _fresh(calm)
    begun = time.monotonic()
    ended = wait(start(training, calm, free_port()), None)
    if any(ended.values()):
        raise RuntimeError(f"{training.name} failed; see {calm.with_suffix('.log')}")
    outcome = Outcome(time.monotonic() - begun)
    expected = weights(calm / "out.nemo")
    while outcome.kills < kills:
        _fresh(troubled)
        while True:
            port = free_port()
            processes = start(training, troubled, port)
            ended = wait(processes, draw.uniform(0, outcome.seconds) if outcome.kills < kills else None)
            if len(ended) == training.processes:
                break
            left = [process for process in processes if process not in ended]
            kill(
                left, draw, troubled.with_suffix(".log"), training.processes > 1 and not met(port, training.processes)
            )
            outcome.kills += 1
            outcome.resumed += any(troubled.glob("runs/**/[!.]*-last.ckpt"))
            if (troubled / "out.nemo").exists():  # killed in its last moment
                ended = {}
                break
        if any(ended.values()):
            raise RuntimeError(f"{training.name} failed; see {troubled.with_suffix('.log')}")
        outcome.compare(expected, weights(troubled / "out.nemo"))
    said = "identical" if not outcome.differences else f"{len(outcome.differences)} weights DIFFER"
    say(f"{training.name}: {outcome.kills} kills, {outcome.ends} runs brought to an end, {said}")
    return outcome


def write_shar(manifest: Path, folder: Path, shards: int = 4) -> str:
    """The utterances of a manifest with units and text as Lhotse Shar."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    from nemo_speechlm.data.manifests.lines import audio_path, read_manifest

    cuts = []
    for number, record in read_manifest(manifest, ["units"]):
        recording = Recording.from_file(audio_path(record, manifest), recording_id=f"utterance-{number}")
        custom = {"units": record["units"], "unit_durations": record["unit_durations"]}
        said = SupervisionSegment(recording.id, recording.id, 0.0, recording.duration, text=record["text"])
        cuts.append(MonoCut(recording.id, 0.0, recording.duration, 0, [said], recording=recording, custom=custom))
    if not folder.exists():
        folder.mkdir(parents=True)
        CutSet(cuts).to_shar(folder, fields={"recording": "wav"}, shard_size=-(-len(cuts) // shards))
    return str(folder)


def trainings(work: Path, steps: int = 40) -> list[Training]:
    """SpeechLM's pretraining and fine-tuning with CTC with 0 and 2 workers, in 1 and 2 processes, on a manifest, tar
    files and Shar; SLAM and MAESTRO in two stages, the second of which begins in the middle; and all other trainings.
    """
    from nemo_speechlm.testing.configs import tiny_tarred

    corpus = tiny_corpus(work / "tiny", n_speech=32, n_text=60)
    tarred = tiny_tarred(corpus.speech, work / "tiny" / "tarred")
    manifest = f"manifest_filepath={corpus.speech}"
    sources = {
        "manifest": [manifest],
        "tarred": [f"{key}={value}" for key, value in tarred.items()],
        "shar": [
            f"shar_path={write_shar(corpus.speech, work / 'tiny' / 'shar')}",
            "manifest_filepath=null",
            "speeds=null",
        ],
    }
    short = [
        "output=out.nemo", "trainer.accelerator=cpu", f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps // 4}", "trainer.log_every_n_steps=1", "save_every_minutes=0.01",
        "+trainer.enable_progress_bar=false", "trainer.gradient_clip_val=1.0",
    ]  # fmt: skip
    small = [
        *short, "model.encoder.d_model=32", "model.encoder.speech_transformer.n_layers=1",
        "model.encoder.shared_transformer.n_layers=1",
    ]  # fmt: skip
    found = []
    for source, options in sources.items():
        for workers in (0, 2):
            for processes in (1, 2):
                common = [*small, f"trainer.devices={processes}", f"model.train_ds.num_workers={workers}"]
                name = f"{source}, {workers} workers, {processes} processes"
                pretrain = [
                    "--config-name=speechlm_p_small", f"model.units={corpus.units}", *common,
                    *(f"model.{part}.text.manifest_filepath={corpus.text}" for part in ("train_ds", "validation_ds")),
                    f"model.validation_ds.speech.{manifest}", "model.train_ds.speech.batch_duration=8",
                    "model.train_ds.text.batch_tokens=400", *_in("model.train_ds.speech.", options),
                ]  # fmt: skip
                ctc = [
                    "--config-name=ctc_small", *common, f"model.validation_ds.{manifest}",
                    "model.train_ds.batch_duration=8", "model.train_ds.num_buckets=2",
                    *_in("model.train_ds.", options),
                ]  # fmt: skip
                found += [
                    Training(f"speechlm_pretrain {name}", "speechlm_pretrain.py", pretrain, processes),
                    Training(f"speechlm_finetune_ctc {name}", "speechlm_finetune_ctc.py", ctc, processes),
                ]
    for processes in (1, 2):
        options = [*small, f"trainer.devices={processes}"]
        name = f"2 stages, 1 workers, {processes} processes"
        found += [
            Training(f"slam_pretrain {name}", "slam_pretrain.py", _slam(corpus, options, steps), processes),
            Training(f"maestro_pretrain {name}", "maestro_pretrain.py", _maestro(corpus, options, steps), processes),
        ]
    others = {
        "speechlm_finetune_rnnt": [*small, *_RNNT, *_transcribed(corpus)],
        "speechlm_finetune_encdec": [*small, *_ENCDEC, *_transcribed(corpus)],
        "train_frame_classifier": [*short, *_frame_classifier(corpus)],
        "train_text_to_unit": [*short, *_text_to_unit(work / "tiny" / "pairs")],
        "finetune_text": [*short, *_classes(corpus, work / "tiny")],
    }
    for script, arguments in others.items():
        for processes in (1, 2):
            own = [*arguments, f"trainer.devices={processes}"]
            found.append(Training(f"{script} manifest, {processes} processes", f"{script}.py", own, processes))
    return found


_RNNT = ["--config-name=rnnt_small", "model.model_defaults.pred_hidden=16", "model.model_defaults.joint_hidden=16"]
_ENCDEC = [
    "--config-name=st_small", "model.decoder.d_model=24", "model.decoder.n_layers=1", "model.decoder.d_ff=32",
]  # fmt: skip


def _transcribed(corpus: TinyCorpus) -> list[str]:
    parts = [f"model.{part}.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")]
    return [*parts, "model.train_ds.batch_duration=8", "model.train_ds.num_buckets=2", "model.train_ds.num_workers=0"]


def _frame_classifier(corpus: TinyCorpus) -> list[str]:
    return [
        "--config-name=frame_classifier_small", f"model.units={corpus.units}", "model.encoder.n_layers=1",
        *(f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")),
        "model.encoder.d_model=32", "model.encoder.subsampling_conv_channels=8", "model.optim.sched.warmup_steps=2",
        "model.train_ds.speech.batch_duration=8", "model.train_ds.speech.num_buckets=2",
        "model.train_ds.num_workers=0",
    ]  # fmt: skip


def _text_to_unit(folder: Path) -> list[str]:
    pairs = tiny_paired_corpus(folder)
    return [
        "--config-name=text_to_unit_small", f"model.phones={pairs.phones}", f"model.units={pairs.units}",
        "model.speakers=manifest", "model.d_model=16", "model.encoder.d_ff=16", "model.train_ds.batch_frames=300",
        "model.train_ds.min_frames=1",
        *(f"model.{part}.manifest_filepath={pairs.hidden_manifest}" for part in ("train_ds", "validation_ds")),
        *(f"model.{part}.phones_manifest_filepath={pairs.phone_manifest}" for part in ("train_ds", "validation_ds")),
    ]  # fmt: skip


def _classes(corpus: TinyCorpus, folder: Path) -> list[str]:
    """Of a tiny SLAM file, on words that have an a or not."""
    from nemo_speechlm.models import SLAMModel

    torch.manual_seed(0)
    SLAMModel(tiny_slam_config(corpus, train_ds=None, validation_ds=None)).save_to(str(folder / "slam.nemo"))
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=5)) for _ in range(80)]
    lines = ["sentence\tlabel", *(f"{word}\t{int('a' in word)}" for word in words)]
    (folder / "classes.tsv").write_text("\n".join(lines) + "\n")
    return [
        f"model.init_from_pretrained={folder / 'slam.nemo'}", "model.optim.sched.warmup_steps=2",
        *(f"model.{part}.file={folder / 'classes.tsv'}" for part in ("train_ds", "validation_ds")),
    ]  # fmt: skip


def _of_three_streams(corpus: TinyCorpus, options: Sequence[str], steps: int, first: str) -> list[str]:
    """What SLAM and MAESTRO have in common: the tasks ``first`` to the middle of the training, then all."""
    manifests = {"speech": corpus.speech, "text": corpus.text, "pairs": corpus.speech}
    return [
        *options, f"model.stages=[{{steps:{steps // 2},tasks:[{first}]}},{{steps:null,tasks:null}}]",
        "model.train_ds.speech.batch_duration=4", "model.train_ds.text.batch_tokens=60",
        "model.train_ds.pairs.batch_duration=4", "model.train_ds.num_workers=1",
        *(f"model.{part}.{stream}.manifest_filepath={path}" for part in ("train_ds", "validation_ds")
          for stream, path in manifests.items()),
    ]  # fmt: skip


def _slam(corpus: TinyCorpus, options: Sequence[str], steps: int) -> list[str]:
    common = _of_three_streams(corpus, [*options, *TINY_SLAM_OPTIONS], steps, "w2v_bert,masked_text")
    return ["--config-name=slam_small", f"model.tokenizer.dir={tiny_slam_config(corpus).tokenizer.dir}", *common]


def _maestro(corpus: TinyCorpus, options: Sequence[str], steps: int) -> list[str]:
    common = _of_three_streams(corpus, [*options, *TINY_MAESTRO_OPTIONS], steps, "rnnt,ctc")
    return ["--config-name=maestro_small", *common]


def _in(part: str, options: Sequence[str]) -> list[str]:
    """Options of a part of the config, whether the recipe has them or not."""
    return [f"++{part}{option}" for option in options]


def prepare() -> None:
    """Import what the commands import, once."""
    torch.set_num_threads(1)
    import nemo_speechlm.models.recognition.ctc
    import nemo_speechlm.models.speechlm.model
    import nemo_speechlm.training.run  # noqa: F401
