"""The phones of a MAESTRO model: made by its language's phonemizer, and kept in its config."""

from collections.abc import Iterator
from typing import Any

from nemo.core.classes import ModelPT
from omegaconf import OmegaConf, open_dict

from nemo_speechlm.data.manifests.lines import read_texts
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.pronouncing.phone_encoder import PhoneEncoder

TARGET = "nemo_speechlm.pronouncing.phone_encoder.PhoneEncoder"


def registered_phones(model: ModelPT) -> tuple[PhoneEncoder, dict[str, Any]]:
    """Read ``cfg.phones`` and ``cfg.language``, and put the phones into the config where they are not there yet.

    English has the phones of CMUdict. Those of other languages are the phones that occur in the texts of ``train_ds``,
    all of which are read for it.

    Returns:
        what writes texts as phones, and the config that the streams make another one of.

    Raises:
        SpeechLMError: if there are neither phones nor texts.
    """
    cfg: Any = model.cfg
    options: dict[str, Any] = OmegaConf.to_container(cfg.phones, resolve=True)  # type: ignore[assignment]
    if options.get("lexicon"):
        options["lexicon"] = model.register_artifact("phones.lexicon", options["lexicon"])
    language: dict[str, Any] = OmegaConf.to_container(cfg.language, resolve=True)  # type: ignore[assignment]
    encoder = PhoneEncoder(language, **options)
    if not encoder.symbols or (options.get("symbols") is None and not encoder.english):
        encoder.learn(_texts(cfg))
    if len(encoder.symbols) <= encoder.silence:
        raise SpeechLMError(
            f"model.phones.symbols is not given, and no text of model.train_ds tells the phones of "
            f"{language['code']!r}"
        )
    with open_dict(cfg):
        cfg.phones.symbols = encoder.symbols
    return encoder, {"_target_": TARGET, "language": language, **options, "symbols": encoder.symbols}


def _texts(cfg: Any) -> Iterator[str]:
    skip_bad = (cfg.get("train_ds") or {}).get("on_bad") == "skip"
    for name in ("pairs", "text"):
        part = (cfg.get("train_ds") or {}).get(name) or {}
        paths = part.get("manifest_filepath") or []
        for *_, text in read_texts(paths, part.get("text_field") or "text", skip_bad):
            yield text
