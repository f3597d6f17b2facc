"""The states that a SLAM model gives texts, and utterances together with their texts."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, partial_path
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.slam.model import SLAMModel


def extract_states(
    model: str | Path,
    manifest: str | Path,
    output: str | Path,
    of: str = "text",
    dtype: str = "float32",
    overwrite: bool = False,
    device: str = "auto",
) -> int:
    """Write a ``.safetensors`` file for each line of a manifest, then the manifest with ``features_filepath``.

    A file holds the states of the last layer: ``cls`` (D,), ``text`` (U, D) and, of pairs, ``speech`` (T, D).

    Args:
        model: ``.nemo`` file of a SLAM model that was pretrained on text or pairs.
        manifest: JSON lines with ``text``, for pairs with ``audio_filepath`` too.
        output: the folder.
        of: ``text`` or ``pairs``.
        dtype: of what is written, ``float32`` or ``float16``.
        overwrite: replace a folder of such files.
        device: see :func:`restore_file`.

    Returns:
        how many lines there were.

    Raises:
        InputError: naming a file or a line that cannot be used.
    """
    from safetensors.torch import save_file

    check_choice("of", of, ("speech", "text", "pairs"))
    check_choice("dtype", dtype, ("float32", "float16"))
    folder = Path(output)
    own = {"features", "features.jsonl"} if overwrite else set()
    if folder.exists() and any(path.name not in own for path in folder.iterdir()):
        raise InputError("holds files already; give another output, or overwrite=true", folder)
    next(read_manifest(manifest))  # what is there is removed when model and manifest are known to be
    restored = restore_file(SLAMModel, model, device)
    if getattr(restored, "text_encoder", None) is None or not hasattr(restored, "text_embedding"):
        raise InputError("has no text side; expected a SLAM model that was pretrained on text or pairs", model)
    if overwrite and (folder / "features").exists():
        shutil.rmtree(folder / "features")
        (folder / "features.jsonl").unlink(missing_ok=True)
    (folder / "features").mkdir(parents=True)
    required = ["text"] if of == "text" else ["text", "audio_filepath"]
    made: list[Record] = []
    for number, record in tqdm(read_manifest(manifest, required), unit="line"):
        states = _states(restored, record, Path(manifest), number, of)
        path = folder / "features" / f"{number - 1:07d}.safetensors"
        partial, kind = partial_path(path), getattr(torch, dtype)
        save_file({name: x.to("cpu", kind).contiguous() for name, x in states.items()}, partial)
        os.replace(partial, path)
        made.append(record | {"features_filepath": str(path.relative_to(folder)), "num_tokens": len(states["text"])})
    write_manifest(folder / "features.jsonl", made)
    return len(made)


@torch.inference_mode()
def _states(model: SLAMModel, record: Record, manifest: Path, number: int, of: str) -> dict[str, Tensor]:
    assert model.text_encoder is not None
    text = record["text"]
    ids = model.text_encoder(text, manifest, number) if isinstance(text, str) else []
    if not ids:
        raise InputError(f"'text' is {text!r}, expected a sentence", manifest, number)
    tokens, sizes = torch.tensor([ids], device=model.device), torch.tensor([len(ids)], device=model.device)
    if of == "text":
        states = model.text_states(tokens, sizes)[0]
        return {"cls": states[0], "text": states[1:]}
    options: dict[str, Any] = {"offset": record.get("offset") or 0.0, "duration": record.get("duration")}
    audio = torch.from_numpy(read_audio(audio_source(record, manifest, number), int(model.cfg.sample_rate), **options))
    samples = torch.tensor([len(audio)], device=model.device)
    speech, states, frames = model.pair_states(PairBatch(audio.unsqueeze(0).to(model.device), samples, tokens, sizes))
    return {"cls": states[0, 0], "text": states[0, 1:], "speech": speech[0, : int(frames)]}
