"""What is installed and what is used: versions, devices, kernels and optimizers, and what is missing for what.

python examples/info.py
python examples/info.py format=json     # for a program, or for a report of an error
"""

from omegaconf import DictConfig

from nemo_speechlm.checks import check_choice
from nemo_speechlm.cli import command


@command("info")
def main(cfg: DictConfig) -> None:
    check_choice("format", cfg.format, ("text", "json"))
    import json

    from nemo_speechlm.environment import find_environment

    found = find_environment()
    print(found.text() if cfg.format == "text" else json.dumps(found.to_dict(), indent=1))


if __name__ == "__main__":
    main()
