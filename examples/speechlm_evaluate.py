"""Word and character error rates of a recognition model on a manifest.

Writes a line per utterance (text, pred_text, wer, cer and the counts behind them) and a summary, and prints a table.

    python examples/speechlm_evaluate.py model=ctc.nemo manifest=test.json output=results/test
"""

import time

from omegaconf import DictConfig

from nemo_speechlm.cli import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from nemo_speechlm.evaluation.recognition import read_utterances, restore, transcribe
    from nemo_speechlm.evaluation.report import RecognitionReport, ReportFiles

    files = ReportFiles.at(cfg.output, cfg.overwrite)
    utterances, skipped = read_utterances(cfg.manifest, text_field=cfg.text_field, skip_bad=cfg.skip_bad)
    model = restore(cfg.model, cfg.device)
    start = time.perf_counter()
    texts = transcribe(
        model, utterances, batch_duration=cfg.batch_duration, num_workers=cfg.num_workers, precision=cfg.precision
    )
    seconds = time.perf_counter() - start
    audio = sum(utterance.duration for utterance in utterances)
    report = RecognitionReport.of([u.record for u in utterances], [u.text for u in utterances], texts)
    report.write(
        files,
        skipped,
        model=cfg.model,
        manifest=cfg.manifest,
        audio_hours=round(audio / 3600, 4),
        seconds=round(seconds, 2),
    )
    print(f"\n{cfg.manifest}: {len(utterances)} utterances, {audio / 3600:.2f} h, {audio / seconds:.1f} x real time")
    print(report.table())
    if skipped:
        print(f"{len(skipped)} lines left out: {files.skipped}")
    print(f"{files.utterances}\n{files.summary}")


if __name__ == "__main__":
    main()
