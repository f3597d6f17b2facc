r"""Fine-tune a pretrained SpeechLM encoder for recognition with CTC over characters (or train it from scratch).

Interrupted, the same command goes on from the last checkpoint in exp_manager.exp_dir. Recipes: ctc_small (two CPU
cores, hours of speech), ctc_base (8 GPUs, LibriSpeech 100 h, the paper's).

    python examples/speechlm_finetune_ctc.py --config-name ctc_small output=ctc.nemo \
        model.init_from_pretrained=pretrained.nemo \
        model.train_ds.manifest_filepath=train.json model.validation_ds.manifest_filepath=valid.json
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command


@command("ctc_small")
def main(cfg: DictConfig) -> None:
    from nemo_speechlm.models.ctc import SpeechLMCTCModel
    from nemo_speechlm.training import train

    train(cfg, lambda model, trainer: SpeechLMCTCModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
