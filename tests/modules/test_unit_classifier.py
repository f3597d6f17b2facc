import torch

from nemo_speechlm.modules import UnitClassifier


def test_cosines_over_temperature():
    torch.manual_seed(0)
    classifier = UnitClassifier(6, 5, final_dim=4, temperature=0.2)
    states = torch.randn(2, 3, 6)
    logits = classifier(states)
    projected = states @ classifier.proj.weight.t() + classifier.proj.bias
    for b, t, v in [(0, 0, 0), (1, 2, 4)]:
        cosine = torch.cosine_similarity(projected[b, t], classifier.unit_vectors[v], dim=0)
        assert torch.isclose(logits[b, t, v], cosine / 0.2, atol=1e-5)


def test_fp32_under_autocast():
    classifier, states = UnitClassifier(6, 5, final_dim=4), torch.randn(2, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier(states).dtype == torch.float32
