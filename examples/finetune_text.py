"""Fine-tune the text side of a SLAM model on classes of sentences, or of pairs of sentences.

The files are tab-separated with a header, as those of GLUE. To see what speech costs the text side, fine-tune
models that were pretrained on other tasks (model.tasks) on the same files.

    python examples/finetune_text.py output=sst2.nemo model.init_from_pretrained=slam.nemo \\
        model.train_ds.file=SST-2/train.tsv model.validation_ds.file=SST-2/dev.tsv
    python examples/finetune_text.py --config-name finetune_text_mrpc output=mrpc.nemo \\
        model.init_from_pretrained=slam.nemo model.train_ds.file=MRPC/train.tsv model.validation_ds.file=MRPC/dev.tsv
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("finetune_text")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.slam.classifier import SLAMTextClassifier
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: SLAMTextClassifier(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
