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

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.files import refuse_overwrite


@command("pseudo_label", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "beam_size", "beam_size_token", least=1)
    refuse_overwrite(cfg.output, cfg.overwrite)
    from nemo_speechlm.decoding.options import DecodingOptions

    options = DecodingOptions.of(cfg)
    from nemo_speechlm.data.manifests.lines import write_manifest
    from nemo_speechlm.decoding.tokens import require_ctc
    from nemo_speechlm.evaluation.pseudo_labels import summary
    from nemo_speechlm.inference.pseudo_labels import chosen, pseudo_labels, read_speech
    from nemo_speechlm.inference.recognition import restore

    chosen([], cfg.min_score, cfg.keep)  # its errors before the work
    utterances = read_speech(cfg.manifest)
    loading = {"batch_duration": cfg.batch_duration, "num_workers": cfg.num_workers, "precision": cfg.precision}
    labels = list(pseudo_labels(require_ctc(restore(cfg.model, cfg.device)), utterances, options, **loading))
    kept = chosen(labels, cfg.min_score, cfg.keep)
    write_manifest(cfg.output, (label.line() for label, good in zip(labels, kept, strict=True) if good))
    print(f"{summary(labels, kept)}\n{cfg.output}")


if __name__ == "__main__":
    main()
