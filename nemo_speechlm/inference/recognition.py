"""Recognize the utterances of a manifest, in batches of similar length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins import TranscribeConfig
from nemo.core.classes import ModelPT
from omegaconf import OmegaConf
from tqdm import tqdm

from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.audio_batches import Utterance, audio_loader
from nemo_speechlm.models.common.batching import batch_seconds, depends_on_padding
from nemo_speechlm.models.common.limits import longest_audio
from nemo_speechlm.models.common.precision import autocast
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.common.spaces import keep_spaces
from nemo_speechlm.models.common.untuned import Untuned
from nemo_speechlm.nemo_targets import allow_targets

allow_targets()  # so that NeMo builds our models too


def restore(path: str | Path, device: str = "auto") -> ASRModel:
    """Restore any recognition model of NeMo's or ours, ready to use.

    A pretrained SpeechLM recognizes by the CTC head that learned from text, a pretrained MAESTRO by its RNN-T.

    Args:
        path: ``.nemo`` file.
        device: ``auto`` for a GPU where there is one, or what PyTorch calls it.

    Raises:
        InputError: if the file is not there, or not one of a recognition model.
        SpeechLMError: if a pretrained model has learned nothing to recognize with.
    """
    return as_recognizer(restore_file(ASRModel, path, device), path)


def as_recognizer(model: ModelPT, path: str | Path) -> ASRModel:
    """A restored model as one that recognizes: itself, or what a pretrained one has learned to recognize with.

    Args:
        model: of any kind.
        path: its file, for errors.

    Raises:
        InputError: if it is no recognition model.
        SpeechLMError: if a pretrained model has learned nothing to recognize with.
    """
    if isinstance(model, Untuned):
        model = model.recognizer()
    if not isinstance(model, ASRModel) or not hasattr(model, "transcribe_generator"):
        raise InputError(f"is a {type(model).__name__}, expected a recognition model", path)
    return model


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
                str(utterance.path),
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
    keep_spaces(model)


def transcribe(
    model: ASRModel,
    utterances: list[Utterance],
    *,
    batch_duration: float | None = None,
    num_workers: int = 0,
    precision: str = "float32",
) -> list[str]:
    """Recognize utterances, longest first so that memory runs out at once if at all.

    Args:
        model: any of NeMo's recognition models that ``transcribe`` without prompts.
        utterances: what to recognize.
        batch_duration: see :func:`~nemo_speechlm.models.common.batching.batch_seconds`; a longer utterance is a batch
            of its own.
        num_workers: processes that load audio.
        precision: ``bfloat16`` and ``float16`` run the model under autocast.

    Returns:
        the texts, in the order of the utterances.

    Raises:
        InputError: if an utterance is longer than the model takes.
    """
    check_lengths(model, utterances)
    seconds = batch_seconds(batch_duration, depends_on_padding(model))
    batches, loader = audio_loader(utterances, int(model.cfg.get("sample_rate", 16000)), seconds, num_workers)
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


def letters_of(model: ASRModel) -> frozenset[str]:
    """The characters that a model of characters, NeMo's or ours, may write; empty for a model of tokens."""
    for part in ("joint", "decoder"):
        labels = getattr(getattr(model, part, None), "vocabulary", None)
        if labels and all(isinstance(label, str) and len(label) == 1 for label in labels):
            return frozenset(labels)
    return frozenset()


def hypothesis_text(hypothesis: Any) -> str:
    """The text of what NeMo's models return: a text, a hypothesis, or a list of these, best first."""
    while isinstance(hypothesis, list):  # n-best lists have the best first
        hypothesis = hypothesis[0]
    return hypothesis if isinstance(hypothesis, str) else hypothesis.text
