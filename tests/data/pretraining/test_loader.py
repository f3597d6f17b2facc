import pickle
import random
from collections import Counter
from itertools import islice

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining import chapters
from nemo_speechlm.data.pretraining.chapters import FEWEST_LINES
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader, build_validation_dataloaders
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels
from tests.data.pretraining.test_dataset import tarred


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=24, n_text=60)


def make_config(corpus, **changes):
    speech = {
        "manifest_filepath": str(corpus.speech),
        "batch_duration": 6,
        "max_duration": 30,
        "truncate_duration": 1.2,
    }
    text = {"manifest_filepath": [str(corpus.text)], "batch_tokens": 500, "max_tokens": 2800}
    buckets = {"use_bucketing": True, "num_buckets": 3, "bucket_buffer_size": 100, "num_cuts_for_bins_estimate": 100}
    return OmegaConf.create(
        {"speech": speech | buckets, "text": text | buckets, "num_workers": 0, "seed": 0} | changes
    )


STREAMS = [SpeechStream(tiny_inventory()), UnitTextStream(tiny_inventory(), tiny_labels(), 50)]


def build(config, streams=STREAMS, **options):
    return build_pretrain_dataloader(config, streams, **options)


def build_validation(config, streams=STREAMS, **options):
    return build_validation_dataloaders(config, streams, **options)


def first(loader, n):
    iterator = iter(loader)
    return [next(iterator) for _ in range(n)]


def tensors(batches):
    parts = [part for batch in batches for part in (batch.speech, batch.text, batch.pairs) if part is not None]
    return [tensor for part in parts for tensor in part if isinstance(tensor, torch.Tensor)]


def equal(some, others):
    some, others = tensors(some), tensors(others)
    return len(some) == len(others) and all(
        a.shape == b.shape and bool((a == b).all()) for a, b in zip(some, others, strict=True)
    )


def assert_within(lengths, limit):
    """Lhotse ends a batch if one more as long as its longest would be too much; its last may be longer."""
    before_last = lengths.sort().values[-2:][0]
    assert len(lengths) * before_last <= limit


@pytest.mark.parametrize(("selector", "expected"), [(None, 0.2), (0, 0.5), (1, -0.1), ("side", -0.1)])
def test_a_channel_that_is_selected_is_read(tmp_path, selector, expected):
    """0 too, which is no missing value."""
    soundfile.write(tmp_path / "a.wav", np.tile([0.5, -0.1], (16000, 1)), 16000, subtype="FLOAT")
    write_manifest(tmp_path / "m.json", [{"audio_filepath": "a.wav", "duration": 1.0, "side": 1}])
    part = {"manifest_filepath": str(tmp_path / "m.json"), "batch_size": 1, "channel_selector": selector}
    (batch,) = first(build({"speech": part}, [SpeechStream(None)]), 1)
    assert float(batch.speech.audio[0, 0]) == pytest.approx(expected)
    with pytest.raises(InputError, match=r"m\.json:1: 'left' \(channel_selector\) is None, expected a channel"):
        build({"speech": part | {"channel_selector": "left"}}, [SpeechStream(None)])
    with pytest.raises(InputError, match=r"m\.json:1: .*no channel 2; it has 2"):
        first(build({"speech": part | {"channel_selector": 2}}, [SpeechStream(None)]), 1)


def test_a_part_has_its_own_order_where_it_says_so(corpus):
    part = {"manifest_filepath": str(corpus.speech), "batch_size": 3}

    def lines(**options):
        batches = first(build({"speech": part | options}, STREAMS[:1]), 8)
        return [int(name.rpartition(":")[2]) for batch in batches for name in batch.speech.ids]

    assert lines(shuffle=False) == list(range(1, 25))
    assert sorted(lines()) == sorted(lines(seed=5)) == list(range(1, 25))
    assert lines() == lines(seed=0) == lines(shuffle=True) != lines(seed=5)
    with pytest.raises(InputError, match=r"speech\.seed is 'trng', expected a whole number"):
        lines(seed="trng")


def test_each_step_has_speech_and_text_within_the_batch_sizes(corpus):
    texts = set()
    for speech, text, *_ in first(build(make_config(corpus)), 60):
        assert_within(speech.audio_lengths, 6 * 16000)
        assert_within(text.unit_lengths, 500)
        texts.update(tuple(row.tolist()) for row in text.targets)
        assert (text.unit_lengths >= text.target_lengths).all()
    assert len(texts) > 55


def test_buckets_save_padding(corpus):
    def padding(config):
        return np.mean([(batch.text.units < 0).float().mean().item() for batch in first(build(config), 60)])

    config = make_config(corpus)
    bucketed = padding(config)
    config.text.use_bucketing = False
    assert bucketed < 0.75 * padding(config)


def test_a_config_may_have_only_one_part(corpus):
    (batch,) = first(build(make_config(corpus, text=None)), 1)
    assert batch.text is None
    (batch,) = first(build(make_config(corpus, speech=None)), 1)
    assert batch.speech is None
    with pytest.raises(InputError, match="neither a speech nor a text part"):
        build({"num_workers": 0})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_seed_gives_the_same_batches(corpus, num_workers):
    config = make_config(corpus, num_workers=num_workers)
    batches = first(build(config), 5)
    assert equal(batches, first(build(config), 5))
    assert not equal(batches, first(build(make_config(corpus, num_workers=num_workers, seed=1)), 5))


def targets_of(batches):
    return [
        tuple(row[:length].tolist())
        for batch in batches
        for row, length in zip(batch.text.targets, batch.text.target_lengths, strict=True)
    ]


def test_batches_do_not_depend_on_the_number_of_workers(corpus):
    batches = [first(build(make_config(corpus, num_workers=workers)), 7) for workers in (0, 1, 3)]
    assert equal(batches[0], batches[1])
    assert equal(batches[0], batches[2])
    assert [batch.number for batch in batches[2]] == [*range(7)]


def test_two_ranks_share_the_batches_of_one(corpus):
    alone = first(build(make_config(corpus)), 8)
    for rank in (0, 1):
        assert equal(first(build(make_config(corpus), global_rank=rank, world_size=2), 4), alone[rank::2])


@pytest.mark.parametrize(("workers", "resumed_workers"), [(0, 0), (2, 2), (3, 0), (0, 2)])
def test_a_resumed_loader_gives_what_would_have_come_next(corpus, workers, resumed_workers):
    whole = first(build(make_config(corpus)), 9)
    loader = build(make_config(corpus, num_workers=workers))
    assert equal(first(loader, 5), whole[:5])
    state = loader.state_dict()
    resumed = build(make_config(corpus, num_workers=resumed_workers))
    resumed.load_state_dict(state)
    assert equal(first(resumed, 4), whole[5:])
    assert equal(first(loader, 4), whole[5:])  # so does another iteration


def test_the_state_is_that_of_the_batches_trained_on(corpus):
    loader = build(make_config(corpus))
    batches = iter(loader)
    for number in range(4):
        next(batches)
        if number == 2:
            loader.trained(1)
    assert loader.state_dict()["step"] == 2
    resumed = build(make_config(corpus))
    resumed.load_state_dict(loader.state_dict())
    assert equal(first(resumed, 1), first(build(make_config(corpus)), 3)[2:])


def test_two_ranks_that_resume_as_one_leave_out_nothing(corpus):
    loader = build(make_config(corpus), global_rank=0, world_size=2)
    first(loader, 3)
    resumed = build(make_config(corpus))
    resumed.load_state_dict(loader.state_dict())
    assert equal(first(resumed, 2), first(build(make_config(corpus)), 8)[6:])


def test_each_line_comes_once_a_pass(corpus):
    """Small data have many passes in a chapter, so a chapter is what is counted."""
    config = make_config(corpus, speech=None)
    loader = build(config)
    passes = -(-FEWEST_LINES // 60)
    seen = Counter()
    for batch in loader:
        if loader.place.positions["text"].chapter > 0:
            break
        seen.update(targets_of([batch]))
    texts = Counter(record["text"] for _, record in read_manifest(corpus.text))
    assert sorted(seen.values()) == sorted(count * passes for count in texts.values())


def test_a_resumed_run_keeps_the_chapters_that_it_began_with(corpus, monkeypatch):
    monkeypatch.setattr(chapters, "FEWEST_LINES", 10)
    config = make_config(corpus, speech=None)
    begun, other = build(config), build(config)
    begun.load_state_dict({"step": 0, "positions": {}, "chapter_lines": 20})
    whole, others = first(begun, 12), first(other, 12)
    assert begun.place.positions["text"].chapter > other.place.positions["text"].chapter
    assert not equal(whole, others)
    begun.load_state_dict({"step": 0, "positions": {}, "chapter_lines": 20})
    first(begun, 7)
    resumed = build(config)
    resumed.load_state_dict(begun.state_dict())
    assert equal(first(resumed, 5), whole[7:])


def test_checkpoints_from_before_chapters_had_a_size_go_on_in_their_order(corpus):
    loader = build(make_config(corpus))
    first(loader, 2)
    state = loader.state_dict()
    del state["chapter_lines"], state["shuffled_most"], state["piece_lines"]
    loader.load_state_dict(state)
    assert loader.state_dict()["chapter_lines"] == 50_000
    assert loader.state_dict()["shuffled_most"] is None
    assert loader.state_dict()["piece_lines"] is None


def test_large_data_resumed_from_before_keep_the_order_that_was_shuffled(corpus):
    config = make_config(corpus, speech=None)
    begin = {"step": 0, "positions": {}, "chapter_lines": 16_000}
    shuffled, computed, before = build(config), build(config), build(config)
    computed.load_state_dict({**begin, "shuffled_most": 10})
    before.load_state_dict(begin)
    expected = first(shuffled, 12)
    assert not equal(first(computed, 12), expected)
    assert equal(first(before, 12), expected)
    resumed = build(config)
    resumed.load_state_dict(computed.state_dict())
    assert equal(first(resumed, 5), first(computed, 5))


def test_state_of_an_earlier_version_is_refused(corpus):
    with pytest.raises(InputError, match="does not say where in its data"):
        build(make_config(corpus)).load_state_dict({"delivered": 6})


def test_the_dataset_travels_to_spawned_workers(corpus):
    loader = build(make_config(corpus))
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert equal(first(loader, 2), [batch for _, batch in islice(copy, 2)])


def test_global_random_state_is_left_alone(corpus):
    torch.manual_seed(5)
    random.seed(5)
    before = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    build(make_config(corpus))
    assert (torch.rand(1), random.random()) == before


def test_options_of_nemo_reach_its_samplers(corpus):
    config = make_config(corpus)
    config.speech.batch_size = 2
    config.text.quadratic_factor = 50  # short batches: long sentences weigh much more
    batches = first(build(config), 20)
    assert max(len(batch.speech.audio) for batch in batches) == 2
    plain = first(build(make_config(corpus)), 20)
    assert sum(len(b.text.units) for b in batches) < 0.7 * sum(len(b.text.units) for b in plain)


@pytest.mark.parametrize("in_file", [False, True])
def test_an_input_cfg_mixes_manifests_by_weight(corpus, tmp_path, in_file):
    marked = tmp_path / "marked.json"
    write_manifest(marked, [{"text": "ooo", "units": "O O O O"}] * 5)
    config = make_config(corpus, speech=None)
    del config.text.manifest_filepath
    items = [(str(corpus.text), 0.25), (str(marked), 0.75)]
    items = [{"type": "text_units", "manifest_filepath": path, "weight": weight} for path, weight in items]
    if in_file:
        OmegaConf.save(OmegaConf.create([{"type": "group", "input_cfg": items}]), tmp_path / "mix.yaml")
        items = str(tmp_path / "mix.yaml")
    config.text.input_cfg = items
    config.text.use_bucketing = False
    targets = targets_of(first(build(config), 40))
    o = tiny_labels().index("o")
    assert np.mean([t == (o, o, o) for t in targets]) == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nemos_tarred_speech_beside_text(corpus, tmp_path, num_workers):
    tarred(tmp_path, corpus)
    config = make_config(corpus, num_workers=num_workers)
    config.speech.manifest_filepath = str(tmp_path / "manifest.json")
    config.speech.tarred_audio_filepaths = str(tmp_path / "audio_0.tar")
    config.speech.shuffle_buffer_size = 10
    for speech, text, *_ in first(build(config), 4):
        assert_within(speech.audio_lengths, 6 * 16000)
        assert (speech.audio_lengths / 160 - speech.unit_lengths).abs().max() <= 1
        assert len(text.units)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_is_one_pass_in_order_and_always_the_same(corpus, num_workers):
    loaders = build_validation(make_config(corpus, num_workers=num_workers))
    speech, text = ([*loader] for loader in loaders)
    assert all(batch.text is None for batch in speech)
    assert all(batch.speech is None for batch in text)
    spelled = [
        "".join(tiny_labels()[i] for i in row[:length])
        for batch in text
        for row, length in zip(*batch.text[2:4], strict=True)
    ]
    assert spelled == [record["text"] for _, record in read_manifest(corpus.text)]
    assert sum(len(batch.speech.audio) for batch in speech) == 24
    assert equal(text, loaders[1])
    assert equal(first(loaders[0], 2), speech[:2])  # after an iteration that was broken off
    assert equal(speech, loaders[0])


def test_validation_gives_all_ranks_the_same_number_of_batches(corpus):
    for part in (0, 1):
        of_rank = [[*build_validation(make_config(corpus), global_rank=r, world_size=3)[part]] for r in range(3)]
        assert len({len(batches) for batches in of_rank}) == 1
        assert sum(len(batch[part][0]) for batches in of_rank for batch in batches) >= (24, 60)[part]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_in_workers_keep_their_words(corpus, tmp_path, num_workers):
    for _, record in read_manifest(corpus.speech):
        record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
        (tmp_path / "empty.wav").touch()
        write_manifest(tmp_path / "speech.json", [record, {**record, "audio_filepath": str(tmp_path / "empty.wav")}])
    config = make_config(corpus, num_workers=num_workers)
    config.speech.manifest_filepath = str(tmp_path / "speech.json")
    for loader in (build(config), build_validation(config)[0]):
        with pytest.raises(InputError) as caught:
            list(islice(loader, 20))
        assert str(caught.value).startswith(f"{tmp_path}/speech.json:2: {tmp_path}/empty.wav: audio with no samples")
        assert "Traceback" not in str(caught.value)


TEXT_ITEM = {"type": "text_units", "manifest_filepath": "x.json", "weight": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speech": {"batch_duraton": 5}}, "unknown key speech.batch_duraton; did you mean batch_duration?"),
        ({"texts": None}, "unknown key texts; did you mean text?"),
        ({"speech": {"batch_duration": 5}}, "no speech.manifest_filepath"),
        ({"speech": {"manifest_filepath": "???", "batch_duration": 5}}, "speech.manifest_filepath has no value"),
        ({"text": {"manifest_filepath": "x.json"}}, "no batch size in text; give one of batch_size, batch_tokens"),
        ({"speech": {"batch_size": 2, "perturb_speed": True}}, "speech.perturb_speed cannot be used"),
        ({"text": {"input_cfg": [{"manifest_filepath": "x"}], "batch_size": 2}}, "not a list of items with a type"),
        (
            {"text": {"input_cfg": [TEXT_ITEM, TEXT_ITEM], "batch_size": 2, "shuffle": False}},
            "text.shuffle=false cannot be used where data are mixed",
        ),
        ({"text": {"input_cfg": "/no/x.yaml", "batch_size": 2}}, "/no/x.yaml: input_cfg cannot be read"),
        ({"seed": "trng"}, "seed is 'trng', expected a whole number"),
        ({"text": {"manifest_filepath": "/no/x.json", "batch_size": 2}}, "/no/x.json: no such file"),
    ],
)
def test_wrong_configs_are_named(corpus, changes, message):
    with pytest.raises(InputError) as caught:
        build(make_config(corpus, **changes))
    assert message in str(caught.value)


class Counting(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.text.targets.sum().item())
        return self.weight * batch.speech.audio.mean()

    def validation_step(self, batch, _, dataloader_idx=0):
        assert (batch.speech is None) == (dataloader_idx == 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_trains_validates_and_resumes(corpus, tmp_path, num_workers):
    config = make_config(corpus, num_workers=num_workers)
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "use_distributed_sampler": False,
    }
    model = Counting()
    trainer = pl.Trainer(max_steps=4, **options)
    trainer.fit(model, build(config), build_validation(config))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, fresh = Counting(), Counting()
    trainer = pl.Trainer(max_steps=8, **options)
    trainer.fit(resumed, build(config), build_validation(config), ckpt_path=tmp_path / "last.ckpt")
    assert len(resumed.seen) == 4
    assert resumed.seen != model.seen
    pl.Trainer(max_steps=4, **options).fit(fresh, build(config))
    assert fresh.seen == model.seen
