"""Purities and mutual information against values computed by hand."""

import math

import numpy as np
import pytest

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.unit_quality import JointCounts, compare_manifests, unit_quality
from nemo_speechlm.testing.corpora import tiny_hidden_inventory
from nemo_speechlm.units.inventory import UnitInventory

PHONES = UnitInventory("phoneme", "en", 100, ("SIL", "AH0_B", "AH1_E", "T_S"), "SIL")


def test_by_hand():
    quality = unit_quality(np.array([[3, 1], [0, 4]]))
    assert quality.phone_purity == pytest.approx(7 / 8)
    assert quality.cluster_purity == pytest.approx(7 / 8)
    # I = 3/8 ln((3/8)/(1/2 3/8)) + 1/8 ln((1/8)/(1/2 5/8)) + 1/2 ln((1/2)/(1/2 5/8)); H = entropy of (3/8, 5/8)
    information = 3 / 8 * math.log(2) + 1 / 8 * math.log(0.4) + 1 / 2 * math.log(1.6)
    entropy = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    assert quality.pnmi == pytest.approx(information / entropy)
    assert (quality.frames, quality.used_units, quality.phones) == (8, 2, 2)


def test_extremes():
    perfect = unit_quality(np.diag([2, 3, 5]))
    assert (perfect.phone_purity, perfect.cluster_purity) == pytest.approx((1, 1))
    assert perfect.pnmi == pytest.approx(1)
    assert unit_quality(np.outer([1, 2, 0], [3, 4])).pnmi == pytest.approx(0)
    split = unit_quality(np.array([[4, 0], [4, 0], [0, 8]]))  # two units for one phone: they know all the same
    alone = unit_quality(np.array([[3], [1]]))
    assert alone.pnmi is None
    assert alone.to_dict()["pnmi"] is None
    assert "PNMI none with a single phone" in str(alone)
    assert (split.phone_purity, split.cluster_purity, split.pnmi) == pytest.approx((1, 0.75, 1))
    assert unit_quality(np.array([[7], [0]])).used_units == 1
    with pytest.raises(InputError, match="no frame"):
        unit_quality(np.zeros((2, 2)))


def test_frames_meet_at_their_middles():
    joint = JointCounts(2, PHONES)
    assert joint.phones == ["AH", "SIL", "T"]
    joint.add(np.array([0, 1, 1]), 50, np.array([0, 1, 2, 3, 3]), 100)  # phone frames 1, 3, and one that is not there
    assert joint.counts.tolist() == [[1, 0, 0], [0, 0, 1]]
    apart = JointCounts(2, PHONES, merged=False)
    apart.add(np.array([0, 0, 1, 1]), 100, np.array([1, 2, 0, 3]), 100)
    assert sorted(apart.phones) == sorted(PHONES.symbols)
    assert apart.counts.sum(1).tolist() == [2, 2]
    assert apart.counts[0, apart.phones.index("AH0_B")] == 1


def test_stress_of_other_languages_makes_no_phone_of_its_own():
    russian = UnitInventory("phoneme", "ru", 100, ("SIL", "ˈa_B", "a_B", "a_E", "t_E"), "SIL")
    joint = JointCounts(2, russian)
    joint.add(np.array([0, 0, 0, 1]), 100, np.array([1, 2, 3, 4]), 100)
    assert joint.phones == ["SIL", "a", "t"]
    assert unit_quality(joint.counts).phone_purity == 1


def test_manifests(tmp_path):
    common = {"audio_filepath": "a.wav", "duration": 0.04}
    phones, units = tmp_path / "p.json", tmp_path / "u.json"
    write_manifest(phones, [common | {"units": "SIL AH0_B", "unit_durations": [2, 2]}])
    other = {"audio_filepath": "b.wav", "units": "5", "unit_durations": [9]}
    write_manifest(units, [other, common | {"units": "3 1", "unit_durations": [1, 1]}])
    quality, utterances = compare_manifests(units, tiny_hidden_inventory(), phones, PHONES)
    assert utterances == 1
    assert (quality.frames, quality.pnmi) == (2, pytest.approx(1))
    write_manifest(tmp_path / "u_0.json", [other])
    write_manifest(tmp_path / "u_1.json", [common | {"units": "3 1", "unit_durations": [1, 1]}])
    several = compare_manifests(tmp_path / "u__OP_0..1_CL_.json", tiny_hidden_inventory(), [phones], PHONES)
    assert several == (quality, 1)
    write_manifest(units, [other])
    with pytest.raises(InputError, match=r"u\.json: has no utterance .* in common"):
        compare_manifests(units, tiny_hidden_inventory(), phones, PHONES)
