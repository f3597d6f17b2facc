"""The whole path in minutes: a corpus that makes itself, units, pretraining, fine-tuning, word error rates.

Three systems get the same few minutes of transcribed speech and the same number of updates in all: one is fine-tuned
without pretraining, one pretrained on untranscribed speech first (UMLM alone), one on speech and text (SpeechLM-P). Of
each, the weights that were best on validation data are tested on voices that no system has heard. Every step is one of
the commands in examples/; its output goes to <output>/logs/. To continue an interrupted demo, give the same command
again.

    python examples/demo.py
    python examples/demo.py seeds=2    # each system twice: adds the second training to what is there, shows the spread
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command


@command("demo")
def main(cfg: DictConfig) -> None:
    from nemo_speechlm.demo.steps import run_demo

    run_demo(cfg)


if __name__ == "__main__":
    main()
