"""Taking over the encoder of another model's ``.nemo`` file: its architecture, its weights, its characters."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from nemo_speechlm.data.text.target_vocabulary import SPECIAL
from nemo_speechlm.errors import InputError, first_line
from nemo_speechlm.models.common.archive import missing_part
from nemo_speechlm.models.common.parts import SHARED, Parts, parts_of
from nemo_speechlm.nemo_targets import PREFIX


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
    def parts(self) -> Parts | None:
        """The parts that its model declares; None for NeMo's own models, which declare none."""
        return parts_of(self.cfg)

    @property
    def ctc_head(self) -> str | None:
        """Name of the CTC head, None where there is none; in NeMo's own CTC models it is ``decoder``."""
        return "decoder" if self.parts is None else self.parts.ctc_head

    def left_behind(self) -> list[str]:
        """Names of the parts that hold weights and are not shared.

        Raises:
            InputError: if its model declares its parts, and this is another one: the file is damaged or of another
                version, so its encoder may be another one too.
        """
        found = {key.split(".")[0] for key in self.weights}
        if self.parts is not None and (unknown := sorted(found - self.parts.names)):
            raise InputError(f"holds weights of parts unknown here: {', '.join(unknown)}", self.path)
        return sorted(found - {*SHARED})

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
    target = str(file.cfg.get("target"))
    if target.startswith(PREFIX) and file.parts is None:
        raise InputError(f"holds a {target.rpartition('.')[2]}, which has no SpeechLM encoder", path)
    return file


def read_nemo(path: str | Path) -> PretrainedFile:
    """As :func:`read_pretrained`, of any model.

    Raises:
        InputError: if it is not there, or not a ``.nemo`` file.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"{path!r} is no path; expected a .nemo file written by pretraining")
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError("no such file; expected a .nemo file written by pretraining", path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            connector = SaveRestoreConnector()
            connector._unpack_nemo_file(path2file=str(path), out_folder=folder)
            cfg = OmegaConf.load(Path(folder) / connector.model_config_yaml)
            weights = torch.load(Path(folder) / connector.model_weights_ckpt, map_location="cpu", weights_only=True)
        except Exception as error:  # of an archive, its YAML, its pickle
            reason = missing_part(path) or first_line(error)
            raise InputError(f"is not a .nemo file that can be read: {reason}", path) from error
    if not isinstance(cfg, DictConfig):
        raise InputError("is not a .nemo file that can be read: its config is no mapping", path)
    return PretrainedFile(path, cfg, weights)


def load_encoder(model: nn.Module, source: PretrainedFile) -> None:
    """Copy the weights of preprocessor and encoder into a model that has the same ones.

    Raises:
        InputError: if a parameter of the model finds no weight of its shape, or a weight no parameter; or on a part
            that the file's model does not declare (:meth:`PretrainedFile.left_behind`).
    """
    left = source.left_behind()
    for name in SHARED:
        load_strictly(getattr(model, name), source.part(name), source.path, name)
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
    weights = source.part(source.ctc_head) if source.ctc_head else {}
    old = _labels(source, len(weights["linear.weight"])) if "linear.weight" in weights else None
    if old is None:
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


def _labels(source: PretrainedFile, rows: int) -> list[str] | None:
    """The labels of the rows of a file's CTC head, the last of which is the blank's; None if they are not known."""
    tokens = (source.cfg.get("decoder") or {}).get("vocabulary")
    labels = [*(source.cfg.get("labels") or tokens or ())]
    # The head beside an attention decoder has a row for each of its symbols, of which <s> is the blank.
    for own in (labels, [*SPECIAL[1:], *labels]):
        if labels and len(own) + 1 == rows:
            return own
    return None
