"""NeuralModules: the encoder and its parts, usable from a NeMo config by ``_target_``."""

from nemo_speechlm.modules.conformer import MaskedConformer
from nemo_speechlm.modules.ctc_head import SpeechLMCTCHead
from nemo_speechlm.modules.decoder.nemo import NemoDecoder
from nemo_speechlm.modules.decoder.relative import RelativeDecoder
from nemo_speechlm.modules.durations import DurationPredictor
from nemo_speechlm.modules.encoder import Frames, SpeechLMEncoder
from nemo_speechlm.modules.fast_speech import FFTransformer
from nemo_speechlm.modules.front_end import ConvFrontEnd, MelFrontEnd
from nemo_speechlm.modules.lightweight_convolution import LightweightBlock, LightweightConvolution
from nemo_speechlm.modules.masking import CoveringMask, SpanMask
from nemo_speechlm.modules.preprocessing import WaveformPreprocessor
from nemo_speechlm.modules.quantizer import GumbelQuantizer
from nemo_speechlm.modules.swapping_encoder import SwappingEncoder
from nemo_speechlm.modules.text_branch import ConvTextEncoder, LightweightDurations, Refiner
from nemo_speechlm.modules.text_embedding import TextEmbedding
from nemo_speechlm.modules.transformer import RelativeTransformer
from nemo_speechlm.modules.unit_classifier import UnitClassifier
from nemo_speechlm.nemo_targets import allow_targets

allow_targets()

__all__ = [
    "ConvFrontEnd",
    "ConvTextEncoder",
    "CoveringMask",
    "DurationPredictor",
    "FFTransformer",
    "Frames",
    "GumbelQuantizer",
    "LightweightBlock",
    "LightweightConvolution",
    "LightweightDurations",
    "MaskedConformer",
    "MelFrontEnd",
    "NemoDecoder",
    "Refiner",
    "RelativeDecoder",
    "RelativeTransformer",
    "SpanMask",
    "SpeechLMCTCHead",
    "SpeechLMEncoder",
    "SwappingEncoder",
    "TextEmbedding",
    "UnitClassifier",
    "WaveformPreprocessor",
]
