r"""Word, character and phone error rates of a recognition model on a manifest; BLEU and chrF of a translation model.

Writes a line per utterance (text, pred_text, their alignment, wer, cer and the counts behind them), a summary with
confidence intervals, and a page of the worst utterances; prints a table.

    python examples/speechlm_evaluate.py model=ctc.nemo manifest=test.json output=results/test split_by=[speaker]

With a language model (train_ngram.py), whose weights are tuned on other data first:

    python examples/speechlm_evaluate.py model=ctc.nemo manifest=test.json output=results/lm \
        decoding=lexicon lm=words.arpa.gz tune_on=valid.json

compare_results.py tells whether a difference between two results is more than chance.
"""

import sys
import time
from functools import partial
from typing import Any

from omegaconf import DictConfig

from nemo_speechlm.checks import check_choice, check_number
from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.command_help import language_folders
from nemo_speechlm.data.manifests.shards import label
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import file_digest, refuse_input_as_output
from nemo_speechlm.imports import importing
from nemo_speechlm.locks import only_writer


@command("evaluate")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "draws", "worst", "num_workers")
    whole_numbers(cfg, "beam_size", "beam_size_token", least=1)
    check_number("confidence", cfg.confidence, above=0, below=1)
    if cfg.length_penalty is not None:
        check_number("length_penalty", cfg.length_penalty)
    check_choice("tune_for", cfg.tune_for, ("wer", "cer"))
    if cfg.decoding is not None:
        from nemo_speechlm.decoding.options import KINDS

        check_choice("decoding", cfg.decoding, KINDS)
    for key in ("lm_weights", "word_scores"):
        for value in cfg[key]:
            check_number(f"each of {key}", value)
    if cfg.tune_on is not None and cfg.lm is None:
        raise SpeechLMError("tune_on tunes the weights of a language model: say lm=, or leave it out")
    if cfg.tune_on is not None and (cfg.lm_weight, cfg.word_score) != (1.0, 0.0):
        raise SpeechLMError(
            "tune_on chooses lm_weight and word_score among lm_weights and word_scores; leave the former out"
        )
    if cfg.units_field is not None and cfg.phonemizer is None:
        raise SpeechLMError(
            "units_field is of PER: say phonemizer=, which pronounces what is recognized, or leave it out"
        )
    from nemo_speechlm.evaluation.report import ReportFiles

    files = ReportFiles.at(cfg.output, cfg.overwrite)
    inputs = {key: cfg[key] for key in ("model", "manifest", "lm", "tune_on")}
    refuse_input_as_output(vars(files).values(), inputs)
    with only_writer(files.utterances):
        _evaluate(cfg, files)


def _evaluate(cfg: DictConfig, files: Any) -> None:
    """Recognize and report, once nobody else writes the report's files."""
    with importing():
        from nemo_speechlm.evaluation.phones import make_phones
        from nemo_speechlm.evaluation.report import RecognitionReport, ReportOptions, split_tables
        from nemo_speechlm.evaluation.test_sets import read_utterances, unwritable
        from nemo_speechlm.evaluation.translation import check_languages, translation_scores
        from nemo_speechlm.evaluation.worst_page import write_page
        from nemo_speechlm.inference.recognition import letters_of, restore
        from nemo_speechlm.inference.search import is_translation
        from nemo_speechlm.models.common.hub import model_file

    utterances, skipped = read_utterances(cfg.manifest, text_field=cfg.text_field, skip_bad=cfg.skip_bad)
    references = [utterance.text for utterance in utterances]
    phones = None
    if cfg.phonemizer is not None:
        phones = make_phones(cfg.phonemizer, cfg.units_field, language_folders(), references)
    options = ReportOptions(phones, tuple(cfg.split_by), cfg.draws, cfg.confidence, cfg.draw_by)
    options.check([utterance.record for utterance in utterances])
    model = restore(cfg.model, cfg.device)
    content = file_digest(model_file(cfg.model))
    check_languages(model, [u.record for u in utterances], label(cfg.manifest))
    manifest = label(cfg.manifest)
    if (warning := unwritable(references, letters_of(model))) is not None:
        print(f"{manifest}: {warning}", file=sys.stderr)
    start = time.perf_counter()
    texts, facts = _recognize(cfg, model, utterances, files)
    seconds = time.perf_counter() - start - facts.get("tuning_seconds", 0.0)
    audio = sum(utterance.duration for utterance in utterances)
    scores = {}
    if is_translation(model) if cfg.translation is None else cfg.translation:
        scores = translation_scores(texts, references, model.cfg.get("target_lang"))
    report = RecognitionReport.of([u.record for u in utterances], references, texts, options, scores)
    facts |= {"audio_hours": round(audio / 3600, 4), "seconds": round(seconds, 2)}
    if cfg.tune_on is None:  # of an earlier report
        files.summary.unlink(missing_ok=True)
        files.tuning.unlink(missing_ok=True)
    page = partial(write_page, files.page, report.records, manifest=manifest, count=cfg.worst) if cfg.worst else None
    facts = {"model": cfg.model, "model_sha256": content, "manifest": manifest, **facts}
    summary = report.write(files, skipped, page, **facts)
    print(f"\n{manifest}: {len(utterances)} utterances, {audio / 3600:.2f} h, {audio / seconds:.1f} x real time")
    print(report.table() + split_tables(summary))
    for name, value in scores.items():
        print(f"{name}: {'undefined' if value is None else value}")
    if skipped:
        print(f"{len(skipped)} lines left out: {files.skipped}")
    print("\n".join(str(path) for path in (files.utterances, files.summary, *([files.page] if cfg.worst else []))))


def _recognize(cfg: DictConfig, model, utterances: list, files) -> tuple[list[str], dict]:
    """The texts, and what the summary should say of how they came about."""
    from nemo_speechlm.evaluation.test_sets import read_utterances
    from nemo_speechlm.evaluation.tuning import best_trial, on_the_edge, refuse_tested, tune, write_trials
    from nemo_speechlm.inference.ctc_text import CTCText, log_probabilities
    from nemo_speechlm.inference.recognition import choose_strategy, transcribe
    from nemo_speechlm.inference.search import has_attention_decoder, refuse_unused, set_search

    refuse_unused(cfg, model)
    if has_attention_decoder(model):
        if cfg.lm is not None or cfg.decoding not in (None, "greedy", "beam"):
            raise SpeechLMError("language models are for CTC models; this one has an attention decoder")
        beam_size = 1 if cfg.decoding == "greedy" else cfg.beam_size
        set_search(model, beam_size=beam_size, length_penalty=cfg.length_penalty)
        cfg.decoding = None
    loading = {"batch_duration": cfg.batch_duration, "num_workers": cfg.num_workers, "precision": cfg.precision}
    if cfg.decoding is None and cfg.lm is None and cfg.tune_on is None:
        facts: dict[str, Any] = {"decoding": "the model's own"}
        if has_attention_decoder(model):
            search = model.cfg.decoding
            facts = {"decoding": "beam", "beam_size": search.beam_size, "length_penalty": search.length_penalty}
        return transcribe(model, utterances, **loading), facts
    from nemo_speechlm.decoding.options import DecodingOptions, with_weights
    from nemo_speechlm.decoding.tokens import is_ctc, require_ctc

    options = DecodingOptions.of(cfg)
    facts = {"decoding": options.kind}
    if options.kind != "greedy":
        facts["beam_size"] = options.beam_size
    if not is_ctc(model) and options.lm is None and cfg.tune_on is None:
        choose_strategy(model, options.kind, options.beam_size)
        return transcribe(model, utterances, **loading), facts
    text = CTCText.of(require_ctc(model), options)
    if options.lm is not None:
        facts["lm"] = options.lm
        if cfg.tune_on is not None:
            start = time.perf_counter()
            held_out, _ = read_utterances(cfg.tune_on, text_field=cfg.text_field, skip_bad=cfg.skip_bad)
            refuse_tested(held_out, utterances, label(cfg.tune_on))
            log_probs = log_probabilities(model, held_out, **loading)
            references = [utterance.text for utterance in held_out]
            trials = tune(text, log_probs, references, options, cfg.lm_weights, cfg.word_scores)
            files.summary.unlink(missing_ok=True)  # of an earlier report
            write_trials(files.tuning, trials)
            best = best_trial(trials, cfg.tune_for)
            options = with_weights(options, best.lm_weight, best.word_score)
            facts |= {"tuned_on": label(cfg.tune_on), "tuning_seconds": round(time.perf_counter() - start, 2)}
            print(
                f"{label(cfg.tune_on)}: lm_weight={best.lm_weight:g} word_score={best.word_score:g} "
                f"({cfg.tune_for.upper()} {best.rate(cfg.tune_for):.2%}; all {len(trials)} pairs: {files.tuning})"
            )
            if remark := on_the_edge(best, cfg.lm_weights, cfg.word_scores):
                print(f"warning: {remark}", file=sys.stderr)
        facts |= {"lm_weight": options.lm_weight, "word_score": options.word_score}
    found = text.decode(log_probabilities(model, utterances, **loading), options)
    return [text.text(decoded) for decoded in found], facts


if __name__ == "__main__":
    main()
