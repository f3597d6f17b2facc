"""Recognition and translation with an attention decoder: fine-tuning of a SpeechLM encoder (SpeechLM section 4.3)."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.data import audio_to_text_dataset
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins import ASRBPEMixin, ASRTranscriptionMixin, TranscribeConfig
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
from nemo.core.classes import PretrainedModelInfo
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from nemo_speechlm.data.recognition.batch import is_repeated
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.data.text.target_vocabulary import (
    CharacterVocabulary,
    PieceVocabulary,
    TargetVocabulary,
)
from nemo_speechlm.decoding.attention_search import EOS, SearchSettings, Translation, beam_search
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses.label_smoothing import smoothed_cross_entropy
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)
from nemo_speechlm.models.common.acceleration import Accelerated
from nemo_speechlm.models.common.augmentation import spec_augmentation_of
from nemo_speechlm.models.common.features import FeatureExtraction
from nemo_speechlm.models.common.fine_tuning import become_independent, check_frozen, check_reusable, take_architecture
from nemo_speechlm.models.common.freezing import EncoderFreezingMixin
from nemo_speechlm.models.common.joint import joint_average, joint_means, joint_sum
from nemo_speechlm.models.common.limits import check_data_fit
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.pretrained import load_ctc_head, load_encoder
from nemo_speechlm.models.common.run_folder import run_folder
from nemo_speechlm.models.common.text_counts import bleu_score, error_rates, text_counts
from nemo_speechlm.models.common.tokenizer import named_tokenizer
from nemo_speechlm.models.recognition.targets import complete_targets
from nemo_speechlm.models.recognition.transcribing import KeepsMode
from nemo_speechlm.modules.decoder.relative import PAD
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.nemo_targets import name_publicly

TASKS = ("recognition", "translation")


class SpeechLMEncDecModel(
    Accelerated, FeatureExtraction, EncoderFreezingMixin, KeepsMode, ASRModel, ASRBPEMixin, ASRTranscriptionMixin
):
    """A SpeechLM encoder with a decoder that attends to it and writes characters or SentencePiece tokens.

    Config keys:

    - ``task``: ``recognition`` or ``translation``: whether validation counts errors or computes BLEU.
    - ``source_lang``, ``target_lang``: of a translation model; None takes those of the training manifest's lines.
    - ``preprocessor``, ``encoder``, ``sample_rate``, ``init_from_pretrained``, ``pretrained_weights``,
      ``encoder_overrides``, ``freeze_front_end``, ``freeze_encoder_steps``: as for ``SpeechLMCTCModel``.
    - ``labels``: the characters; None: those of the training manifests' texts. ``leading_space``: texts begin with a
      space (models converted from fairseq).
    - ``tokenizer``: ``dir`` of a SentencePiece model and ``type: bpe``; then tokens are written, not characters.
    - ``decoder``: ``nemo_speechlm.modules.RelativeDecoder`` or ``nemo_speechlm.modules.NemoDecoder``.
    - ``final_dropout``: on the encoder's output. Where the decoder wants another width, a linear layer follows.
    - ``label_smoothing``: of the decoder's loss.
    - ``ctc_weight``: share of a CTC loss of the encoder's output in the loss of training; ``ctc_branch`` is its layer,
      a :class:`SpeechLMCTCHead`, and ``reuse_ctc_head`` starts it from pretraining's.
    - ``decoding``: fields of :class:`SearchSettings`; ``validation_beam_size`` takes the place of its beam there.
    """

    parts: ClassVar[Parts] = Parts(ctc_head="ctc_branch", left_behind=("decoder", "encoder_proj"))

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
        source = take_architecture(cfg)
        check_frozen(cfg, trainer)
        self.ctc_weight = float(cfg.get("ctc_weight") or 0.0)
        if cfg.get("reuse_ctc_head", False):
            check_reusable(cfg, source, self.parts)
            if not self.ctc_weight:
                raise SpeechLMError("model.reuse_ctc_head needs model.ctc_weight above 0; without it, set it to false")
        with open_dict(cfg):
            cfg.setdefault("task", "recognition")
            if cfg.task not in TASKS:
                raise SpeechLMError(f"model.task is {cfg.task!r}, expected {' or '.join(TASKS)}")
            complete_targets(cfg)
        self.vocabulary = self._make_vocabulary(cfg)
        size = len(self.vocabulary.symbols)
        with open_dict(cfg):
            cfg.decoder.vocab_size = size
            if self.ctc_weight:
                cfg.ctc_branch.update(feat_in=cfg.encoder.d_model, num_classes=size - 1)
        name_publicly(cfg, type(self))
        super().__init__(cfg=cfg, trainer=trainer)
        self.preprocessor = self.from_config_dict(self.cfg.preprocessor)
        self.spec_augmentation = spec_augmentation_of(self)
        self.encoder = self.from_config_dict(self.cfg.encoder)
        self.encoder.take_input_rate(self.cfg)
        self.final_dropout = nn.Dropout(self.cfg.get("final_dropout") or 0.0)
        self.decoder = self.from_config_dict(self.cfg.decoder)
        width, wanted = int(self.cfg.encoder.d_model), self.decoder.encoder_dim
        self.encoder_proj = nn.Identity() if width == wanted else nn.Linear(width, wanted)
        self.ctc_branch = self.from_config_dict(self.cfg.ctc_branch) if self.ctc_weight else None
        self.label_smoothing = float(self.cfg.get("label_smoothing") or 0.0)
        self.change_decoding_strategy(self.cfg.get("decoding"))
        if source is not None and self.cfg.get("pretrained_weights", True):
            load_encoder(self, source)
        if source is not None and self.cfg.get("reuse_ctc_head", False):
            load_ctc_head(self.ctc_branch, self.vocabulary.symbols[1:], source)  # type: ignore[arg-type]
        become_independent(self.cfg, source)
        self.setup_freezing(self.cfg.get("freeze_front_end", False), self.cfg.get("freeze_encoder_steps", 0))

    def _make_vocabulary(self, cfg: DictConfig) -> TargetVocabulary:
        if not OmegaConf.select(cfg, "tokenizer.dir"):
            return CharacterVocabulary(list(cfg.labels), cfg.get("leading_space", False))
        named_tokenizer(cfg.tokenizer)
        self._setup_tokenizer(cfg.tokenizer)
        return PieceVocabulary(TokenEncoder(self.tokenizer.tokenizer.serialized_model_proto()))

    def change_decoding_strategy(self, decoding_cfg: DictConfig | dict | None = None) -> None:
        """Set some or all fields of :class:`SearchSettings`; those that are not named stay as they are.

        Raises:
            SpeechLMError: on a field that there is not, or a value that it cannot have.
        """
        present = getattr(self, "search", SearchSettings())
        try:
            self.search = replace(present, **{str(k): v for k, v in (decoding_cfg or {}).items() if v is not None})
        except (TypeError, ValueError) as error:
            raise SpeechLMError(f"model.decoding: {error}; it has {', '.join(asdict(present))}") from error
        with open_dict(self.cfg):
            self.cfg.decoding = asdict(self.search)

    # --- computing ---------------------------------------------------------------------------------------------------

    def forward(self, input_signal: Tensor, input_signal_length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a batch.

        Args:
            input_signal: waveforms (B, S).
            input_signal_length: samples (B,).

        Returns:
            states for the decoder (B, T, E), states of the encoder itself (B, D, T), frames (B,).
        """
        signal, length = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        if self.spec_augmentation is not None and self.training:
            signal = self.spec_augmentation(input_spec=signal, length=length)
        encoded, length = self.encoder(audio_signal=signal, length=length)
        return self.encoder_proj(self.final_dropout(encoded.transpose(1, 2))), encoded, length

    def generate(self, signal: Tensor, length: Tensor, beam_size: int | None = None) -> list[list[Translation]]:
        """The best token sequences for each waveform of (B, S), by the settings of ``decoding``, the best first."""
        states, _, frames = self.forward(input_signal=signal, input_signal_length=length)
        return self.search_states(states, frames, beam_size)

    def search_states(self, states: Tensor, frames: Tensor, beam_size: int | None = None) -> list[list[Translation]]:
        """The search of :meth:`generate` over states (B, T, E) with frames (B,)."""
        settings = self.search if beam_size is None else replace(self.search, beam_size=beam_size)
        return beam_search(self.decoder, states, frames, settings)

    def score(self, states: Tensor, frames: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of given texts.

        Args:
            states: (B, T, E).
            frames: (B,).
            ids: (B, U) tokens, without ``</s>``.
            lengths: (B,).

        Returns:
            logits (B, U + 1, V), and the tokens that they should predict (B, U + 1), ``</s>`` last, padded.
        """
        ids = ids.masked_fill(padding_mask(lengths, ids.shape[1]), PAD)
        first = torch.full_like(ids[:, :1], EOS)
        targets = F.pad(ids, (0, 1), value=PAD).scatter(1, lengths.unsqueeze(1), EOS)
        logits = self.decoder(torch.cat((first, ids), dim=1), states, padding_mask(frames, states.shape[1]))
        return logits, targets

    def _terms(self, batch: Any) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Sums of losses with the tokens (``</s>`` included) they are of, states for the decoder and their frames."""
        signal, signal_length, ids, lengths = batch
        states, encoded, frames = self.forward(input_signal=signal, input_signal_length=signal_length)
        logits, targets = self.score(states, frames, ids, lengths)
        count = targets.ne(PAD).sum()
        attention = smoothed_cross_entropy(logits, targets, self.label_smoothing, PAD)
        hits = (logits.argmax(-1).eq(targets) & targets.ne(PAD)).sum()
        terms = {"attention_loss": (attention, count), "accuracy": (hits.float(), count)}
        if self.ctc_branch is not None:
            log_probs = self.ctc_branch(encoder_output=encoded)
            ctc = F.ctc_loss(
                log_probs.transpose(0, 1),
                ids - 1,  # its blank is the last class, and stands in the place of <s>
                frames,
                lengths,
                blank=log_probs.shape[2] - 1,
                reduction="sum",
                zero_infinity=True,
            )
            terms["ctc_loss"] = ctc, lengths.sum()
        return terms, states, frames

    def _loss(self, parts: Mapping[str, Tensor]) -> Tensor:
        attention = parts["attention_loss"]
        if "ctc_loss" not in parts:
            return attention
        return (1 - self.ctc_weight) * attention + self.ctc_weight * parts["ctc_loss"]

    # --- training ----------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuse data that would end the training when their turn comes."""
        super().on_fit_start()
        check_data_fit(self, self.decoder.max_length - 1)  # </s> is one more
        longest = max((s.longest_text for s in getattr(self._train_dl, "statistics", ())), default=0)
        if not self.search.max_length_per_frame and longest > self.search.max_length:
            logging.warning(
                f"model.train_ds has a text of {longest} characters or tokens, and what is recognized is cut behind "
                f"{self.search.max_length}: model.decoding.max_length"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of the batches of all processes (:class:`JointMean`), logged with its parts."""
        means = joint_means(self._terms(batch)[0])
        self.log("train_loss", self._loss({name: mean.mean for name, mean in means.items()}))
        rest = {f"train_{name}": mean.mean for name, mean in means.items()}
        self.log_dict({**rest, "learning_rate": self._optimizer.param_groups[0]["lr"]})
        self.log("global_step", torch.tensor(self.trainer.global_step, dtype=torch.float32))
        return self._loss({name: mean.loss for name, mean in means.items()})

    def training_metrics(self) -> tuple[str, ...]:
        """Names of what steps log."""
        names = ["train_loss", "train_attention_loss", "train_accuracy"]
        if self.ctc_branch is not None:
            names.append("train_ctc_loss")
        return (*names, "learning_rate", "global_step", "grad_norm")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Losses of a batch, and the counts behind the error rates or BLEU of its hypotheses."""
        terms, states, frames = self._terms(batch)
        weight = 0 if is_repeated(batch) else 1
        found = self.search_states(states, frames, self.cfg.get("validation_beam_size") or 1)
        hypotheses = [self.vocabulary.decode(one[0].tokens.tolist()) for one in found]
        references = [
            self.vocabulary.decode(ids[:length].tolist())
            for ids, length in zip(batch[2].cpu(), batch[3].tolist(), strict=True)
        ]
        counts = text_counts(references, hypotheses, self.cfg.get("target_lang")).to(states.device, torch.float32)
        output = {f"val_{name}": total / count.clamp(min=1) for name, (total, count) in terms.items()}
        output["val_loss"] = self._loss({name: output[f"val_{name}"] for name in terms})
        output |= {f"weight_of_val_{name}": weight * count for name, (_, count) in terms.items()}
        output["val_counts"] = weight * counts
        outputs: Any = self.validation_step_outputs
        several = isinstance(self.trainer.val_dataloaders, list) and len(self.trainer.val_dataloaders) > 1
        (outputs[dataloader_idx] if several else outputs).append(output)
        if batch_idx == 0 and self.cfg.get("log_prediction", True):
            logging.info(f"reference:  {references[0]}\nhypothesis: {hypotheses[0]}")
        return output

    def validation_metrics(self) -> dict[str, str]:
        """What the validation logs, with the end, ``min`` or ``max``, that is the better one."""
        metrics = {"val_loss": "min", "val_attention_loss": "min", "val_accuracy": "max"}
        if self.ctc_branch is not None:
            metrics["val_ctc_loss"] = "min"
        rates = {"val_bleu": "max"} if self.cfg.task == "translation" else {"val_wer": "min", "val_cer": "min"}
        return metrics | rates

    def multi_validation_epoch_end(self, outputs: list[dict[str, Tensor]], dataloader_idx: int = 0) -> dict:
        """Mean losses; error rates, or BLEU, over the whole set (all devices together)."""
        result = super().multi_validation_epoch_end(outputs, dataloader_idx)
        parts = {}
        for name in ("attention_loss", "accuracy", *(() if self.ctc_branch is None else ("ctc_loss",))):
            values, weights = ([output[f"{key}_{name}"] for output in outputs] for key in ("val", "weight_of_val"))
            parts[name] = result["log"][f"val_{name}"] = joint_average(values, weights)
        result["val_loss"] = result["log"]["val_loss"] = self._loss(parts)
        counts = joint_sum(torch.stack([output["val_counts"] for output in outputs]).sum(0)).cpu()
        if self.cfg.task == "translation":
            rates = {"bleu": bleu_score(counts)}
        else:
            rates = error_rates(counts)
        result["log"] |= {f"val_{name}": torch.tensor(value) for name, value in rates.items()}
        told = ", ".join(f"{n.upper()} {v:.2f}" if n == "bleu" else f"{n.upper()} {v:.2%}" for n, v in rates.items())
        logging.info(
            f"step {self.trainer.global_step}, val set {dataloader_idx}: loss {result['val_loss']:.3f}, "
            f"accuracy {result['log']['val_accuracy']:.2%}, {told}"
        )
        return result

    # --- data --------------------------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Make the loader of training."""
        self._update_dataset_config(dataset_name="train", config=train_data_config)
        self._train_dl = self._loader(train_data_config)

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Make the loader of validation."""
        self._update_dataset_config(dataset_name="validation", config=val_data_config)
        self._validation_dl = self._loader(val_data_config)

    def setup_test_data(self, test_data_config: DictConfig | dict) -> None:
        """Make a loader of test data; ``speechlm_evaluate.py`` needs none."""
        self._update_dataset_config(dataset_name="test", config=test_data_config)
        self._test_dl = self._loader(test_data_config)

    def _loader(self, config: DictConfig | dict) -> DataLoader:
        return build_recognition_dataloader(
            config, self.vocabulary, self.cfg.sample_rate, self.global_rank, self.world_size, run_folder(self)
        )

    # --- transcribing ------------------------------------------------------------------------------------------------

    def _setup_transcribe_dataloader(self, config: dict) -> DataLoader:
        settings = {
            "manifest_filepath": str(Path(config["temp_dir"]) / "manifest.json"),
            "labels": [" "],  # there is no text to encode
            "sample_rate": self.cfg.sample_rate,
            "channel_selector": config.get("channel_selector"),
        }
        dataset = audio_to_text_dataset.get_char_dataset(settings)
        return DataLoader(
            dataset,
            batch_size=config["batch_size"],
            collate_fn=dataset.collate_fn,
            num_workers=config.get("num_workers") or 0,
        )

    def _transcribe_forward(self, batch: Any, trcfg: TranscribeConfig) -> list[list[Translation]]:
        return self.generate(batch[0], batch[1])

    def _transcribe_output_processing(self, outputs: list, trcfg: TranscribeConfig) -> list[Hypothesis]:
        return [
            Hypothesis(
                score=found[0].score,
                y_sequence=found[0].tokens,
                text=self.vocabulary.decode(found[0].tokens.tolist()),
                length=len(found[0].tokens),
            )
            for found in outputs
        ]

    @property
    def transcribe_pad_id(self) -> int:
        """NeMo asks for it; there are no tokens to pad while transcribing."""
        return PAD

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """There are none to download; checkpoints of others are converted."""
        return []
