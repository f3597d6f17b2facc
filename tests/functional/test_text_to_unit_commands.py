"""Training of a text-to-unit model, interrupted and resumed, and hidden units of text by it, as commands."""

import numpy as np

from nemo_speechlm.data.length_batches import LengthBatches
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.models import TextToUnitModel
from nemo_speechlm.testing.corpora import tiny_paired_corpus
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory
from tests.functional.commands import run_example


def english(pairs):
    """The tiny corpus with its phones renamed to English ones."""
    phones = phoneme_inventory("plain")
    tiny = UnitInventory.load(pairs.phones)
    names = dict(zip(tiny.symbols, phones.symbols, strict=False))
    assert names["SIL"] == "SIL"
    records = [record for _, record in read_manifest(pairs.phone_manifest)]
    for record in records:
        record["units"] = [names[unit] for unit in record["units"]]
    write_manifest(pairs.phone_manifest, records)
    phones.save(pairs.phones)
    return pairs


def test_train_resume_and_tokenize(tmp_path, monkeypatch, capsys):
    pairs = english(tiny_paired_corpus(tmp_path))
    arguments = [
        "--config-name",
        "text_to_unit_small",
        f"output={tmp_path / 't2u.nemo'}",
        f"model.phones={pairs.phones}",
        f"model.units={pairs.units}",
        "model.speakers=manifest",
        "model.d_model=16",
        "model.encoder.d_ff=16",
        "model.train_ds.batch_frames=300",
        "model.train_ds.min_frames=1",
        f"exp_manager.exp_dir={tmp_path / 'runs'}",
        "exp_manager.create_tensorboard_logger=false",
        "trainer.accelerator=cpu",
        "trainer.val_check_interval=2",
        "+trainer.enable_model_summary=false",
    ]
    for part in ("train_ds", "validation_ds"):
        arguments += [
            f"model.{part}.manifest_filepath={pairs.hidden_manifest}",
            f"model.{part}.phones_manifest_filepath={pairs.phone_manifest}",
        ]
    starts: list[int] = []
    iterate = LengthBatches.__iter__

    def recorded(self):
        starts.append(self.used())
        return iterate(self)

    monkeypatch.setattr(LengthBatches, "__iter__", recorded)
    assert run_example("train_text_to_unit.py", *arguments, "trainer.max_steps=4") == 0
    (tmp_path / "t2u.nemo").unlink()
    assert run_example("train_text_to_unit.py", *arguments, "trainer.max_steps=6") == 0
    assert starts == [0, 4], "resumed, it goes on behind the batches that it has had"
    model = TextToUnitModel.restore_from(str(tmp_path / "t2u.nemo"), map_location="cpu")
    assert model.speakers == ["s0", "s1"]
    assert list((tmp_path / "runs").rglob("*-last.ckpt"))

    write_manifest(tmp_path / "text.json", [{"text": "hello there"}, {"text": "good bye"}, {"text": "?"}])
    status = run_example(
        "tokenize_text.py",
        "text_tokenizer=text_to_unit",
        f"manifest={tmp_path / 'text.json'}",
        f"output={tmp_path / 'text.units.json'}",
        f"units={tmp_path / 'made.json'}",
        f"model={tmp_path / 't2u.nemo'}",
        "phone_tokenizer.style=plain",
        "speed=0.2",
        "skip_bad=true",
        "workers=1",
    )
    assert status == 0
    records = [record for _, record in read_manifest(tmp_path / "text.units.json")]
    assert [record["text"] for record in records] == ["hello there", "good bye"]
    for record in records:
        assert len(record["units"].split()) == len(record["unit_durations"])
        assert np.min(record["unit_durations"]) >= 1
    assert "2 written, 1 left out" in capsys.readouterr().out
    assert UnitInventory.load(tmp_path / "made.json") == UnitInventory.load(pairs.units)
