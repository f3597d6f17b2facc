import sys

from omegaconf import OmegaConf

from nemo_speechlm.models import SLAMModel
from nemo_speechlm.models.common.parts import parts_of
from nemo_speechlm.models.common.pretrained import PretrainedFile


def test_a_model_of_ours_says_its_parts():
    cfg = OmegaConf.create({"target": "nemo_speechlm.models.SLAMModel"})
    assert parts_of(cfg) == SLAMModel.parts


def test_a_file_does_not_choose_what_is_imported(tmp_path, monkeypatch):
    (tmp_path / "chosen_by_a_file.py").write_text("class Model: pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert parts_of(OmegaConf.create({"target": "chosen_by_a_file.Model"})) is None
    assert "chosen_by_a_file" not in sys.modules


def test_what_a_slam_file_leaves_behind_is_known(tmp_path):
    cfg = OmegaConf.create({"target": "nemo_speechlm.models.SLAMModel"})
    assert set(SLAMModel.parts.left_behind) <= PretrainedFile(tmp_path / "slam.nemo", cfg, {}).left_behind
