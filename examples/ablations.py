r"""The paper's ablations: rows that are pretrained, fine-tuned and evaluated; a table with confidence intervals.

    python examples/ablations.py --config-name ablation_small output=ablations
    python examples/ablations.py output=ablations data=$DATA only=[none,speech,speechlm_p,no_swapping] seeds=3

Each step is one of the commands of examples/; dry_run=true prints them. Steps run side by side, on one core each, or
with devices=[0,1,2,3] on one GPU each; their output goes to <output>/logs/. To continue after an interruption, give
the same command again: finished steps are not repeated, and a training goes on from its last checkpoint. More rows or
seeds add to what is there. ablation_base is the paper's size.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers


@command("ablation_small")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "seeds", "pretrain_steps", "finetune_steps", "jobs", least=1)
    whole_numbers(cfg, "seed", "draws", "valid_lines")
    from nemo_speechlm.demo.ablations.run import run_ablation

    run_ablation(cfg)


if __name__ == "__main__":
    main()
