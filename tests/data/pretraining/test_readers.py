import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nemo.collections.common.data.lhotse.cutset import get_parser_fn
from omegaconf import OmegaConf

import nemo_speechlm.data.pretraining.streams  # noqa: F401  (registers the types)
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining import manifest_reader
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.text_reader import TextUnitsReader, rescale, shorten
from nemo_speechlm.data.text.characters import ctc_frames
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels
from nemo_speechlm.units.inventory import DurationModel, UnitInventory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=12, n_text=30)


def text_reader(corpus, **options):
    return TextUnitsReader([str(corpus.text)], tiny_inventory(), tiny_labels(), 50, **options)


def speech_reader(corpus, **options):
    return SpeechReader([str(corpus.speech)], tiny_inventory(), **options)


def lines(examples):
    return [int(example.id.rpartition(":")[2]) for example in examples]


def rewrite(path, source, change):
    """Copy a manifest with its third record changed."""
    records = [record for _, record in read_manifest(source)]
    change(records[2])
    for record in records:
        if "audio_filepath" in record:
            record["audio_filepath"] = str(source.parent / record["audio_filepath"])
    write_manifest(path, records)
    return str(path)


def test_each_pass_has_another_order_and_a_seed_its_own(corpus):
    reader = text_reader(corpus)
    first, second = (lines(islice(reader, n, n + 30)) for n in (0, 30))
    assert sorted(first) == sorted(second) == list(range(1, 31))
    assert first != second
    assert lines(islice(reader, 30)) == first
    assert lines(islice(text_reader(corpus, order=Order(seed=1)), 30)) != first
    reader.chapter = 1
    assert lines(islice(reader, 30)) != first


def test_order_is_random_over_the_whole_file(tmp_path):
    write_manifest(tmp_path / "text.json", ({"text": "ab", "units": "SIL A B SIL"} for _ in range(20000)))
    reader = TextUnitsReader([str(tmp_path / "text.json")], tiny_inventory(), tiny_labels(), 50)
    seen = np.array(lines(islice(reader, 300)))
    assert seen.max() > 19000
    assert 8500 < seen.mean() < 11500


def test_finite_reading_is_one_pass_in_the_files_order(corpus):
    reader = text_reader(corpus, order=Order(shuffle=False, finite=True))
    assert lines(reader) == list(range(1, 31))


def test_several_manifests_are_one(corpus, tmp_path):
    gz = tmp_path / "more.json.gz"
    write_manifest(gz, (record for _, record in read_manifest(corpus.text)))
    order = Order(shuffle=False, finite=True)
    reader = TextUnitsReader([str(corpus.text), str(gz)], tiny_inventory(), tiny_labels(), 50, order)
    assert lines(reader) == [*range(1, 31), *range(1, 31)]


def test_units_and_targets_are_those_of_the_manifest(corpus):
    order = Order(shuffle=False, finite=True)
    for sentence, (_, record) in zip(text_reader(corpus, order=order), read_manifest(corpus.text), strict=True):
        assert tiny_inventory().decode(sentence.units) == record["units"]
        assert "".join(tiny_labels()[i] for i in sentence.targets) == record["text"]
        assert len(sentence.durations) == len(record["units"])


def test_durations_are_drawn_anew_and_reproducibly(corpus):
    def draws(n, **options):
        reader = text_reader(corpus, order=Order(**options))
        passes = [sorted(islice(reader, 30 * i, 30 * i + 30), key=lambda s: s.id) for i in range(n)]
        return [np.concatenate([s.durations for s in sentences]) for sentences in passes]

    first, second = draws(2)
    assert (first != second).mean() > 0.3
    assert (draws(1)[0] == first).all()
    assert (draws(1, seed=3)[0] != first).mean() > 0.3


def test_drawn_durations_follow_the_statistics(corpus):
    reader = text_reader(corpus)
    sentences = list(islice(reader, 600))
    units = np.concatenate([s.units for s in sentences])
    durations = np.concatenate([s.durations for s in sentences])
    assert durations[units != 0].mean() == pytest.approx(3.5, rel=0.05)  # N(7, 3) at 100 Hz, seen at 50 Hz
    assert durations[units == 0].mean() == pytest.approx(7, rel=0.07)


def test_ctc_can_always_spell_what_is_drawn(corpus):
    inventory = tiny_inventory().with_durations({s: DurationModel(1.2, 4.0) for s in tiny_inventory().symbols})
    reader = TextUnitsReader([str(corpus.text)], inventory, tiny_labels(), 100)
    for sentence in islice(reader, 300):
        assert sentence.input_length >= ctc_frames(sentence.targets)
        assert sentence.durations.min() >= 1


@given(
    units=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    text=st.text("abd ", min_size=1, max_size=30),
    mean=st.floats(0.5, 20),
    std=st.floats(0, 30),
    bounds=st.tuples(st.integers(0, 40), st.integers(1, 200), st.integers(1, 200)),
    frame_rate=st.sampled_from([25, 50, 100]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_what_is_drawn_stays_within_all_bounds(tmp_path, units, text, mean, std, bounds, frame_rate):
    low, high, positions = bounds
    inventory = tiny_inventory().with_durations({s: DurationModel(mean, std) for s in tiny_inventory().symbols})
    write_manifest(tmp_path / "t.json", [{"text": text, "units": units}])
    try:
        reader = TextUnitsReader(
            [str(tmp_path / "t.json")], inventory, tiny_labels(), frame_rate,
            min_tokens=low, max_tokens=high, max_frames=positions,
        )  # fmt: skip
    except InputError:  # the filters leave it out
        return
    for sentence in islice(reader, 8):
        assert max(low, ctc_frames(sentence.targets)) <= sentence.input_length <= min(high, positions)
        assert sentence.durations.min() >= 1
        assert len(sentence.durations) == len(units)


def test_a_long_sentence_never_exceeds_the_positions(tmp_path):
    """At the paper's durations, 5% of the draws of such a sentence would exceed Base's 3,000 positions."""
    inventory = tiny_inventory().with_durations({s: DurationModel(5, 2.5) for s in tiny_inventory().symbols})
    write_manifest(tmp_path / "t.json", [{"text": "ab " * 300, "units": [1, 2] * 298}])
    reader = TextUnitsReader([str(tmp_path / "t.json")], inventory, tiny_labels(), 100, max_tokens=3000)
    lengths = [sentence.input_length for sentence in islice(reader, 100)]
    assert max(lengths) <= 3000
    assert np.std(lengths) > 5, "still drawn, not all cut to the same length"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.data())
def test_shorten_keeps_the_proportions(durations, data):
    durations = np.array(durations)
    if durations.sum() == len(durations):
        return
    most = data.draw(st.integers(len(durations), int(durations.sum()) - 1))
    short = shorten(durations, most)
    assert short.sum() == most
    assert short.min() >= 1
    assert (short <= durations).all()
    share = (most - len(durations)) / (durations.sum() - len(durations))
    assert np.abs((short - 1) - (durations - 1) * share).max() <= 1


def test_speech_that_the_encoder_cannot_hold_is_left_out(corpus):
    durations = sorted(record["duration"] for _, record in read_manifest(corpus.speech))
    longest = durations[-4]
    kept = [cut.duration for cut in speech_reader(corpus, longest=longest, order=Order(finite=True))]
    assert sorted(kept) == pytest.approx(durations[:-3])
    cropped = speech_reader(corpus, longest=longest, truncate_duration=1.0, order=Order(finite=True))
    assert len(list(cropped)) == 12


def test_sentences_that_ctc_cannot_spell_are_left_out(tmp_path):
    records = [{"text": "abbbbba", "units": "A B A"}, {"text": "aba", "units": "A B A"}]
    write_manifest(tmp_path / "t.json", [{**r, "unit_durations": [2, 5, 2]} for r in records])
    order = Order(shuffle=False, finite=True)
    reader = TextUnitsReader([str(tmp_path / "t.json")], tiny_inventory(), tiny_labels(), 100, order)
    assert lines(reader) == [2]
    write_manifest(tmp_path / "t.json", [{"text": "abba", "units": "A B A"}])
    with pytest.raises(InputError, match="all of 1 lines are left out: 1 with fewer frames"):
        TextUnitsReader([str(tmp_path / "t.json")], tiny_inventory(), tiny_labels(), 10, order)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_ctc_frames(targets):
    path = []
    for target in targets:  # the shortest path that CTC collapses to the targets
        if path and path[-1] == target:
            path.append(-1)
        path.append(target)
    assert ctc_frames(targets) == len(path)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50), st.sampled_from([0.25, 0.5, 1.0, 2.0, 2 / 3]))
def test_rescale_keeps_the_sum(durations, scale):
    result = rescale(durations, scale)
    assert result.min() >= 1
    assert len(result) == len(durations)
    if min(durations) * scale >= 1:
        assert abs(result.sum() - sum(durations) * scale) <= 0.5


def test_crops_begin_between_frames_and_last_as_asked(corpus):
    reader = speech_reader(corpus, truncate_duration=0.753)
    starts = set()
    for cut in islice(reader, 200):
        frames = int(cut.custom["unit_durations"].sum())
        assert cut.start * 100 == pytest.approx(round(cut.start * 100))
        assert cut.duration == pytest.approx(min(0.75, frames / 100))
        assert cut.end <= frames / 100 + 1e-9
        starts.add(cut.start)
    assert len(starts) > 50
    for where, expected in (("start", 0), ("end", 1)):
        cut = next(iter(speech_reader(corpus, truncate_duration=0.5, truncate_offset_type=where)))
        frames = int(cut.custom["unit_durations"].sum())
        assert round(cut.start * 100) == expected * (frames - 50)


def test_filters_are_counted(corpus, monkeypatch):
    messages = []
    monkeypatch.setattr(manifest_reader.logging, "info", messages.append)
    durations = [record["duration"] for _, record in read_manifest(corpus.speech)]
    low, high = sorted(durations)[2], sorted(durations)[-3]
    kept = speech_reader(corpus, min_duration=low, max_duration=high, order=Order(finite=True))
    assert len(list(kept)) == 8
    assert "4 of 12 lines are left out: 2 " in messages[0]
    assert "shorter than min_duration" in messages[0]
    assert "longer than max_duration" in messages[0]
    text_reader(corpus, max_tokens=60)
    assert "longer than max_tokens (60 frames)" in messages[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(units=["SIL", "Q"], unit_durations=[1, 2]), r"3: unit 1 is 'Q', which is not among"),
        (lambda r: r.update(duration=r["duration"] * 2), r"3: units last .* made at another frame rate"),
        (lambda r: r.update(unit_durations=r["unit_durations"][1:]), r"3: .* units but .* unit_durations"),
        (lambda r: r.pop("units"), r"3: no key 'units'"),
        (lambda r: r.update(duration="long"), r"3: duration is 'long', expected seconds above 0"),
        (lambda r: r.update(audio_filepath="/nowhere.wav"), r"3: no such audio file: /nowhere.wav"),
    ],
)
def test_bad_speech_is_found_at_the_start(corpus, tmp_path, change, message):
    manifest = rewrite(tmp_path / "bad.json", corpus.speech, change)
    with pytest.raises(InputError, match="bad.json:" + message):
        SpeechReader([manifest], tiny_inventory())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(units=[]), r"3: units are empty"),
        (lambda r: r.update(units=[0, 99]), r"3: unit 1 is id 99, the inventory has 12 units"),
        (lambda r: r.update(text="a-b"), r"3: text has the character '-', which is not among the 12 labels"),
        (lambda r: r.pop("text"), r"3: no key 'text'"),
    ],
)
def test_bad_text_is_found_at_the_start(corpus, tmp_path, change, message):
    manifest = rewrite(tmp_path / "bad.json", corpus.text, change)
    with pytest.raises(InputError, match="bad.json:" + message):
        TextUnitsReader([manifest], tiny_inventory(), tiny_labels(), 50)


def test_characters_outside_the_labels_can_be_dropped(corpus, tmp_path):
    manifest = rewrite(tmp_path / "odd.json", corpus.text, lambda r: r.update(text="a-b?"))
    order = Order(shuffle=False, finite=True)
    reader = TextUnitsReader([manifest], tiny_inventory(), tiny_labels(), 50, order, unknown_characters="drop")
    assert [tiny_labels()[i] for i in list(reader)[2].targets] == ["a", "b"]


@pytest.mark.parametrize("labels", [["a", "a"], ["ab", "c"]])
def test_labels_are_single_characters(corpus, labels):
    with pytest.raises(InputError, match="labels must be single characters"):
        TextUnitsReader([str(corpus.text)], tiny_inventory(), labels, 50)


def test_text_without_durations_needs_statistics(corpus):
    bare = tiny_inventory().with_durations({})
    with pytest.raises(InputError, match="no duration statistics for 12 of 12 units"):
        TextUnitsReader([str(corpus.text)], bare, tiny_labels(), 50)


def test_nemo_data_types(corpus):
    """What stands in a config comes out as a CutSet; the inventory may be a path or its content."""
    for inventory in (str(corpus.units), tiny_inventory().to_dict()):
        item = {
            "manifest_filepath": str(corpus.speech),
            "inventory": inventory,
            "shuffle": False,
            "force_finite": True,
        }
        cuts, iterable = get_parser_fn("speech_units")(
            OmegaConf.create({**item, "max_duration": 30, "min_duration": None})
        )
        assert iterable
        assert len(list(cuts)) == 12
        item |= {"manifest_filepath": [str(corpus.text)], "labels": tiny_labels(), "frame_rate": 50}
        cuts, iterable = get_parser_fn("text_units")(OmegaConf.create(item))
        assert iterable
        assert lines(cuts) == list(range(1, 31))


def test_inventory_survives_as_plain_values():
    inventory = tiny_inventory()
    assert UnitInventory.from_dict(json.loads(json.dumps(inventory.to_dict()))) == inventory


def test_a_crop_may_begin_at_every_place_at_which_it_fits(corpus):
    reader = speech_reader(corpus, truncate_duration=0.5)
    for last in (1, 3):
        assert {reader._crop_start(last, (0, 1, 0, row)) for row in range(60)} == set(range(last + 1))


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_crop_ends_with_the_audio_where_units_go_on(corpus, tmp_path, where):
    """By half a frame: manifests round durations."""
    (_, record), *_ = read_manifest(corpus.speech)
    record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
    record["duration"] = sum(record["unit_durations"]) / 100 - 0.005
    write_manifest(tmp_path / "speech.json", [record])
    options = {"truncate_duration": 0.5, "truncate_offset_type": where}
    cut = next(iter(SpeechReader([str(tmp_path / "speech.json")], tiny_inventory(), **options)))
    assert cut.duration == pytest.approx(0.5 - 0.005 * (where == "end"))
    assert cut.end <= record["duration"] + 1e-9


def test_a_sentence_with_just_the_frames_that_ctc_needs_is_kept(tmp_path):
    """Three characters, and a blank between the two that are equal."""
    records = [{"text": "abb", "units": "A B B", "unit_durations": [1, last, 1]} for last in (2, 1)]
    write_manifest(tmp_path / "t.json", records)
    order = Order(shuffle=False, finite=True)
    reader = TextUnitsReader([str(tmp_path / "t.json")], tiny_inventory(), tiny_labels(), 100, order)
    assert lines(reader) == [1]
