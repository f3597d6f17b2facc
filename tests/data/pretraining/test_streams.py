"""Streams without units: speech as it is, text as tokens, and pairs of both."""

from itertools import islice

import numpy as np
import pytest
import sentencepiece
import soundfile

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader, build_validation_dataloaders
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream, TokenTextStream
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels

FILE_ORDER = Order(shuffle=False, finite=True)
LABELS = tiny_labels()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tiny corpus, without its units."""
    made = tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=12, n_text=20)
    for path in (made.speech, made.text):
        records = [record for _, record in read_manifest(path)]
        write_manifest(path, [{k: v for k, v in r.items() if not k.startswith("unit")} for r in records])
    return made


@pytest.fixture(scope="module")
def pieces(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    sentences = [record["text"] for _, record in read_manifest(corpus.text)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "m"), vocab_size=20, minloglevel=2
    )
    return folder / "m.model"


def streams(**writing):
    writing = writing or {"labels": LABELS}
    return [SpeechStream(None), TokenTextStream(**writing), PairStream(**writing)]


def config(corpus, **changes):
    audio = {"manifest_filepath": str(corpus.speech), "batch_duration": 6}
    text = {"manifest_filepath": str(corpus.text), "batch_tokens": 100}
    return {"speech": audio, "text": text, "pairs": audio, "seed": 0} | changes


def test_a_step_has_a_batch_of_each_stream(corpus):
    texts = {tuple(LABELS.index(c) for c in record["text"]) for _, record in read_manifest(corpus.speech)}
    for batch in islice(build_pretrain_dataloader(config(corpus), streams()), 5):
        assert batch.speech.units is None
        assert batch.speech.audio_lengths.max() == batch.speech.audio.shape[1]
        assert batch.text.token_lengths.sum() <= 100
        for row, length in zip(batch.pairs.tokens, batch.pairs.token_lengths, strict=True):
            assert tuple(row[:length].tolist()) in texts
            assert not row[length:].any()


@pytest.mark.parametrize("name", ["speech", "text", "pairs"])
def test_each_stream_may_be_alone(corpus, name):
    alone = {key: value for key, value in config(corpus).items() if key in (name, "seed")}
    batch = next(iter(build_pretrain_dataloader(alone, streams())))
    assert [part is not None for part in batch[:3]] == [part == name for part in ("speech", "text", "pairs")]


def test_pairs_keep_each_text_with_its_audio(corpus):
    (loader,) = build_validation_dataloaders({"pairs": config(corpus)["pairs"]}, streams())
    batches = [batch.pairs for batch in loader]
    found = [
        (audio[:samples].numpy(), "".join(LABELS[i] for i in tokens[:length]))
        for batch in batches
        for audio, samples, tokens, length in zip(*batch[:4], strict=True)
    ]
    records = [record for _, record in read_manifest(corpus.speech)]
    for (audio, text), record in zip(found, records, strict=True):
        expected, _ = soundfile.read(corpus.speech.parent / record["audio_filepath"], dtype="float32")
        assert text == record["text"]
        assert (audio == expected[: len(audio)]).all()
        assert abs(len(audio) - len(expected)) <= 1


def test_text_may_be_sentencepiece_tokens(corpus, pieces):
    processor = sentencepiece.SentencePieceProcessor(str(pieces))
    for tokenizer in (str(pieces), pieces.read_bytes()):
        loader, _ = build_validation_dataloaders(
            {key: config(corpus)[key] for key in ("text", "pairs")}, streams(tokenizer=tokenizer)
        )
        rows = [row[:n].tolist() for batch in loader for row, n in zip(*batch.text[:2], strict=True)]
        assert [processor.decode(row) for row in rows] == [r["text"] for _, r in read_manifest(corpus.text)]


def test_crops_of_speech_without_units_lie_anywhere(corpus):
    reader = SpeechReader([str(corpus.speech)], truncate_duration=0.5)
    cuts = list(islice(reader, 100))
    assert all(cut.duration == pytest.approx(0.5) for cut in cuts)
    offsets = np.array([cut.start * 100 for cut in cuts])
    assert (np.abs(offsets - offsets.round()) > 1e-3).mean() > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(text="q7"), r"pairs.json:2: 'q' .* is not among the"),
        (lambda r: r.update(text=3), r"pairs.json:2: 'text' is 3, expected a string"),
        (lambda r: r.pop("text"), r"pairs.json:2: no key 'text'"),
        (lambda r: r.update(duration=-1), r"pairs.json:2: duration is -1, expected seconds above 0"),
    ],
)
def test_bad_pairs_are_found_at_the_start(corpus, tmp_path, change, message):
    records = [record for _, record in read_manifest(corpus.speech)]
    for record in records:
        record["audio_filepath"] = str(corpus.speech.parent / record["audio_filepath"])
    change(records[1])
    write_manifest(tmp_path / "pairs.json", records)
    pairs = {"manifest_filepath": str(tmp_path / "pairs.json"), "batch_duration": 6}
    with pytest.raises(InputError, match=message):
        build_pretrain_dataloader({"pairs": pairs}, streams())


@pytest.mark.parametrize("key", ["truncate_duration", "pad_min_duration"])
def test_pairs_are_as_long_as_they_are(corpus, key):
    pairs = {**config(corpus)["pairs"], key: 1}
    with pytest.raises(InputError, match=rf"pairs\.{key} cannot be used, texts would no longer fit"):
        build_pretrain_dataloader({"pairs": pairs}, streams())


def test_a_stream_that_the_model_has_not_is_an_unknown_key(corpus):
    with pytest.raises(InputError, match="unknown key pairs"):
        build_pretrain_dataloader(config(corpus), streams()[:2])
