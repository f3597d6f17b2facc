"""Taking over the encoder of another model's ``.nemo`` file: its architecture, its weights, its characters."""

import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nemo_speechlm.errors import InputError
from nemo_speechlm.models.common.parts import parts_of

SHARED = ("preprocessor", "encoder")
"""Parts that a pretraining model and the models fine-tuned from it have in common."""

LEFT_BEHIND = ("ctc_branch", "ctc_head", "decoder", "encoder_proj", "unit_classifiers", "unit_embedding")
"""Parts that fine-tuning may leave behind, be it of a pretraining model or of one that was fine-tuned already."""


@dataclass(frozen=True)
class PretrainedFile:
    """The content of the ``.nemo`` file of a SpeechLM model, pretrained or fine-tuned.

    Attributes:
        path: where it was read from.
        cfg: the model's config.
        weights: its state dict, on the CPU.
    """

    path: Path
    cfg: DictConfig
    weights: dict[str, Tensor]

    @property
    def left_behind(self) -> set[str]:
        """Parts of the model that no other takes over; a class that names its :class:`Parts` adds its own."""
        own = parts_of(self.cfg)
        return {*LEFT_BEHIND, *(own.left_behind if own is not None else ())}

    def part(self, name: str) -> dict[str, Tensor]:
        """Weights of a submodule, under the names that they have in it."""
        prefix = name + "."
        return {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}


def read_pretrained(path: str | Path) -> PretrainedFile:
    """Read config and weights of a ``.nemo`` file without building its model or running code that it may hold.

    Raises:
        InputError: if it is not there, not a ``.nemo`` file, or not one of a model with a SpeechLM encoder.
    """
    file = read_nemo(path)
    for part in SHARED:
        if part not in file.cfg:
            raise InputError(f"its config has no {part!r}; expected the .nemo file of a SpeechLM model", file.path)
    return file


def read_nemo(path: str | Path) -> PretrainedFile:
    """As :func:`read_pretrained`, of any model.

    Raises:
        InputError: if it is not there, or not a ``.nemo`` file.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError("no such file; expected a .nemo file written by pretraining", path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            connector = SaveRestoreConnector()
            connector._unpack_nemo_file(path2file=str(path), out_folder=folder)
            cfg = OmegaConf.load(Path(folder) / connector.model_config_yaml)
            weights = torch.load(Path(folder) / connector.model_weights_ckpt, map_location="cpu", weights_only=True)
        except (tarfile.TarError, OSError, RuntimeError, ValueError) as error:
            raise InputError(f"is not a .nemo file that can be read: {error}", path) from error
    assert isinstance(cfg, DictConfig)
    return PretrainedFile(path, cfg, weights)


def load_encoder(model: nn.Module, source: PretrainedFile) -> None:
    """Copy the weights of preprocessor and encoder into a model that has the same ones.

    Raises:
        InputError: if a parameter of the model finds no weight of its shape, or a weight no parameter. The parts in
            ``source.left_behind`` may go unused.
    """
    strange = sorted({key.split(".")[0] for key in source.weights} - {*SHARED, *source.left_behind})
    if strange:
        raise InputError(f"holds weights of parts unknown here: {', '.join(strange)}", source.path)
    for name in SHARED:
        load_strictly(getattr(model, name), source.part(name), source.path, name)
    left = sorted({key.split(".")[0] for key in source.weights} & source.left_behind)
    count = sum(value.numel() for value in source.part("encoder").values())
    logging.info(
        f"Encoder from {source.path}: {count / 1e6:.1f} M parameters, all filled."
        + (f" Not taken over: {', '.join(left)}." if left else "")
    )


def load_strictly(module: nn.Module, weights: dict[str, Tensor], path: Path, name: str) -> None:
    """Fill a module, naming every weight that is missing, unused or of another shape.

    Raises:
        InputError: if there is any.
    """
    own = module.state_dict()
    problems = [f"no weight for {name}.{key}" for key in own.keys() - weights.keys()]
    problems += [f"{name}.{key} is not used" for key in weights.keys() - own.keys()]
    problems += [
        f"{name}.{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    if problems:
        problems.sort()
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError("weights do not fit the model: " + "; ".join(problems[:8]) + more, path)
    module.load_state_dict(weights)


def load_ctc_head(head: nn.Module, labels: list[str], source: PretrainedFile) -> list[str]:
    """Copy the CTC head; where the labels differ, the rows of those that both have, and of the blank.

    Args:
        head: a :class:`~nemo_speechlm.modules.ctc_head.SpeechLMCTCHead` for ``labels``.
        labels: those of the model.
        source: the file.

    Returns:
        labels that the file did not have; their rows stay random.

    Raises:
        InputError: if the file has no such head.
    """
    weights = source.part("ctc_head") or source.part("decoder")
    old = [*source.cfg.get("labels", ())]
    if not old or "linear.weight" not in weights:
        raise InputError("holds no CTC head of SpeechLM's kind; set model.reuse_ctc_head=false", source.path)
    rows = {label: row for row, label in enumerate([*old, None])}
    new = [label for label in labels if label not in rows]
    pairs = [(row, rows[label]) for row, label in enumerate([*labels, None]) if label in rows]
    target, origin = (torch.tensor(column) for column in zip(*pairs, strict=True))
    own = head.state_dict()
    for key in ("linear.weight", "linear.bias"):
        own[key][target] = weights[key][origin]
        weights[key] = own[key]
    load_strictly(head, weights, source.path, "ctc_head")
    logging.info(
        f"CTC head from {source.path}, {len(pairs) - 1} of {len(labels)} labels"
        + (f"; new ones: {' '.join(map(repr, new))}" if new else "")
    )
    return new
