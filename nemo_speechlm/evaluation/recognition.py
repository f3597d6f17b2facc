"""What a recognition model makes of a manifest, in batches of utterances of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lhotse.dataset.collation import collate_vectors
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins import TranscribeConfig
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from nemo_speechlm.data.audio import audio_info, read_audio, seconds_of
from nemo_speechlm.data.manifest import Record, audio_path, read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.models.restoring import restore_file
from nemo_speechlm.modules.transformer import LearnedPositions
from nemo_speechlm.nemo_targets import allow_targets

allow_targets()  # so that NeMo builds our models too


SHORTEST = 0.1
"""Seconds to which shorter utterances are filled up with silence."""


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    Attributes:
        line: its number there.
        record: the JSON object.
        path: the audio file.
        offset: seconds into the file.
        duration: seconds.
        text: the reference, white space tidied.
    """

    line: int
    record: Record
    path: Path
    offset: float
    duration: float
    text: str


def read_utterances(
    manifest: str | Path, *, text_field: str = "text", skip_bad: bool = False
) -> tuple[list[Utterance], list[InputError]]:
    """Read and check a manifest with transcripts; an empty transcript is one in which nothing is said.

    Args:
        manifest: JSON lines with ``audio_filepath`` and the text; ``offset`` and ``duration`` pick a part of the file.
        text_field: the text's key.
        skip_bad: return what is wrong, instead of raising at the first; each file is then decoded here already.

    Returns:
        the utterances, and what was left out.

    Raises:
        InputError: at the first line that cannot be used, or if none can.
    """
    utterances, skipped = [], []
    for number, record in read_manifest(manifest):
        try:
            utterance = _utterance(record, manifest, number, text_field)
            if skip_bad:
                audio_info(utterance.path, decode=True)
            utterances.append(utterance)
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(InputError(error.reason, manifest, number))
    if not utterances:
        raise InputError(f"none of its {len(skipped)} lines can be used; the first: {skipped[0].reason}", manifest)
    return utterances, skipped


def restore(path: str | Path, device: str = "auto") -> ASRModel:
    """Restore any recognition model of NeMo's or ours, ready to use.

    Args:
        path: ``.nemo`` file.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.

    Raises:
        InputError: if the file is not there, or not one of a recognition model.
    """
    model = restore_file(ASRModel, path, device)
    if not isinstance(model, ASRModel) or not hasattr(model, "transcribe_generator"):
        raise InputError(f"is a {type(model).__name__}, expected a recognition model", path)
    return model


def longest_audio(model: ASRModel) -> float | None:
    """Seconds of the longest utterance that a model takes; None: it has no limit of which we know."""
    encoder = getattr(model, "encoder", None)
    position = getattr(getattr(encoder, "shared_transformer", None), "position", None)
    if not isinstance(position, LearnedPositions):
        return None
    encoder.take_input_rate(model.cfg)  # type: ignore[union-attr] - NeMo's own models do not tell it
    return position.max_frames / encoder.frame_rate  # type: ignore[union-attr]


def check_lengths(model: ASRModel, utterances: Sequence[Utterance]) -> None:
    """Check that a model takes utterances of these lengths.

    Raises:
        InputError: naming the first that is too long.
    """
    longest = longest_audio(model)
    for utterance in utterances if longest is not None else ():
        if utterance.duration > longest:  # type: ignore[operator]
            raise InputError(
                f"an utterance of {utterance.duration:.1f} s; the model takes {longest:g} s at most. Leave it out, or "
                "cut it up; transcribe.py cuts recordings of any length",
                utterance.path,
            )


def choose_strategy(model: ASRModel, kind: str, beam_size: int) -> None:
    """Make a transducer decode greedily or with a beam.

    Raises:
        InputError: if the model has no such choice.
    """
    if not hasattr(model, "change_decoding_strategy") or "decoding" not in model.cfg:
        raise InputError(f"decoding={kind}: a {type(model).__name__} has no choice; leave decoding out")
    decoding = OmegaConf.create(OmegaConf.to_container(model.cfg.decoding, resolve=True))
    if kind == "beam":
        beam = {"beam_size": beam_size, "return_best_hypothesis": True}
        decoding = OmegaConf.merge(decoding, {"strategy": "beam", "beam": beam})
    else:
        decoding = OmegaConf.merge(decoding, {"strategy": "greedy_batch"})
    model.change_decoding_strategy(decoding)


def transcribe(
    model: ASRModel,
    utterances: list[Utterance],
    *,
    batch_duration: float = 120.0,
    num_workers: int = 0,
    precision: str = "float32",
) -> list[str]:
    """Recognize utterances, longest first so that memory runs out at once if at all.

    Args:
        model: any of NeMo's recognition models that ``transcribe`` without prompts.
        utterances: what to recognize.
        batch_duration: seconds of audio in a batch, padding included; a longer utterance is a batch of its own.
        num_workers: processes that load audio.
        precision: ``bfloat16`` and ``float16`` run the model under autocast.

    Returns:
        the texts, in the order of the utterances.

    Raises:
        InputError: if an utterance is longer than the model takes.
    """
    check_lengths(model, utterances)
    batches = length_batches([u.duration for u in utterances], batch_duration)
    dataset = AudioBatches(utterances, batches, int(model.cfg.get("sample_rate", 16000)))
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    texts = [""] * len(utterances)
    settings = TranscribeConfig(batch_size=1, num_workers=num_workers, verbose=False)
    with (
        torch.inference_mode(),
        autocast(model.device.type, precision),
        tqdm(total=len(utterances), desc="Recognizing", unit="utterance", smoothing=0.1) as bar,
    ):
        for batch, hypotheses in zip(batches, model.transcribe_generator(loader, settings), strict=True):
            for index, hypothesis in zip(batch, hypotheses, strict=True):
                texts[index] = " ".join(hypothesis_text(hypothesis).split())
            bar.update(len(batch))
    return texts


def length_batches(durations: list[float], batch_duration: float) -> list[list[int]]:
    """Indices in batches, longest first; longest times count stays within ``batch_duration`` if it can.

    >>> length_batches([1.0, 4.0, 2.0, 1.5], 4.0)
    [[1], [2, 3], [0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_duration:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class AudioBatches(Dataset):
    """Batches as NeMo's models take them: audio, lengths, and no transcripts."""

    def __init__(self, utterances: list[Utterance], batches: list[list[int]], sample_rate: int):
        self.utterances, self.batches, self.sample_rate = utterances, batches, sample_rate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, None, None]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, None, None]:
        audio = [_read(self.utterances[i], self.sample_rate) for i in self.batches[index]]
        # Less than a frame of audio breaks front ends; a little silence does no harm.
        shortest = round(SHORTEST * self.sample_rate)
        audio = [torch.nn.functional.pad(a, (0, max(0, shortest - len(a)))) for a in audio]
        return collate_vectors(audio, padding_value=0.0), torch.tensor([len(a) for a in audio]), None, None


def _utterance(record: Record, manifest: str | Path, number: int, text_field: str) -> Utterance:
    for key in ("audio_filepath", text_field):
        if not isinstance(record.get(key), str):
            found = f"is {record[key]!r}" if key in record else "is missing"
            raise InputError(f"{key!r} {found}, expected a string", manifest, number)
    path = audio_path(record, manifest)
    try:
        available = audio_info(path).duration
    except InputError as error:
        raise InputError(f"{path}: {error.reason}", manifest, number) from None
    # The duration of a whole file is what the file says: encoders and manifests round it differently.
    duration, offset = available, seconds_of(record, "offset", manifest, number)
    if offset is not None:
        wanted = seconds_of(record, "duration", manifest, number)
        duration = available - offset if wanted is None else wanted
        if duration <= 0 or offset + duration > available + 0.1:
            raise InputError(
                f"{path} lasts {available:.2f} s; {duration:.2f} s from {offset:.2f} s on are asked for",
                manifest,
                number,
            )
        duration = min(duration, available - offset)
        if wanted is None:  # so that results say which part of the file it is
            record = record | {"duration": round(duration, 4)}
    return Utterance(number, record, path, offset or 0.0, duration, " ".join(record[text_field].split()))


def _read(utterance: Utterance, sample_rate: int) -> Tensor:
    return torch.from_numpy(read_audio(utterance.path, sample_rate, utterance.offset, utterance.duration))


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context in which a model computes in ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InputError: if there is no such precision.
    """
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in kinds:
        raise InputError(f"precision is {precision!r}, expected one of {', '.join(kinds)}")
    return torch.autocast(device_type, kinds[precision], enabled=precision != "float32")


def hypothesis_text(hypothesis: Any) -> str:
    """The text of what NeMo's models return: a text, a hypothesis, or a list of these, best first."""
    while isinstance(hypothesis, list):  # n-best lists have the best first
        hypothesis = hypothesis[0]
    return hypothesis if isinstance(hypothesis, str) else hypothesis.text
