"""Our models as an upstream of s3prl, for those who run SUPERB with s3prl itself.

s3prl takes what the ``hubconf.py`` of a folder in ``s3prl/upstream/`` names. Make ``s3prl/upstream/nemo_speechlm/``
with an empty ``__init__.py`` and a ``hubconf.py`` of one line::

    from nemo_speechlm.evaluation.probing.s3prl_upstream import nemo_speechlm_local

Then ``run_downstream.py -u nemo_speechlm_local -k model.nemo`` probes ``model.nemo``. Nothing of s3prl is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_speechlm.evaluation.probing.upstream import FrozenEncoder
from nemo_speechlm.models.common.restore import restore_extractor


class UpstreamExpert(nn.Module):
    """A ``.nemo`` file with the interface of s3prl's upstreams.

    Args:
        ckpt: the file: pretrained, fine-tuned or converted.
        model_config: not used; s3prl gives it to all upstreams.
        kwargs: neither are these.
    """

    def __init__(self, ckpt: str | Path, model_config: str | None = None, **kwargs: Any):
        super().__init__()
        self._frozen = [FrozenEncoder(restore_extractor(ckpt, "cpu"))]
        self.model = self._frozen[0].model  # so that it is moved with this module

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples of a frame."""
        frozen = self._frozen[0]
        return round(frozen.cfg["sample_rate"] / frozen.encoder.frame_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Waveforms (S,) each, at the model's sample rate -> states (B, T, D) of all layers."""
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        audio = nn.utils.rnn.pad_sequence(list(wavs), batch_first=True)
        states, _ = self._frozen[0].extract_features(audio, lengths)
        return {"hidden_states": states, "last_hidden_state": states[-1]}

    def train(self, mode: bool = True) -> "UpstreamExpert":
        """Stay in evaluation mode: the encoder is frozen."""
        return super().train(False)


def nemo_speechlm_local(ckpt: str, *args: Any, **kwargs: Any) -> UpstreamExpert:
    """What s3prl calls by this name."""
    return UpstreamExpert(ckpt, *args, **kwargs)
