r"""Is system B better than system A? A paired bootstrap test on two results of speechlm_evaluate.py.

    python examples/compare_results.py a=results/greedy/utterances.jsonl b=results/lm/utterances.jsonl

Both must be of the same utterances. If a few speakers have many utterances each, use draw_by=speaker: it says what to
expect of other speakers.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifests.shards import one_file
from nemo_speechlm.files import refuse_overwrite


@command("compare", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "draws", least=100)
    whole_numbers(cfg, "show")
    from nemo_speechlm.evaluation.comparison import Pairing, write_comparison

    if cfg.output is not None:
        refuse_overwrite(cfg.output, cfg.overwrite)
    pairing = Pairing.read(one_file(cfg.a, "a"), one_file(cfg.b, "b"), cfg.measure)
    comparison = pairing.compare(cfg.draw_by, cfg.confidence, cfg.draws)
    print(pairing.table(comparison, cfg.confidence))
    for line in pairing.changes(cfg.show):
        print(line)
    if cfg.output is not None:
        write_comparison(cfg.output, pairing, comparison)


if __name__ == "__main__":
    main()
