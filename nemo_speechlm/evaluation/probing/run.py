"""From a probe's config to its result: training, testing, comparing; what is complete is not done again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.probing.model import ProbeModel
from nemo_speechlm.evaluation.probing.pictures import plot_layer_weights
from nemo_speechlm.evaluation.probing.results import (
    RESULT,
    WEIGHTS,
    compare_with,
    judge,
    summary_line,
    write_result,
)
from nemo_speechlm.evaluation.probing.targets import learn_answers
from nemo_speechlm.evaluation.probing.upstream import FBANK, RANDOM
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.models.common.archive import missing_part
from nemo_speechlm.models.common.hub import model_file
from nemo_speechlm.models.common.restore import restore_file

Train = Callable[[DictConfig, Callable[..., ProbeModel]], Path]
"""Trains the model of a recipe: :func:`nemo_speechlm.training.run.train`."""


def run_probe(cfg: DictConfig, train: Train) -> dict[str, Any]:
    """Train a probe if that is not done yet, test it, and leave its files in ``cfg.output``; see ``conf/probe.yaml``.

    Returns:
        the result; of several processes the first one has it, the others have none.

    Raises:
        InputError: if the result is there already, unless ``cfg.overwrite``; or naming what is wrong in the data.
        SpeechLMError: naming the key of ``cfg`` that is wrong.
    """
    _check_model(cfg)
    output = Path(cfg.output)
    refuse_overwrite(output / RESULT, cfg.overwrite)
    for manifest in (cfg.train, cfg.valid, cfg.test):
        next(read_manifests(manifest))
    weights = output / "probe.nemo"
    recipe = probe_recipe(cfg, weights)
    _keep_what_no_run_made(recipe)
    recipe.overwrite = True  # a run that is complete writes it again; one with other settings or data is refused
    train(recipe, lambda model, trainer: ProbeModel(cfg=model, trainer=trainer))
    if rank_zero_only.rank:  # of several processes the first one tests
        return {}
    model = restore_file(ProbeModel, weights, cfg.device)
    judged = judge(model, cfg.test, cfg.batch_size, cfg.num_workers)
    spec = model.spec
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    data = {part: values[part] for part in ("train", "valid", "test")}  # each a manifest, or a list
    facts = {
        "task": cfg.task_name, "model": spec.title, "upstream": spec.identity(), **data,
        "seed": cfg.seed, "steps": cfg.trainer.max_steps,
        "head_parameters": sum(p.numel() for p in model.parameters()),
        "layer_weights": {name: round(weight, 5) for name, weight in model.layer_weights.items()},
    }  # fmt: skip
    result = write_result(output, judged, facts, draw_by=cfg.draw_by, level=cfg.confidence, draws=cfg.draws)
    plot_layer_weights({spec.title: model.layer_weights}, output / WEIGHTS)
    print(summary_line(result))
    for other in cfg.against:
        print(f"\n{compare_with(output, other, cfg.draw_by, cfg.confidence, max(cfg.draws, 1000))}")
    return result


def _check_model(cfg: DictConfig) -> None:
    if cfg.model in (FBANK, RANDOM):
        return
    path = model_file(cfg.model)
    if not path.exists():
        raise InputError(f"no such file; model is the .nemo file of a model, {FBANK} or {RANDOM}", cfg.model)
    if reason := missing_part(path):  # before the run has a folder
        raise InputError(f"cannot be restored: {reason}", path)


def _keep_what_no_run_made(recipe: DictConfig) -> None:
    """Refuse to write over a probe whose run is gone: nobody knows what it was trained with."""
    run = Path(recipe.exp_manager.exp_dir) / recipe.exp_manager.name
    if not any(run.rglob("*.ckpt")):
        refuse_overwrite(recipe.output, recipe.overwrite)


def probe_recipe(cfg: DictConfig, output: str | Path) -> DictConfig:
    """The recipe of a training, from a probe's config."""
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    if cfg.crop_seconds and cfg.kind != "classes":
        raise SpeechLMError(
            f"crop_seconds is {cfg.crop_seconds:g}, and the answers are {cfg.kind} of whole utterances, not of parts; "
            "set it to null"
        )
    language = OmegaConf.to_container(cfg.language)
    train, valid, test = map(expand_shards, (cfg.train, cfg.valid, cfg.test))
    answers = learn_answers(cfg.kind, list(cfg.label_keys), language, train, [*train, *valid, *test])
    data = {"batch_size": cfg.batch_size, "num_workers": cfg.num_workers, "max_seconds": cfg.max_seconds}
    model = {
        "upstream": {"model": cfg.model, "recipe": cfg.recipe, "seed": cfg.seed},
        "cache": cfg.cache,
        "kind": cfg.kind,
        "answers": answers,
        "language": language if cfg.kind == "phones" else None,
        "head": cfg.head,
        "spec_augment": cfg.spec_augment,
        "crop_seconds": cfg.crop_seconds,
        "train_ds": {"manifest_filepath": cfg.train, "seed": cfg.seed, **data},
        "validation_ds": {
            "manifest_filepath": cfg.valid,
            "batch_size": cfg.batch_size,
            "num_workers": cfg.num_workers,
        },
        "optim": cfg.optim,
    }
    keys = ("overwrite", "accept_changes", "seed", "save_every_minutes", "max_skipped_updates", "trainer")
    return OmegaConf.create(
        {
            "output": str(output), "save": "best", "name": "run", "model": model,
            "exp_manager": cfg.exp_manager, **{key: cfg[key] for key in keys},
        }
    )  # fmt: skip
