r"""Pictures of the space that speech and units share in SpeechLM models, and how well each layer aligns them.

    python examples/shared_space.py models=[swapping.nemo,no_swapping.nemo] manifest=valid.units.json output=space

alignment.csv and alignment.png say, layer by layer, what share of the frames is nearest to its own unit: in the speech
transformer to its embedding, behind each shared layer to its mean state in text. space.png shows states and units
before and after the shared layers, by phone.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command


@command("shared_space")
def main(cfg: DictConfig) -> None:
    from nemo_speechlm.evaluation.space.run import run_shared_space

    run_shared_space(cfg)


if __name__ == "__main__":
    main()
