import tarfile

import pytest

from nemo_speechlm.data.audio.tar_members import read_member
from nemo_speechlm.errors import InputError


def test_members_are_read_by_name(tmp_path):
    for name, content in {"a.wav": b"one", "b.wav": b"", "c.wav": b"x" * 5000}.items():
        (tmp_path / name).write_bytes(content)
    with tarfile.open(tmp_path / "audio.tar", "w") as tar:
        for name in ("a.wav", "b.wav", "c.wav"):
            tar.add(tmp_path / name, f"speech/{name}")
    assert read_member(tmp_path / "audio.tar", "speech/c.wav").read() == b"x" * 5000
    assert read_member(tmp_path / "audio.tar", "speech/a.wav").read() == b"one"
    assert read_member(tmp_path / "audio.tar", "speech/b.wav").read() == b""
    with pytest.raises(InputError, match=r"audio.tar: no file 'd.wav' in it"):
        read_member(tmp_path / "audio.tar", "d.wav")


def test_what_is_no_tar_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.tar: no such tar file"):
        read_member(tmp_path / "none.tar", "a.wav")
    (tmp_path / "bad.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(InputError, match=r"bad.tar: not a tar file"):
        read_member(tmp_path / "bad.tar", "a.wav")
