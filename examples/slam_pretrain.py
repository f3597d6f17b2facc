"""Pretrain SLAM on speech, on text, and on pairs of both; or w2v-BERT on speech alone.

Speech needs no text and no units, text no speech; pairs are transcribed speech. To continue an interrupted run, give
the same command again (checkpoints are in exp_manager.exp_dir). Recipes: slam_small (two CPU cores, hours of speech),
slam_100m (one GPU), slam_600m (the paper's); w2v_bert_small, w2v_bert_100m and w2v_bert_600m.

    python examples/train_tokenizer.py source=text.json output=tokenizer vocab_size=1000
    python examples/slam_pretrain.py --config-name slam_small output=slam.nemo model.tokenizer.dir=tokenizer \\
        model.train_ds.speech.manifest_filepath=speech.json model.train_ds.text.manifest_filepath=text.json \\
        model.train_ds.pairs.manifest_filepath=pairs.json \\
        model.validation_ds.speech.manifest_filepath=valid.json \\
        model.validation_ds.text.manifest_filepath=valid.json \\
        model.validation_ds.pairs.manifest_filepath=valid.json

TLM without STM: model.tasks.stm=0
Speech and text without pairs: model.tasks.tlm=0 model.tasks.stm=0 model.tasks.ctc=0 model.stages=null \\
    model.train_ds.pairs=null model.validation_ds.pairs=null
SLAM as in the paper, without CTC: model.tasks.ctc=0 model.stages=null
Speech alone: --config-name w2v_bert_small output=w2v_bert.nemo with the two manifests of speech
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("slam_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.slam.model import SLAMModel
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: SLAMModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
