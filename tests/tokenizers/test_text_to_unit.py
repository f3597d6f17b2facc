"""Text to hidden units through the job that tokenize_text.py runs."""

import functools
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.jobs.progress import progress_path
from nemo_speechlm.models import TextToUnitModel
from nemo_speechlm.testing.configs import tiny_text_to_unit_config
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest
from nemo_speechlm.tokenizers.jobs.text import make_text_units_work, prepare_inventory
from nemo_speechlm.tokenizers.text import TextTokenizer, TokenizedText, line_rng
from nemo_speechlm.tokenizers.text_to_unit import TextToUnitTokenizer, TextToUnitTokenizing, read_inventory
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory

ENGLISH = {
    "_target_": "nemo_speechlm.tokenizers.english_text.EnglishTokenizing",
    "style": "plain",
    "silence_probability": 0.25,
    "unknown": "g2p",
    "lexicon": None,
}
TEXTS = ["the cat sat", "on the mat", "hello world", "a", "what is the time now", "it is late", "go home", "yes"]


def save_model(folder, silence="SIL", speakers=(), **overrides):
    torch.manual_seed(0)
    cfg = tiny_text_to_unit_config(folder, speakers=list(speakers), speaker_dim=4, **overrides)
    phones = phoneme_inventory("plain")
    symbols = tuple(silence if symbol == "SIL" else symbol for symbol in phones.symbols)
    padding = ("<pad>",) if cfg.get("released_padding") else ()
    UnitInventory("phoneme", "en", 100, (*symbols, *padding), silence).save(cfg.phones)
    model = TextToUnitModel(cfg)
    with torch.no_grad():
        model.duration_predictor.proj.bias.fill_(1.4)
        if speakers:
            model.speaker_embedding.weight.mul_(20)
    model.save_to(str(folder / "model.nemo"))
    return folder / "model.nemo"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def manifest(tmp_path):
    write_manifest(tmp_path / "text.json", [{"text": text} for text in TEXTS])
    return tmp_path / "text.json"


def how(model, **options):
    return TextToUnitTokenizing(str(model), dict(ENGLISH), device="cpu", **{"sentences": 3, **options})


def run(manifest, tokenizing, name="out.json", seed=0, shard=None):
    units = manifest.parent / "units.json"
    prepare_inventory(units, tokenizing)
    options = {"seed": seed, "max_units": None}
    report = tokenize_manifest(
        manifest,
        manifest.parent / name,
        tokenizing,
        lambda prepared, _: functools.partial(make_text_units_work, manifest, units, prepared, **options),
        settings=options,
        shard=shard,
        workers=1,
    )
    print(report)
    return manifest.parent / name


def test_units_and_durations(model, manifest):
    restored = TextToUnitModel.restore_from(str(model), map_location="cpu")
    records = [record for _, record in read_manifest(run(manifest, how(model)))]
    assert [record["text"] for record in records] == TEXTS
    for number, record in enumerate(records, start=1):
        tokenizing = how(model)._phone_tokenizing
        phones = tokenizing.make(restored.phones).tokenize(TEXTS[number - 1], line_rng(0, number))
        (spoken,) = restored.generate([restored.phones.encode(phones.units.split())])
        units = record["units"].split()
        assert np.repeat(units, record["unit_durations"]).tolist() == list(map(str, spoken.units))
        assert all(one != next_one for one, next_one in pairwise(units)), "runs are merged"
    units = UnitInventory.load(manifest.parent / "units.json")
    assert units == restored.inventory


def test_the_same_however_it_is_batched_with_the_released_padding_too(tmp_path, manifest):
    model = save_model(tmp_path, released_padding=True)
    restored = TextToUnitModel.restore_from(str(model), map_location="cpu")
    phones = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    alone = [restored.generate([sentence])[0] for sentence in phones]
    assert restored.generate(phones) != alone
    assert restored.generate(phones, batch_frames=0) == alone
    whole = run(manifest, how(model)).read_bytes()
    assert run(manifest, how(model, sentences=1), "alone.json").read_bytes() == whole


def test_the_same_however_it_is_batched_or_shared(model, manifest):
    whole = run(manifest, how(model)).read_bytes()
    for number, options in enumerate([{"sentences": 1}, {"sentences": 100}, {"batch_frames": 5}]):
        assert run(manifest, how(model, **options), f"{number}.json").read_bytes() == whole
    for shard in ("0/2", "1/2", "join/2"):
        run(manifest, how(model), "shards.json", shard=shard)
    assert (manifest.parent / "shards.json").read_bytes() == whole
    assert run(manifest, how(model), "seed.json", seed=5).read_bytes() != whole


def test_goes_on_where_it_was_killed(model, manifest):
    whole = run(manifest, how(model)).read_bytes()
    target = manifest.parent / "killed.json"

    class Killed(BaseException):
        pass

    def killed(prepared, _):
        make = functools.partial(make_text_units_work, manifest, manifest.parent / "units.json", prepared)

        def make_work():
            work, batches = make(seed=0, max_units=None), iter(range(1))

            def limited(lines):
                if next(batches, None) is None:
                    raise Killed
                return work(lines)

            return limited

        return make_work

    options = {"seed": 0, "max_units": None}
    with pytest.raises(Killed):
        tokenize_manifest(manifest, target, how(model), killed, settings=options, workers=1)
    (part,) = progress_path(target).glob("*.part")
    text = part.read_text()
    assert text.count("\n") == 1 + 3
    part.write_text(text[:-20])  # the last line was cut in the middle
    assert run(manifest, how(model), "killed.json").read_bytes() == whole


def test_speakers_are_drawn_by_the_seed(tmp_path, manifest):
    model = save_model(tmp_path, speakers=["a", "b", "c"])
    drawn = run(manifest, how(model)).read_text().splitlines()
    assert run(manifest, how(model, sentences=1), "again.json").read_text().splitlines() == drawn
    fixed = {name: run(manifest, how(model, speaker=name), f"{name}.json").read_text().splitlines() for name in "abc"}
    chosen = [[name for name in "abc" if fixed[name][row] == line] for row, line in enumerate(drawn)]
    assert all(chosen), "each sentence is somebody's"
    assert len({name for names in chosen if len(names) == 1 for name in names}) > 1
    with pytest.raises(InputError, match=r"model\.nemo: has no speaker 'x'; its 3 are a, b, c"):
        run(manifest, how(model, speaker="x"), "x.json")


def test_the_released_models_silence(tmp_path, manifest, model):
    other = save_model(tmp_path, silence="<SIL>")
    assert run(manifest, how(other), "x.json").read_bytes() == run(manifest, how(model)).read_bytes()


def test_a_folder_with_the_model(model):
    """As a name of the hub is: what is read is the file, not the name."""
    assert how(model.parent).inventory() == how(model).inventory()
    assert list(how(model.parent).files()) == list(how(model).files())


def test_wrong_phones_and_units(tmp_path, manifest, model):
    stressed = TextToUnitTokenizing(str(model), ENGLISH | {"style": "position_stress"}, device="cpu")
    with pytest.raises(InputError, match=r"model\.nemo: .* units of style=position_stress are not among its 40"):
        run(manifest, stressed)
    phoneme_inventory("plain").save(manifest.parent / "units.json")
    with pytest.raises(InputError, match=r"units\.json: .*kind is 'phoneme', but that of .*model\.nemo is 'hidden'"):
        run(manifest, how(model))
    UnitInventory("hidden", "en", 50, ("0", "1")).save(manifest.parent / "units.json")
    with pytest.raises(InputError, match=r"units\.json: unit 2 is '2', which is not among the 2 units"):
        run(manifest, how(model))


def test_wrong_options(model, tmp_path):
    with pytest.raises(SpeechLMError, match="sentences is 0, expected a whole number"):
        how(model, sentences=0)
    with pytest.raises(SpeechLMError, match="speed is 0, expected a number above 0"):
        how(model, speed=0)
    nested = TextToUnitTokenizing(str(model), {"_target_": "nowhere.at.All"})
    with pytest.raises(SpeechLMError, match=r"phone_tokenizer cannot be made: .*nowhere"):
        nested.files()
    (tmp_path / "x.nemo").write_text("nothing")
    for path, expected in ((tmp_path / "x.nemo", r"is not the \.nemo file"), (tmp_path / "y.nemo", "no such file")):
        with pytest.raises(InputError, match=expected):
            read_inventory(path, "units")
    with pytest.raises(InputError, match=r"is not the \.nemo file of a text-to-unit model: KeyError"):
        read_inventory(model, "decoys")


def test_it_travels_to_workers(model):
    tokenizing = how(model)
    assert tokenizing._phones.silence == "SIL"
    assert pickle.loads(pickle.dumps(tokenizing)) == tokenizing


def test_config_has_the_fields():
    path = Path(__file__).parents[2] / "conf" / "text_tokenizer" / "text_to_unit.yaml"
    cfg = yaml.safe_load(path.read_text())
    assert cfg.pop("_target_").endswith(TextToUnitTokenizing.__name__)
    assert cfg.pop("defaults")[0] == {"/text_tokenizer@phone_tokenizer": "english"}
    fields = TextToUnitTokenizing.__dataclass_fields__
    assert cfg.keys() | {"phone_tokenizer"} == fields.keys()
    for name, value in cfg.items():
        assert name == "model" or fields[name].default == value, name


class Dropping(TextTokenizer):
    """Leaves out the first word."""

    def tokenize(self, text, rng):
        kept = text.split()[1:]
        if not kept:
            raise SkipItem("no word")
        return TokenizedText("SIL AH SIL", None, {"text": " ".join(kept), "dropped_words": 1})


def test_what_the_phone_tokenizer_says_stays(tmp_path):
    path = save_model(tmp_path, max_phone_seconds=0.04)
    tokenizer = TextToUnitTokenizer(how(path), Dropping(), phoneme_inventory("plain"))
    made, none, other = tokenizer.tokenize_batch(["x a cat", "x", "x b"], [line_rng(0, n) for n in (1, 2, 3)])
    assert made.extra == {"text": "a cat", "dropped_words": 1, "cut_phones": 3}
    assert isinstance(none, SkipItem)
    assert other.extra["text"] == "b"


def test_phones_that_are_cut_are_counted(tmp_path, manifest, capsys):
    path = save_model(tmp_path, max_phone_seconds=0.04)  # two frames; the model says three
    run(manifest, how(path))
    lines = [record for _, record in read_manifest(tmp_path / "out.json")]
    assert [line["cut_phones"] > 0 for line in lines] == [True] * len(TEXTS)
    total = sum(line["cut_phones"] for line in lines)
    assert f"\n  {total} phones were as long as the model allows (cut_phones)" in capsys.readouterr().out
