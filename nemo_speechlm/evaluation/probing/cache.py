"""Features of all layers, computed once: a folder for each model and manifest, whatever the task."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.evaluation.probing.upstream import Upstream, UpstreamSpec
from nemo_speechlm.files import plain
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.features.extraction import extract
from nemo_speechlm.inference.features.options import FeatureOptions


def cached_features(
    upstream: Upstream,
    spec: UpstreamSpec,
    utterances: Sequence[Utterance],
    cache: str | Path,
    config: Mapping[str, Any],
) -> list[Path]:
    """A file (L, T, D) in fp16 for each utterance; what is not there yet is computed.

    Args:
        upstream: the model.
        spec: which one it is.
        utterances: of a manifest.
        cache: the folder for all models and manifests.
        config: of the data: ``manifest_filepath``, for the folder's name, and ``num_workers``.
    """
    places = [[str(u.path.absolute()), u.offset, u.duration] for u in utterances]
    text = json.dumps([plain(spec.identity()), places], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"{spec.title.replace(' ', '_')}_{Path(str(config['manifest_filepath'])).stem}_{digest}"
    folder = Path(cache) / name
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together or torch.distributed.get_rank() == 0:
        options = FeatureOptions(dtype="float16", num_workers=config.get("num_workers", 0))
        extract(upstream, utterances, (), folder, options, model_path=spec.identity())
    if together:  # the first process computes for all
        torch.distributed.barrier()
    return [folder / record["features_filepath"] for _, record in read_manifest(folder / "features.jsonl")]
