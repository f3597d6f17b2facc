import os

import numpy as np
import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.plots import plot_alignment, plot_curves, read_scalars
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from torch.utils.tensorboard import SummaryWriter

    folders = {}
    for run, tags in {"scratch": ["val_wer", "loss"], "pretrained": ["val_wer", "loss", "accuracy"]}.items():
        folders[run] = tmp_path_factory.mktemp("logs") / run
        with SummaryWriter(str(folders[run] / "version_0")) as writer:
            for step in range(300):
                for tag in tags:
                    writer.add_scalar(tag, float("nan") if step == 7 else 1 / (1 + step), step)
    return folders


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_curves(runs, tmp_path):
    plot_curves(runs, ["val_wer", "loss", "accuracy", "val_wer"], tmp_path / "new" / "curves.png")
    assert is_picture(tmp_path / "new" / "curves.png")


def test_scalars_are_those_written(runs):
    steps, values = read_scalars(runs["scratch"])["loss"]
    assert steps.tolist() == list(range(300))
    assert np.isnan(values[7])
    np.testing.assert_allclose(np.delete(values, 7), np.delete(1 / (1 + np.arange(300)), 7), rtol=1e-6)


def test_resumed_run_keeps_the_later_value(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for number, (first, value) in enumerate([(0, 1.0), (5, 2.0)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{number}") as writer:
            writer.add_scalar("hp_metric", -1, 0)  # as Lightning does, at step 0 of a resumed run, too
            for step in range(first, first + 10):
                writer.add_scalar("loss", value, step)
                writer.add_scalar("validation_step_timing in s", 0.1, step - first)  # NeMo counts from 0 again
            writer.add_scalar("val_loss", value, first + 4)
        for path in tmp_path.glob(f"*.{number}"):
            os.utime(path, (number, number))
    found = read_scalars(tmp_path)
    steps, values = found["loss"]
    assert steps.tolist() == list(range(15))
    assert values.tolist() == [1.0] * 5 + [2.0] * 10
    assert [values.tolist() for values in found["val_loss"]] == [[4, 9], [1.0, 2.0]]


def test_copies_are_read_in_the_order_in_which_they_were_begun(tmp_path):
    """A copying program may give all files the same time, or that of the copy."""
    from torch.utils.tensorboard import SummaryWriter

    for number, (first, value) in enumerate([(0, 1.0), (5, 2.0)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{number}") as writer:
            for step in range(first, first + 10):
                writer.add_scalar("loss", value, step)
        (path,) = tmp_path.glob(f"*.{number}")
        os.utime(path, (9 - number, 9 - number))
        path.rename(tmp_path / f"events.out.tfevents.{1700000000 + number}.host.1.0")
    assert read_scalars(tmp_path)["loss"][1].tolist() == [1.0] * 5 + [2.0] * 10


def test_a_run_that_was_begun_anew_has_nothing_of_the_one_before(tmp_path):
    """The first left no checkpoint, so its folder was free; it had come further than the second."""
    from torch.utils.tensorboard import SummaryWriter

    for number, (steps, value) in enumerate([(20, 1.0), (10, 2.0)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{number}") as writer:
            for step in range(steps):
                writer.add_scalar("loss", value, step)
        for path in tmp_path.glob(f"*.{number}"):
            os.utime(path, (number, number))
    steps, values = read_scalars(tmp_path)["loss"]
    assert (steps.tolist(), values.tolist()) == (list(range(10)), [2.0] * 10)


def test_unknown_tag_is_named_with_those_there_are(runs, tmp_path):
    with pytest.raises(InputError, match=r"'val_cer'.*accuracy, loss, val_wer"):
        plot_curves(runs, ["val_cer"], tmp_path / "curves.png")


def test_folder_without_events(tmp_path):
    with pytest.raises(InputError, match="no TensorBoard event files"):
        plot_curves({"run": tmp_path}, ["loss"], tmp_path / "curves.png")


@pytest.mark.parametrize("seconds", [0.02, 1.0, 6.0])
def test_alignment(tmp_path, seconds):
    inventory = UnitInventory("phoneme", "en", 100, ("SIL", "AH0_B", "T_E"), silence="SIL")
    rng = np.random.default_rng(0)
    units = UnitSequence.from_frames(np.repeat(rng.integers(0, 3, 400), 9)[: round(100 * seconds)])
    audio = rng.standard_normal(round(16000 * seconds)).clip(-1, 1)
    plot_alignment(audio, 16000, units, inventory, tmp_path / "alignment.png")
    assert is_picture(tmp_path / "alignment.png")


def test_alignment_of_silence(tmp_path):
    inventory = UnitInventory("hidden", "en", 50, ("0", "1"))
    plot_alignment(np.zeros(16000), 16000, UnitSequence([1], [50]), inventory, tmp_path / "silence.png")
    assert is_picture(tmp_path / "silence.png")
