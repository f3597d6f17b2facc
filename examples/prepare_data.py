r"""Make a speech manifest, the JSON lines that all other commands read, of a folder of audio files:

    python examples/prepare_data.py corpus=folder source=my_recordings output=my_recordings/train.json

WAV, FLAC, MP3, Opus and Ogg files of any sample rate, with transcripts or without. A line of the manifest is

    {"audio_filepath": "a/1.flac", "duration": 3.21, "speaker": "a", "text": "what was said"}

where "speaker" and "text" are there if they are known. To check that a manifest fits its audio:

    python examples/prepare_data.py corpus=manifest source=train.json output=checked.json

or to take another of its keys as "text", such as what was said in speech that is to be translated:

    python examples/prepare_data.py corpus=manifest source=train.json output=said.json text_field=source_text \
        language=cs clean=true

A table of CoVoST 2 with Common Voice's clips becomes a manifest for speech translation: "text" is the translation,
"source_text" what was said; its name says the languages, "source_lang" and "target_lang".

    python examples/prepare_data.py corpus=covost2 source=fr/covost_v2.fr_en.train.tsv clips=fr/clips output=train.json

The demo's corpus, a small one that makes itself (four manifests with their audio, and a text file) in a folder:

    python examples/prepare_data.py corpus=demo output=demo/corpus language=en

Everything left out is counted by reason and listed file by file in <output>.skipped.jsonl. To continue an interrupted
run, give the same command again.
"""

import functools
from dataclasses import asdict, fields
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.corpora.covost2 import list_covost2
from nemo_speechlm.data.corpora.folder import CorpusOptions, list_folder, make_folder_work, make_manifest_work
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import partial_path, refuse_overwrite
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.workers import default_workers
from nemo_speechlm.locks import only_writer


@command("prepare_data")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "workers", "speaker_level", "sentences", least=1)
    whole_numbers(cfg, "seed", least=0)
    corpora = {"folder": _folder, "manifest": _manifest, "covost2": _covost2}
    if cfg.corpus == "demo":
        _demo(cfg)
        return
    if cfg.corpus not in corpora:
        raise SpeechLMError(f"corpus is {cfg.corpus!r}, expected one of {', '.join([*corpora, 'demo'])}")
    if cfg.source is None:
        raise SpeechLMError("not given: source; say source=..., or --help")
    refuse_overwrite(cfg.output, cfg.overwrite)
    with only_writer(cfg.output):
        report = corpora[cfg.corpus](cfg)
    print(f"{cfg.output}: {report}")


def _folder(cfg: DictConfig) -> JobReport:
    options = _options(cfg, clean=True)
    listing = partial_path(f"{cfg.output}.files")
    files, unmatched = list_folder(
        cfg.source,
        listing,
        transcripts=cfg.transcripts,
        transcribed=cfg.transcribed,
        speaker_level=cfg.speaker_level,
    )
    if unmatched:
        print(f"{cfg.transcripts}: {unmatched} transcripts belong to none of the {files} audio files")
    try:
        return _run(cfg, options, listing, functools.partial(make_folder_work, listing, cfg.output, options))
    finally:
        listing.unlink()


def _manifest(cfg: DictConfig) -> JobReport:
    options = _options(cfg, clean=False)
    next(read_manifest(cfg.source, ["audio_filepath"]))  # a wrong file is found out at once
    return _run(cfg, options, cfg.source, functools.partial(make_manifest_work, cfg.source, cfg.output, options))


def _covost2(cfg: DictConfig) -> JobReport:
    options = _options(cfg, clean=False)
    listing = partial_path(f"{cfg.output}.files")
    list_covost2(cfg.source, listing, clips=cfg.clips, source_lang=cfg.source_lang, target_lang=cfg.target_lang)
    try:
        return _run(cfg, options, listing, functools.partial(make_folder_work, listing, cfg.output, options))
    finally:
        listing.unlink()


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


def _run(cfg: DictConfig, options: CorpusOptions, source: str | Path, make_work: functools.partial) -> JobReport:
    return run_job(
        source,
        cfg.output,
        make_work,
        settings=asdict(options),
        workers=cfg.workers or default_workers(),
        skip_bad=cfg.skip_bad,
        overwrite=cfg.overwrite,
        description="prepare data",
        unit="file",
    )


def _options(cfg: DictConfig, clean: bool) -> CorpusOptions:
    if cfg.source is None:
        raise SpeechLMError(f"not given: source; corpus={cfg.corpus} needs one, see --help")
    for key in ("min_duration", "max_duration"):
        if cfg[key] is not None and not isinstance(cfg[key], int | float):
            raise SpeechLMError(f"{key} is {cfg[key]!r}, expected seconds")
    cleaning = TextCleaning(characters=cfg.characters, case=cfg.case, other_characters=cfg.other_characters)
    return CorpusOptions(
        min_duration=cfg.min_duration,
        max_duration=cfg.max_duration,
        decode=cfg.decode,
        cleaning=cleaning if (clean if cfg.clean is None else cfg.clean) else None,
        fix_duration=cfg.fix_duration,
        text_field=cfg.text_field,
    )


if __name__ == "__main__":
    main()
