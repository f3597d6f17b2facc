"""Fine-tuning of the text side on tiny files in the formats of SST-2 and MRPC."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import ModelCheckpoint

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.models.slam.classifier import ClassifiedBatch, SLAMTextClassifier
from nemo_speechlm.testing.corpora import LETTERS
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.step_guards import BatchSeeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory, build):
    folder = tmp_path_factory.mktemp("text")
    build().save_to(str(folder / "slam.nemo"))
    build(tasks={"w2v_bert": 1.0}, tokenizer=None).save_to(str(folder / "speech.nemo"))
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list(LETTERS), 3)) for _ in range(3)) for _ in range(80)]
    sst2 = [f"{text.upper()}!\t{int('a' in text)}" for text in texts]
    (folder / "sst2.tsv").write_text("\n".join(["sentence\tlabel", *sst2]) + "\n")
    mrpc = [f"{int(i % 2)}\t1\t2\t{texts[i]}\t{texts[i if i % 2 else i - 1]}" for i in range(80)]
    (folder / "mrpc.tsv").write_text("\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *mrpc]) + "\n")
    return folder


def config_of(folder, name="finetune_text", file="sst2.tsv", start="slam.nemo", *overrides):
    given = ["output=x.nemo", f"model.init_from_pretrained={folder / start}", "model.optim.sched.warmup_steps=5"]
    given += [f"model.{part}.file={folder / file}" for part in ("train_ds", "validation_ds")]
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(name, [*given, "model.optim.lr=5e-3", "model.dropout=0", "model.text_dropout=0", *overrides])


def fit(config, steps, resume=None, **options):
    torch.manual_seed(0)
    trainer = tiny_trainer(steps, **options)
    model = SLAMTextClassifier(config.model, trainer)
    trainer.fit(model, ckpt_path=resume)
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_sentences(folder, tmp_path):
    model, metrics = fit(config_of(folder), 120)
    assert model.classes == ["0", "1"]
    assert metrics["val_accuracy"] > 0.9, "whether there is an a in it can be learned"
    assert set(model.validation_metrics()) <= set(metrics)
    model.save_to(str(tmp_path / "sst2.nemo"))
    restored = SLAMTextClassifier.restore_from(str(tmp_path / "sst2.nemo"), map_location="cpu").eval()
    tokens = restored.tokens_of(["Tab bas?"])
    assert tokens == model.tokens_of(["tab bas"])
    given = torch.tensor([tokens]), torch.tensor([len(tokens)])
    with torch.no_grad():
        assert torch.equal(restored(*given), model.eval()(*given))


def test_sums_of_bf16_are_exact(folder, monkeypatch):
    model = SLAMTextClassifier(config_of(folder).model)
    logits, classes = torch.randn(40, 2).bfloat16(), torch.arange(40) % 2
    monkeypatch.setattr(model, "forward", lambda *_: logits)
    found = {}
    monkeypatch.setattr(model, "log_mean", lambda name, value, count: found.update({name: (float(value), count)}))
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    model.on_validation_epoch_start()
    batch = ClassifiedBatch(torch.zeros(40, 1, dtype=torch.int64), torch.ones(40, dtype=torch.int64), classes)
    model.validation_step(batch, 0)
    loss = -float(logits.double().log_softmax(1)[torch.arange(40), classes].sum())
    assert found == {"val_loss": (pytest.approx(loss, rel=1e-6), 40)}
    assert float(model.training_step(batch, 0)) == pytest.approx(loss / 40, rel=1e-6)


def test_classes_may_be_numbers(folder):
    model = SLAMTextClassifier(
        config_of(folder, "finetune_text", "sst2.tsv", "slam.nemo", "model.classes=[1,0]").model
    )
    model.setup_training_data(model.cfg.train_ds)
    assert model.classes == ["1", "0"]
    assert set(next(iter(model.train_dataloader())).classes.tolist()) == {0, 1}
    with pytest.raises(InputError, match="'label' is '0', expected one of 1, 2"):
        fit(config_of(folder, "finetune_text", "sst2.tsv", "slam.nemo", "model.classes=[1,2]"), 1)


def test_a_resumed_run_is_the_run_that_never_stopped(folder, tmp_path):
    """Stopped within a pass over the 80 lines, and within the one behind it."""
    config = config_of(folder, "finetune_text", "sst2.tsv", "slam.nemo", "model.text_dropout=0.1")
    options = {"limit_val_batches": 0}
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, _ = fit(config, 5, callbacks=[BatchSeeds(0), keep], enable_checkpointing=True, **options)
    for steps in (1, 4):
        resumed, _ = fit(config, 5, tmp_path / f"step={steps}.ckpt", callbacks=[BatchSeeds(0)], **options)
        weights = resumed.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items())


def test_each_pass_has_every_line_in_an_order_of_its_own(folder):
    config = config_of(folder).model
    orders = {}
    for seed in (0, 1, 0):
        config.train_ds.seed = seed
        model = SLAMTextClassifier(config)
        model.setup_training_data(model.cfg.train_ds)
        batches = iter(model.train_dataloader())
        passes = [[tuple(row) for _ in range(3) for row in next(batches).tokens.tolist()] for _ in range(2)]
        unpadded = [[tuple(token for token in row if token) for row in rows] for rows in passes]
        assert sorted(unpadded[0]) == sorted(unpadded[1])
        assert unpadded[0] != unpadded[1]
        assert len(unpadded[0]) == 80
        assert orders.setdefault(seed, unpadded) == unpadded
    assert orders[0] != orders[1]


def test_without_an_end(folder):
    with pytest.raises(SpeechLMError, match=r"trainer\.max_steps is -1, expected a number of updates"):
        fit(config_of(folder), -1, max_epochs=1, val_check_interval=1)


def _validate(rank, config, folder, processes):
    torch.manual_seed(0)
    trainer = tiny_trainer(1, devices=processes, strategy="ddp" if processes > 1 else "auto")
    model = SLAMTextClassifier(config, trainer)
    (figures,) = trainer.validate(model, verbose=False)
    torch.save((figures, model._counts), folder / f"{rank}_of_{processes}.pt")


def test_processes_count_each_line_once(folder, tmp_path):
    """Seven lines in three batches, of which the second process has one, and another's beside it."""
    lines = (folder / "sst2.tsv").read_text().splitlines()
    (tmp_path / "seven.tsv").write_text("\n".join(lines[:8]) + "\n")
    config = config_of(folder, "finetune_text", "sst2.tsv", "slam.nemo", "model.validation_ds.batch_size=3").model
    config.validation_ds.file = str(tmp_path / "seven.tsv")
    found = {}
    for processes in (1, 2):
        assert run_in_processes(_validate, processes, config, tmp_path, processes) == [0] * processes
        names = [tmp_path / f"{rank}_of_{processes}.pt" for rank in range(processes)]
        found[processes] = [torch.load(name) for name in names]
    (alone, counts), (first, second) = *found[1], found[2]
    assert counts.sum() == 7
    assert torch.equal(first[1] + second[1], counts)
    assert first[0] == pytest.approx(alone)
    assert first[0] == second[0]


def test_pairs_of_sentences(folder, build):
    model, metrics = fit(config_of(folder, "finetune_text_mrpc", "mrpc.tsv"), 3)
    model.eval()
    right = wrong = 0
    with torch.no_grad():
        for line in (folder / "mrpc.tsv").read_text().splitlines()[1:]:
            label, _, _, *texts = line.split("\t")
            tokens = torch.tensor([model.tokens_of(texts)])
            found = int(model(tokens, torch.tensor([tokens.shape[1]])).argmax())
            right += found == int(label) == 1  # true positives
            wrong += found != int(label)  # false ones, positive and negative
    assert right > 0, "seed 0 gives some of them the class 1"
    assert metrics["val_f1"] == pytest.approx(2 * right / (2 * right + wrong))
    tokens = model.tokens_of(["ab", "d"])
    assert tokens.count(model.text_embedding.cls) == 1
    assert tokens[len(model.tokens_of(["ab"])) :] == [model.text_embedding.cls, *model.tokens_of(["d"])]


def test_of_long_pairs_the_longer_text_loses_its_end(folder):
    config = config_of(folder, "finetune_text_mrpc", "mrpc.tsv", "slam.nemo", "model.max_tokens=8").model
    model = SLAMTextClassifier(config)
    cls, write = model.text_embedding.cls, model.writer
    short, long = write("ab", "x", 1), write("dab bad dab bad", "x", 1)
    assert len(short) + len(long) > 7
    left = 7 - len(short)
    assert model.tokens_of(["ab", "dab bad dab bad"]) == [*short, cls, *long[:left]]
    assert model.tokens_of(["dab bad dab bad", "ab"]) == [*long[:left], cls, *short]
    assert model.tokens_of(["dab bad dab bad"] * 2) in ([*long[:4], cls, *long[:3]], [*long[:3], cls, *long[:4]])


def test_new_texts_are_classified(folder):
    """As the forward pass would, whatever their number and order, and the model's mode stays what it was."""
    model = SLAMTextClassifier(config_of(folder, "finetune_text_mrpc", "mrpc.tsv").model).train()
    torch.nn.init.normal_(model.head.weight, std=3)
    pairs = [("ab", "d"), ("bad dab", "dab"), ["d", "bad"], ("a", "a bad")]
    found = model.classify(pairs, batch_size=3)
    assert model.training
    with torch.no_grad():
        model.eval()
        for pair, name in zip(pairs, found, strict=True):
            tokens = torch.tensor([model.tokens_of(pair)])
            assert name == model.classes[int(model(tokens, torch.tensor([tokens.shape[1]])).argmax())]
    assert model.classify([]) == []
    with pytest.raises(SpeechLMError, match="text 2 has 1 parts, expected 2"):
        model.classify([("a", "b"), "a"])


def test_begins_with_the_pretrained_weights(folder, build):
    config = config_of(folder).model
    config.validation_ds = None
    model, slam = SLAMTextClassifier(config), build()
    for name, weight in slam.text_embedding.state_dict().items():
        assert torch.equal(model.text_embedding.state_dict()[name], weight), name
    for name, weight in slam.encoder.shared_transformer.state_dict().items():
        assert torch.equal(model.shared_transformer.state_dict()[name], weight), name


def test_every_parameter_that_is_trained_has_a_gradient(folder):
    model = SLAMTextClassifier(config_of(folder).model, tiny_trainer(1))
    model.setup_training_data(model.cfg.train_ds)
    batch = next(iter(model.train_dataloader()))
    model(batch.tokens, batch.lengths).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ("start", "overrides", "message"),
    [
        ("speech.nemo", [], r"speech\.nemo: has no text side"),
        ("slam.nemo", ["model.unknown_characters=error"], r"sst2\.tsv:2: '.*!' in .* cannot be spelled"),
        ("slam.nemo", ["model.classes=['0','2']"], r"sst2\.tsv:\d+: 'label' is '1', expected one of 0, 2"),
        ("slam.nemo", ["model.text_columns=[a,b,c]"], r"model\.text_columns names 3 columns"),
    ],
)
def test_what_may_be_wrong(folder, start, overrides, message):
    with pytest.raises((InputError, SpeechLMError), match=message):
        fit(config_of(folder, "finetune_text", "sst2.tsv", start, *overrides), 1)


def test_a_text_is_judged_by_the_state_of_its_cls(folder):
    """Whatever stands beside it in a batch."""
    model = SLAMTextClassifier(config_of(folder).model).eval()
    rows = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]), torch.tensor([5, 2])
    with torch.no_grad():
        together, alone = model(*rows), model(rows[0][1:, :2], rows[1][1:])
        states = encode_embedded(model, *model.text_embedding(*rows))
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, model.head(states[:, 0]))


def test_of_long_texts_the_beginning_is_kept(folder):
    model = SLAMTextClassifier(config_of(folder, "finetune_text", "sst2.tsv", "slam.nemo", "model.max_tokens=4").model)
    texts = [line.split("\t")[0] for line in (folder / "sst2.tsv").read_text().splitlines()[1:]]
    kept = [tokens for tokens, _ in model._dataset(model.cfg.train_ds).examples]
    assert kept == [model.writer(text, "x", 1)[:4] for text in texts]
    assert min(map(len, kept)) == 4 < min(len(model.writer(text, "x", 1)) for text in texts)
