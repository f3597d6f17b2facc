r"""Train a model that says which hidden units a text would have if it were spoken.

It learns from transcribed speech in two forms: its hidden units, and its phones, aligned. Both are manifests of
tokenize_speech.py, joined by their audio files; boundaries of phones are rounded to frames of the hidden units.

    python examples/tokenize_speech.py manifest=train.json output=train_phones.json units=phones.json style=plain
    python examples/train_text_to_unit.py --config-name text_to_unit_small output=text_to_unit.nemo \
        model.phones=phones.json model.units=hidden_units.json \
        model.train_ds.manifest_filepath=train_hidden.json model.train_ds.phones_manifest_filepath=train_phones.json \
        model.validation_ds.manifest_filepath=valid_hidden.json \
        model.validation_ds.phones_manifest_filepath=valid_phones.json

A manifest of your own making may have both: "phones" and "phone_durations" beside "units" and "unit_durations".
With model.speakers=manifest the model learns who speaks ("speaker"), and text gets the units of many voices.

Validation shows how often the unit is right under the true durations (val_unit_accuracy), beside what the most
frequent unit would score, and how far the predicted durations are off. To continue an interrupted run, give the same
command again (checkpoints are in exp_manager.exp_dir). Recipes: text_to_unit (the paper's), text_to_unit_small (two
CPU cores).
"""

from omegaconf import DictConfig, open_dict

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("text_to_unit")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "model.train_ds.batch_frames", "model.validation_ds.batch_frames", least=1)
    whole_numbers(cfg, "seed")
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.data.phone_units import speakers_of
        from nemo_speechlm.models.text_to_unit.model import TextToUnitModel, as_paths
        from nemo_speechlm.training.run import train

    if cfg.model.speakers == "manifest":
        with open_dict(cfg):
            cfg.model.speakers = speakers_of(as_paths(cfg.model.train_ds.manifest_filepath))
    train(cfg, lambda model, trainer: TextToUnitModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
