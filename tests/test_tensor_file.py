import logging

import pytest
import torch

from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.tensor_file import TensorFile, TrainingProgress, progress_path
from tests.training.test_checkpoint_io import no_more_than

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


def test_a_full_disk_is_no_end_of_a_training(tmp_path, caplog):
    """What was saved before stays; a result that cannot be written is an error that names it."""
    output, big = tmp_path / "x.safetensors", {"rows": torch.zeros(50_000)}
    progress = TrainingProgress(output, SETTINGS)
    progress.save({"done": 3}, {"rows": torch.arange(4)})
    with no_more_than(5000), caplog.at_level(logging.WARNING):
        progress.save({"done": 4}, big)
        with pytest.raises(OutputError, match=r"/x\.safetensors: cannot be written: File too large"):
            TensorFile("a", 1, "b", "c", "d", "e").save(output, {}, big)
    assert "could not be written (File too large). Training goes on" in caplog.text
    assert progress.load()[0] == {"done": 3}
    assert [path.name for path in tmp_path.iterdir()] == [progress.path.name]
