"""MAESTRO as a whole. The pinned losses are made anew only by a change that is meant to change them::

OMP_NUM_THREADS=1 python -m tests.models.maestro.test_model
"""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.maestro import tiny_maestro_config
from tests.long_forms import LONG
from tests.models.multitask import (
    check_that_an_update_is_the_sum_of_three,
    check_that_unused_parameters_are_told,
    fit,
)

PINNED = Path(__file__).parents[2] / "assets" / "first_losses_maestro.csv"
STEPS = 20
SPEECH = ("contrastive", "masked_codes", "diversity")
PAIRS = ("rnnt_phones", "rnnt_graphemes", "matching", "durations", "ctc")
TERMS = (*SPEECH, *PAIRS, "mlm_phones", "mlm_graphemes")
STAGES = [
    {"steps": 3, "tasks": ["w2v_bert"]},
    {"steps": 3, "tasks": ["w2v_bert", "rnnt", "matching", "durations", "ctc"]},
    {"steps": None, "tasks": None},
]


@pytest.fixture(scope="module")
def trained(corpus):
    return fit(MAESTROModel, tiny_maestro_config(corpus), STEPS)


def test_first_losses(trained):
    with PINNED.open(newline="") as file:
        pinned = list(csv.DictReader(file))
    _, history = trained
    assert len(history.steps) == len(pinned) == STEPS
    for step, (ours, theirs) in enumerate(zip(history.steps, pinned, strict=True)):
        for name in TERMS:
            # Alignments are choices: where two paths are nearly as good, another order of additions takes the other.
            near = 2e-4 if name in SPEECH or name.startswith("rnnt") else 2e-2
            assert ours[f"train_{name}"] == pytest.approx(float(theirs[name]), rel=near), (step, name)


def test_it_learns(trained):
    _, history = trained
    first, last = history.steps[0], history.steps[-1]
    for name in ("rnnt_phones", "rnnt_graphemes", "mlm_phones", "matching"):
        assert last[f"train_{name}"] < first[f"train_{name}"], name


def test_validation_logs_what_it_says(trained):
    model, history = trained
    assert set(model.validation_metrics()) <= set(history.validated)
    expected = sum(history.validated[f"val_{term}"] * weight for term, weight in model.loss_weights.items())
    assert history.validated["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_one_update_on_three_streams_is_the_sum_of_three(model, batch):
    loss, log = check_that_an_update_is_the_sum_of_three(model, batch, untrained=["average."])
    weights = model.loss_weights
    assert loss == pytest.approx(sum(log[name] * weight for name, weight in weights.items()))
    assert set(weights) == set(TERMS)


def test_the_average_follows_the_weights(trained):
    model, _ = trained
    assert int(model.average.updates) == STEPS
    own, average = model.text_encoder.tokens.weight, model.average["text_encoder"].tokens.weight
    assert not torch.equal(own, average)
    assert (own - average).abs().max() < 0.1


def test_a_model_in_bf16(corpus):
    config = tiny_maestro_config(corpus, average={"decay": 0.9999})
    model, history = fit(MAESTROModel, config, 2, precision="bf16-true", limit_val_batches=1)
    assert {part.dtype for part in (model.encoder.mask_emb, *model.text_encoder.parameters())} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.average.parameters()} == {torch.float32}
    assert all(math.isfinite(history.validated[f"val_{name}"]) for name in TERMS)


@pytest.mark.parametrize(
    "off", [(), ("ctc",), ("durations",), ("w2v_bert",), ("rnnt", "aligned_mlm"), ("matching", "aligned_mlm")]
)
def test_unused_parameters_are_told(corpus, off):
    check_that_unused_parameters_are_told(MAESTROModel, tiny_maestro_config(corpus), off)


@pytest.fixture(scope="module")
def staged(corpus, tmp_path_factory):
    """A run through all stages: its model, its history and the folder of its checkpoints, one for each step."""
    folder = tmp_path_factory.mktemp("staged")
    saved = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    config = tiny_maestro_config(corpus, stages=STAGES, validation_ds=None)
    return *fit(MAESTROModel, config, 9, callbacks=[saved]), folder


def test_stages_change_the_tasks(staged):
    _, history, _ = staged
    has = [{term for term in TERMS if not math.isnan(step.get(f"train_{term}", math.nan))} for step in history.steps]
    assert has == [set(SPEECH)] * 3 + [{*SPEECH, *PAIRS}] * 3 + [set(TERMS)] * 3


@pytest.mark.parametrize("stop", [2, 3, 7] if LONG else [3, 7])
def test_goes_on_within_and_between_stages(corpus, staged, stop):
    model, whole, folder = staged
    config = tiny_maestro_config(corpus, stages=STAGES, validation_ds=None)
    resumed, rest = fit(MAESTROModel, config, 9, checkpoint=folder / f"step={stop}.ckpt")
    for ours, theirs in zip(rest.steps, whole.steps[stop:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    found = resumed.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(found[name], weight, msg=name)


def test_the_average_begins_when_decoders_do(staged):
    model, _, folder = staged
    assert int(model.average.updates) == 6
    before, after = (torch.load(folder / f"step={n}.ckpt", weights_only=False)["state_dict"] for n in (3, 4))
    for name in ("phones.joint.enc.weight", "encoder.shared_transformer.layers.0.norm_out.weight"):
        first, trained = before[f"average.parts.{name}"], after[name]
        # After one update the average has 9 / 11 of the weights.
        torch.testing.assert_close(after[f"average.parts.{name}"], first + (trained - first) * 9 / 11)
        assert not torch.equal(first, trained)


def test_restored_equals_saved(trained, tmp_path, batch):
    model, _ = trained
    model.save_to(str(tmp_path / "tiny.nemo"))
    restored = MAESTROModel.restore_from(str(tmp_path / "tiny.nemo"), map_location="cpu").eval()
    model.eval()
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    pairs = batch.pairs
    with torch.no_grad():
        for a, b in zip(*(m(input_signal=audio, input_signal_length=lengths) for m in (model, restored)), strict=True):
            assert torch.equal(a, b)
        states = [m.text_states(pairs.phones, pairs.phone_lengths) for m in (model, restored)]
        assert torch.equal(states[0][0], states[1][0])
        durations = [m.align(pairs) for m in (model, restored)]
    assert torch.equal(*durations)
    assert (
        durations[0].sum(1).tolist()
        == restored(input_signal=pairs.audio, input_signal_length=pairs.audio_lengths)[1].tolist()
    )


def test_the_lexicon_travels_in_the_file(build, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("tab D AO1 G\n", encoding="utf-8")
    model = build(phones={"source": None, "lexicon": str(lexicon), "silence": False, "symbols": None})
    model.save_to(str(tmp_path / "tiny.nemo"))
    lexicon.unlink()
    restored = MAESTROModel.restore_from(str(tmp_path / "tiny.nemo"), map_location="cpu")
    assert [restored.phone_encoder.symbols[phone] for phone in restored.phone_encoder("tab")] == ["D", "AO", "G"]


def test_russian_phones_come_from_the_texts(corpus, tmp_path):
    russian = OmegaConf.to_container(OmegaConf.load(CONF / "language" / "ru.yaml"))
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"text": "мама мыла раму"}) + "\n", encoding="utf-8")
    config = tiny_maestro_config(corpus, language=russian, validation_ds=None)
    config.train_ds = {"text": {"manifest_filepath": str(text), "batch_tokens": 100}}
    model = MAESTROModel(config)
    assert model.phone_encoder.symbols[0] == "SIL"
    assert model.phones.joint.num_classes_with_blank == len(model.phone_encoder.symbols) + 1
    assert list(model.cfg.phones.symbols) == model.phone_encoder.symbols
    model.save_to(str(tmp_path / "tiny.nemo"))
    text.unlink()
    restored = MAESTROModel.restore_from(str(tmp_path / "tiny.nemo"), map_location="cpu")
    assert restored.phone_encoder("мама") == model.phone_encoder("мама")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tasks": {"stm": 1.0}}, r"model\.tasks\.stm is no task; there are: w2v_bert, rnnt"),
        ({"average": {"decay": 2}}, r"model\.average\.decay is 2"),
        ({"repetition": {"kind": "twice"}}, r"model\.repetition\.kind is 'twice', expected learned, fixed or random"),
        ({"repetition": {"kind": "fixed", "least": 3, "most": 2}}, r"model\.repetition\.most is 2"),
        ({"repetition": {"kind": "fixed", "least": 1.5}}, r"model\.repetition\.least is 1\.5, expected a whole"),
        ({"phones": {"source": "cmudict"}, "language": {"code": "ru", "voice": "ru", "characters": " а"}},
         r"model\.phones\.source is cmudict, and language\.code 'ru'"),
        ({"matching": {"detached": True, "detach": True, "normalize": True}},
         r"model\.matching\.detached is not a key of it; there are: detach, normalize"),
        ({"repetition": None}, r"model\.repetition is None, expected a mapping"),
        ({"mlm_masking": {"time": None}}, r"model\.mlm_masking\.time is None, expected a mapping"),
        ({"matching": {"detach": None, "normalize": True}}, r"model\.matching\.detach is None, expected true or"),
        ({"text_encoder": {"channels": 0}}, r"model\.text_encoder\.channels is 0, expected a whole number"),
        ({"text_encoder": {"n_layers": 1.5}}, r"model\.text_encoder\.n_layers is 1\.5, expected a whole number"),
        ({"duration_model": {"heads": 0}}, r"model\.duration_model\.heads is 0, expected a whole number"),
        ({"transducer": {"joint_hidden": 0}}, r"model\.transducer\.joint_hidden is 0, expected a whole number of at"),
        ({"refiner": {"positions": 5}}, r"model\.refiner\.positions is 5, expected true or false"),
        ({"phones": {"silence": 5}}, r"model\.phones\.silence is 5, expected true or false"),
        ({"phones": {"symbols": [5]}}, r"model\.phones\.symbols is \[5\], expected null or a list of phones"),
        ({"language": None}, r"model\.language is None, expected a mapping"),
        ({"labels": [5]}, "labels must be single characters, found 5"),
        ({"phones": {"source": "espeak"}}, r"model\.phones\.symbols is not given, and no text"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(build, overrides, message):
    with pytest.raises(SpeechLMError, match=message):
        build(**overrides)


def spoil(corpus, folder, **changes):
    """The corpus with one more line of pairs, which has these values."""
    lines = corpus.speech.read_text(encoding="utf-8").splitlines()
    record = {**json.loads(lines[0]), **changes}
    record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
    path = folder / "pairs.json"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    config = tiny_maestro_config(corpus, validation_ds=None)
    config.train_ds.pairs.manifest_filepath = str(path)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "sat " * 200}, r"pairs\.json:1: \d+ phones in .* frames of the encoder"),
        ({"text": ""}, r"pairs\.json.*(without a text|no word)"),
        ({"text": "99"}, r"pairs\.json:1: '9' .* is not among the 28 labels"),
        ({"text": "..."}, r"pairs\.json:1: '\.' "),
    ],
)
def test_pairs_that_do_not_fit(corpus, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        fit(MAESTROModel, spoil(corpus, tmp_path, **changes), 1)


def changed(config, changes):
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    return config


@pytest.mark.parametrize(
    "changes", [{"tasks.durations": 0}, {"stages": [{"steps": None, "tasks": ["rnnt", "aligned_mlm"]}]}]
)
def test_learned_durations_must_be_learned(corpus, changes):
    config = changed(tiny_maestro_config(corpus), changes)
    with pytest.raises(SpeechLMError, match=r"model\.repetition\.kind=learned .* model\.tasks\.durations is 0"):
        fit(MAESTROModel, config, 1)
    config.tasks.aligned_mlm, config.stages = 0, None  # then nothing is repeated
    config.train_ds.text, config.validation_ds = None, None
    fit(MAESTROModel, config, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks.rnnt": 0},
        {"loss.rnnt_phones": 0},
        {"stages": [{"steps": None, "tasks": ["w2v_bert", "matching", "durations"]}]},
    ],
)
def test_alignments_must_be_learned(corpus, changes):
    config = changed(tiny_maestro_config(corpus), changes)
    with pytest.raises(SpeechLMError, match=r"model\.tasks\.matching needs alignments.* model\.tasks\.durations=0"):
        fit(MAESTROModel, config, 1)


def test_a_task_without_data(corpus):
    config = tiny_maestro_config(corpus, validation_ds=None)
    config.train_ds.pairs = None
    with pytest.raises(SpeechLMError, match=r"model\.tasks has 'rnnt', which learns from pairs"):
        fit(MAESTROModel, config, 1)


def write_pinned(folder):
    steps = fit(MAESTROModel, tiny_maestro_config(tiny_corpus(folder, n_speech=16, n_text=60)), STEPS)[1].steps
    with PINNED.open("w", newline="") as file:
        writer = csv.DictWriter(file, TERMS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({term: f"{step[f'train_{term}']:.9g}" for term in TERMS} for step in steps)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_pinned(folder)
