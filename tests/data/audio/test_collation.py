import numpy as np
import torch

from nemo_speechlm.data.audio.collation import collate_audio


def test_signals_are_padded_at_the_end():
    first, second = np.arange(1, 2001, dtype=np.float32), np.ones(2500, dtype=np.float32)
    audio, lengths = collate_audio([first, second], 16000)
    assert lengths.tolist() == [2000, 2500]
    assert audio.dtype == torch.float32
    assert audio[0, :2000].tolist() == first.tolist()
    assert not audio[0, 2000:].any()
    assert audio[1].tolist() == second.tolist()


def test_very_short_signals_are_filled_up_with_silence():
    audio, lengths = collate_audio([np.ones(3, dtype=np.float32), np.zeros(0, dtype=np.float32)], 16000)
    assert lengths.tolist() == [1600, 1600]
    assert audio.sum(1).tolist() == [3.0, 0.0]
