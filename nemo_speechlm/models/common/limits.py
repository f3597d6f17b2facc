"""How long an utterance or a text may be for a model, and whether the data of a training keep to it."""

from collections.abc import Iterable, Sequence

from nemo.core.classes import ModelPT

from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics
from nemo_speechlm.errors import SpeechLMError


def longest_audio(model: ModelPT) -> float | None:
    """Seconds of the longest utterance that a model takes; None: it has no limit of which we know."""
    encoder = getattr(model, "encoder", None)
    most = getattr(encoder, "max_frames", None)
    if most is None:
        return None
    encoder.take_input_rate(model.cfg)  # type: ignore[union-attr]  # NeMo's own models do not tell it
    return (most - 1) / encoder.frame_rate  # type: ignore[union-attr]  # mel features may add a frame


def check_data_fit(model: ModelPT, most_tokens: int | None = None, speeds: Sequence[float] | None = None) -> None:
    """Check at the start of a training that the model takes every utterance which its data loaders may deliver.

    Args:
        model: its loaders have ``statistics`` of their manifests.
        most_tokens: characters or tokens that its decoder can write, None for any number.
        speeds: of training, where its config does not tell them.

    Raises:
        SpeechLMError: if there is audio or text that would end the training when its turn comes.
    """
    for name, loaders in (("train_ds", model._train_dl), ("validation_ds", model._validation_dl)):
        for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
            own = speeds if name == "train_ds" else None
            check_manifests_fit(model, name, getattr(loader, "statistics", ()), most_tokens, own)


def check_manifests_fit(
    model: ModelPT,
    name: str,
    manifests: Iterable[TranscriptStatistics],
    most_tokens: int | None = None,
    speeds: Sequence[float] | None = None,
) -> None:
    """:func:`check_data_fit` for the statistics of manifests; ``name`` is that of their part of the config."""
    longest = longest_audio(model)
    slowest = min(speeds or (model.cfg.get(name) or {}).get("speeds") or [1.0])
    for statistics in manifests:
        if longest is not None and statistics.longest_audio / slowest > longest:
            slowed = f", played at a speed of {slowest:g} (model.{name}.speeds)" if slowest != 1 else ""
            raise SpeechLMError(
                f"model.{name} has an utterance of {statistics.longest_audio:.1f} s{slowed}; the encoder has "
                f"positions for {longest:g} s. Leave such utterances out: "
                f"model.{name}.max_duration={int(longest * slowest)}"
            )
        if most_tokens is not None and statistics.longest_text > most_tokens:
            raise SpeechLMError(
                f"model.{name} has a text of {statistics.longest_text} characters or tokens; the decoder writes "
                f"{most_tokens} at most. Leave it out, or raise model.decoder.max_length"
            )
