r"""Self-training: write down what a model recognizes in untranscribed speech, with how sure it is.

    python examples/pseudo_label.py model=pretrained.nemo manifest=untranscribed.json output=labelled.json \\
        decoding=lexicon lm=words.arpa keep=0.5
    python examples/speechlm_finetune_ctc.py --config-name ctc_small output=ctc.nemo \\
        model.init_from_pretrained=pretrained.nemo model.reuse_ctc_head=true \\
        model.train_ds.manifest_filepath=labelled.json model.validation_ds.manifest_filepath=valid.json

The score is the mean confidence of the words; a word's confidence is the geometric mean of the probabilities of its
characters. If the manifest has transcripts, the command prints the word error rates of the kept and of the left-out
utterances.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.imports import importing


@command("pseudo_label", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", "beam_size_token", "workers", least=1)
    whole_numbers(cfg, "num_workers")
    from nemo_speechlm.jobs.engines import Executor
    from nemo_speechlm.jobs.progress import progress_path

    if not progress_path(cfg.output).exists():
        refuse_overwrite(cfg.output, cfg.overwrite)
    engine = chosen(cfg.engine, Executor)
    from nemo_speechlm.decoding.options import DecodingOptions, files_of_lm

    options = DecodingOptions.of(cfg)
    with importing():
        from nemo_speechlm.evaluation.pseudo_labels import LabelSummary
        from nemo_speechlm.inference.pseudo_labels import label_manifest
        from nemo_speechlm.inference.search import refuse_unused
        from nemo_speechlm.models.common.hub import model_file
        from nemo_speechlm.tokenizers.jobs.several import for_each

    refuse_unused(cfg)

    def label(manifest: str, output: str) -> str:
        said = label_manifest(
            cfg.model,
            manifest,
            output,
            options,
            min_score=cfg.min_score,
            keep=cfg.keep,
            device=cfg.device,
            loading={"batch_duration": cfg.batch_duration, "num_workers": cfg.num_workers, "precision": cfg.precision},
            engine=engine,
            workers=cfg.workers,
            summary=LabelSummary(),
            skip_bad=cfg.skip_bad,
            overwrite=cfg.overwrite,
        )
        return f"{said}\n{output}"

    decides = ("model", "min_score", "keep", "precision")
    made_with = {"options": repr(options), **{key: cfg[key] for key in decides}}
    files = [model_file(cfg.model), *files_of_lm(options.lm)]
    print(for_each(cfg.manifest, cfg.output, made_with, label, files, skip_bad=cfg.skip_bad))


if __name__ == "__main__":
    main()
