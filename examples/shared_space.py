r"""Pictures of the space that speech and units share in SpeechLM models, and how well each layer aligns them.

    python examples/shared_space.py models=[swapping.nemo,no_swapping.nemo] manifest=valid.units.json output=space

alignment.csv and alignment.png say, layer by layer, what share of the frames is nearest to its own unit: in the speech
transformer to its embedding, behind each shared layer to its mean state in text. space.png shows states and units
before and after the shared layers, by phone.
"""

from omegaconf import DictConfig

from nemo_speechlm.checks import check_choice
from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.imports import importing


@command("shared_space")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "limit", "phones", "points", least=1)
    whole_numbers(cfg, "draws", "seed")
    check_choice("projection", cfg.projection, ("pca", "umap"))
    with importing():
        from nemo_speechlm.evaluation.space.run import run_shared_space

    run_shared_space(cfg)


if __name__ == "__main__":
    main()
