r"""Probing as in SUPERB: what the layers of a frozen encoder know, measured with a light head.

The model stays as it is. A softmax over its layers and a head are learned: of phones or characters (CTC), of the
speaker, a keyword or an intent. To continue an interrupted run, give the same command again.

    python examples/probe.py task=phones model=pretrained.nemo train=train.json valid=valid.json test=test.json \
        output=probes/phones

The baselines are mel features and the same architecture with random weights; a paired test says which is better:

    python examples/probe.py task=phones model=random recipe=pretrained.nemo train=train.json valid=valid.json \
        test=test.json output=probes/phones_random against=[probes/phones]

Recipes: probe (SUPERB's), probe_small (two CPU cores): --config-name probe_small.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.imports import importing


@command("probe", models=("fbank", "random"))
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "seed", "num_workers", "draws")
    whole_numbers(cfg, "batch_size", least=1)
    with importing():
        from nemo_speechlm.evaluation.probing.run import run_probe
        from nemo_speechlm.training.run import train

    run_probe(cfg, train)


if __name__ == "__main__":
    main()
