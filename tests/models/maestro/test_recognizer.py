"""The recognizer inside a pretrained model."""

import pytest
import torch

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.testing.slam import tiny_slam_config


def greedy(model, states, length, most=10):
    """Greedy decoding of one row, symbol by symbol."""
    branch, written, t, emitted = model.graphemes, [], 0, 0
    blank = branch.joint.num_classes_with_blank - 1
    while t < length:
        tokens = torch.tensor([written], dtype=torch.int64).reshape(1, -1)
        predicted, _ = branch.decoder.predict(tokens if written else None, state=None, add_sos=bool(written))
        best = int(branch.joint.joint(states[:, t : t + 1], predicted[:, -1:]).argmax())
        if best == blank or emitted == most:
            t, emitted = t + 1, 0
        else:
            written.append(best)
            emitted += 1
    return written


@pytest.mark.parametrize("tokens", [False, True])
def test_writes_what_its_decoder_says(build, corpus, tokens):
    options = {"tokenizer": tiny_slam_config(corpus).tokenizer} if tokens else {}
    model = build(**options).eval()
    with torch.no_grad():
        model.graphemes.joint.joint_net[-1].weight.mul_(4)  # surer of itself, and with an end
        model.graphemes.joint.joint_net[-1].bias[-1] = 1.6
    torch.manual_seed(1)
    audio = [torch.randn(16000).numpy(), torch.randn(17000).numpy()]  # NeMo pads below 1 s
    with torch.no_grad():
        texts = [model.transcribe([samples], verbose=False)[0].text for samples in audio]
        for text, samples in zip(texts, audio, strict=True):
            signal, length = torch.from_numpy(samples).unsqueeze(0), torch.tensor([len(samples)])
            states, frames = model(input_signal=signal, input_signal_length=length)
            written = greedy(model, states.transpose(1, 2), int(frames))
            labels = [model.cfg.vocabulary[symbol] for symbol in written]
            assert text == "".join(labels).replace("▁", " ").strip()
    assert any(texts)


def test_without_rnnt(build):
    model = build(tasks={"w2v_bert": 1.0})
    with pytest.raises(SpeechLMError, match=r"pretrained with model\.tasks\.rnnt=0"):
        model.recognizer()
