r"""Train a frame classifier: which phone is heard in each 10 ms, for speech that nobody transcribed.

It learns from speech with units, as tokenize_speech.py makes them of transcribed speech by alignment, or
train_aligner.py's aligner. tokenize_speech.py then uses it for the rest (speech_tokenizer=frame_classifier).

    python examples/train_frame_classifier.py output=classifier.nemo model.units=units.json \
        model.train_ds.speech.manifest_filepath=train_units.json \
        model.validation_ds.speech.manifest_filepath=valid_units.json

Validation logs the share of frames whose phone is right, and the error rates of what Viterbi decodes, in phones and in
units of the inventory. To continue an interrupted run, give the same command again (checkpoints are in
exp_manager.exp_dir). Recipes: frame_classifier_small (two CPU cores, hours of speech), frame_classifier (a GPU).
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.imports import importing
from nemo_speechlm.training.options import check_recipe


@command("frame_classifier_small")
def main(cfg: DictConfig) -> None:
    check_recipe(cfg)
    with importing():
        from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel
        from nemo_speechlm.training.run import train

    train(cfg, lambda model, trainer: FrameClassifierModel(cfg=model, trainer=trainer))


if __name__ == "__main__":
    main()
