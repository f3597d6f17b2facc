"""What is said of a file that is no model, or half of one."""

import io
import tarfile
from pathlib import Path

import pytest
from nemo.core.classes import ModelPT
from nemo.utils.app_state import AppState

from nemo_speechlm.errors import InputError
from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.models.common.restore import restore_file

CONFIG = b"target: nemo_speechlm.models.SpeechLMModel\nsample_rate: 16000\n"


def archive(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name.replace('__', '.')}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme__txt": b"x"}, "there is no model_config.yaml in it"),
        ({"model_config__yaml": CONFIG}, "there is no model_weights.ckpt in it"),
        ({"model_config__yaml": b"a: 1\n", "model_weights__ckpt": b""}, "model_config.yaml has no target"),
        ({"model_config__yaml": b"- a\n", "model_weights__ckpt": b""}, "model_config.yaml has no target"),
    ],
)
def test_an_archive_that_lacks_a_part(tmp_path, members, message):
    with pytest.raises(InputError, match=message) as caught:
        restore_file(ModelPT, archive(tmp_path / "a.nemo", **members), "cpu")
    assert str(tmp_path / "a.nemo") in str(caught.value)
    assert not AppState().is_model_being_restored, "models that are made afterwards would have no data"


@pytest.mark.parametrize("content", [b"", b"not a model\n", bytes(range(256)) * 8])
def test_no_archive(tmp_path, content):
    (tmp_path / "a.nemo").write_bytes(content)
    with pytest.raises(InputError, match="is no tar archive"):
        restore_file(ModelPT, tmp_path / "a.nemo", "cpu")
    with pytest.raises(InputError, match="is no tar archive"):
        read_nemo(tmp_path / "a.nemo")


def test_an_archive_that_was_cut_off(tmp_path):
    whole = archive(tmp_path / "a.nemo", model_weights__ckpt=bytes(5000), model_config__yaml=CONFIG).read_bytes()
    (tmp_path / "b.nemo").write_bytes(whole[:3000])
    with pytest.raises(InputError, match="archive is damaged: unexpected end of data"):
        restore_file(ModelPT, tmp_path / "b.nemo", "cpu")
