"""Text beside transcribed speech in CTC fine-tuning."""

import copy

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMCTCModelBPE, SpeechLMModel
from nemo_speechlm.models.common.pretraining import PlaceInData
from nemo_speechlm.models.common.uctc import uctc_terms
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_hidden_corpus, tiny_labels
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.run import train
from nemo_speechlm.training.step_guards import BatchSeeds
from tests.models.maestro.test_text_beside_speech import TRANSDUCER

HEAD = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "dropout": 0.1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6, n_text=20)


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    torch.manual_seed(0)
    model = SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None))
    path = tmp_path_factory.mktemp("pretrained") / "pretrained.nemo"
    model.save_to(str(path))
    return model, path


def config(corpus, start, text=None, **changes):
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 6, "shuffle": True}
    given = {"manifest_filepath": str(corpus.text if text is None else text), "batch_tokens": 300}
    return OmegaConf.create(
        {
            "decoder": HEAD,
            "labels": None,
            "init_from_pretrained": str(start),
            "reuse_ctc_head": True,
            "ctc_reduction": "mean_volume",
            "text_branch": {"weight": 0.5, "init_from": None, "masking": None},
            "train_ds": {**data, "endless": True, "num_workers": 0, "seed": 3, "text": given},
            "optim": {"name": "adamw", "lr": 1e-3},
            **changes,
        }
    )


def made(cfg, kind=SpeechLMCTCModel):
    """A model with its loader."""
    torch.manual_seed(1)
    model = kind(cfg)
    model.setup_training_data(model.cfg.train_ds)
    return model


def batch_of(model):
    return next(iter(model._train_dl))


def test_the_loss_is_that_of_pretraining(corpus, pretrained):
    """On the same batch, with the same weights and masks, while dropout is off."""
    source = pretrained[0].eval()
    model = made(config(corpus, pretrained[1])).eval()
    batch = batch_of(model).text
    generator = torch.Generator().manual_seed(7)
    own, count = model.text_terms(batch, generator)
    log_probs, mask = source.forward_text(batch, generator=torch.Generator().manual_seed(7))
    assert mask.any()
    theirs, expected = uctc_terms(source, batch, log_probs)
    assert torch.equal(own, theirs)
    assert count == expected == batch.target_lengths.sum() + len(batch.targets)


@torch.no_grad()
def test_the_loss_is_that_of_a_slow_plain_version(corpus, pretrained):
    """Sentence after sentence, each path summed by the forward recursion in float64."""
    model = made(config(corpus, pretrained[1], text_branch={"weight": 1.0, "masking": {"prob": 0.0, "min_spans": 0}}))
    model.eval()
    batch = batch_of(model).text
    total = 0.0
    for units, frames, targets, characters in zip(
        batch.units, batch.unit_lengths, batch.targets, batch.target_lengths, strict=True
    ):
        states = model.text_branch.unit_embedding(units[None, :frames])
        shared, _ = model.encoder.encode_shared(states, padding_mask(frames[None], int(frames)))
        log_probs = model.decoder(encoder_output=shared.transpose(1, 2))[0].double()
        total += -float(plain_ctc(log_probs, targets[:characters].tolist(), log_probs.shape[1] - 1))
    own, _ = model.text_terms(batch)
    assert float(own) == pytest.approx(total, rel=1e-5)


def test_a_transducer_learns_from_units_too(corpus, pretrained):
    """As from MAESTRO's phones, of which tests/models/maestro/test_text_beside_speech.py says more."""
    torch.manual_seed(1)
    changes = {**TRANSDUCER, "reuse_decoder": False, "reuse_ctc_head": False}
    cfg = config(corpus, pretrained[1], **changes, text_branch={"masking": {"prob": 0.0, "min_spans": 0}})
    trainer = tiny_trainer(1)
    model = build_transducer(cfg, trainer)
    assert torch.equal(model.text_branch.unit_embedding.weight, pretrained[0].unit_embedding.weight)
    batch = batch_of(model).text
    expected = 0.0
    model.eval()
    for units, frames, targets, characters in zip(
        batch.units, batch.unit_lengths, batch.targets, batch.target_lengths, strict=True
    ):
        states = model.text_branch.unit_embedding(units[None, :frames])
        shared, _ = model.encoder.encode_shared(states, padding_mask(frames[None], int(frames)))
        predicted = model.decoder.predict(targets[None, :characters], state=None, add_sos=True)[0]
        given = {
            "targets": targets[None, :characters],
            "input_lengths": frames[None],
            "target_lengths": characters[None],
        }
        expected += float(model.loss(log_probs=model.joint.joint(shared, predicted), **given) * characters)
    total, count = model.text_terms(batch)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert count == batch.target_lengths.sum()
    trainer.fit(model.train())
    assert float(trainer.callback_metrics["train_text_loss"]) > 0


def plain_ctc(log_probs, targets, blank):
    """The log-likelihood of a text, by the recursion of CTC's paper."""
    symbols = [blank]
    for target in targets:
        symbols += [target, blank]
    scores = {0: log_probs[0, blank], 1: log_probs[0, symbols[1]]}
    for row in log_probs[1:]:
        new = {}
        for place, symbol in enumerate(symbols):
            before = [place, place - 1]
            if place > 1 and symbol not in (blank, symbols[place - 2]):
                before.append(place - 2)
            reached = [scores[b] for b in before if b in scores]
            if reached:
                new[place] = torch.logsumexp(torch.stack(reached), 0) + row[symbol]
        scores = new
    return torch.logsumexp(torch.stack([scores[len(symbols) - 1], scores[len(symbols) - 2]]), 0)


def test_text_teaches_what_it_shares_with_speech(corpus, pretrained):
    model = made(config(corpus, pretrained[1]))
    model.text_terms(batch_of(model).text)[0].backward()

    def touched(part):
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    for part in (model.text_branch.unit_embedding, model.encoder.shared_transformer, model.decoder):
        assert touched(part)
    assert not touched(model.encoder.speech_transformer)
    assert not touched(model.encoder.front_end)


class Losses(Callback):
    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *_):
        names = ("train_loss", "train_speech_loss", "train_text_loss")
        self.steps.append([float(trainer.callback_metrics[name]) for name in names])


def fit(cfg, steps, *callbacks, resume=None, **options):
    torch.manual_seed(0)
    losses = Losses()
    trainer = tiny_trainer(
        steps, callbacks=[BatchSeeds(0), PlaceInData(), losses, *callbacks], gradient_clip_val=1.0, **options
    )
    model = SpeechLMCTCModel(copy.deepcopy(cfg), trainer)
    trainer.fit(model, ckpt_path=resume)
    return model, losses.steps


def test_a_resumed_run_is_the_run_that_never_stopped(corpus, pretrained, tmp_path):
    cfg = config(corpus, pretrained[1], text_branch={"weight": 0.5})
    whole, losses = fit(cfg, 6)
    for joint, speech, text in losses:
        assert joint == pytest.approx(speech + 0.5 * text, rel=1e-5)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    fit(cfg, 3, keep, enable_checkpointing=True)
    resumed, rest = fit(cfg, 6, resume=keep.best_model_path)
    assert rest == losses[3:]
    weights = resumed.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items())


def test_a_saved_model_keeps_its_branch_and_goes_on(corpus, pretrained, tmp_path):
    model = made(config(corpus, pretrained[1]))
    torch.nn.init.normal_(model.text_branch.unit_embedding.weight)
    model.save_to(str(tmp_path / "ctc.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    assert torch.equal(restored.text_branch.unit_embedding.weight, model.text_branch.unit_embedding.weight)
    assert restored.unused_parameters() == []
    again = made(config(corpus, tmp_path / "ctc.nemo"))
    assert torch.equal(again.text_branch.unit_embedding.weight, model.text_branch.unit_embedding.weight)
    assert again.text_branch.masking == model.text_branch.masking
    alone = config(corpus, tmp_path / "ctc.nemo")
    alone.train_ds.text.manifest_filepath = None
    assert SpeechLMCTCModel(alone).text_branch is None


def test_a_recognizer_without_a_branch_takes_that_of_another_file(corpus, pretrained, tmp_path):
    bare = config(corpus, pretrained[1])
    bare.train_ds = None
    SpeechLMCTCModel(bare).save_to(str(tmp_path / "bare.nemo"))
    cfg = config(corpus, tmp_path / "bare.nemo")
    with pytest.raises(
        InputError, match=r"bare\.nemo: this model has no text branch; expected one that was pretrained"
    ):
        SpeechLMCTCModel(cfg)
    cfg.text_branch.init_from = str(pretrained[1])
    model = SpeechLMCTCModel(cfg)
    assert torch.equal(model.text_branch.unit_embedding.weight, pretrained[0].unit_embedding.weight)


def test_text_in_tokens(corpus, pretrained, tmp_path):
    train_tokenizer(read_sentences(corpus.text), tmp_path / "tokenizer", 20)
    cfg = config(corpus, pretrained[1], tokenizer={"dir": str(tmp_path / "tokenizer"), "type": "bpe"})
    model = made(cfg, SpeechLMCTCModelBPE)
    batch = batch_of(model).text
    texts = {" ".join(record["text"].split()) for _, record in read_manifest(corpus.text)}
    spelled = [
        model.tokenizer.ids_to_text(row[:length].tolist())
        for row, length in zip(batch.targets, batch.target_lengths, strict=True)
    ]
    assert set(spelled) <= texts
    assert float(model.text_terms(batch)[0]) > 0


def test_what_a_model_without_a_text_side_says(corpus, pretrained, tmp_path):
    loss = {"umlm": 1.0, "umlm_unmasked": 0.0, "uctc": 0.0, "feature_penalty": 0.0}
    imported = tiny_pretrain_config(
        corpus, train_ds=None, validation_ds=None, loss=loss, swapping={"prob": 0.0, "length": 2}
    )
    SpeechLMModel(imported).save_to(str(tmp_path / "hubert.nemo"))
    with pytest.raises(InputError, match=r"hubert\.nemo: this model has no text branch") as error:
        SpeechLMCTCModel(config(corpus, tmp_path / "hubert.nemo", reuse_ctc_head=False))
    assert "\n" not in str(error.value)
    scratch = {key: pretrained[0].cfg[key] for key in ("preprocessor", "encoder")}
    cfg = config(corpus, "", init_from_pretrained=None, reuse_ctc_head=False, labels=tiny_labels(), **scratch)
    with pytest.raises(SpeechLMError, match=r"model\.train_ds\.text needs a text branch: give model\.init_from_pre"):
        SpeechLMCTCModel(cfg)
    with pytest.raises(SpeechLMError, match=r"model\.text_branch\.weight is -1, expected a number of at least 0"):
        SpeechLMCTCModel(config(corpus, pretrained[1], text_branch={"weight": -1}))


def test_units_of_another_inventory_and_strange_characters(corpus, pretrained, tmp_path):
    hidden = tiny_hidden_corpus(tmp_path / "hidden", n_speech=1)
    with pytest.raises(InputError, match=r"text\.json:1: unit 0 is '\d+', which is not among the 12 units") as error:
        made(config(corpus, pretrained[1], hidden.text))
    assert "\n" not in str(error.value)
    records = [record for _, record in read_manifest(corpus.text)]
    records[1]["text"] += "?"
    write_manifest(tmp_path / "strange.json", records)
    with pytest.raises(InputError, match=r"strange\.json:2: text has the character '\?', which is not among the 12"):
        made(config(corpus, pretrained[1], tmp_path / "strange.json"))


def test_data_configs_that_cannot_have_text(corpus):
    data = {"manifest_filepath": str(corpus.speech), "batch_duration": 6, "text": {"manifest_filepath": "t.json"}}
    with pytest.raises(InputError, match=r"data config: text: this model has no text branch; leave model\.train_ds"):
        build_recognition_dataloader(data, tiny_labels())
    data["text"] = {"manifest_filepath": None, "batch_tokens": 4}
    assert len(list(build_recognition_dataloader(data, tiny_labels()))) > 0


def test_an_unknown_key_and_a_missing_endless(corpus, pretrained):
    cfg = config(corpus, pretrained[1])
    cfg.train_ds.text.bach_tokens = 4
    with pytest.raises(InputError, match=r"unknown key text\.bach_tokens; did you mean batch_tokens\?"):
        made(cfg)
    cfg = config(corpus, pretrained[1])
    cfg.train_ds.endless = False
    with pytest.raises(InputError, match=r"data config: text: it needs model\.train_ds\.endless=true"):
        made(cfg)


def test_the_recipe_of_adaptation(corpus, pretrained, tmp_path):
    """As the page has it: a recognizer that was fine-tuned without text, and the text branch of its pretraining."""
    bare = config(corpus, pretrained[1])
    bare.train_ds = None
    SpeechLMCTCModel(bare).save_to(str(tmp_path / "ctc.nemo"))
    given = {
        "output": tmp_path / "adapted.nemo",
        "model.init_from_pretrained": tmp_path / "ctc.nemo",
        "model.text_branch.init_from": pretrained[1],
        "model.train_ds.manifest_filepath": corpus.speech,
        "model.train_ds.text.manifest_filepath": corpus.text,
        "model.train_ds.text.batch_tokens": 300,
        "model.validation_ds.manifest_filepath": corpus.speech,
        "model.train_ds.num_workers": 0,
        "model.train_ds.batch_duration": 6,
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "exp_manager.exp_dir": tmp_path / "runs",
        "exp_manager.create_tensorboard_logger": False,
    }
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose("adapt_small", [f"{key}={value}" for key, value in given.items()])
    train(cfg, lambda model, trainer: SpeechLMCTCModel(cfg=model, trainer=trainer))
    adapted = ASRModel.restore_from(str(tmp_path / "adapted.nemo"), map_location="cpu")
    before = pretrained[0].unit_embedding.weight
    difference = (adapted.text_branch.unit_embedding.weight - before).abs().max()
    assert 0 < difference < 1e-3  # two updates of at most the learning rate


def test_bad_lines_of_text_are_left_out_and_counted(corpus, pretrained, tmp_path):
    records = [record for _, record in read_manifest(corpus.text)]
    records[4]["text"] += "?"
    records[7]["units"] = ["ZZ"]
    write_manifest(tmp_path / "bad.json", records)
    cfg = config(corpus, pretrained[1], tmp_path / "bad.json")
    cfg.train_ds.on_bad, cfg.train_ds.max_bad = "skip", 0.9
    loader = made(cfg)._train_dl
    seen = {name for batch, _ in zip(loader, range(12), strict=False) for name in batch.text.ids}
    assert seen == {f"{tmp_path / 'bad.json'}:{number}" for number in range(1, 21) if number not in (5, 8)}
    assert loader.count.bad > 0
