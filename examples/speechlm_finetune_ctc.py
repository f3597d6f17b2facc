r"""Fine-tune a pretrained SpeechLM encoder for recognition with CTC (or train it from scratch).

To continue an interrupted run, give the same command again (checkpoints are in exp_manager.exp_dir). Recipes:
ctc_small (two CPU cores, hours of speech), ctc_base (8 GPUs, LibriSpeech 100 h) and ctc_large (8 GPUs, 960 h), the
paper's.

    python examples/speechlm_finetune_ctc.py --config-name ctc_small output=ctc.nemo \
        model.init_from_pretrained=pretrained.nemo \
        model.train_ds.manifest_filepath=train.json model.validation_ds.manifest_filepath=valid.json

The model writes characters, or the tokens of train_tokenizer.py with model.tokenizer.dir=FOLDER.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("ctc_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.recognition.ctc import ctc_model_class
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: ctc_model_class(model)(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
