import pytest

from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.text.classified import Classified, TextWriter, read_classified
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.errors import InputError

MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t7\t8\tHe said "so .\tSo he said .\n'
    "0\t7\t9\tA cat .\tA dog .\n"
)


def test_sst2(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nhide new secretions \t0\na delight \t1\n")
    assert read_classified(path, ["sentence"], "label") == [
        Classified(("hide new secretions",), "0", 2), Classified(("a delight",), "1", 3),
    ]  # fmt: skip


def test_mrpc(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(MRPC, encoding="utf-8")
    first, second = read_classified(path, ["#1 String", "#2 String"], "Quality")
    assert first == Classified(('He said "so .', "So he said ."), "1", 2)
    assert second.texts == ("A cat .", "A dog .")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tlabel\na\t1\n", r"a\.tsv:1: has no column 'sentence'; its columns are: text, label"),
        ("sentence\tlabel\na\t1\nb\n", r"a\.tsv:3: has 1 columns, expected 2"),
        ("sentence\tlabel\na\t \n", r"a\.tsv:2: 'label' is empty"),
        ("sentence\tlabel\n", r"a\.tsv: has no line but the header"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_classified(tmp_path / "a.tsv", ["sentence"], "label")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_classified(tmp_path / "a.tsv", ["sentence"], "label")


def test_what_is_only_written_otherwise_is_not_unknown(tmp_path):
    (tmp_path / "text.txt").write_text("мой дом сто'ит don't\n" * 20, encoding="utf-8")
    train_tokenizer(read_sentences(tmp_path / "text.txt"), tmp_path / "tokens", 24)
    encoder = TokenEncoder(tmp_path / "tokens" / "tokenizer.model")
    write = TextWriter(encoder, lower_case=True, unknown_characters="drop")
    expected = write("мой дом don't", "a.tsv", 1)
    assert write("Мои\u0306 до\u00adм don\u2019t", "a.tsv", 1) == expected
    assert write("мой дом # don't", "a.tsv", 1) == expected
