"""The steps of each row: pretraining, fine-tuning, evaluation, once for each seed."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.checks import check_choice
from nemo_speechlm.demo.ablations.data_steps import Prepared, step
from nemo_speechlm.demo.ablations.rows import FINE_TUNING, WITH_CTC_HEAD, Row
from nemo_speechlm.demo.overrides import option
from nemo_speechlm.demo.steps import training_length
from nemo_speechlm.demo.workflow import Step
from nemo_speechlm.errors import SpeechLMError

_SCRIPTS = {"slam": "slam_pretrain.py", "w2v_bert": "slam_pretrain.py", "maestro": "maestro_pretrain.py"}

_NO_TEXT = ("model.train_ds.text=null", "model.validation_ds.text=null")


def seeds_of(cfg: DictConfig) -> range:
    """Each row is trained with these."""
    return range(cfg.seed, cfg.seed + cfg.seeds)


def tuned_name(row: Row, decoder: str) -> str:
    """A row fine-tuned with a kind of recognizer, as names of steps and files have it."""
    return row.name if decoder == "ctc" else f"{row.name}_{decoder}"


def result_folder(folder: Path, row: Row, decoder: str, seed: int) -> Path:
    """Where the evaluation of a row writes."""
    return folder / f"seed{seed}" / f"test_{tuned_name(row, decoder)}"


def ablation_steps(cfg: DictConfig, folder: Path, rows: Sequence[Row]) -> list[Step]:
    """All steps; seed by seed, so that a first table is there early."""
    prepared = Prepared.of(cfg, folder)
    found = prepared.steps(rows)
    for seed in seeds_of(cfg):
        for row in rows:
            found += _row_steps(prepared, row, seed)
    return found


def decoders_of(cfg: DictConfig) -> list[str]:
    """The kinds of recognizers that each pretrained model is fine-tuned to.

    Raises:
        SpeechLMError: if there is none, one is unknown or twice, or has no recipe.
    """
    kinds = list(cfg.decoders or [])
    if not kinds or len(set(kinds)) < len(kinds):
        raise SpeechLMError(f"decoders is {kinds}; expected at least one of {', '.join(FINE_TUNING)}, each once")
    for kind in kinds:
        check_choice("decoders", kind, tuple(FINE_TUNING))
        if cfg.recipes.get(kind) is None:
            raise SpeechLMError(f"decoders has {kind}, for which recipes.{kind} names no recipe")
    return kinds


def updates(cfg: DictConfig, row: Row) -> tuple[int, int]:
    """A row's updates of pretraining and of fine-tuning; all rows get as many in all."""
    total = cfg.pretrain_steps + cfg.finetune_steps
    return (0, total) if row.system is None else (cfg.pretrain_steps, cfg.finetune_steps)


def _row_steps(prepared: Prepared, row: Row, seed: int) -> list[Step]:
    cfg, data = prepared.cfg, prepared.data
    here = prepared.folder / f"seed{seed}"
    pretrained = here / f"pretrained_{row.name}.nemo"
    found, start, needs = [], [], prepared.corpus
    common = ("trainer.devices=auto", f"seed={seed}", option("exp_manager.exp_dir", here / "runs"))
    if row.system is not None:
        arguments, made_by = _pretraining(prepared, row)
        found.append(
            step(
                f"pretrain_{row.name}_seed{seed}", _SCRIPTS.get(row.system, "speechlm_pretrain.py"), pretrained,
                "--config-name", cfg.recipes[row.system], f"name=pretrain_{row.name}",
                option("output", pretrained), *training_length(cfg.pretrain_steps), *common, *arguments,
                *cfg.system_set.get(row.system, ()), *cfg.pretrain_set, *row.set, needs=made_by,
            )
        )  # fmt: skip
        start, needs = [option("model.init_from_pretrained", pretrained)], (f"pretrain_{row.name}_seed{seed}",)
    for decoder in decoders_of(cfg):
        tuned = tuned_name(row, decoder)
        model, output = here / f"{decoder}_{row.name}.nemo", result_folder(prepared.folder, row, decoder, seed)
        reuse = str(row.system in WITH_CTC_HEAD and row.reads_text).lower()
        found.append(
            step(
                f"finetune_{tuned}_seed{seed}", FINE_TUNING[decoder], model, "--config-name", cfg.recipes[decoder],
                f"name=finetune_{tuned}", option("output", model),
                option("model.train_ds.manifest_filepath", data.train),
                option("model.validation_ds.manifest_filepath", data.valid),
                *training_length(updates(cfg, row)[1]), *common, *start,
                *([f"model.reuse_ctc_head={reuse}"] if decoder == "ctc" else []), *cfg.finetune_set,
                *row.finetune_set.get(decoder, ()), needs=needs,
            )
        )  # fmt: skip
        arguments = [
            option("model", model),
            option("manifest", data.test),
            option("output", output),
            *cfg.evaluate_set,
        ]
        needed = (f"finetune_{tuned}_seed{seed}",)
        found.append(
            step(
                f"evaluate_{tuned}_seed{seed}",
                "speechlm_evaluate.py",
                output / "summary.json",
                *arguments,
                needs=needed,
            )
        )
    return found


def _pretraining(prepared: Prepared, row: Row) -> tuple[list[str], list[str]]:
    """Data options of a row's pretraining, and the steps that make them."""
    if row.system in WITH_CTC_HEAD:
        return _units(prepared, row)
    folder, data = prepared.folder, prepared.data
    speech = [path for path in (data.unlabeled, data.train) if path is not None]
    arguments = [
        option("model.train_ds.speech.manifest_filepath", speech),
        option("model.validation_ds.speech.manifest_filepath", data.valid),
    ]
    if row.system == "w2v_bert":
        return arguments, list(prepared.corpus)
    texts, needs = _NO_TEXT, list(prepared.corpus)
    if row.reads_text:
        text, made_by = prepared.text(row)
        needs = [made_by]
        texts = (
            option("model.train_ds.text.manifest_filepath", text),
            option("model.validation_ds.text.manifest_filepath", folder / "valid_text.json"),
        )
    arguments += [
        *texts,
        option("model.train_ds.pairs.manifest_filepath", data.train),
        option("model.validation_ds.pairs.manifest_filepath", data.valid),
    ]
    if row.system == "maestro":
        return arguments, needs
    return [option("model.tokenizer.dir", folder / "tokens"), *arguments], ["tokens", *needs]


def _units(prepared: Prepared, row: Row) -> tuple[list[str], list[str]]:
    folder = prepared.folder
    kind = "units" if row.system == "speechlm_p" else "hidden"
    inventory = folder / ("units.json" if row.system == "speechlm_p" else "hidden_units.json")
    speech = [folder / f"{name}.{kind}.json" for name in ("train", "unlabeled") if name in prepared.parts]
    arguments = [
        option("model.units", inventory),
        option("model.train_ds.speech.manifest_filepath", speech),
        option("model.validation_ds.speech.manifest_filepath", folder / f"valid.{kind}.json"),
    ]
    needs = [f"{kind}_{name}" for name in prepared.parts]
    if not row.reads_text:
        return [*arguments, *_NO_TEXT, "model.loss.uctc=0", "model.swapping.prob=0"], needs
    hidden = row.system == "speechlm_h"
    text, made_by = prepared.text_units(row, hidden)
    text_kind = "hidden" if hidden else "units"
    if row.system == "mixed":
        arguments.append(option("model.text_units", folder / "units.json"))
    arguments += [
        option("model.train_ds.text.manifest_filepath", text),
        option("model.validation_ds.text.manifest_filepath", folder / f"valid_text.{text_kind}.json"),
    ]
    return arguments, [*needs, made_by, f"{text_kind}_valid_text"]
