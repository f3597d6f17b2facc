import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader, build_validation_dataloaders
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.uctc import greedy_texts
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.models.speechlm.umlm import predictions, units_of_frames
from nemo_speechlm.modules.draws import RowSeeds
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.tokenizers import UnitInventory
from nemo_speechlm.training.step_guards import BatchSeeds

LOGGED = {
    "loss", "umlm_speech", "umlm_shared", "uctc", "feature_penalty", "fraction_masked", "fraction_swapped",
    "masked_accuracy_speech", "masked_accuracy_shared", "unmasked_accuracy_speech", "unmasked_accuracy_shared",
}  # fmt: skip


class History(Callback):
    """Keeps what each step logged."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []
        self.validated: dict[str, float] = {}

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer, *_):
        self.validated = {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=16, n_text=60)


def fit(config, steps, **options):
    torch.manual_seed(0)
    history = History()
    trainer = tiny_trainer(steps, callbacks=[history], gradient_clip_val=1.0, **options)
    model = SpeechLMModel(config, trainer)
    trainer.fit(model)
    return model, history


@pytest.fixture(scope="module")
def trained(corpus):
    return fit(tiny_pretrain_config(corpus), 60)


def test_learns(trained):
    _, history = trained
    steps = history.steps
    first, last = steps[0], steps[-1]
    assert {f"train_{name}" for name in LOGGED} | {"lr", "grad_norm"} <= set(first)
    assert last["audio_hours_per_hour"] > 0
    assert last["train_umlm_speech"] < first["train_umlm_speech"]
    assert last["train_uctc"] < 0.9 * first["train_uctc"]
    assert 0.1 < last["train_fraction_masked"] < 0.7
    assert 0.05 < last["train_fraction_swapped"] < 0.6
    assert history.validated["val_masked_accuracy_of_most_frequent_unit"] < 1
    for name in ("val_umlm_speech", "val_umlm_shared", "val_masked_accuracy_shared", "val_text_cer", "val_uctc"):
        assert name in history.validated, name


def test_restored_equals_saved(trained, tmp_path):
    model, _ = trained
    model.save_to(str(tmp_path / "tiny.nemo"))
    restored = SpeechLMModel.restore_from(str(tmp_path / "tiny.nemo"), map_location="cpu")
    assert restored.inventory == model.inventory
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    model.eval(), restored.eval()
    with torch.no_grad():
        for a, b in zip(*(m(input_signal=audio, input_signal_length=lengths) for m in (model, restored)), strict=True):
            assert torch.equal(a, b)


def test_extract_features(trained):
    model, _ = trained
    model.train()
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    layers, frames = model.extract_features(audio, lengths)
    assert model.encoder.training, "the mode is put back"
    assert len(layers) == len(model.encoder.speech_transformer.layers) + len(model.encoder.shared_transformer.layers)
    assert all(layer.shape == (2, frames[0], model.encoder.d_model) for layer in layers)
    (last,), _ = model.extract_features(audio, lengths, layers=[-1])
    assert torch.equal(last, layers[-1])
    model.eval()
    with torch.no_grad():
        encoded, _ = model(input_signal=audio, input_signal_length=lengths)
    assert torch.equal(encoded.transpose(1, 2), last)


def test_speech_alone(corpus):
    config = tiny_pretrain_config(corpus, swapping={"prob": 0.0, "length": 2})
    config.train_ds.text = config.validation_ds.text = None
    config.loss.uctc = 0
    model, history = fit(config, 4)
    assert "train_uctc" not in history.steps[-1]
    assert not hasattr(model, "unit_embedding")


def test_text_alone(corpus):
    config = tiny_pretrain_config(corpus)
    config.train_ds.speech = config.validation_ds.speech = None
    model, history = fit(config, 3)
    assert history.validated["val_loss"] == pytest.approx(history.validated["val_uctc"])
    assert set(model.validation_metrics()) <= set(history.validated)
    assert "train_umlm_speech" not in history.steps[-1]
    assert history.steps[-1]["train_uctc"] > 0


def test_the_loss_of_validation_is_that_of_training(trained):
    model, history = trained
    validated = history.validated
    expected = validated["val_umlm_speech"] + validated["val_umlm_shared"] + validated["val_uctc"]
    assert validated["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert set(model.validation_metrics()) <= set(validated)


def test_examples_too_long_for_the_positions_do_not_end_a_run(corpus):
    """Text is 50 frames a second here; the mean sentence has some 70, the mean utterance 90."""
    config = tiny_pretrain_config(corpus)
    config.encoder.shared_transformer.max_frames = 80
    _, history = fit(config, 12)
    assert len(history.steps) == 12
    assert "val_loss" in history.validated


class TheSame:
    """One batch again and again."""

    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        while True:
            yield self.batch


def test_a_resumed_run_goes_on_as_the_undisturbed_one(corpus, tmp_path):
    """Masks, swaps, label offsets, dropout and dropped layers are those of their batch, not of the process."""
    config = tiny_pretrain_config(corpus)
    for half in (config.encoder.speech_transformer, config.encoder.shared_transformer):
        half.update(dropout=0.1, attention_dropout=0.1, layerdrop=0.4)

    def run(seed, steps, folder, resume=None):
        torch.manual_seed(seed)
        history, saver = History(), ModelCheckpoint(folder, save_last=True)
        trainer = tiny_trainer(
            steps, enable_checkpointing=True, callbacks=[history, saver, BatchSeeds(3)],
            limit_val_batches=1, val_check_interval=2,
        )  # fmt: skip
        model = SpeechLMModel(config, trainer)
        model.load_state_dict(start)
        batch = next(iter(build_pretrain_dataloader(**model._loader_arguments(config.train_ds))))
        validation = build_validation_dataloaders(**model._loader_arguments(config.validation_ds))
        trainer.fit(model, TheSame(batch), validation, ckpt_path=resume)
        losses = [(step["train_loss"], step["train_fraction_masked"]) for step in history.steps]
        return model, losses, saver.last_model_path

    start = SpeechLMModel(config).state_dict()
    whole, expected, _ = run(0, 6, tmp_path / "whole")
    _, first, saved = run(0, 4, tmp_path / "halves")
    resumed, last, _ = run(7, 6, tmp_path / "rest", saved)
    assert first + last == expected
    assert len({masked for _, masked in expected}) > 3
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("precision", "norm"), [
    ("bf16-mixed", "group"), ("bf16-true", "group"), ("bf16-true", "layer"),
])  # fmt: skip
def test_bfloat16(corpus, precision, norm):
    config = tiny_pretrain_config(corpus)
    config.encoder.front_end.norm = norm
    _, history = fit(config, 3, precision=precision)
    assert all(torch.tensor(step["train_loss"]).isfinite() for step in history.steps)


def samples_of(model, frames):
    return int(16000 * frames / model.encoder.frame_rate) + 400  # and the first frame's own width


def test_an_utterance_scores_alone_what_it_does_in_a_batch(trained):
    model, _ = trained
    model.eval()
    samples, labels = torch.tensor([23840, 31200, 17120]), torch.tensor([149, 195, 107])
    audio, units = torch.randn(3, 31200), torch.randint(len(model.inventory), (3, 195))
    for row, (S, L) in enumerate(zip(samples.tolist(), labels.tolist(), strict=True)):
        audio[row, S:], units[row, L:] = 0.0, PAD_UNIT
    batch = SpeechBatch(audio, samples, units, labels)
    with torch.no_grad():
        together = predictions(model.forward_speech(batch, generator=RowSeeds([0, 1, 2])))
        alone = []
        for i, (S, L) in enumerate(zip(samples.tolist(), labels.tolist(), strict=True)):
            one = SpeechBatch(audio[i : i + 1, :S], samples[i : i + 1], units[i : i + 1, :L], labels[i : i + 1])
            alone.append(predictions(model.forward_speech(one, generator=RowSeeds([i]))))
    for part in (0, 1):
        for level in ("speech", "shared"):
            scores = [row[part][level] for row in alone]
            assert int(together[part][level].frames) == sum(int(score.frames) for score in scores)
            loss = sum(float(score.loss) for score in scores)
            assert float(together[part][level].loss) == pytest.approx(loss, rel=1e-5)


def test_frames_without_a_unit_do_not_count(trained):
    model, _ = trained
    model.eval()
    ratio = int(model.label_ratio)
    frames = 10
    units = torch.zeros(1, frames * ratio, dtype=torch.int64)
    units[:, 6 * ratio :] = PAD_UNIT
    audio = torch.randn(1, samples_of(model, frames))
    batch = SpeechBatch(audio, torch.tensor([audio.shape[1]]), units, torch.tensor([6 * ratio]))
    mask = torch.ones(1, frames, dtype=torch.bool)
    with torch.no_grad():
        output = model.forward_speech(batch, mask=mask, swap=mask)
    masked, _ = predictions(output)
    assert masked["speech"].frames == 6
    assert not output.swap.any(), "masked frames are not swapped"


def test_swapped_frames_carry_their_unit(trained):
    """Where a frame is swapped, the shared transformer no longer depends on the speech there."""
    model, _ = trained
    model.eval()
    ratio, frames = int(model.label_ratio), 12
    units = torch.randint(len(model.inventory), (1, frames * ratio))
    samples = samples_of(model, frames)
    swap, no_mask = torch.ones(1, frames, dtype=torch.bool), torch.zeros(1, frames, dtype=torch.bool)
    with torch.no_grad():
        outputs = [
            model.forward_speech(
                SpeechBatch(torch.randn(1, samples), torch.tensor([samples]), units, torch.tensor([frames * ratio])),
                mask=no_mask,
                swap=swap,
            )
            for _ in range(2)
        ]
    assert not torch.allclose(outputs[0].logits[0], outputs[1].logits[0])
    assert torch.allclose(outputs[0].logits[1], outputs[1].logits[1])


def test_a_batch_of_nothing(trained):
    model, _ = trained
    with pytest.raises(Exception, match="neither speech nor text"):
        model.training_step(PretrainBatch(), 0)


def test_greedy_texts(trained):
    model, _ = trained
    blank = len(model.labels)
    path = torch.tensor([[1, 1, blank, 1, 2, 0]])
    log_probs = torch.nn.functional.one_hot(path, blank + 1).float()
    batch = TextBatch(path, torch.tensor([5]), torch.tensor([[1, 1]]), torch.tensor([2]))
    a, b = model.labels[1], model.labels[2]
    assert greedy_texts(model.labels, log_probs, batch) == ([a + a + b], [a + a])


def test_an_inventory_that_is_not_there(corpus, tmp_path):
    with pytest.raises((InputError, FileNotFoundError), match="units"):
        SpeechLMModel(
            tiny_pretrain_config(corpus, units=str(tmp_path / "units.json"), train_ds=None, validation_ds=None)
        )


def test_units_of_another_inventory(corpus, tmp_path):
    UnitInventory("phoneme", "en", 100, ("SIL", "X"), "SIL").save(tmp_path / "units.json")
    config = tiny_pretrain_config(corpus, units=str(tmp_path / "units.json"))
    with pytest.raises(InputError, match=r"speech.json:1: unit \d+ is"):
        fit(config, 1)


def test_text_that_nothing_learns_from(corpus):
    config = tiny_pretrain_config(corpus)
    config.loss.uctc = 0
    with pytest.raises(SpeechLMError, match=r"model\.loss\.uctc is 0, so nothing learns from model\.train_ds\.text"):
        fit(config, 1)


def test_places_of_labels_are_exact_where_bf16_is_the_default():
    units = torch.arange(1502).unsqueeze(0)
    expected = units_of_frames(units, 750, 2.0, 1)
    torch.set_default_dtype(torch.bfloat16)  # as in steps with trainer.precision=bf16-true
    try:
        assert torch.equal(units_of_frames(units, 750, 2.0, 1), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(expected[0], torch.arange(750) * 2 + 1)
