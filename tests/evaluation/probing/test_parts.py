"""Heads, targets and data of probes."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.probing.data import CountBatches
from nemo_speechlm.evaluation.probing.heads import FrameHead, LayerMix, RecurrentHead, UtteranceHead
from nemo_speechlm.evaluation.probing.results import summary_line
from nemo_speechlm.evaluation.probing.targets import CharacterTargets, ClassTargets, PhoneTargets, learn_answers
from nemo_speechlm.evaluation.probing.upstream import FrozenEncoder, MelFeatures
from nemo_speechlm.models.encoder import SpeechLMEncoderModel
from nemo_speechlm.testing.configs import tiny_architecture

ENGLISH = {"code": "en", "voice": "en-us", "characters": " abcdefghijklmnopqrstuvwxyz'"}


def test_mix_is_a_weighted_mean():
    mix = LayerMix(3)
    layers = torch.arange(3.0).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(mix(layers), torch.ones(2, 4, 5))
    with torch.no_grad():
        mix.values.copy_(torch.tensor([0.25, 0.25, 0.5]).log())
    torch.testing.assert_close(mix(layers), torch.full((2, 4, 5), 1.25))


@pytest.mark.parametrize("head", [FrameHead(6, 4, 8), RecurrentHead(6, 4, 8, 5), UtteranceHead(6, 4, 8)])
def test_padding_changes_no_output(head):
    torch.manual_seed(0)
    head.eval()
    alone = torch.randn(1, 7, 6)
    padded = torch.cat([alone, torch.full((1, 3, 6), 9.0)], dim=1)
    both = torch.cat([padded, torch.randn(1, 10, 6)])
    found = head(both, torch.tensor([7, 10]))[:1]
    expected = head(alone, torch.tensor([7]))
    torch.testing.assert_close(found[:, :7] if head.per_frame else found, expected)
    assert expected.shape[-1] == 4


def test_phones():
    targets = PhoneTargets(ENGLISH, PhoneTargets.learned(ENGLISH, []))
    assert len(targets.symbols) == 39
    assert targets.outputs == 40
    ids = targets.encode({"text": "hello world"}, "m.json", 1)
    assert targets.text(ids) == "HH AH L OW W ER L D"
    assert targets.errors(ids, ids[1:])["per"].rate == 1 / 8


def test_characters():
    targets = CharacterTargets(list(" ab"))
    right = targets.encode({"text": "ab  ba"}, "m.json", 1)
    errors = targets.errors(right, targets.encode({"text": "ab b"}, "m.json", 1))
    assert errors["wer"].rate == 0.5
    assert errors["cer"].rate == 0.2
    with pytest.raises(InputError, match=r"m.json:3.*'c'"):
        targets.encode({"text": "abc"}, "m.json", 3)


def test_classes(tmp_path):
    path = tmp_path / "train.json"
    write_manifest(path, [{"action": "on", "room": 1}, {"action": "off", "room": 2}, {"action": "on", "room": 2}])
    classes = learn_answers("classes", ["action", "room"], ENGLISH, [path], [path])
    assert classes == {"action": ["off", "on"], "room": ["1", "2"]}
    targets = ClassTargets(classes)
    assert targets.encode({"action": "on", "room": 1}, path, 1) == [1, 0]
    assert targets.errors([1, 0], [1, 1])["error"].rate == 1
    assert targets.errors([1, 0], [1, 0])["error"].rate == 0
    with pytest.raises(InputError, match=r"json:2.*'room' is '3', which is not in the training data: 1, 2"):
        targets.encode({"action": "on", "room": 3}, path, 2)
    with pytest.raises(InputError, match=r"json:4.*'room' is missing"):
        targets.encode({"action": "on"}, path, 4)
    write_manifest(path, [{"action": "on"}, {"action": "on"}])
    with pytest.raises(InputError, match="always 'on'"):
        learn_answers("classes", ["action"], ENGLISH, [path], [path])


def test_batches_of_so_many():
    lengths = np.arange(10) + 1.0
    stream = iter(CountBatches(lengths, 4, seed=3))
    first = [next(stream) for _ in range(3)]
    assert sorted(len(batch) for batch in first) == [2, 4, 4]
    assert sorted(row for batch in first for row in batch) == list(range(10))
    later = [next(stream) for _ in range(3)]
    assert later != first
    stream = iter(CountBatches(lengths, 4, seed=3, used=lambda: 3))
    assert [next(stream) for _ in range(3)] == later


@pytest.mark.parametrize("released_padding", [True, False])
def test_layers_of_an_encoder_do_not_depend_on_padding(released_padding):
    """So they are the same from the cache, whose batches are others than those of training."""
    torch.manual_seed(0)
    architecture = tiny_architecture()
    architecture["encoder"]["front_end"]["released_padding"] = released_padding
    upstream = FrozenEncoder(SpeechLMEncoderModel(OmegaConf.create(architecture)))
    audio, lengths = torch.randn(2, 48000), torch.tensor([16000, 48000])
    audio[0, 16000:] = 0
    alone, _ = upstream.extract_features(audio[:1, :16000], lengths[:1])
    together, frames = upstream.extract_features(audio, lengths)
    assert len(together) == len(alone) == len(upstream.names)
    for own, both in zip(alone, together, strict=True):
        assert own.shape[1] == frames[0]
        torch.testing.assert_close(both[0, : own.shape[1]], own[0], atol=1e-5, rtol=1e-5)


def test_mel_features_do_not_depend_on_padding():
    torch.manual_seed(0)
    mel = MelFeatures()
    audio = torch.randn(1, 8000)
    padded = torch.cat([audio, torch.zeros(1, 3000)], dim=1)
    (alone,), frames = mel.extract_features(audio, torch.tensor([8000]))
    (both,), lengths = mel.extract_features(torch.cat([padded, torch.randn(1, 11000)]), torch.tensor([8000, 11000]))
    n = int(frames[0])
    assert lengths[0] == n
    assert alone.shape[2] == 240
    torch.testing.assert_close(both[0, : n - 3], alone[0, : n - 3], atol=2e-2, rtol=0)
    assert alone[0, :n, :80].mean().abs() < 1e-4
    assert (alone[0, :n, :80].std() - 1).abs() < 0.01
    assert alone[0, :n, :80].mean(0).std() > 0.1, "bins keep their levels"


def test_slopes_of_a_ramp():
    from nemo_speechlm.evaluation.probing.upstream import _slope

    ramp = (3 * torch.arange(8.0)).view(1, 1, 8)
    torch.testing.assert_close(_slope(ramp, torch.tensor([8]))[0, 0, 2:-2], torch.full((4,), 3.0))


def test_what_the_terminal_shows():
    common = {"task": "speaker", "model": "a", "utterances": 4}
    assert summary_line({**common, "error": 0.25, "error_interval": [0.1, 0.5]}) == (
        "speaker, a: accuracy 75.00% (50.00% to 90.00%); 4 utterances"
    )
    assert summary_line({**common, "wer": 0.5, "cer": 0.2}) == "speaker, a: WER 50.00%, CER 20.00%; 4 utterances"
