r"""Fine-tune a pretrained SpeechLM encoder with an attention decoder, for recognition or speech translation.

To continue an interrupted run, give the same command again (checkpoints are in exp_manager.exp_dir). Recipes:
encdec_base (recognition) and st_base (translation) with the paper's settings, for 8 GPUs; st_small for hours of speech
on two CPU cores. The target is the manifests' text; text_field=KEY names another key.

    python examples/speechlm_finetune_encdec.py --config-name st_small output=st.nemo \
        model.init_from_pretrained=pretrained.nemo \
        model.train_ds.manifest_filepath=train.json model.validation_ds.manifest_filepath=valid.json

The model writes characters, or the tokens of train_tokenizer.py with model.tokenizer.dir=FOLDER.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("st_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.recognition.encdec import SpeechLMEncDecModel
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: SpeechLMEncDecModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
