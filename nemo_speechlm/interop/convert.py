"""Carry out a conversion: either every parameter is filled and every weight used, or there is no ``.nemo`` file."""

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from nemo.core.classes import ModelPT
from nemo.utils import logging
from omegaconf import OmegaConf

from nemo_speechlm import models
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import refuse_input_as_output, refuse_overwrite, whole_file
from nemo_speechlm.interop.plan import Options, Plan
from nemo_speechlm.interop.planning import make_plan
from nemo_speechlm.interop.reading.kinds import NOT_SAID, naming
from nemo_speechlm.interop.reading.shown import shortened
from nemo_speechlm.interop.reading.source import read_source

_SHOWN = 12


def convert(source: str | Path, output: str | Path, options: Options = Options(), overwrite: bool = False) -> Plan:  # noqa: B008
    """Convert a foreign checkpoint to a ``.nemo`` file.

    Args:
        source: fairseq ``.pt`` file or Hugging Face folder.
        output: the ``.nemo`` file to write.
        options: what the checkpoint does not say.
        overwrite: replace the output if it is there.

    Returns:
        what was done.

    Raises:
        InputError: if the checkpoint cannot be read or recognized, or its parameters are not exactly those of our
            model, or the output cannot be written; nothing is written then.
    """
    output = Path(output)
    if output.suffix != ".nemo":
        raise InputError("the output must end in .nemo", output)
    refuse_input_as_output([output], {"--input": source, **asdict(options)})
    refuse_overwrite(output, overwrite, "--overwrite")
    plan = make_plan(read_source(source), options)
    with tempfile.TemporaryDirectory() as folder:
        model = build(plan, Path(folder), options)
        with whole_file(output) as partial:
            model.save_to(str(partial))
    if plan.source.normalize_assumed:
        logging.warning(f"{plan.source.path}: audio goes in as it is ({NOT_SAID})")
    return plan


def build(plan: Plan, folder: Path, options: Options = Options()) -> ModelPT:  # noqa: B008
    """Make the model of a plan, in evaluation mode.

    Args:
        plan: the plan.
        folder: where the inventories are put; it must stay until the model is saved.
        options: what may be missing or unused.

    Raises:
        InputError: listing the parameters that are missing, unused, or of another shape; or if the model has nothing
            of a name that may be missing.
    """
    config = dict(plan.config)
    if plan.inventory is not None:
        plan.inventory.save(folder / "units.json")
        config["units"] = str(folder / "units.json")
    if plan.phones is not None:
        plan.phones.save(folder / "phones.json")
        config["phones"] = str(folder / "phones.json")
    unused = [name for name in plan.unused if not _allowed(name, options.allow_unused)]
    if unused:
        raise InputError(
            f"parameters that have no place: {_listed(unused)} (--allow-unused NAME leaves one out)", plan.source.path
        )
    # On the meta device this takes no memory, however large the sizes in a hostile file are.
    own = _make(plan, config, "meta").state_dict()
    shapes = [
        f"{plan.names[name]} is {tuple(value.shape)}, expected {tuple(own[name].shape)} for {name}"
        for name, value in plan.weights.items()
        if name in own and own[name].shape != value.shape
    ]
    if shapes:
        raise InputError(f"parameters of another shape: {_listed(shapes)}", plan.source.path)
    strange = [f"{plan.names[name]} ({name})" for name in plan.weights.keys() - own.keys()]
    if strange:
        raise InputError(f"parameters that the model does not have: {_listed(sorted(strange))}", plan.source.path)
    for name in options.allow_missing:
        if not any(_allowed(one, (name,)) for one in own):
            raise InputError(f"--allow-missing {name}: the model has no such parameter or module; {_near(name, own)}")
    missing = [name for name in own.keys() - plan.weights.keys() if not _allowed(name, options.allow_missing)]
    if missing:
        raise InputError(
            f"parameters that are missing: {_listed(sorted(missing))} (--allow-missing NAME leaves one as it was "
            "initialized)",
            plan.source.path,
        )
    model = _make(plan, config, "cpu")
    with naming(plan.source.path):
        model.load_state_dict(plan.weights, strict=False)
    return model


def _make(plan: Plan, config: dict[str, Any], device: str) -> ModelPT:
    try:
        with torch.device(device):
            return getattr(models, plan.model)(cfg=OmegaConf.create(config)).eval()
    except Exception as error:  # of any layer between OmegaConf and the modules, which say best what they cannot be
        raise InputError(f"no model can be built with its sizes: {shortened(str(error))}", plan.source.path) from error


def _allowed(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(one + ".") for one in allowed)


def _near(name: str, parameters: Iterable[str]) -> str:
    known = {
        ".".join(parts[:end]) for key in parameters for parts in [key.split(".")] for end in range(1, len(parts) + 1)
    }
    found = get_close_matches(name, sorted(known), 3)
    if found:
        return f"near are {', '.join(found)}"
    return f"it has {', '.join(sorted(one for one in known if '.' not in one))}"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
