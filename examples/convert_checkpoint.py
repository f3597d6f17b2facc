r"""Turn a checkpoint of others into a .nemo file: SpeechLM (pretrained, fine-tuned), its text-to-unit
model, HuBERT, wav2vec 2.0.

The kind of checkpoint is recognized by its content. No code inside a file is run. If a parameter is missing or left
over, it is listed and nothing is written.

    python examples/convert_checkpoint.py --input speechlmp_base_checkpoint_clean.pt --list
    python examples/convert_checkpoint.py --input speechlmp_base_checkpoint.pt --output speechlm_p_base.nemo
    python examples/convert_checkpoint.py --input finetuned.pt --label-dictionary dict.ltr.txt --output ctc.nemo
    python examples/convert_checkpoint.py --input text_to_unit.pt --phone-dictionary dict.txt \
        --unit-dictionary dict.km.txt --output text_to_unit.nemo
    python examples/convert_checkpoint.py --input hubert-base-ls960/ --output hubert.nemo
    python examples/convert_checkpoint.py --input pretrained.nemo --to fairseq --output for_the_released_code.pt
    python examples/convert_checkpoint.py --input ctc.nemo --to fairseq --unit-dictionary dict.phn.txt --output ctc.pt
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from nemo_speechlm.errors import SpeechLMError, system_error
from nemo_speechlm.imports import importing
from nemo_speechlm.locks import only_writer
from nemo_speechlm.program import as_typed, shown
from nemo_speechlm.quiet import quiet, verbose_by_environment

ONLY_TO_NEMO = (
    *("list", "label_dictionary", "phone_dictionary", "language", "lowercase", "speech_layers", "padding"),
    *("allow_missing", "allow_unused"),
)
"""Options that the way back does not have."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        shown(), description=as_typed(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="X", help="fairseq .pt file, or Hugging Face folder")
    add("--output", type=Path, metavar="Y.nemo", help="what to write")
    add(
        "--to",
        choices=("nemo", "fairseq"),
        default="nemo",
        help="fairseq: a .nemo file as a checkpoint that the released inference code loads: the encoder, with its CTC "
        "head or decoder if it was fine-tuned, or a text-to-unit model; dictionaries of characters or units stand "
        "beside it (default: nemo)",
    )
    add("--encoder-only", action="store_true", help="with --to fairseq: only the encoder of a fine-tuned model")
    add("--list", action="store_true", help="print what is in the input, and write nothing")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    add("--verbose", action="store_true", help="show what the libraries log")
    add(
        "--unit-dictionary",
        type=Path,
        metavar="FILE",
        help="fairseq's dictionary of units (dict.phn.txt), if the checkpoint has none; with --to fairseq, of the "
        "units of pretraining: the released code loads a CTC model only with (unused) tables of their size",
    )
    add(
        "--label-dictionary",
        type=Path,
        metavar="FILE",
        help="fairseq's dictionary of the characters that it writes (dict.ltr.txt), if the checkpoint has none",
    )
    add(
        "--phone-dictionary",
        type=Path,
        metavar="FILE",
        help="fairseq's dictionary of a text-to-unit model's phones, if the checkpoint has none",
    )
    add("--language", default="en", help="of the units (default: en)")
    add("--lowercase", action="store_true", help="lower the case of the characters (no two may become one)")
    add(
        "--speech-layers",
        type=int,
        metavar="N",
        help="layers of HuBERT or wav2vec 2.0 that become the speech "
        "transformer; the others become the shared one (default: half)",
    )
    add(
        "--padding",
        choices=("released", "exact"),
        help="released: an utterance's features depend on the padding of "
        "its batch, as in the released code (default for SpeechLM and text-to-unit models); exact: they do not "
        "(default for the others)",
    )
    add(
        "--allow-missing",
        action="append",
        default=[],
        metavar="NAME",
        help="a parameter or module of ours that may keep its random values; may be given several times",
    )
    add(
        "--allow-unused",
        action="append",
        default=[],
        metavar="NAME",
        help="a parameter or module of the input that may be left out; may be given several times",
    )
    arguments = parser.parse_args()
    if arguments.encoder_only and arguments.to != "fairseq":
        parser.error("--encoder-only needs --to fairseq")
    if arguments.to == "fairseq":
        for name in ONLY_TO_NEMO:
            if getattr(arguments, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} has no effect with --to fairseq")
    if arguments.output is None and not arguments.list:
        parser.error("give --output Y.nemo, or --list")
    return arguments


def main() -> None:
    arguments = parse()
    with (
        quiet(arguments.verbose or verbose_by_environment()),
        nullcontext() if arguments.output is None else only_writer(arguments.output),
    ):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    if arguments.to == "fairseq":
        with importing():
            from nemo_speechlm.interop.writing.checkpoint import export_fairseq

        count = export_fairseq(
            arguments.input,
            arguments.output,
            arguments.overwrite,
            arguments.encoder_only,
            arguments.unit_dictionary,
        )
        print(f"{arguments.output}: {count} tensors")
        return
    from nemo_speechlm.interop.plan import Options

    options = Options(
        unit_dictionary=arguments.unit_dictionary,
        label_dictionary=arguments.label_dictionary,
        phone_dictionary=arguments.phone_dictionary,
        language=arguments.language,
        speech_layers=arguments.speech_layers,
        released_padding=None if arguments.padding is None else arguments.padding == "released",
        lowercase=arguments.lowercase,
        allow_missing=tuple(arguments.allow_missing),
        allow_unused=tuple(arguments.allow_unused),
    )
    if arguments.list:
        from nemo_speechlm.interop.listing import describe
        from nemo_speechlm.interop.reading.source import read_source

        for line in describe(read_source(arguments.input), options):
            print(line)
        return
    with importing():
        from nemo_speechlm.interop.convert import convert

    plan = convert(arguments.input, arguments.output, options, arguments.overwrite)
    print(f"{arguments.output}: {plan.model} from {plan.source.kind.value}, {len(plan.weights)} parameters")
    reasons: dict[str, int] = {}
    for reason in plan.left.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        print(f"  {count} left out: {reason}")


if __name__ == "__main__":
    try:
        main()
    except SpeechLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a folder that is a file, a disk that is full
        print(f"error: {system_error(error)}", file=sys.stderr)
        sys.exit(1)
