import pytest
import torch
from nemo.collections.asr.modules import ConvASRDecoder

from nemo_speechlm.modules import SpeechLMCTCHead
from tests.golden import converted, load, needs_golden

LABELS = [" ", "a", "b"]


@needs_golden
def test_equals_the_released_head():
    model, _ = converted("speechlm_p_tiny/checkpoint_real_structure.pt")
    tensors = load("speechlm_p_tiny/loss.pt")
    ours = model.ctc_head(encoder_output=tensors["text_encoder_out"].transpose(1, 2))
    # Theirs has a frame more, which their lengths leave out, and the blank first.
    theirs = tensors["text_ctc_logits"].transpose(0, 1)[:, :-1].log_softmax(-1).roll(-1, dims=2)
    torch.testing.assert_close(ours, theirs)


def test_padding_does_not_reach_an_utterance():
    head = SpeechLMCTCHead(feat_in=8, vocabulary=LABELS).eval()
    states = torch.randn(2, 8, 10)
    alone = head(encoder_output=states[1:, :, :6])
    torch.testing.assert_close(head(encoder_output=states)[1:, :6], alone)


def test_has_the_interface_of_nemos_decoder():
    ours = SpeechLMCTCHead(feat_in=8, num_classes=-1, vocabulary=LABELS)
    theirs = ConvASRDecoder(feat_in=8, num_classes=3, vocabulary=LABELS)
    states = torch.randn(2, 8, 5)
    assert ours(encoder_output=states).shape == theirs(encoder_output=states).shape == (2, 5, 4)
    assert ours.num_classes_with_blank == theirs.num_classes_with_blank
    assert list(ours.vocabulary) == theirs.vocabulary
    torch.testing.assert_close(ours(encoder_output=states).exp().sum(-1), torch.ones(2, 5))


def test_labels_and_classes_must_agree():
    with pytest.raises(ValueError, match="num_classes is 5, but there are 3 labels"):
        SpeechLMCTCHead(feat_in=8, num_classes=5, vocabulary=LABELS)
    with pytest.raises(ValueError, match="num_classes or vocabulary"):
        SpeechLMCTCHead(feat_in=8)
