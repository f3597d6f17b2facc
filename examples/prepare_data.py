r"""Make a speech manifest, the JSON lines that all other commands read, of a folder of audio files:

    python examples/prepare_data.py corpus=folder source=my_recordings output=my_recordings/train.json

WAV, FLAC, MP3, Opus and Ogg files of any sample rate, with transcripts or without. A line of the manifest is

    {"audio_filepath": "a/1.flac", "duration": 3.21, "speaker": "a", "text": "what was said"}

where "speaker" and "text" are there if they are known. To check that a manifest fits its audio:

    python examples/prepare_data.py corpus=manifest source=train.json output=checked.json

or to take another of its keys as "text", such as what was said in speech that is to be translated:

    python examples/prepare_data.py corpus=manifest source=train.json output=said.json text_field=source_text \
        language=cs clean=true

LibriSpeech, Libri-Light, Common Voice, and the text of LibriSpeech's language model are read as they are published,
from folders or archives (whose checksums are checked where a list of them lies beside); download=true fetches those
that anyone may fetch. Data of other tools: corpus=kaldi, a folder with wav.scp; corpus=lhotse, a manifest of cuts, or
a folder of Lhotse Shar, whose audio stays in its tars; corpus=recipe, anything Lhotse has a recipe of;
corpus=huggingface, a folder that `datasets` opens; corpus=festvox, a voice of Festival, with the sentences that were
read for it.

    python examples/prepare_data.py corpus=librispeech source=LibriSpeech parts=[train-clean-100] output=train.json
    python examples/prepare_data.py corpus=libri_light source=small.tar output=speech.json
    python examples/prepare_data.py corpus=common_voice source=cv-corpus/de parts=[train] language=de output=train.json
    python examples/prepare_data.py corpus=librispeech_lm source=librispeech-lm-norm.txt.gz output=text.json
    python examples/prepare_data.py corpus=kaldi source=data/train output=train.json

A table of CoVoST 2 with Common Voice's clips becomes a manifest for speech translation: "text" is the translation,
"source_text" what was said; its name says the languages, "source_lang" and "target_lang".

    python examples/prepare_data.py corpus=covost2 source=fr/covost_v2.fr_en.train.tsv clips=fr/clips output=train.json

The demo's corpus, a small one that makes itself (four manifests with their audio, and a text file) in a folder:

    python examples/prepare_data.py corpus=demo output=demo/corpus language=en

Everything left out is counted by reason and listed file by file in <output>.skipped.jsonl. To continue an interrupted
run, give the same command again.
"""

import functools
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.checks import check_number
from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.data.corpora.folder import CorpusOptions, make_folder_work, make_manifest_work
from nemo_speechlm.data.corpora.sources import (
    LISTERS,
    check_parts,
    ready_source,
    recipe_folder,
    refuse_without_effect,
)
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.text.cleaning import make_cleaning_work
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import partial_path, refuse_overwrite
from nemo_speechlm.jobs.engines import Executor
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.types import Work
from nemo_speechlm.locks import only_writer

CORPORA = (*LISTERS, "librispeech_lm", "manifest", "demo")
AS_IT_IS = ("manifest", "covost2")  # their text is not cleaned unless that is asked for


@command("prepare_data")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "workers", "speaker_level", "sentences", least=1)
    whole_numbers(cfg, "seed", least=0)
    if cfg.corpus not in CORPORA:
        raise SpeechLMError(f"corpus is {cfg.corpus!r}, expected one of {', '.join(CORPORA)}")
    if cfg.corpus == "demo":
        _demo(cfg)
        return
    if cfg.source is None:
        raise SpeechLMError(f"not given: source; corpus={cfg.corpus} needs one, see --help")
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    options["parts"] = check_parts(options["parts"])
    refuse_without_effect(cfg.corpus, options)
    cleaned = _cleaned(cfg)
    refuse_overwrite(cfg.output, cfg.overwrite)
    with only_writer(cfg.output):
        source = ready_source(cfg.corpus, options, print)
        if cfg.corpus == "manifest":
            next(read_manifest(source, ["audio_filepath"]))  # a wrong file is found out at once
            report = _run(cfg, cleaned, source, functools.partial(make_manifest_work, source, cfg.output, cleaned))
        elif cfg.corpus == "librispeech_lm":
            report = _text(cfg, cleaned, source)
        else:
            report = _listed(cfg, cleaned, source, options)
    print(f"{cfg.output}: {report}")


def _listed(cfg: DictConfig, cleaned: CorpusOptions, source: Path, options: dict[str, Any]) -> JobReport:
    listing = partial_path(f"{cfg.output}.files")
    try:
        for note in LISTERS[cfg.corpus](source, listing, options):
            print(note)
        report = _run(cfg, cleaned, listing, functools.partial(make_folder_work, listing, cfg.output, cleaned))
        shutil.rmtree(recipe_folder(cfg.output), ignore_errors=True)
        return report
    finally:
        listing.unlink(missing_ok=True)


def _text(cfg: DictConfig, cleaned: CorpusOptions, source: Path) -> JobReport:
    name = "librispeech-lm-norm.txt.gz"
    source = source / name if source.is_dir() else source
    if not source.is_file():
        raise InputError(f"no such file; expected {name} of openslr.org/11", source)
    return _run(cfg, cleaned, source, functools.partial(make_cleaning_work, cleaned.cleaning, source))


def _demo(cfg: DictConfig) -> None:
    from nemo_speechlm.data.corpora.demo.corpus import (  # its dependencies are another extra
        DemoAmounts,
        make_demo_corpus,
    )

    amounts = DemoAmounts(**{field.name: cfg[field.name] for field in fields(DemoAmounts)})
    refuse_overwrite(Path(cfg.output) / "text.txt", cfg.overwrite)
    with only_writer(Path(cfg.output) / "text.txt"):
        corpus = make_demo_corpus(cfg.output, cfg.seed or 0, amounts, cfg.language.code)
    for path in corpus:
        with open(path, encoding="utf-8") as file:
            print(f"{path}: {sum(1 for _ in file)} lines")


def _run(cfg: DictConfig, cleaned: CorpusOptions, source: str | Path, make_work: Callable[[], Work]) -> JobReport:
    return run_job(
        source,
        cfg.output,
        make_work,
        settings=asdict(cleaned),
        libraries=("python", "soundfile"),
        workers=cfg.workers,
        engine=chosen(cfg.engine, Executor),
        skip_bad=cfg.skip_bad,
        overwrite=cfg.overwrite,
        description="prepare data",
    )


def _cleaned(cfg: DictConfig) -> CorpusOptions:
    for key in ("transcribed", "clean"):
        if cfg[key] not in (None, True, False):
            raise SpeechLMError(f"{key} is {cfg[key]!r}, expected true, false or null")
    for key in ("min_duration", "max_duration"):
        if cfg[key] is not None:
            check_number(key, cfg[key], least=0)
    cleaning = TextCleaning(characters=cfg.characters, case=cfg.case, other_characters=cfg.other_characters)
    return CorpusOptions(
        min_duration=cfg.min_duration,
        max_duration=cfg.max_duration,
        decode=cfg.decode,
        cleaning=cleaning if (cfg.corpus not in AS_IT_IS if cfg.clean is None else cfg.clean) else None,
        fix_duration=cfg.fix_duration,
        text_field=cfg.text_field,
    )


if __name__ == "__main__":
    main()
