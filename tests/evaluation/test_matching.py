"""What is measured of a MAESTRO model, on tiny models and with answers that are known."""

import numpy as np
import pytest
import soundfile
import torch

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.matching import Matcher, _reference, alignment_report, retrieval
from nemo_speechlm.evaluation.matching_plots import plot_durations, plot_lattice, plot_similarity
from nemo_speechlm.evaluation.shared_space import read_examples
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.maestro import tiny_maestro_config
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phone_inventory, phone_units, phoneme_inventory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("matching"), n_speech=6, n_text=8)


@pytest.fixture(scope="module")
def matcher(corpus):
    torch.manual_seed(3)
    model = MAESTROModel(tiny_maestro_config(corpus, train_ds=None, validation_ds=None)).eval()
    with torch.no_grad():
        model.duration_model.projection.weight.mul_(20)  # or it would give all phones the same
    return Matcher(model)


class Known(Matcher):
    """The distance is that of the numbers of phones, so the right text is the nearest; of one utterance it is not."""

    def speech(self, example):
        return len(self.model.phone_encoder(example.text)), example.text == self.wrong

    def distances(self, speech, texts):
        phones, wrong = speech
        return [float(not place) if wrong else abs(len(text) - phones) for place, text in enumerate(texts)]


def test_the_nearest_text_is_counted(corpus, matcher):
    examples = {len(matcher.model.phone_encoder(e.text)): e for e in read_examples(corpus.speech)}
    examples = list(examples.values())  # of different lengths
    texts = [matcher.model.phone_encoder(example.text) for example in examples]
    known = Known(matcher.model)
    for wrong, right in ((None, len(examples)), (examples[1].text, len(examples) - 1)):
        object.__setattr__(known, "wrong", wrong)
        share = retrieval(known, examples, texts, candidates=2)
        assert (share.right, share.of) == (right, len(examples))
    with pytest.raises(InputError, match="expected 20 at least"):
        retrieval(known, examples, texts, candidates=20)


def test_distances_do_not_depend_on_the_other_candidates(corpus, matcher):
    examples = read_examples(corpus.speech)
    texts = [matcher.model.phone_encoder(example.text) for example in examples]
    speech = matcher.speech(examples[0])
    together = matcher.distances(speech, texts)
    alone = [matcher.distances(speech, [text])[0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    durations = matcher.durations(speech, torch.tensor([texts[0]]), torch.tensor([len(texts[0])]))
    assert int(durations.sum()) == int(speech.lengths)


def test_its_own_alignments_are_right(corpus, matcher, tmp_path):
    """A manifest of the model's own alignments: all boundaries are found, and a silence between words is no error."""
    model, records = matcher.model, []
    inventory: UnitInventory = phoneme_inventory("plain")
    for (_, record), example in zip(
        read_manifest(corpus.speech, ["audio_filepath"]), read_examples(corpus.speech), strict=True
    ):
        phones = model.phone_encoder(example.text)
        frames = matcher.durations(matcher.speech(example), torch.tensor([phones]), torch.tensor([len(phones)]))[0]
        lengths = [4 * int(frame) for frame in frames]  # frames of 40 ms as frames of 10 ms
        names = [model.phone_encoder.symbols[phone] for phone in phones]
        place = next(n for n in range(1, len(names) - 1) if lengths[n] > 4)
        names.insert(place + 1, "SIL")
        lengths[place : place + 1] = [lengths[place] - 2, 2]
        audio = str(corpus.speech.parent / record["audio_filepath"])
        line = {"audio_filepath": audio, "text": example.text, "units": names, "unit_durations": lengths}
        records.append(line)
    write_manifest(tmp_path / "aligned.json", records)
    report = alignment_report(matcher, tmp_path / "aligned.json", inventory)
    assert report.accuracy.boundaries == 1
    assert report.accuracy.mean_error < 1e-9
    assert report.phones == sum(len(model.phone_encoder(e.text)) - 2 for e in read_examples(corpus.speech))
    assert report.correlation == pytest.approx(report.own_correlation)
    assert report.utterances == report.alike == len(records)
    records[0]["units"][1] = next(name for name in inventory.symbols if name not in ("SIL", records[0]["units"][1]))
    write_manifest(tmp_path / "other.json", records)
    other = alignment_report(matcher, tmp_path / "other.json", inventory)
    assert (other.utterances, other.alike) == (len(records), len(records) - 1)
    assert other.phones == report.phones - len(model.phone_encoder(read_examples(corpus.speech)[0].text)) + 2


@pytest.mark.parametrize("style", ["position_stress", "plain"])
def test_phones_of_other_languages_are_those_of_the_model(style):
    inventory = phone_inventory("ru", ["m", "ˈɑ", "a"], style)
    units = [*phone_units(("m", "ˈɑ"), style), "SIL", *phone_units(("m", "a"), style)]
    record = {"units": ["SIL", *units, "SIL"], "unit_durations": [10] * 7}
    found = _reference(record, "m.json", 1, inventory)
    assert [phone for phone, _ in found] == ["SIL", "m", "ˈɑ", "m", "a", "SIL"]
    assert [end for _, end in found] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.6, 0.7])


def test_pictures(corpus, matcher, tmp_path):
    examples = read_examples(corpus.speech, 2)
    plot_lattice(matcher, examples[0], tmp_path / "lattice.png")
    plot_similarity([("before", matcher), ("after", matcher)], examples[0], tmp_path / "similarity.png")
    plot_durations(matcher, examples, tmp_path / "durations.png")
    for name in ("lattice", "similarity", "durations"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_frame_behind_the_audio_is_not_heard(matcher, tmp_path):
    """Mel features have one more frame than the audio where it ends with one; every fourth utterance got it."""
    for samples in (16_000, 12_345):
        soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, samples), 16_000)
        write_manifest(tmp_path / "a.json", [{"audio_filepath": "a.wav", "duration": samples / 16_000, "text": "a"}])
        (example,) = read_examples(tmp_path / "a.json")
        speech = matcher.speech(example)
        audio = torch.from_numpy(read_audio(example.path, 16_000)).unsqueeze(0)
        (states,), frames = matcher.model.extract_features(audio, torch.tensor([samples]), layers=[-1])
        length = int(frames[0])
        assert int(speech.lengths[0]) == length
        torch.testing.assert_close(speech.encoded[:, :length], states[:, :length], rtol=1e-4, atol=1e-5)
