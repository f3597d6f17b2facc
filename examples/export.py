r"""Write a model as ONNX, or as TorchScript, and compare it with the original.

    python examples/export.py model=ctc.nemo output=ctc.onnx
    python examples/export.py model=pretrained.nemo output=encoder.onnx part=encoder
    python examples/export.py model=ctc.nemo output=ctc.ts

Inputs are audio_signal, (batch, 1, samples) or (batch, mel bins, frames) as the model's preprocessor makes them, and
length, in samples or frames; outputs are log probabilities (batch, frames, labels and the blank), or states (batch,
width, frames) with their lengths. An ONNX file's metadata have sample_rate, labels, blank, normalize, steps_per_frame.
"""

from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import command
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.imports import importing


@command("export", makes=["output"])
def main(cfg: DictConfig) -> None:
    with importing():
        from nemo.core.classes import ModelPT

        from nemo_speechlm.inference.export import can_compare, compare, export
        from nemo_speechlm.models.common.restore import restore_file

    model = restore_file(ModelPT, cfg.model, "cpu")

    def check(made: list[Path]) -> None:
        part = "encoder" if len(made) > 1 else cfg.part  # of a transducer, the encoder comes first
        if not can_compare(made[0]):
            print("not compared with the model: onnxruntime is not installed")
            return
        difference = compare(model, made[0], part)
        if not difference <= cfg.tolerance:  # it may be NaN
            raise SpeechLMError(
                f"{made[0].name} differs from the model by up to {difference:.2g}, allowed is {cfg.tolerance}; "
                "nothing is written (check=false leaves this out)"
            )
        others = "".join(f"; {path.name} is not compared" for path in made[1:])
        print(f"{made[0].name} differs from the model by {difference:.2g} at most{others}")

    paths = export(model, cfg.output, cfg.part, cfg.opset, cfg.overwrite, check if cfg.check else None)
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
