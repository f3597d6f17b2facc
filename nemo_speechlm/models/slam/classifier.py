"""Fine-tuning of SLAM's text side: classes of sentences and of pairs of sentences (SLAM, section 4.3: GLUE).

Axis legend: B texts, U tokens, C classes, D width.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.length_batches import LengthBatches
from nemo_speechlm.data.pretraining.dataset import StandIn
from nemo_speechlm.data.pretraining.loader import TakeTurns
from nemo_speechlm.data.text.classified import TextWriter, read_classified
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.losses import at_least_float32
from nemo_speechlm.models.common.joint import joint_means, joint_sum
from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.models.common.pretrained import PretrainedFile, load_strictly, read_pretrained
from nemo_speechlm.models.common.trained_model import TrainedModel
from nemo_speechlm.modules.text_embedding import TextEmbedding

PARTS = ("text_embedding", "shared_transformer")


class ClassifiedBatch(NamedTuple):
    """A batch of texts with their classes.

    Attributes:
        tokens: (B, U), 0 where padded.
        lengths: (B,).
        classes: (B,).
        stand_in: another process's batch, for one that has none left: it does not count.
    """

    tokens: Tensor
    lengths: Tensor
    classes: Tensor
    stand_in: bool = False


class SLAMTextClassifier(TrainedModel):
    """The shared encoder of SLAM over text, and a linear layer on the state of CLS.

    The second sentence of a pair stands behind the first one, with the CLS token between them: SLAM's tokens have no
    separator.

    Args:
        cfg: see ``conf/finetune_text.yaml``. The config that ``save_to`` writes does not need
            ``init_from_pretrained``.
        trainer: Lightning trainer, for training.

    Raises:
        InputError: if the pretraining file has no text side.
        SpeechLMError: naming a key of the config that is wrong.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = DictConfig(OmegaConf.to_container(cfg, resolve=True))
        check_choice("model.unknown_characters", cfg.unknown_characters, ("error", "drop"))
        if len(cfg.text_columns) not in (1, 2):
            raise SpeechLMError(f"model.text_columns names {len(cfg.text_columns)} columns, expected one or two")
        source = None
        if cfg.get("init_from_pretrained") is not None:
            source = self._take_architecture(cfg)
        elif cfg.get("shared_transformer") is None:
            raise SpeechLMError("model.init_from_pretrained is not given; expected the .nemo file of a SLAM model")
        self._complete_classes(cfg)
        super().__init__(cfg=cfg, trainer=trainer)
        self.classes = [str(name) for name in self._cfg.classes]  # as the files have them: [0, 1] are numbers in YAML
        path = self.register_artifact("tokenizer.model_path", self._cfg.tokenizer.model_path)
        self.writer = TextWriter(TokenEncoder(path), self._cfg.lower_case, self._cfg.unknown_characters)
        self.shared_transformer = self.from_config_dict(self._cfg.shared_transformer)
        width = self.shared_transformer.d_model
        self.text_embedding = TextEmbedding(len(self.writer.encoder.labels), width, self._cfg.text_dropout)
        # Text passes neither; DistributedDataParallel would wait for their gradients.
        self.shared_transformer.pre_encode.requires_grad_(False)
        self.text_embedding.bias.requires_grad_(False)
        self.dropout = nn.Dropout(self._cfg.dropout)
        self.head = nn.Linear(width, len(self.classes))
        if source is not None:
            if self._cfg.get("pretrained_weights", True):
                weights = {**source.part("encoder"), **source.weights}
                for name in PARTS:
                    own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
                    load_strictly(getattr(self, name), own, source.path, name)
                logging.info(f"Shared encoder and text embedding from {source.path}")
            with open_dict(self._cfg):
                self._cfg.init_from_pretrained, self._cfg.pretrained_from = None, str(source.path)

    def _take_architecture(self, cfg: DictConfig) -> PretrainedFile:
        source = read_pretrained(cfg.init_from_pretrained)
        model_path = (source.cfg.get("tokenizer") or {}).get("model_path")
        if not model_path or not source.part("text_embedding"):
            raise InputError("has no text side; expected a SLAM model pretrained on text or pairs", source.path)
        # NeMo copies artifacts when a model is saved, so the folder lives as long as the model.
        folder = tempfile.TemporaryDirectory()
        object.__setattr__(self, "_tokenizer_folder", folder)
        SaveRestoreConnector()._unpack_nemo_file(path2file=str(source.path), out_folder=folder.name)
        with open_dict(cfg):
            cfg.tokenizer = {"model_path": str(Path(folder.name) / str(model_path).removeprefix("nemo:"))}
            cfg.shared_transformer = OmegaConf.merge(
                source.cfg.encoder.shared_transformer, cfg.get("encoder_overrides") or {}
            )
        return source

    @staticmethod
    def _complete_classes(cfg: DictConfig) -> None:
        if cfg.get("classes") is None:
            lines = read_classified(cfg.train_ds.file, cfg.text_columns, cfg.label_column)
            with open_dict(cfg):
                cfg.classes = sorted({line.label for line in lines})
        if len(cfg.classes) < 2:
            raise SpeechLMError(f"model.classes are {list(cfg.classes)}; expected two at least")

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, U) and lengths (B,) -> logits (B, C)."""
        states = encode_embedded(self, *self.text_embedding(tokens, lengths))
        return self.head(self.dropout(states[:, 0]))

    def tokens_of(self, texts: Sequence[str], path: str | Path = "text", line: int = 1) -> list[int]:
        """One text, or two with CLS between them, ``max_tokens`` at most: what is longer loses its end."""
        parts = [self.writer(text, path, line) for text in texts]
        while sum(map(len, parts)) > max(self._cfg.max_tokens - len(parts) + 1, 0):
            max(parts, key=len).pop()
        first, *second = parts
        return first if not second else [*first, self.text_embedding.cls, *second[0]]

    @torch.no_grad()
    def classify(self, texts: Sequence[str | Sequence[str]], batch_size: int = 64) -> list[str]:
        """The class of each text, or of each pair of texts.

        Raises:
            SpeechLMError: if a single text is given to a model of pairs, or a pair to one of single texts.
            InputError: naming the text, counted from 1 as a line is, that the tokenizer cannot write.
        """
        rows = []
        for number, given in enumerate(texts, 1):
            parts = [given] if isinstance(given, str) else list(given)
            if len(parts) != len(self._cfg.text_columns):
                raise SpeechLMError(f"text {number} has {len(parts)} parts, expected {len(self._cfg.text_columns)}")
            rows.append(self.tokens_of(parts, "texts", number))
        mode, found = self.training, []
        self.eval()
        for begin in range(0, len(rows), batch_size):
            batch = _Batches([(row, 0) for row in rows[begin : begin + batch_size]])
            tokens, lengths, _, _ = batch[range(len(batch))]
            found += self(tokens.to(self.device), lengths.to(self.device)).argmax(1).tolist()
        self.train(mode)
        return [self.classes[place] for place in found]

    # --- data ----------------------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Endless batches of the lines of ``file``, in another order each pass.

        Raises:
            SpeechLMError: if the training would have no end.
        """
        if self._trainer is not None and self._trainer.max_steps == -1:
            raise SpeechLMError("trainer.max_steps is -1, expected a number of updates: the data have no end")
        data = self._dataset(train_data_config)
        ranks = self.global_rank, self.world_size
        size, seed = train_data_config["batch_size"], train_data_config.get("seed", 0)
        alike = np.ones(len(data))  # all being as long: at random
        order = LengthBatches(alike, size, seed, *ranks, used=self.used_batches)
        self._train_dl = DataLoader(data, batch_size=None, sampler=order)

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Batches of the lines of ``file``, of which each process has its share."""
        data = self._dataset(val_data_config)
        batches = BatchSampler(range(len(data)), val_data_config["batch_size"], drop_last=False)
        turns = TakeTurns(batches, self.global_rank, self.world_size)
        self._validation_dl = DataLoader(data, batch_size=None, sampler=turns)

    def _dataset(self, config: DictConfig | dict) -> "_Batches":
        lines = read_classified(config["file"], self._cfg.text_columns, self._cfg.label_column)
        examples = []
        for line in lines:
            if line.label not in self.classes:
                raise InputError(
                    f"{self._cfg.label_column!r} is {line.label!r}, expected one of {', '.join(self.classes)}",
                    config["file"],
                    line.line,
                )
            tokens = self.tokens_of(line.texts, config["file"], line.line)
            examples.append((tokens, self.classes.index(line.label)))
        return _Batches(examples)

    # --- training ------------------------------------------------------------------------------------------------

    def training_step(self, batch: ClassifiedBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the batches of all processes together."""
        losses = F.cross_entropy(at_least_float32(self(batch.tokens, batch.lengths)), batch.classes, reduction="sum")
        mean = joint_means({"loss": (losses, len(batch.classes))})["loss"]
        self.log("train_loss", mean.mean)
        return mean.loss

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        return ("train_loss",)

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64, device=self.device)

    def validation_step(self, batch: ClassifiedBatch, batch_idx: int) -> None:
        """Count which class each text was taken for."""
        logits, classes = at_least_float32(self(batch.tokens, batch.lengths)), batch.classes
        if batch.stand_in:
            return
        self._counts.index_put_((classes, logits.argmax(1)), torch.ones_like(classes), accumulate=True)
        self.log_mean("val_loss", F.cross_entropy(logits, classes, reduction="sum"), len(classes))

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> dict[str, Any]:
        """Log the accuracy; of two classes also the F1 score of the second, GLUE's figure for MRPC."""
        counts = joint_sum(self._counts).double()
        self.log("val_accuracy", (counts.trace() / counts.sum()).float(), sync_dist=True)
        if len(self.classes) == 2:
            f1 = 2 * counts[1, 1] / (counts[1].sum() + counts[:, 1].sum()).clamp(min=1)
            self.log("val_f1", f1.float(), sync_dist=True)
        return {}

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the better end of each."""
        if self._cfg.get("validation_ds") is None:
            return {}
        return {"val_loss": "min", "val_accuracy": "max"} | ({"val_f1": "max"} if len(self.classes) == 2 else {})


class _Batches(Dataset):
    """A map from the numbers of examples to their batch.

    Args:
        examples: tokens and class of each.
    """

    def __init__(self, examples: Sequence[tuple[list[int], int]]):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, numbers: Sequence[int] | StandIn) -> ClassifiedBatch:
        if isinstance(numbers, StandIn):
            return self[list(numbers.examples)]._replace(stand_in=True)
        texts, classes = zip(*(self.examples[number] for number in numbers), strict=True)
        lengths = torch.tensor([len(tokens) for tokens in texts])
        padded = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
        for row, tokens in zip(padded, texts, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return ClassifiedBatch(padded, lengths, torch.tensor(classes))
