"""CTC of phones as a second head of CTC fine-tuning."""

import copy
import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.models.recognition.phone_ctc import _transcripts, phone_encoder_of
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import russian, tiny_corpus, tiny_labels
from nemo_speechlm.testing.slam import tiny_slam_architecture
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.step_guards import BatchSeeds
from tests.models.recognition.test_text_branch import HEAD, Losses, plain_ctc

PHONES = {"source": None, "lexicon": None, "silence": False, "symbols": None}
LANGUAGE = {"code": "en", "voice": "en-us", "characters": " abcdefghijklmnopqrstuvwxyz'"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=4, n_text=1)


def config(corpus, architecture=tiny_architecture, data=None, **phone_ctc):
    train = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 20, "shuffle": True}
    return OmegaConf.create(
        {
            **architecture(),
            "decoder": HEAD,
            "labels": tiny_labels(),
            "ctc_reduction": "mean_volume",
            "phone_ctc": {"weight": 0.3, "layer": "speech", "language": LANGUAGE, "phones": PHONES, **phone_ctc},
            "train_ds": {**train, "endless": True, "num_workers": 0, "seed": 3, **(data or {})},
            "optim": {"name": "adamw", "lr": 1e-3},
        }
    )


@pytest.mark.parametrize("architecture", [tiny_architecture, tiny_slam_architecture])
@pytest.mark.parametrize(("layer", "place"), [("speech", 0), ("shared", -1)])
@torch.no_grad()
def test_the_loss_is_that_of_a_slow_plain_version(corpus, architecture, layer, place):
    torch.manual_seed(0)
    model = SpeechLMCTCModel(config(corpus, architecture, layer=layer)).eval()
    batch = next(iter(model._train_dl))
    signal, lengths = model.preprocessor(input_signal=batch[0], length=batch[1])
    states, frames = model.encoder.layer_outputs(signal, lengths)
    log_probs = model.phone_head.linear(states[place]).double().log_softmax(-1)
    rows = zip(log_probs, frames.tolist(), *batch.phones, strict=True)
    expected = -sum(plain_ctc(row[:n], ids[:length].tolist(), row.shape[1] - 1) for row, n, ids, length in rows)
    with model.phone_head.watching(model.encoder):
        model(input_signal=batch[0], input_signal_length=batch[1])
    figure = model.phone_head.figure(*batch.phones)
    assert float(figure.total) == pytest.approx(float(expected), rel=1e-5)
    assert figure.number == batch.phones[1].sum()
    model(input_signal=batch[0], input_signal_length=batch[1])
    assert model.phone_head._states is None  # nothing is kept of what is not trained on


def test_a_transcript_that_is_no_text_is_told_by_its_line(corpus, tmp_path):
    path = tmp_path / "train.json"
    lines = corpus.speech.read_text().splitlines()
    path.write_text("\n".join([lines[0], json.dumps({**json.loads(lines[1]), "text": None})]) + "\n")
    russian = {"code": "ru", "voice": "ru", "characters": " " + "".join(map(chr, range(ord("а"), ord("я") + 1)))}
    cfg = config(corpus, data={"manifest_filepath": str(path)}, language=russian)
    with pytest.raises(InputError, match=r"train.json:2: 'text' is None, expected a string"):
        _ = [*_transcripts(cfg)]


def test_batches_have_the_phones_of_their_transcripts(corpus):
    model = SpeechLMCTCModel(config(corpus))
    batch = next(iter(model._train_dl))
    encoder = phone_encoder_of(model.cfg)
    assert encoder.symbols == list(model.cfg.phone_ctc.phones.symbols)
    for ids, length, phones, number in zip(batch[2], batch[3], *batch.phones, strict=True):
        text = "".join(tiny_labels()[i] for i in ids[:length])
        assert phones[:number].tolist() == encoder(text)
    assert torch.equal(batch.to("cpu").phones[0], batch.phones[0])


class AllLosses(Losses):
    def on_train_batch_end(self, trainer, *_):
        names = ("train_loss", "train_speech_loss", "train_phone_loss")
        self.steps.append([float(trainer.callback_metrics[name]) for name in names])


def fit(cfg, steps):
    torch.manual_seed(0)
    losses = AllLosses()
    model = SpeechLMCTCModel(copy.deepcopy(cfg), tiny_trainer(steps, callbacks=[BatchSeeds(0), losses]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.trainer.fit(model)
    return model, before, losses.steps


def test_the_two_losses_are_one_and_the_head_learns(corpus, tmp_path):
    model, before, losses = fit(config(corpus), 8)
    for joint, speech, phone in losses:
        assert joint == pytest.approx(speech + 0.3 * phone, rel=1e-5)
    assert losses[-1][2] < losses[0][2]
    assert not torch.equal(model.phone_head.linear.weight, before["phone_head.linear.weight"])
    model.save_to(str(tmp_path / "ctc.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    assert torch.equal(restored.phone_head.linear.weight, model.phone_head.linear.weight)
    # Another model starts from it, with a head of its own.
    cfg = config(corpus, phone_ctc=None)
    cfg.init_from_pretrained, cfg.phone_ctc.weight = str(tmp_path / "ctc.nemo"), 0.0
    again = SpeechLMCTCModel(cfg)
    assert again.phone_head is None
    assert "phone_ctc" not in again.cfg
    assert next(iter(again._train_dl)).phones is None


def test_phones_of_another_language_are_those_of_its_transcripts(tmp_path):
    pytest.importorskip("espeakng_loader")
    corpus = tiny_corpus(tmp_path, n_speech=2, n_text=1)
    model = SpeechLMCTCModel(config(corpus, phones={**PHONES, "source": "espeak"}))
    found = {int(phone) for batch in [next(iter(model._train_dl))] for phone in batch.phones[0].flatten()}
    assert 3 < len(model.cfg.phone_ctc.phones.symbols) < 60
    assert max(found) == len(model.cfg.phone_ctc.phones.symbols) - 1


def test_what_is_wrong_is_said_in_a_line(corpus):
    with pytest.raises(InputError, match=r"speech\.json:1: '\w+' is pronounced with .*, which is not among the 1"):
        SpeechLMCTCModel(config(corpus, phones={**PHONES, "symbols": ["AH"]}))
    with pytest.raises(SpeechLMError, match=r"model\.phone_ctc\.layer is 'last', expected speech or shared"):
        SpeechLMCTCModel(config(corpus, layer="last"))
    with pytest.raises(SpeechLMError, match=r"model\.phone_ctc\.weight is -0\.1, expected a number of at least 0"):
        SpeechLMCTCModel(config(corpus, weight=-0.1))
    language = {"code": "ru", **{key: russian().__dict__.get(key) for key in ("voice", "characters")}}
    with pytest.raises(InputError, match=r"phones\.source is cmudict, and language\.code 'ru', expected en"):
        SpeechLMCTCModel(config(corpus, language=language, phones={**PHONES, "source": "cmudict"}))


def test_labels_of_another_language(corpus):
    """English would read the Latin letters of any language."""
    cfg = config(corpus)
    cfg.labels = [*tiny_labels(), "ř"]
    expected = r"phone_ctc\.language is '\w+', whose alphabet has no 'ř', and model\.labels has; give the language"
    with pytest.raises(SpeechLMError, match=expected):
        SpeechLMCTCModel(cfg)
