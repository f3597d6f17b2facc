"""Pretrain SpeechLM on unpaired speech and unpaired text, both with units.

To continue an interrupted run, give the same command again (checkpoints are in exp_manager.exp_dir). Recipes:
speechlm_p_small (two CPU cores, hours of speech), speechlm_p_base and speechlm_p_large (32 GPUs, the paper's).

    python examples/speechlm_pretrain.py --config-name speechlm_p_small output=pretrained.nemo \\
        model.units=units.json \\
        model.train_ds.speech.manifest_filepath=speech.json model.train_ds.text.manifest_filepath=text.json \\
        model.validation_ds.speech.manifest_filepath=valid_speech.json \\
        model.validation_ds.text.manifest_filepath=valid_text.json

Speech alone (UMLM): model.train_ds.text=null model.validation_ds.text=null model.loss.uctc=0 model.swapping.prob=0
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("speechlm_p_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.speechlm.model import SpeechLMModel
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: SpeechLMModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
