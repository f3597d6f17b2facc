import math
import shutil

import numpy as np
import pytest

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.language_models.arpa import ArpaModel
from nemo_speechlm.language_models.builders import NGramOptions, find_builder, make_arpa

TEXT = [["a"], ["a"], ["b"]]


def test_perplexity_computed_by_hand(tmp_path):
    """Every discount is 0.5, as such a text gives no estimate; four words may follow: </s>, <unk>, a, b.

    Unigrams by the words before them: a 1 (behind <s>), b 1, </s> 2 (behind a and b); 3 x 0.5 is freed of 4.
    """
    freed = 1.5 / 4 / 4
    a, end, unknown = 0.5 / 4 + freed, 1.5 / 4 + freed, freed
    a_first, b_first = 1.5 / 3 + a / 3, 0.5 / 3 + a / 3  # behind <s>: a twice, b once
    end_a, end_b = 1.5 / 2 + 0.25 * end, 0.5 + 0.5 * end  # behind a: </s> twice; behind b: once
    path = tmp_path / "lm.arpa.gz"
    assert make_arpa(TEXT, path, NGramOptions(order=2, builder="own")) == "own"
    model = ArpaModel(path)
    assert model.order == 2
    assert 10 ** model.log10("<unk>", []) == pytest.approx(unknown, rel=1e-3)
    found = model.perplexity([["a"], ["b"]])
    assert (found.words, found.unknown, found.sentences) == (4, 0, 2)
    assert found.perplexity == pytest.approx((a_first * end_a * b_first * end_b) ** -0.25, rel=1e-3)
    # b behind a was never seen: the back-off weight of a is what its one continuation left, over what is left below
    back = (1 - end_a) / (1 - end)
    assert model.perplexity([["a", "b"]]).log10 == pytest.approx(math.log10(a_first * back * a * end_b), abs=1e-3)
    # an unknown word is left out, and what follows it is predicted from unigrams
    found = model.perplexity([["c"]])
    assert (found.words, found.unknown) == (1, 1)
    assert found.log10 == pytest.approx(math.log10(end), abs=1e-3)


@pytest.mark.skipif(shutil.which("irstlm") is None, reason="IRSTLM is not installed")
def test_irstlm_makes_a_model_of_the_same_kind(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    text = [[words[int(i) % 40] for i in rng.geometric(0.1, size=rng.integers(3, 9))] for _ in range(400)]
    assert make_arpa(text, tmp_path / "irstlm.arpa", NGramOptions(order=2, builder="irstlm")) == "irstlm"
    make_arpa(text, tmp_path / "own.arpa", NGramOptions(order=2, builder="own"))
    theirs, ours = ArpaModel(tmp_path / "irstlm.arpa"), ArpaModel(tmp_path / "own.arpa")
    known = [word for word in [*words, "</s>"] if word in theirs]
    assert len(known) > 30
    for context in ([], ["w1"], ["w4"]):
        assert sum(10 ** theirs.log10(word, context) for word in known) == pytest.approx(1, abs=0.1)
    assert theirs.perplexity(text).perplexity == pytest.approx(ours.perplexity(text).perplexity, rel=0.1)


def test_builders():
    assert find_builder("own") == "own"
    assert find_builder("auto") in ("kenlm", "irstlm", "own")
    with pytest.raises(SpeechLMError, match="expected one of auto, kenlm"):
        find_builder("srilm")


def test_a_builder_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find_builder("auto") == "own"
    with pytest.raises(SpeechLMError, match="there is no program lmplz"):
        find_builder("kenlm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\n", "is not a whole ARPA file"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1.0\ta\n\n\\end\\\n", "1 1-grams, but its header says 2"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\nx\ta\n\n\\end\\\n", ":5: expected numbers and 1 words"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1.0\n\n\\end\\\n", ":5: expected a probability and 1 words"),
        ("\\data\\\nngram one\n", ":2: expected 'ngram N=COUNT'"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "lm.arpa").write_text(content)
    with pytest.raises(InputError, match=message.replace("\\", "\\\\")):
        ArpaModel(tmp_path / "lm.arpa")


def test_no_text(tmp_path):
    with pytest.raises(InputError, match="no words"):
        make_arpa([[]], tmp_path / "lm.arpa", NGramOptions(builder="own"))
    assert not list(tmp_path.iterdir())


def test_tokens_that_look_like_white_space(tmp_path):
    """Tokens are written as characters from code 100 on; that of 33 is U+0085, that of 60 a no-break space."""
    tokens = [chr(100 + number) for number in (33, 60, 7)]
    make_arpa([tokens, tokens[::-1]], tmp_path / "lm.arpa", NGramOptions(order=3, builder="own"))
    model = ArpaModel(tmp_path / "lm.arpa")
    assert all(token in model for token in tokens)
    assert model.perplexity([tokens]).unknown == 0


def test_the_unknown_word_in_a_text(tmp_path):
    """As corpora have it where a word was not understood; the model has one such word, however it is written."""
    for spelling in ("<unk>", "<UNK>"):
        text = [["a", spelling, "b"], ["a", "b"]] * 2
        make_arpa(text, tmp_path / f"{spelling}.arpa", NGramOptions(order=2, builder="own"))
    lines = (tmp_path / "<unk>.arpa").read_text()
    assert lines == (tmp_path / "<UNK>.arpa").read_text()
    assert lines.count("\t<unk>\t") == 1
    assert ArpaModel(tmp_path / "<unk>.arpa").perplexity([["a", "c", "b"]]).unknown == 1
    assert ArpaModel(tmp_path / "<unk>.arpa").perplexity([["a", "<unk>", "b"]]).unknown == 1
    with pytest.raises(InputError, match="knows no word of the 0 sentences"):
        ArpaModel(tmp_path / "<unk>.arpa").perplexity([])
