"""Pretrain MAESTRO on speech, on text, and on pairs of both, matched by learned alignments.

Speech needs no text, text no speech; pairs are transcribed speech. Phones are made from the text by the language's
phonemizer. To continue an interrupted run, give the same command again (checkpoints are in exp_manager.exp_dir).
Recipes: maestro_small (two CPU cores, hours of speech), maestro_100m (one GPU), maestro_600m (the paper's).

    python examples/maestro_pretrain.py --config-name maestro_small output=maestro.nemo \\
        model.train_ds.speech.manifest_filepath=speech.json model.train_ds.text.manifest_filepath=text.json \\
        model.train_ds.pairs.manifest_filepath=pairs.json \\
        model.validation_ds.speech.manifest_filepath=valid.json \\
        model.validation_ds.text.manifest_filepath=valid.json \\
        model.validation_ds.pairs.manifest_filepath=valid.json

Another language: language=ru
Tokens instead of characters: model.tokenizer.dir=tokenizer (made by train_tokenizer.py)
Repetition instead of learned durations: model.tasks.durations=0 model.repetition.kind=random \\
    model.repetition.most=3 (with frames of 40 ms)
Speech and pairs without text: model.tasks.aligned_mlm=0 model.train_ds.text=null model.validation_ds.text=null
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("maestro_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.maestro.model import MAESTROModel
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: MAESTROModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
