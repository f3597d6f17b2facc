"""The tasks against slow plain versions: each utterance and each text alone, unpadded, place by place."""

import math

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.data.pretraining.batch import TokenBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.ctc import ctc_figure
from nemo_speechlm.models.slam import pairs
from nemo_speechlm.models.slam.joined import encode_joined, even_positions, spelled_positions
from nemo_speechlm.models.slam.masked_text import Corruption, masked_text
from nemo_speechlm.modules.encoder import Frames
from tests.models.multitask import Mels


def rows_of(frames):
    return [
        states[:length].unsqueeze(0) for states, length in zip(frames.states, frames.lengths.tolist(), strict=True)
    ]


def speech_alone(model, row, mask=None):
    """(1, T, D) unmasked features of one utterance -> its states after the speech encoder and after both."""
    if mask is not None:
        row = torch.where(mask.view(1, -1, 1), model.encoder.mask_emb, row)
    nobody = torch.zeros(1, row.shape[1], dtype=torch.bool)
    speech, _ = model.encoder.encode_speech(row, nobody)
    return speech, model.encoder.encode_shared(speech, nobody)[0]


def joined_alone(model, speech, tokens, positions=0.0):
    """The states of one utterance and of its text behind it: the row is put together by hand."""
    text, _ = model.text_embedding(tokens.unsqueeze(0), torch.tensor([len(tokens)]))
    row = torch.cat([model.encoder.shared_transformer.pre_encode(speech) + positions, text], 1)
    transformer = model.encoder.shared_transformer
    states, _ = transformer(audio_signal=row, length=torch.tensor([row.shape[1]]), bypass_pre_encode=True)
    return states.transpose(1, 2)[0].split([speech.shape[1], text.shape[1]])


def plain_even_places(T, U):
    """The places of the frames of one utterance in its text, as if all U tokens of it lasted equally long."""
    return [0.5 + (t + 0.5) * U / T for t in range(T)]


def plain_spelled_places(probs, U):
    """The same, by the tokens that become likelier from frame to frame; (T, V + 1), blank last."""
    places, count, before = [], 0.0, [0.0] * len(probs[0])
    for row in probs.tolist():
        count += sum(max(0.0, now - then) for now, then in zip(row[:-1], before[:-1], strict=True))
        before = row
        places.append(count)
    return [place * U / count for place in places]


def plain_positions(places, D):
    """(T, D) sinusoids of places."""
    wave = (math.sin, math.cos)
    rows = [[wave[i % 2](x / 10000 ** ((i - i % 2) / D)) for i in range(D)] for x in places]
    return torch.tensor(rows, dtype=torch.float64)


def mean_entropy(logits, targets):
    """Cross-entropy by its definition, summed."""
    return sum(math.log(sum(math.exp(x) for x in row)) - row[t] for row, t in zip(logits, targets, strict=True))


@torch.no_grad()
def test_w2v_bert(model, batch):
    frames = model.embed(batch.speech)
    mask = model.masking.draw(frames.lengths, frames.states.shape[1], torch.Generator().manual_seed(0))
    figures, counts = model.w2v_bert(model.encoder, frames, mask, torch.Generator().manual_seed(3))
    quantizer, classifier = model.w2v_bert.quantizer, model.w2v_bert.codes
    loss, right, masked, everything = 0.0, 0, 0, []
    contexts, targets, rows = [], [], []
    for number, (row, row_mask) in enumerate(zip(rows_of(frames), mask, strict=True)):
        own = row_mask[: row.shape[1]]
        codes = quantizer.weight_proj(row[0]).argmax(1)
        speech, shared = speech_alone(model, row, own)
        logits = classifier(shared[0][own])
        loss += mean_entropy(logits.tolist(), codes[own].tolist())
        right += int((logits.argmax(1) == codes[own]).sum())
        masked += int(own.sum())
        everything += codes.tolist()
        contexts.append(model.w2v_bert.context(speech[0][own]))
        targets.append(codes[own])
        rows += [number] * int(own.sum())
    assert figures["masked_codes"].total.item() == pytest.approx(loss, rel=1e-9)
    assert figures["masked_codes"].number == masked
    assert figures["masked_code_accuracy"].total == right
    assert counts.tolist() == [everything.count(code) for code in range(16)]
    alone = quantizer.quantize(torch.cat([row[0] for row in rows_of(frames)])).diversity
    assert figures["diversity"].total.item() == pytest.approx(float(alone) * len(everything), rel=1e-9)
    assert figures["diversity"].number == len(everything)
    contexts, targets = torch.cat(contexts), torch.cat(targets)
    found = figures["contrastive"].total.item()
    assert found == pytest.approx(contrastive_by_hand(model, contexts, targets, torch.tensor(rows)), rel=1e-9)


def contrastive_by_hand(model, contexts, codes, rows):
    from nemo_speechlm.modules.draws import draw_distractors

    vectors = model.w2v_bert.quantizer.vars[0][codes]
    loss = 0.0
    for n, others in enumerate(draw_distractors(rows, 10, torch.Generator().manual_seed(3)).tolist()):
        logits = [torch.cosine_similarity(contexts[n], vectors[k], dim=0).item() / 0.1 for k in [n, *others]]
        loss += math.log(sum(map(math.exp, logits))) - logits[0]
    return loss


@torch.no_grad()
def test_masked_text(model, batch):
    model.text_corruption = Corruption(1.0, 0.0)
    mask = torch.zeros_like(batch.text.tokens, dtype=torch.bool)
    mask[0, 2:7], mask[1, :3] = True, True
    found = masked_text(model, batch.text, mask)
    loss = 0.0
    for tokens, length, own in zip(batch.text.tokens, batch.text.token_lengths, mask, strict=True):
        alone = tokens[:length].masked_fill(own[:length], model.text_embedding.mask)
        states = model.text_states(alone.unsqueeze(0), length.view(1))[0, 1:][own[:length]]
        logits = states @ model.text_embedding.tokens.weight[:-2].T + model.text_embedding.bias
        loss += mean_entropy(logits.tolist(), tokens[:length][own[:length]].tolist())
    assert found["masked_text"].total.item() == pytest.approx(loss, rel=1e-9)
    assert found["masked_text"].number == 8


def test_masked_tokens_are_seen_in_no_way(model, batch):
    model.text_corruption = Corruption(1.0, 0.0)
    mask = torch.zeros_like(batch.text.tokens, dtype=torch.bool)
    mask[0, 3] = True
    seen = []
    model.text_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    masked_text(model, batch.text, mask)
    model.text_embedding._forward_pre_hooks.clear()
    assert seen[0][0, 3] == model.text_embedding.mask
    assert torch.equal(seen[0][~mask], batch.text.tokens[~mask])


def test_corruption_has_its_shares(model):
    tokens = torch.randint(model.text_embedding.num_tokens, (200, 100), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(200, 100, generator=torch.Generator().manual_seed(1)) < 0.5
    changed = Corruption(0.8, 0.1).apply(tokens, mask, model.text_embedding, torch.Generator().manual_seed(2))
    assert torch.equal(changed[~mask], tokens[~mask])
    as_mask = (changed[mask] == model.text_embedding.mask).double().mean()
    kept = (changed[mask] == tokens[mask]).double().mean()
    assert float(as_mask) == pytest.approx(0.8, abs=0.015)
    assert float(kept) == pytest.approx(0.1 + 0.1 / model.text_embedding.num_tokens, abs=0.015)
    with pytest.raises(ValueError, match=r"model\.text_corruption"):
        Corruption(0.8, 0.3)


@torch.no_grad()
def test_joined_equals_rows_alone(model, batch):
    frames = model.embed(batch.pairs)
    speech = model.encode_speech(frames)
    text = model.text_embedding(batch.pairs.tokens, batch.pairs.token_lengths)
    on_speech, on_text = encode_joined(model.encoder, speech, frames.lengths, *text)
    for b, (T, U) in enumerate(zip(frames.lengths.tolist(), batch.pairs.token_lengths.tolist(), strict=True)):
        own_speech, own_text = joined_alone(model, speech[b : b + 1, :T], batch.pairs.tokens[b, :U])
        torch.testing.assert_close(on_speech[b, :T], own_speech)
        torch.testing.assert_close(on_text[b, : U + 1], own_text)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["even", "ctc"])
def test_joined_with_the_positions_of_the_text(build, batch, kind):
    tasks = {"w2v_bert": 1.0, "masked_text": 1.0, "tlm": 1.0, "stm": 1.0, "ctc": 0.3}
    model = build(joined={"text_positions": kind}, tasks=tasks).double().eval()
    model.preprocessor = Mels()
    given = batch.pairs
    frames = model.embed(given)
    speech = model.encode_speech(frames)
    on_speech, on_text, _ = model.pair_states(given)
    matches = pairs.match_logits(model, speech, frames.lengths, given.tokens, given.token_lengths)
    for b, (T, U) in enumerate(zip(frames.lengths.tolist(), given.token_lengths.tolist(), strict=True)):
        tokens = given.tokens[b, :U]
        probs = model.ctc_head(speech[b, :T]).softmax(1)
        places = plain_even_places(T, U) if kind == "even" else plain_spelled_places(probs, U)
        positions = plain_positions(places, speech.shape[2])
        own_speech, own_text = joined_alone(model, speech[b : b + 1, :T], tokens, positions)
        torch.testing.assert_close(on_speech[b, :T], own_speech)
        torch.testing.assert_close(on_text[b, : U + 1], own_text)
        assert float(matches[b]) == pytest.approx(float(model.stm_head(own_text[0])), rel=1e-9)


def test_frames_lie_between_the_positions_of_tokens():
    positions = even_positions(torch.tensor([6, 2, 4]), torch.tensor([4, 3, 1]), 6)
    assert positions[0].tolist() == pytest.approx([0.75, 1.25, 1.75, 2.25, 2.75, 3.25])
    assert positions[1, :2].tolist() == [1.0, 2.0], "a frame for each token: the token's own position"
    assert positions[2].isfinite().all(), "an empty text has CLS alone"


def test_frames_have_the_positions_of_the_tokens_that_they_spell():
    """CTC spells blank a a blank a b blank: three tokens, and the text has three."""
    spelled = torch.tensor([[2, 0, 0, 2, 0, 1, 2]])
    log_probs = F.one_hot(spelled, 3).double().log().clamp(min=-1e9)
    positions = spelled_positions(log_probs, torch.tensor([7]), torch.tensor([4]))
    assert positions.tolist() == [[0, 1, 1, 1, 2, 3, 3]]
    doubled = spelled_positions(log_probs, torch.tensor([7]), torch.tensor([7]))
    torch.testing.assert_close(doubled, positions * 2)
    nothing = F.one_hot(torch.full((1, 7), 2), 3).double().log().clamp(min=-1e9)
    assert spelled_positions(nothing, torch.tensor([7]), torch.tensor([4])).tolist() == [[0] * 7]


def test_positions_by_a_ctc_that_there_is_not(build):
    with pytest.raises(SpeechLMError, match=r"text_positions is ctc, and model\.tasks\.ctc is 0"):
        build(joined={"text_positions": "ctc"})
    with pytest.raises(SpeechLMError, match=r"text_positions is 'odd', expected even or ctc"):
        build(joined={"text_positions": "odd"})


@torch.no_grad()
def test_tlm(model, batch):
    model.text_corruption = Corruption(1.0, 0.0)
    given = batch.pairs
    frames = model.embed(given)
    speech_mask = model.tlm_speech.draw(frames.lengths, frames.states.shape[1], torch.Generator().manual_seed(0))
    text_mask = torch.tensor([[True, False, False, True], [True, False, False, False], [False, True, True, False]])
    found = pairs.tlm(model, frames, given, speech_mask, text_mask)
    on_speech, on_text = 0.0, 0.0
    for b, row in enumerate(rows_of(frames)):
        T, U = row.shape[1], int(given.token_lengths[b])
        own, own_text = speech_mask[b, :T], text_mask[b, :U]
        speech, _ = speech_alone(model, row, own)
        seen = given.tokens[b, :U].masked_fill(own_text, model.text_embedding.mask)
        speech, text = joined_alone(model, speech, seen)
        codes = model.w2v_bert.quantizer.weight_proj(row[0]).argmax(1)
        on_speech += mean_entropy(model.w2v_bert.codes(speech[own]).tolist(), codes[own].tolist())
        logits = model.text_embedding.logits(text[1:][own_text])
        on_text += mean_entropy(logits.tolist(), given.tokens[b, :U][own_text].tolist())
    assert found["tlm_codes"].total.item() == pytest.approx(on_speech, rel=1e-9)
    assert found["tlm_text"].total.item() == pytest.approx(on_text, rel=1e-9)
    assert (found["tlm_codes"].number, found["tlm_text"].number) == (speech_mask.sum(), text_mask.sum())


@torch.no_grad()
def test_whole_texts_are_masked_by_option(model, batch):
    model.tlm_whole_text, given = 1.0, batch.pairs
    found = pairs.tlm(model, model.embed(given), given, generator=torch.Generator().manual_seed(0))
    model.tlm_whole_text = 0.0
    assert found["tlm_text"].number == given.token_lengths.sum(), "all tokens, and no padding"


@torch.no_grad()
def test_stm(model, batch):
    given, texts = batch.pairs, torch.tensor([0, 2, 1])
    frames = model.embed(given)
    speech = model.encode_speech(frames)
    found = pairs.stm(model, speech, frames.lengths, given, (given.tokens[texts], given.token_lengths[texts]))
    loss, right = 0.0, 0
    for b, text in enumerate(texts.tolist()):
        tokens = given.tokens[text, : given.token_lengths[text]]
        _, states = joined_alone(model, speech[b : b + 1, : frames.lengths[b]], tokens)
        logit = float(model.stm_head(states[0]))
        loss += math.log(1 + math.exp(-logit if text == b else logit))
        right += (logit > 0) == (text == b)
    assert int(found["stm_accuracy"].total) == right
    assert found["stm"].total.item() == pytest.approx(loss, rel=1e-9)
    assert found["stm"].number == 3


def test_a_sum_of_bf16_is_exact(model, batch, monkeypatch):
    logits = torch.tensor([-3.25, 1.7, 4.6]).bfloat16()
    monkeypatch.setattr(pairs, "match_logits", lambda *_: logits)
    texts = batch.pairs.tokens[[0, 2, 1]], batch.pairs.token_lengths[[0, 2, 1]]
    found = pairs.stm(model, None, None, batch.pairs, texts)
    loss = sum(math.log(1 + math.exp(x)) for x in (-float(logits[0]), float(logits[1]), float(logits[2])))
    assert float(found["stm"].total) == pytest.approx(loss, rel=1e-6)
    assert int(found["stm_accuracy"].total) == 0, "the first belongs together, the others do not"


@torch.no_grad()
def test_ctc(model, batch):
    given = batch.pairs
    frames = model.embed(given)
    speech = model.encode_speech(frames)
    found = pairs.ctc(model, speech, frames.lengths, given)
    loss = 0.0
    for b, (T, U) in enumerate(zip(frames.lengths.tolist(), given.token_lengths.tolist(), strict=True)):
        log_probs = model.ctc_head(speech[b, :T]).log_softmax(1)
        loss -= spelled(log_probs, given.tokens[b, :U].tolist())
    assert found["ctc"].total.item() == pytest.approx(loss, rel=1e-9)
    assert found["ctc"].number == 9


@torch.no_grad()
def test_ctc_by_the_embeddings_of_text(build):
    """A frame that the shared encoder takes for a token's embedding spells that token."""
    model = build(tasks={"masked_text": 1.0, "ctc": 1.0}, ctc={"shared_embedding": True})
    model.encoder.shared_transformer.pre_encode = torch.nn.Identity()
    weights = torch.nn.functional.normalize(model.text_embedding.tokens.weight, dim=1)
    model.text_embedding.tokens.weight.copy_(weights)
    spoken = torch.tensor([3, 5, 2])
    logits = pairs.ctc_logits(model, 9 * weights[spoken].unsqueeze(0))
    assert logits.shape == (1, 3, model.text_embedding.num_tokens + 1)
    assert logits[0, :, :-1].argmax(1).tolist() == spoken.tolist()
    assert logits[0, :, 4].tolist() == pytest.approx([9 * float(weights[s] @ weights[4]) for s in spoken], abs=1e-5)


def spelled(log_probs, tokens):
    """The log-probability of a text by CTC's recursion."""
    states = [-1, *[s for token in tokens for s in (token, -1)]]
    alpha = [0.0] + [-math.inf] * (len(states) - 1)
    first = True
    for row in log_probs.tolist():
        new = []
        for s, symbol in enumerate(states):
            came = [alpha[s]] if not first else [0.0 if s < 2 else -math.inf]
            if not first:
                came += [alpha[s - 1]] if s else []
                came += [alpha[s - 2]] if s > 1 and symbol != -1 and symbol != states[s - 2] else []
            new.append(row[symbol] + float(torch.tensor(came, dtype=torch.float64).logsumexp(0)))
        alpha, first = new, False
    return float(torch.tensor(alpha[-2:], dtype=torch.float64).logsumexp(0))


def test_gradients_of_joined_rows(model):
    """Those of the shared encoder over speech and text in one row, by finite differences."""
    generator = torch.Generator().manual_seed(0)
    speech = torch.randn(2, 3, 32, dtype=torch.float64, generator=generator, requires_grad=True)
    text = torch.randn(2, 2, 32, dtype=torch.float64, generator=generator, requires_grad=True)
    lengths, text_lengths = torch.tensor([3, 2]), torch.tensor([1, 2])

    def total(speech, text):
        on_speech, on_text = encode_joined(model.encoder, speech, lengths, text, text_lengths)
        return on_speech[0].sum(0)[:3] + on_speech[1, :2].sum(0)[:3], on_text[0, 0, :3] + on_text[1, 1, :3]

    assert torch.autograd.gradcheck(total, (speech, text), fast_mode=True)


def test_a_text_alone_does_not_depend_on_its_batch(model, batch):
    with torch.no_grad():
        together = model.text_states(batch.text.tokens, batch.text.token_lengths)
        alone = TokenBatch(batch.text.tokens[1:2, :4], batch.text.token_lengths[1:2])
        torch.testing.assert_close(together[1:2, :5], model.text_states(alone.tokens, alone.token_lengths))


def test_padded_frames_do_not_matter(model, batch):
    frames = model.embed(batch.pairs)
    padding = torch.arange(frames.states.shape[1]) >= frames.lengths.unsqueeze(1)
    other = Frames(frames.states.masked_fill(padding.unsqueeze(2), 9.0), frames.lengths, frames.penalty)
    found = [pairs.tlm(model, f, batch.pairs, generator=torch.Generator().manual_seed(0)) for f in (frames, other)]
    assert F.mse_loss(found[0]["tlm_codes"].total, found[1]["tlm_codes"].total) < 1e-18


def test_logits_of_bf16_are_as_good_as_they_are():
    """A confident model: log probabilities near 0, which bf16 would round to three digits."""
    tokens, lengths = torch.arange(6).view(1, 6), torch.tensor([6])
    logits = 7 * F.one_hot(tokens.repeat_interleave(2, 1), 9).bfloat16()
    found, exact = (ctc_figure(x, torch.tensor([12]), tokens, lengths) for x in (logits, logits.double()))
    assert found.total.item() == pytest.approx(exact.total.item(), rel=1e-4)


def test_a_text_without_a_path_is_no_loss_and_spoils_no_gradient():
    """Two equal tokens need a blank between them. Its tokens count all the same."""
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens, lengths = torch.tensor([[1, 2], [1, 1]]), torch.tensor([2, 2])
    found = ctc_figure(logits, torch.tensor([3, 2]), tokens, lengths)
    assert found.total.item() == pytest.approx(-spelled(logits[0].detach().log_softmax(1), [1, 2]), rel=1e-9)
    assert found.number == 4
    found.total.backward()
    assert logits.grad[0].any()
    assert not logits.grad[1].any()
