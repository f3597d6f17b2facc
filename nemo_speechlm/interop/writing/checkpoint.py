"""Write a ``.nemo`` file as a checkpoint that the released SpeechLM inference code loads."""

from pathlib import Path
from typing import Any

import torch

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import refuse_input_as_output, refuse_overwrite, whole_file
from nemo_speechlm.interop.parts.translation import translation_checkpoint
from nemo_speechlm.interop.reading.dictionaries import read_dictionary
from nemo_speechlm.interop.writing.ctc import (
    ctc_checkpoint,
    ctc_symbols,
    label_dictionary_path,
    write_label_dictionary,
)
from nemo_speechlm.interop.writing.encoder import encoder_settings, encoder_weights
from nemo_speechlm.interop.writing.text_to_unit import dictionary_paths, text_to_unit_checkpoint, write_dictionaries
from nemo_speechlm.models.common.pretrained import read_nemo, read_pretrained
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.text_to_unit.model import TextToUnitModel


def export_fairseq(
    source: str | Path,
    output: str | Path,
    overwrite: bool = False,
    encoder_only: bool = False,
    unit_dictionary: str | Path | None = None,
) -> int:
    """Write a model for the released code: what was fine-tuned and text-to-unit models whole, others their encoder.

    An encoder alone has the form of the released "cleaned" checkpoints.

    Args:
        source: ``.nemo`` file of a pretrained or fine-tuned model with the paper's architecture, or of a text-to-unit
            model. The characters of a CTC model and both dictionaries of a text-to-unit model are written beside the
            output.
        output: the ``.pt`` file to write.
        overwrite: replace the output if it is there.
        encoder_only: leave the output layer or decoder of a fine-tuned model out.
        unit_dictionary: fairseq's dictionary of the units of pretraining, which a CTC checkpoint needs before the
            released code loads it; see :func:`~nemo_speechlm.interop.writing.ctc.ctc_checkpoint`.

    Returns:
        the number of tensors.

    Raises:
        InputError: if the file is not one of such a model; nothing is written then.
    """
    output = Path(output)
    if output.suffix != ".pt":
        raise InputError("the output must end in .pt", output)
    written = (output, label_dictionary_path(output), *dictionary_paths(output))
    refuse_input_as_output(written, {"--input": source, "--unit-dictionary": unit_dictionary})
    refuse_overwrite(output, overwrite, "--overwrite")
    if str(read_nemo(source).cfg.get("target")).endswith(".TextToUnitModel"):
        if encoder_only:
            raise InputError("is a text-to-unit model; expected one with a SpeechLM encoder", source)
        for path in dictionary_paths(output):
            refuse_overwrite(path, overwrite, "--overwrite")
        text_to_unit = restore_file(TextToUnitModel, source, "cpu")
        try:
            content = text_to_unit_checkpoint(text_to_unit)
        except InputError as error:
            raise InputError(error.reason, source) from None
        _save(content, output)
        write_dictionaries(text_to_unit, output)
        return len(content["model"])
    model = read_pretrained(source)
    decoder = "decoder" in model.cfg and not encoder_only
    translates = decoder and str(model.cfg.get("target")).endswith(".SpeechLMEncDecModel")
    symbols = ctc_symbols(model) if decoder and not translates else []
    if symbols:
        refuse_overwrite(label_dictionary_path(output), overwrite, "--overwrite")
    settings = encoder_settings(model)
    weights = encoder_weights(model)
    task = {"_name": "joint_sc2t_pretraining", "normalize": bool(model.cfg.preprocessor.get("normalize", False))}
    task |= {"label_rate": settings["label_rate"], "sample_rate": 16000}
    content = {"args": None, "cfg": {"model": settings, "task": task}, "model": weights}
    if translates:
        content = translation_checkpoint(model, weights, content["cfg"])
    elif symbols:
        units = None if unit_dictionary is None else len(read_dictionary(unit_dictionary, None))
        content = ctc_checkpoint(model, weights, content["cfg"], symbols, units)
    _save(content, output)
    if symbols:
        write_label_dictionary(symbols, output)
    return len(content["model"])


def _save(content: dict[str, Any], output: Path) -> None:
    with whole_file(output) as partial, open(partial, "wb") as file:
        torch.save(content, file)
