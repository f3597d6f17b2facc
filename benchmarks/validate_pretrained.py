r"""Validation figures of a pretrained model: text without masks, speech under masks that are the same each time.

python benchmarks/validate_pretrained.py pretrained.nemo --speech valid.units.json --text valid_text.units.json
"""

import argparse
from pathlib import Path


def main() -> None:
    """Print every figure that validation logs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo file of a pretraining model")
    parser.add_argument("--speech", type=Path, help="speech manifest with units")
    parser.add_argument("--text", type=Path, help="text manifest with units")
    arguments = parser.parse_args()

    from lightning.pytorch import Trainer

    from nemo_speechlm.models.speechlm.model import SpeechLMModel

    model = SpeechLMModel.restore_from(str(arguments.model), map_location="cpu")
    model.setup_validation_data(
        {
            "speech": arguments.speech and {"manifest_filepath": str(arguments.speech), "batch_duration": 87.5},
            "text": arguments.text and {"manifest_filepath": str(arguments.text), "batch_tokens": 4375},
            "num_workers": 0,
        }
    )
    trainer = Trainer(logger=False, enable_checkpointing=False, use_distributed_sampler=False)
    (figures,) = trainer.validate(model, dataloaders=model.val_dataloader(), verbose=False)[:1]
    for name, value in sorted({**figures, **trainer.callback_metrics}.items()):
        print(f"{name:<46}{float(value):.4f}")


if __name__ == "__main__":
    main()
