"""A tiny SLAM model: its tokenizer and its config, for tests, ours and those of users."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.testing.corpora import TinyCorpus

TINY_SLAM_OPTIONS = [
    "model.encoder.d_model=32", "model.encoder.speech_transformer.n_layers=1",
    "model.encoder.shared_transformer.n_layers=1", "model.encoder.front_end.subsampling.conv_channels=8",
    "model.w2v_bert.num_codes=16", "model.w2v_bert.code_dim=12",
]  # fmt: skip
"""What makes ``slam_small`` tiny, on a command line."""


def tiny_slam_architecture() -> dict[str, Any]:
    """``preprocessor``, ``encoder`` and ``sample_rate``: 20 mel bins, 1 + 1 Conformer layers of 32, 25 Hz."""
    layer = {
        "_target_": "nemo_speechlm.modules.MaskedConformer",
        "feat_in": 32,
        "d_model": 32,
        "n_layers": 1,
        "n_heads": 2,
        "ff_expansion_factor": 2,
        "subsampling_factor": 1,
        "self_attention_model": "abs_pos",
        "xscaling": False,
        "conv_kernel_size": 5,
        "conv_norm_type": "group_norm4",
        "dropout": 0.0,
        "dropout_pre_encoder": 0.0,
        "dropout_emb": 0.0,
        "dropout_att": 0.0,
        "sync_max_audio_length": False,
    }
    return {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 20,
            "n_fft": 512,
            "normalize": "per_feature",
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo_speechlm.modules.SpeechLMEncoder",
            "d_model": 32,
            "dropout_input": 0.0,
            "front_end": {
                "_target_": "nemo_speechlm.modules.MelFrontEnd",
                "subsampling_factor": 4,
                "output_dim": 32,
                "subsampling": {
                    "_target_": "nemo.collections.asr.parts.submodules.subsampling.ConvSubsampling",
                    "subsampling": "striding",
                    "subsampling_factor": 4,
                    "feat_in": 20,
                    "feat_out": 32,
                    "conv_channels": 8,
                },
            },
            "speech_transformer": layer,
            "shared_transformer": {**layer, "positions": False},
        },
    }


TINY_W2V_BERT = {
    "num_codes": 16,
    "code_dim": 12,
    "distractors": 10,
    "temperature": 0.1,
    "gumbel_temperature": [2.0, 0.5, 0.999],
}
"""``w2v_bert`` of the tiny models: 16 codes of 12."""


def tiny_streams(corpus: TinyCorpus) -> dict[str, Any]:
    """The three streams of a tiny corpus, its transcribed speech being the pairs too."""
    return {
        "speech": {"manifest_filepath": str(corpus.speech), "batch_duration": 8},
        "text": {"manifest_filepath": str(corpus.text), "batch_tokens": 100},
        "pairs": {"manifest_filepath": str(corpus.speech), "batch_duration": 8},
    }


def tiny_slam_config(corpus: TinyCorpus, **overrides: Any) -> DictConfig:
    """Config of a :class:`SLAMModel` on a tiny corpus, its transcribed speech being the pairs too.

    A tokenizer of the corpus's letters is made beside it. ``overrides`` replace keys.
    """
    folder = Path(corpus.text).parent / "tokenizer"
    if not (folder / "tokenizer.model").exists():
        train_tokenizer((record["text"] for _, record in read_manifest(corpus.text, ["text"])), folder, 16, "char")
    spans = {"share": 0.3, "length": 2, "min_spans": 1}
    data = tiny_streams(corpus)
    config = {
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "tasks": {"w2v_bert": 1.0, "masked_text": 1.0, "tlm": 1.0, "stm": 1.0, "ctc": 0.0},
        "stages": None,
        **tiny_slam_architecture(),
        "w2v_bert": TINY_W2V_BERT,
        "loss": {"contrastive": 1.0, "masked_codes": 1.0, "diversity": 0.1, "tlm_codes": 1.0, "tlm_text": 1.0},
        "masking": {"prob": 0.5, "length": 3, "min_spans": 1},
        "text_masking": spans,
        "text_corruption": {"mask": 0.8, "random": 0.1},
        "text_dropout": 0.0,
        "tlm": {
            "speech": {"share": 0.75, "length": 3, "min_spans": 1},
            "text": {"share": 0.5, "length": 2, "min_spans": 1},
            "whole_text": 0.0,
        },
        "stm": {"mismatched": 0.5, "replaced": 0.0},
        "joined": {"text_positions": None},
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})
