r"""Fine-tune a pretrained SpeechLM encoder for recognition with a transducer (RNN-T).

To continue an interrupted run, give the same command again (checkpoints are in exp_manager.exp_dir). Recipes:
rnnt_small (two CPU cores, hours of speech), rnnt_base (8 GPUs).

    python examples/speechlm_finetune_rnnt.py --config-name rnnt_small output=rnnt.nemo \
        model.init_from_pretrained=pretrained.nemo \
        model.train_ds.manifest_filepath=train.json model.validation_ds.manifest_filepath=valid.json

The model writes characters, or the tokens of train_tokenizer.py with model.tokenizer.dir=FOLDER: fewer, so less memory
and time per utterance.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("rnnt_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.recognition.transducer import build_transducer
        from nemo_speechlm.training.run import train

    train(cfg, build_transducer)


if __name__ == "__main__":
    main()
