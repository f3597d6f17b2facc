r"""Text-only adaptation: word errors of a recognizer in its old domain and in a new one, before and after.

    python benchmarks/text_only_adaptation.py --work runs/adaptation --model ctc.nemo --pretrained pretrained.nemo \
        --units units.json --train train.json --valid valid.json --test test.json \
        --domain-text domain.txt.gz --domain-test domain_test.json --text text.json

``--domain-text`` must not hold the sentences of ``--domain-test``; the program counts those that it does, and leaves
them out. Each recognizer decodes without a language model (``greedy``), with one of ``--text`` (``lexicon``), and with
that one mixed with one of the new domain's text (``mixed``; both need the extra ``lm``). Their weights are tuned on
``--valid``. Steps that are done are not done again; the run of the adaptation goes on where it stopped. Figures go to
text_only_adaptation.csv.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.common import report  # noqa: E402
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest  # noqa: E402


def run(output: Path, command: str, *options: object) -> None:
    """Run a command unless its output is there."""
    if not output.exists():
        subprocess.run([sys.executable, ROOT / "examples" / f"{command}.py", *map(str, options)], check=True)


def prepare_text(options: argparse.Namespace) -> tuple[Path, int]:
    """Units of the new domain's text without the test's sentences; how many of these were in it."""
    everything, text = options.work / "everything.json", options.work / "domain.json"
    run(everything, "prepare_text", f"source={options.domain_text}", f"output={everything}", "max_characters=250")
    tested = {" ".join(record["text"].split()) for _, record in read_manifest(options.domain_test, ["text"])}
    records = [record for _, record in read_manifest(everything, ["text"])]
    kept = [record for record in records if record["text"] not in tested]
    if not text.exists():
        write_manifest(text, kept)
    units = options.work / "domain.units.json"
    run(units, "tokenize_text", f"manifest={text}", f"output={units}", f"units={options.units}")
    return units, len(records) - len(kept)


def rates(options: argparse.Namespace, model: Path, name: str) -> list[dict[str, Any]]:
    """Error rates of a recognizer on both tests, without and with a language model."""
    rows = []
    source = f"source=[{','.join(map(str, options.text))}]"
    words, mixed = options.work / "words.arpa.gz", options.work / "mixed.arpa.gz"
    run(words, "train_ngram", source, f"output={words}", "vocabulary_size=50000")
    domain_text = f"adapt_to={options.work / 'domain.json'}"
    run(mixed, "train_ngram", source, f"output={mixed}", "vocabulary_size=50000", domain_text)
    for domain, manifest in (("old", options.test), ("new", options.domain_test)):
        for decoding, lm in (("greedy", None), ("lexicon", words), ("mixed", mixed)):
            output, more = options.work / f"{name}_{domain}_{decoding}", []
            if lm is not None:
                more = [f"lm={lm}", "decoding=lexicon", f"tune_on={options.valid}", f"beam_size={options.beam_size}"]
            run(
                output / "summary.json", "speechlm_evaluate",
                f"model={model}", f"manifest={manifest}", f"output={output}", *more,
            )  # fmt: skip
            found = json.loads((output / "summary.json").read_text())
            low, high = found["wer_interval"] or (float("nan"), float("nan"))
            rows.append(
                {
                    "recognizer": name, "domain": domain, "decoding": decoding, "wer": found["wer"], "wer_low": low,
                    "wer_high": high, "cer": found["cer"],
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Adapt, decode, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--model", type=Path, required=True, help="the recognizer, fine-tuned with CTC")
    parser.add_argument("--pretrained", type=Path, required=True, help="the file that its units' embedding is in")
    parser.add_argument("--units", type=Path, required=True, help="units.json of pretraining")
    for name in ("train", "valid", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="manifest of the old domain")
    parser.add_argument("--domain-text", type=Path, required=True, help="sentences of the new domain, a line each")
    parser.add_argument("--domain-test", type=Path, required=True, help="manifest of its speech")
    parser.add_argument("--text", type=Path, action="append", required=True, help="text of the language model")
    parser.add_argument("--beam-size", type=int, default=100)
    parser.add_argument("overrides", nargs="*", help="of the recipe adapt_small, such as trainer.max_steps=600")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    units, overlapping = prepare_text(options)
    print(f"{overlapping} sentences of the text are in the test and left out", flush=True)
    adapted = options.work / "adapted.nemo"
    run(
        adapted, "speechlm_finetune_ctc", "--config-name", "adapt_small", f"output={adapted}",
        f"exp_manager.exp_dir={options.work / 'runs'}", f"model.init_from_pretrained={options.model}",
        f"model.text_branch.init_from={options.pretrained}", f"model.train_ds.manifest_filepath={options.train}",
        f"model.validation_ds.manifest_filepath={options.valid}", f"model.train_ds.text.manifest_filepath={units}",
        *options.overrides,
    )  # fmt: skip
    rows = [*rates(options, options.model, "before"), *rates(options, adapted, "after")]
    report("text_only_adaptation", rows, ("torch", "nemo_toolkit"))


if __name__ == "__main__":
    main()
