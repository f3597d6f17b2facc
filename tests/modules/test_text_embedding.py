import math

import torch

from nemo_speechlm.modules.text_embedding import TextEmbedding


def test_embeds_by_hand():
    torch.manual_seed(0)
    embedding = TextEmbedding(num_tokens=5, d_model=4, dropout=0.0)
    tokens, lengths = torch.tensor([[2, embedding.mask], [1, 0]]), torch.tensor([2, 1])
    states, found = embedding(tokens, lengths)
    assert found.tolist() == [3, 2]
    for row, ids in enumerate([[6, 2, 5], [6, 1, 0]]):
        for place, token in enumerate(ids):
            angles = [math.sin(place), math.cos(place), math.sin(place / 100), math.cos(place / 100)]
            x = embedding.tokens.weight[token] * 2 + torch.tensor(angles)
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(states[row, place], x)


def test_output_shares_the_embeddings_of_tokens():
    embedding = TextEmbedding(num_tokens=3, d_model=4)
    with torch.no_grad():
        embedding.bias.copy_(torch.tensor([0.0, 10.0, 0.0]))
    x = torch.randn(2, 4)
    expected = x @ embedding.tokens.weight[:3].T + torch.tensor([0.0, 10.0, 0.0])
    torch.testing.assert_close(embedding.logits(x), expected)
