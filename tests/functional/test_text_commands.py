"""prepare_text.py and tokenize_text.py as a user runs them."""

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.phones import phone_inventory, phoneme_inventory
from tests.functional.commands import run_example

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("NEMO_SPEECHLM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in ``tmp_path``, in this process; gives what it printed, or its error message if ``fails``."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str, fails: bool = False) -> str:
        capfd.readouterr()
        status = run_example(command, *arguments)
        printed = capfd.readouterr()
        assert status == fails, printed.err
        return printed.err.split("error: ", 1)[1] if fails else printed.out

    return run


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_plain_text_to_units(run: Callable[..., str], tmp_path: Path):
    words = "one two three four five six seven eight nine ten".split()
    sentences = [f"{a.title()}, {b} -- and {c}!" for a in words for b in words for c in words[:3]]
    with gzip.open(tmp_path / "book.txt.gz", "wt") as file:
        file.write("\n".join([*sentences, "", sentences[0], "In 1885.", "Snagsby's cat."]) + "\n")
    said = run(
        "prepare_text.py",
        *("source=book.txt.gz", "output=text.json", "valid_lines=20", "valid_output=valid.json", "workers=2"),
    )
    assert "301 written (20 of them to valid.json), 2 left out" in said
    assert "1 x a repeated sentence" in said
    text, valid = read(tmp_path / "text.json"), read(tmp_path / "valid.json")
    assert (len(text), len(valid)) == (281, 20)
    assert not {r["text"] for r in text} & {r["text"] for r in valid}
    assert [(r["line"], r["reason"].split()[0]) for r in read(tmp_path / "text.json.skipped.jsonl")] == [
        (302, "a"),
        (303, "digits"),
    ]

    options = ("manifest=text.json", "units=units.json", "seed=5")
    run("tokenize_text.py", "output=one.json", "workers=1", *options)
    run("tokenize_text.py", "output=two.json", "workers=2", *options)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    inventory = UnitInventory.load(tmp_path / "units.json")
    assert len(inventory.durations) == len(inventory) == 346
    records = read(tmp_path / "one.json")
    assert [r["text"] for r in records] == [r["text"] for r in text]
    for record in records:
        units = record["units"].split()
        inventory.encode(units)
        assert units[0] == units[-1] == "SIL"
        assert sum(unit.endswith(("_B", "_S")) for unit in units) == len(record["text"].split())

    message = run("tokenize_text.py", "output=three.json", "style=plain", *options, fails=True)
    assert message.startswith("units.json: 39 units of style=plain are not among its 346 units")
    assert "exists already" in run("tokenize_text.py", "output=one.json", *options, fails=True)


def test_text_is_spelled_as_transcripts_are(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "train.json").write_text('{"text": "ещё её ёж"}\n{"text": "все ежи и всё"}\n')
    (tmp_path / "book.txt").write_text("Еще раз: все ее ежи.\nИ еж.\n")
    options = ("language=ru", "source=book.txt", "spelled_as=train.json", "workers=1")
    said = run("prepare_text.py", "output=text.json", *options)
    assert "3 words get the ё that train.json has" in said
    assert [record["text"] for record in read(tmp_path / "text.json")] == ["ещё раз все её ежи", "и ёж"]
    message = run("prepare_text.py", "output=train.json", "overwrite=true", *options, fails=True)
    assert message.startswith("train.json")
    assert "spelled_as" in message
    message = run(
        "prepare_text.py", "output=o.json", "source=book.txt", "spelled_as=none.json", "language=ru", fails=True
    )
    assert message.startswith("none.json: no such file")


@pytest.mark.parametrize("command", ["prepare_text.py", "tokenize_text.py"])
def test_help(run: Callable[..., str], command: str, tmp_path: Path):
    said = run(command, "--help")
    assert "???" in said
    assert "skip_bad: false" in said
    assert list(tmp_path.iterdir()) == []


def test_bad_input(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "bad.json").write_text('{"text": "Hello"}\nhello\n{"text": "\u2026"}\n')
    for command, arguments, message in [
        ("prepare_text.py", ["output=o", "workers=1"], "not given: source; add source=... (--help lists all options)"),
        ("prepare_text.py", ["source=no", "output=o", "workers=1"], "no: no such file"),
        ("prepare_text.py", ["source=empty", "output=o", "workers=1"], "empty: is empty"),
        ("prepare_text.py", ["source=bad.json", "output=o", "workers=1"], "bad.json:2: not JSON"),
        (
            "prepare_text.py",
            ["source=bad.json", "output=o", "workers=1", "min_words=x"],
            "min_words is 'x', expected a whole",
        ),
        (
            "prepare_text.py",
            ["source=bad.json", "output=o", "workers=1", "valid_lines=1"],
            "valid_lines and valid_output go",
        ),
        ("tokenize_text.py", ["manifest=no", "output=o", "workers=1", "units=u.json"], "no: no such file"),
        (
            "tokenize_text.py",
            ["manifest=empty", "output=o", "workers=1", "units=u.json"],
            "empty: the manifest is empty",
        ),
        ("tokenize_text.py", ["manifest=bad.json", "output=o", "workers=1", "units=bad.json"], "bad.json:2: not JSON"),
        ("tokenize_text.py", ["manifest=bad.json", "output=t", "workers=1", "units=u.json"], "bad.json:2: not JSON"),
    ]:
        assert run(command, *arguments, fails=True).startswith(message)
    assert not any((tmp_path / name).exists() for name in "ot")
    said = run("tokenize_text.py", "manifest=bad.json", "output=t", "workers=1", "units=u.json", "skip_bad=true")
    assert "1 written, 2 left out" in said
    assert [r["line"] for r in read(tmp_path / "t.skipped.jsonl")] == [2, 3]


def test_parts_of_several_manifests_with_a_bad_line_at_the_front(run: Callable[..., str], tmp_path: Path):
    """Two machines with a part of each: what they make is what one makes."""
    phone_inventory("ru", ["m", "a", "d", "o"], "plain").save(tmp_path / "u.json")
    (tmp_path / "lexicon.txt").write_text("мама m a m a\nдом d o m\n")
    for name, text in (("a", "мама"), ("b", "дом")):
        (tmp_path / f"{name}.json").write_text("oops\n" + (json.dumps({"text": text}) + "\n") * 150)
    options = [
        "text_tokenizer=espeak",
        "language=ru",
        "style=plain",
        "lexicon=lexicon.txt",
        "units=u.json",
        "workers=1",
    ]
    several = ["manifest=[a.json,b.json]", *options]
    assert run("tokenize_text.py", *several, "output=o__OP_0..1_CL_.json", fails=True).startswith("a.json:1: not JSON")
    for shard in ("1/2", "0/2", "join/2"):
        run("tokenize_text.py", *several, "output=o__OP_0..1_CL_.json", "skip_bad=true", f"shard={shard}")
    said = run("tokenize_text.py", *several, "output=whole__OP_0..1_CL_.json", "skip_bad=true")
    assert said.count("150 written, 1 left out") == 2
    for number in (0, 1):
        assert (tmp_path / f"o_{number}.json").read_bytes() == (tmp_path / f"whole_{number}.json").read_bytes()
    assert not list(tmp_path.glob(".done*"))


def test_what_was_made_with_other_units_is_neither_joined_nor_kept(run: Callable[..., str], tmp_path: Path):
    phone_inventory("ru", ["m", "a"], "plain").save(tmp_path / "few.json")
    phone_inventory("ru", ["m", "a", "d", "o"], "plain").save(tmp_path / "all.json")
    (tmp_path / "lexicon.txt").write_text("мама m a m a\nдом d o m\n")
    line = json.dumps({"text": "мама дом"}) + "\n"
    (tmp_path / "text.json").write_text(line * 128)
    options = ["text_tokenizer=espeak", "language=ru", "style=plain", "lexicon=lexicon.txt", "unknown=drop_word"]
    common = [*options, "workers=1"]
    one = ["manifest=text.json", "output=o.json", *common]
    run("tokenize_text.py", *one, "units=few.json", "shard=0/2")
    run("tokenize_text.py", *one, "units=all.json", "shard=1/2")
    refused = run("tokenize_text.py", *one, "units=all.json", "shard=join/2", fails=True)
    assert "o.shard0of2.json: was made with another inventory" in refused
    run("tokenize_text.py", *one, "units=all.json", "shard=0/2", "overwrite=true")
    run("tokenize_text.py", *one, "units=all.json", "shard=join/2")
    assert {record["text"] for record in read(tmp_path / "o.json")} == {"мама дом"}

    several = ["manifest=[text.json,more.json]", "output=made__OP_0..1_CL_.json", *common]
    (tmp_path / "more.json").write_text("not JSON\n")
    run("tokenize_text.py", *several, "units=few.json", fails=True)
    assert "дом" not in read(tmp_path / "made_0.json")[0]["text"]
    (tmp_path / "more.json").write_text(line)
    said = run("tokenize_text.py", *several, "units=all.json", fails=True)
    assert said.startswith("made_0.json: exists already")


def test_a_refused_output_leaves_the_units_as_they_are(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "t.json").write_text(json.dumps({"text": "hello world"}) + "\n")
    inventory = phoneme_inventory("plain")
    units, output = tmp_path / "units.json", tmp_path / "o.json"
    inventory.with_durations({symbol: DurationModel(9, 1) for symbol in inventory.symbols}).save(units)
    arguments = ["manifest=t.json", "output=o.json", "units=units.json", "style=plain", "durations=paper"]
    output.write_text("mine")
    before = units.read_text()
    assert "exists already" in run("tokenize_text.py", *arguments, fails=True)
    assert units.read_text() == before
    units.unlink()
    assert "exists already" in run("tokenize_text.py", *arguments, fails=True)
    assert not units.exists()
    run("tokenize_text.py", *arguments, "overwrite=true")
    assert UnitInventory.load(units).durations["AH"] == (5, 2.5)


@pytest.mark.skipif(not (DATA / "text").exists(), reason=f"no {DATA}/text; set NEMO_SPEECHLM_DATA")
def test_novels(run: Callable[..., str], tmp_path: Path):
    source = DATA / "text" / "novels.txt.gz"
    run("prepare_text.py", f"source={source}", "output=text.json", "max_lines=3000")
    run("tokenize_text.py", "manifest=text.json", "output=u.json", "units=units.json", "workers=1")
    inventory = UnitInventory.load(tmp_path / "units.json")
    ids = [inventory.encode(record["units"].split()) for record in read(tmp_path / "u.json")]
    assert len(ids) > 2900
    assert len({unit for sentence in ids for unit in sentence}) > 150


def test_the_perplexity_is_of_the_same_key_and_tells_what_is_left_out(run: Callable[..., str], tmp_path: Path):
    import torch
    from omegaconf import OmegaConf

    from nemo_speechlm.models import SpeechLMCTCModel
    from nemo_speechlm.testing.configs import tiny_architecture

    (tmp_path / "said.json").write_text('{"text": "B!", "said": "b b"}\n{"text": "B?", "said": "b"}\n')
    (tmp_path / "held_out.json").write_text('{"text": "B, x.", "said": "b"}\n{"text": "X", "said": "x"}\n')
    common = ("source=said.json", "text_field=said", "perplexity_of=held_out.json", "builder=own")
    told = run("train_ngram.py", *common, "output=words.arpa")
    assert "(2 sentences, 3 words and ends, 1 unknown words left out)" in told

    torch.manual_seed(0)
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    cfg = {**tiny_architecture(), "labels": [" ", "b"], "decoder": head, "init_from_pretrained": None}
    SpeechLMCTCModel(OmegaConf.create(cfg)).save_to("ctc.nemo")
    told = run("train_ngram.py", *common, "output=tokens.arpa", "tokens_of=ctc.nemo")
    assert "(1 sentences, 2 words and ends); 1 sentences left out, the first: 'x' (U+0078)" in told

    before = Path("tokens.arpa").read_bytes()
    (tmp_path / "broken.json").write_text('{"said": "b"}\nno JSON\n')
    failing = [*common[:2], "perplexity_of=broken.json", "builder=own", "output=tokens.arpa", "overwrite=true"]
    assert "broken.json:2: not JSON" in run("train_ngram.py", *failing, "order=2", "tokens_of=ctc.nemo", fails=True)
    assert Path("tokens.arpa").read_bytes() == before, "a model has its name when all is done"
    run("train_ngram.py", *common, "output=tokens.arpa", "overwrite=true")
    assert not Path("tokens.arpa.labels").exists(), "these are words"


def test_a_language_model_is_mixed_with_one_of_a_new_domain(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "old.txt").write_text("the cat sat\nthe dog sat on the cat\na dog saw the cat\n" * 3)
    (tmp_path / "new.json").write_text("".join(f'{{"text": "press the {w}"}}\n' for w in ("key", "star", "cat")))
    common = ("source=old.txt", "order=2", "perplexity_of=new.json")
    told = run("train_ngram.py", *common, "output=new.arpa", "adapt_to=new.json")
    found = re.search(
        r"new\.arpa: 2-grams by own\nmixed with new\.json, which has (0\.\d\d) of the weight; parts", told
    )
    assert found is not None, told
    assert 0.5 < float(found[1]) < 1
    again = run("train_ngram.py", *common, "output=given.arpa", "adapt_to=new.json", f"adapt_weight={found[1]}")
    assert f"mixed with new.json, which has {found[1]} of the weight\n" in again
    perplexity = [float(re.search(r"perplexity ([\d.]+) \(3 sentences", text)[1]) for text in (told, again)]
    assert perplexity[0] == pytest.approx(perplexity[1], rel=0.02)
    for options, message in (
        (("adapt_weight=0.5",), "adapt_weight is the weight of adapt_to, which is null"),
        (("adapt_to=new.json", "adapt_weight=1"), "adapt_weight is 1, expected a number above 0 and below 1"),
        (("adapt_to=gone.json",), "gone.json"),
    ):
        assert message in run("train_ngram.py", *common, "output=no.arpa", *options, fails=True)
    assert not (tmp_path / "no.arpa").exists()


def test_several_texts_become_as_many_manifests(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "t_0.txt").write_text("a bad seat\na bad seat\n")
    (tmp_path / "t_1.txt").write_text(json.dumps({"text": "Send it!"}) + "\n")
    common = ("workers=1",)
    said = run("prepare_text.py", "source=t__OP_0..1_CL_.txt", "output=o__OP_0..1_CL_.json", *common)
    assert [line.partition(":")[0] for line in said.splitlines() if line[0] == "o"] == ["o_0.json", "o_1.json"]
    assert [[r["text"] for r in read(tmp_path / f"o_{n}.json")] for n in (0, 1)] == [["a bad seat"], ["send it"]]
    run("prepare_text.py", "source=[t_0.txt,t_1.txt]", "output=p__OP_0..1_CL_.json", *common)
    for number in (0, 1):
        assert (tmp_path / f"p_{number}.json").read_bytes() == (tmp_path / f"o_{number}.json").read_bytes()
    fewer = run("prepare_text.py", "source=[t_0.txt,t_1.txt]", "output=q.json", *common, fails=True)
    assert fewer.startswith("q.json: source names 2 files, output 1; expected as many, such as ")
    held = ("valid_lines=1", "valid_output=v.json")
    assert run(
        "prepare_text.py", "source=[t_0.txt,t_1.txt]", "output=q__OP_0..1_CL_.json", *held, *common, fails=True
    ).startswith("valid_output goes with one source, and source names several")
    assert not list(tmp_path.glob("q*"))


def test_durations_come_from_several_manifests(run: Callable[..., str], tmp_path: Path):
    for number in (0, 1):
        record = {"audio_filepath": "a.wav", "units": "SIL AH0_B T_E", "unit_durations": [30, 5 + 2 * number, 8]}
        (tmp_path / f"s_{number}.json").write_text(json.dumps(record) + "\n")
    (tmp_path / "text.json").write_text(json.dumps({"text": "a cat"}) + "\n")
    (tmp_path / "both.json").write_text("".join((tmp_path / f"s_{n}.json").read_text() for n in (0, 1)))
    for name, several in (("all", "both.json"), ("one", "[s_0.json,s_1.json]"), ("two", "s__OP_0..1_CL_.json")):
        units = f"units={name}_units.json"
        options = ("manifest=text.json", "workers=1", f"aligned_manifest={several}")
        run("tokenize_text.py", f"output={name}.json", units, *options)
        assert (tmp_path / f"{name}_units.json").read_bytes() == (tmp_path / "all_units.json").read_bytes()
    assert UnitInventory.load(tmp_path / "all_units.json").durations["AH0_B"].mean > 5.5, "of both lines: 5 and 7"
