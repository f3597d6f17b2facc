"""Train an aligner from manifests; an interrupted training continues behind its last complete pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nemo_speechlm.alignment.file import aligner_of, content_of
from nemo_speechlm.alignment.graph import Topology
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.training import PassReport, TrainingPlan, TrainingState, plan_settings, start, train_pass
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.jobs.progress import skipped_path
from nemo_speechlm.pronouncing.word_pronouncer import Pronouncing, WordPronouncer
from nemo_speechlm.tensor_file import TrainingProgress
from nemo_speechlm.tokenizers.gmm.corpus import CorpusSource, Failure, TranscribedCorpus, load_corpus
from nemo_speechlm.tokenizers.gmm.model_file import GmmModel, save_model
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import SILENCE


class TrainedAligner(NamedTuple):
    """The result of a training.

    Attributes:
        model: the aligner with its units.
        reports: of the passes.
        failures: utterances that were not used, and why.
        utterances: how many were used.
        seconds: how long they last.
    """

    model: GmmModel
    reports: list[PassReport]
    failures: list[Failure]
    utterances: int
    seconds: float


@dataclass(frozen=True)
class AlignerTraining:
    """How an aligner is trained.

    Args:
        source: transcribed speech.
        pronouncing: how words become units.
        plan: of the passes.
        states: of each phone.
        silence_states: of silence.
        inventory: units to write; None takes those of ``pronouncing``.
        device: ``cpu``, ``cuda``, or None for the GPU where there is one.
        threads: that read audio.
    """

    source: CorpusSource
    pronouncing: Pronouncing
    plan: TrainingPlan
    states: int = 3
    silence_states: int = 3
    inventory: UnitInventory | None = None
    device: str | None = None
    threads: int = 1

    def run(
        self,
        output: str | Path,
        show: Callable[[PassReport], Any] = lambda report: None,
        overwrite: bool = False,
    ) -> TrainedAligner:
        """Train and write the aligner to ``output``; an interrupted run with the same settings is continued.

        What was left out is listed in ``<output>.skipped.jsonl``.

        Args:
            output: the file to make.
            show: called with the report of each pass.
            overwrite: begin anew where an interrupted training had other settings.

        Raises:
            InputError: on bad input, or if an interrupted training had other settings, unless ``overwrite``.
        """
        output = Path(output)
        inventory = self._checked_inventory()
        topology = Topology(self.pronouncing.acoustic_phones, SILENCE, self.states, self.silence_states)
        pronouncer, mfcc, plan = WordPronouncer(self.pronouncing), Mfcc(), self.plan
        loaded = load_corpus(self.source, pronouncer, topology, SILENCE, plan.silence_probability, mfcc, self.threads)
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        progress = TrainingProgress(output, self._settings(loaded))
        state = _resumed(progress.load(overwrite)) or start(loaded.corpus, topology, plan, SILENCE, mfcc)
        for report in state.reports:
            show(report)
        state = self._passes(loaded, state, progress, device, show)
        model = GmmModel(state.aligner.to("cpu"), self.pronouncing, inventory, self.source.speaker_key)
        has_path = [state.states[begin] >= 0 for begin in loaded.corpus.starts[:-1]]
        by_path = list(zip(loaded.utterances, loaded.corpus.lengths, has_path, strict=True))
        lost = [each.failed("no path through the audio") for each, _, found in by_path if not found]
        failures = [*loaded.failures, *lost]
        used = [frames for _, frames, found in by_path if found]
        _write_failures(output, failures)
        save_model(output, model)
        progress.path.unlink(missing_ok=True)
        return TrainedAligner(model, state.reports, failures, len(used), sum(used) / 100)

    def _passes(
        self,
        loaded: TranscribedCorpus,
        state: TrainingState,
        progress: TrainingProgress,
        device: torch.device,
        show: Callable[[PassReport], Any],
    ) -> TrainingState:
        plan, frames = self.plan, len(loaded.corpus.features)
        left = [number for number in range(len(state.reports) + 1, plan.passes + 1) if plan.realigns(number)]
        state = TrainingState(state.aligner.to(device), state.states, state.reports)
        with tqdm(total=len(left) * frames, desc="training", unit="frame", unit_scale=True) as bar:

            def step(what: str, count: int) -> None:
                bar.set_postfix_str(f"pass {len(state.reports) + 1} of {plan.passes}, {what}", refresh=False)
                bar.update(count)

            while len(state.reports) < plan.passes:
                state = train_pass(loaded.corpus, state, plan, step)
                _save_progress(progress, state)
                show(state.reports[-1])
        return state

    def _checked_inventory(self) -> UnitInventory:
        own, given = self.pronouncing.inventory, self.inventory
        if given is None:
            return own
        if given.kind != "phoneme" or given.frame_rate != own.frame_rate or given.silence != own.silence:
            raise SpeechLMError(
                f"units: {given.kind} units at {given.frame_rate:g} a second with silence {given.silence!r}, expected "
                f"phonemes at {own.frame_rate:g} with {own.silence!r}"
            )
        missing = sorted(set(own.symbols) - set(given.symbols))
        if missing:
            raise SpeechLMError(
                f"units: no {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}, which words may consist of"
            )
        return given

    def _settings(self, loaded: TranscribedCorpus) -> dict[str, Any]:
        """Everything that affects the result."""
        corpus = hashlib.sha256()
        for graph in loaded.corpus.graphs:
            corpus.update(graph.states.tobytes())
        corpus.update(loaded.corpus.features.numpy().tobytes())
        return {
            **plan_settings(self.plan),
            "states": [self.states, self.silence_states],
            "phones": list(self.pronouncing.acoustic_phones),
            "corpus": corpus.hexdigest(),
        }


def _save_progress(progress: TrainingProgress, state: TrainingState) -> None:
    values, tensors = content_of(state.aligner)
    reports = [report._asdict() for report in state.reports]
    progress.save(values | {"reports": reports}, tensors | {"frames": torch.from_numpy(state.states)})


def _resumed(saved: tuple[dict[str, Any], dict[str, Tensor]] | None) -> TrainingState | None:
    """The state of an interrupted run, if there is one."""
    if saved is None:
        return None
    values, tensors = saved
    try:
        aligner = aligner_of(values, tensors)
    except InputError:  # damaged: nothing is lost but time
        return None
    return TrainingState(aligner, tensors["frames"].numpy(), [PassReport(**report) for report in values["reports"]])


def _write_failures(output: Path, failures: Sequence[Failure]) -> None:
    path = skipped_path(output)
    path.unlink(missing_ok=True)
    if failures:
        write_manifest(path, (failure._asdict() for failure in sorted(failures)))


def passes_table(reports: Sequence[PassReport]) -> str:
    """The passes as a table."""
    rows = ["pass  log-likelihood  Gaussians  aligned  without path  seconds"]
    rows += [
        f"{r.number:4}  {r.log_likelihood:14.3f}  {r.components:9}  {'anew' if r.realigned else '-':>7}  "
        f"{r.failed:12}  {r.seconds:7.1f}"
        for r in reports
    ]
    return "\n".join(rows)
