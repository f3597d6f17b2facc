import pytest
import torch

from nemo_speechlm.errors import InputError
from nemo_speechlm.tensor_file import TrainingProgress, progress_path

SETTINGS = {"size": (1, 2)}


def test_progress_is_taken_up_under_the_same_settings(tmp_path):
    output = tmp_path / "made" / "x.safetensors"
    assert TrainingProgress(output, SETTINGS).load() is None
    TrainingProgress(output, SETTINGS).save({"done": 3}, {"rows": torch.arange(4)})
    values, tensors = TrainingProgress(output, SETTINGS).load()
    assert values == {"done": 3}
    assert tensors["rows"].tolist() == [0, 1, 2, 3]
    other = TrainingProgress(output, {"size": (1, 3)})
    with pytest.raises(InputError, match=r"x\.safetensors: its training was begun with another size \(\[1, 2\], not "):
        other.load()
    assert other.load(overwrite=True) is None
    assert TrainingProgress(output, SETTINGS).load() is not None, "until something else is saved"
    assert [path.name for path in output.parent.iterdir()] == [progress_path(output).name]


def test_damaged_progress_is_none(tmp_path):
    output = tmp_path / "x.safetensors"
    TrainingProgress(output, SETTINGS).save({}, {"rows": torch.arange(4)})
    progress_path(output).write_bytes(progress_path(output).read_bytes()[:-3])
    assert TrainingProgress(output, SETTINGS).load() is None
