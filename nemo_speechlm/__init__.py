"""SpeechLM for NVIDIA NeMo: one encoder pretrained on unpaired speech and unpaired text.

Importing the package is cheap: the data tools need neither torch nor NeMo. Models live in :mod:`nemo_speechlm.models`.
"""

__version__ = "0.2.0.dev0"
