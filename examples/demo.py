"""The whole path in minutes: a corpus that makes itself, units, pretraining, fine-tuning, word error rates.

Three systems get the same few minutes of transcribed speech and the same number of updates: one without pretraining,
one pretrained on untranscribed speech (UMLM alone), one on speech and text (SpeechLM-P). All are tested on voices that
none of them has heard. Every step is one of the commands in examples/; its output goes to <output>/logs/. Interrupted,
the same command goes on.

    python examples/demo.py
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command


@command("demo")
def main(cfg: DictConfig) -> None:
    from nemo_speechlm.evaluation.demo import run_demo

    run_demo(cfg)


if __name__ == "__main__":
    main()
