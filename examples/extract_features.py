"""Features of every layer, or of some, of a SpeechLM, HuBERT or wav2vec 2.0 model.

One file per utterance, or, by format=huggingface, a folder of shards for datasets.load_dataset(folder).

To continue an interrupted run, give the same command again. At the end it writes features.jsonl: the manifest with
features_filepath (relative to it) and num_frames in each line.

    python examples/extract_features.py model=hubert.nemo input=train.json output=features layers=[9]
    python examples/extract_features.py model=pretrained.nemo input=recordings/ output=features format=safetensors
    python examples/extract_features.py model=slam.nemo input=text.json output=text_features of=text
"""

import functools
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from nemo_speechlm.checks import check_choice
from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import refuse_input_as_output
from nemo_speechlm.imports import importing

_OF_SPEECH = {"layers": None, "format": "npy", "batch_duration": None, "num_workers": 0, "precision": "float32"}
"""Options that states of text and of pairs do not have, with their defaults."""


@command("extract_features")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "num_workers")
    whole_numbers(cfg, "workers", least=1)
    from nemo_speechlm.jobs.engines import Executor

    engine = chosen(cfg.engine, Executor)
    check_choice("of", cfg.of, ("speech", "text", "pairs"))
    if cfg.of != "speech":
        for key, default in _OF_SPEECH.items():
            if cfg[key] != default:
                raise SpeechLMError(f"{key} has no effect with of={cfg.of}, only with of=speech")
        with importing():
            from nemo_speechlm.inference.features.states import extract_states

        job = {"skip_bad": cfg.skip_bad, "engine": engine, "workers": cfg.workers}
        count = extract_states(cfg.model, cfg.input, cfg.output, cfg.of, cfg.dtype, cfg.overwrite, cfg.device, **job)
        print(f"{count} lines: {cfg.output}/features.jsonl")
        return
    with importing():
        from nemo_speechlm.inference.features.extraction import extract
        from nemo_speechlm.inference.features.inputs import read_inputs
        from nemo_speechlm.inference.features.options import FeatureOptions
        from nemo_speechlm.models.common.restore import restore_extractor

    inputs = list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input]
    outputs = [Path(cfg.output) / name for name in ("features.jsonl", "skipped.jsonl", "settings.json")]
    refuse_input_as_output(outputs, {"input": inputs})
    utterances, skipped = read_inputs(inputs, skip_bad=cfg.skip_bad)
    layers = cfg.layers
    if layers is not None:
        layers = tuple(layers) if isinstance(layers, ListConfig) else (layers,)
    options = FeatureOptions(
        layers=layers,
        format=cfg.format,
        dtype=cfg.dtype,
        batch_duration=cfg.batch_duration,
        num_workers=cfg.num_workers,
        precision=cfg.precision,
    )
    made = extract(
        restore_extractor(cfg.model, cfg.device if engine.in_this_process(cfg.workers) else "cpu"),
        utterances,
        skipped,
        cfg.output,
        options,
        model_path=cfg.model,
        overwrite=cfg.overwrite,
        skip_bad=cfg.skip_bad,
        engine=engine,
        workers=cfg.workers,
        remake=functools.partial(restore_extractor, cfg.model, cfg.device),
    )
    print(
        f"{made.utterances} utterances, {made.now} of them now, {made.skipped} left out: {cfg.output}/features.jsonl"
    )


if __name__ == "__main__":
    main()
