import pickle
import shutil

import pytest

from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.data.text.sentencepiece_training import FILES, train_tokenizer
from nemo_speechlm.errors import InputError

TEXT = ["the cat sat on the mat", "a dog saw the cat", "the dog sat"] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    assert train_tokenizer(TEXT, path, 18) == 18
    return path


def test_makes_what_nemo_wants_and_nothing_else(folder):
    assert {p.name for p in folder.iterdir()} == set(FILES)


def test_spells_with_its_tokens(folder):
    encoder = TokenEncoder(folder / "tokenizer.model")
    ids = encoder("  the   cat ")
    assert "".join(encoder.labels[i] for i in ids) == "▁the▁cat"
    assert len(encoder.labels) == 18
    content = TokenEncoder((folder / "tokenizer.model").read_bytes())
    assert content("the cat") == ids
    assert pickle.loads(pickle.dumps(content))("the cat") == ids


def test_what_cannot_be_spelled_is_an_error(folder):
    with pytest.raises(InputError, match=r"m\.json:7: 'Q' in 'the Qat' cannot be spelled"):
        TokenEncoder(folder / "tokenizer.model")("the Qat", "m.json", 7)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        TokenEncoder(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a SentencePiece model"):
        TokenEncoder(tmp_path / "tokenizer.model")


def test_does_not_overwrite(folder):
    before = (folder / "tokenizer.model").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        train_tokenizer(TEXT, folder, 20)
    with pytest.raises(InputError, match="no text"):
        train_tokenizer([], folder, 20, overwrite=True)
    with pytest.raises(InputError, match="expected one of unigram"):
        train_tokenizer(TEXT, folder, 20, "words", overwrite=True)
    with pytest.raises(InputError, match="cannot make 3 tokens"):
        train_tokenizer(TEXT, folder, 3, overwrite=True)
    assert (folder / "tokenizer.model").read_bytes() == before
    assert {p.name for p in folder.iterdir()} == set(FILES)


def test_what_a_kill_leaves_is_replaced(folder, tmp_path, monkeypatch):
    """The model is the last to be there and the first to go, so it never is beside another's vocabulary."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            train_tokenizer(TEXT, tmp_path, 18, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES) - {"tokenizer.model"}
    assert train_tokenizer(TEXT, tmp_path, 18) == 18


def test_sentences_of_text_and_of_manifests(tmp_path):
    (tmp_path / "a.txt").write_text("one  two\n\nthree\n")
    (tmp_path / "b.json").write_text('{"text": "one two"}\n{"text": ""}\n{"text": 3}\n')
    assert list(read_sentences(tmp_path / "a.txt")) == ["one two", "three"]
    assert list(read_sentences(tmp_path / "b.json", max_lines=2)) == ["one two"]
    with pytest.raises(InputError, match=r"b\.json:3: 'text' is 3"):
        list(read_sentences(tmp_path / "b.json"))


def test_a_long_line_is_not_left_out(tmp_path):
    """SentencePiece leaves out lines of more than 4,192 bytes."""
    train_tokenizer(["cat and dog"] * 50 + ["zq " * 3000], tmp_path / "made", 12, "char")
    assert TokenEncoder(tmp_path / "made" / "tokenizer.model")("zq cat")
