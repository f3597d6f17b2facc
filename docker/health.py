"""Whether the image can train: one update of a tiny model on a corpus that it makes, on a GPU if one has room.

Prints a line and ends with status 0; anything else ends with another status and says why.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

_ROOM = 2 * 1024**3  # bytes that a GPU must have free: a training in the same container may need all the rest


def main() -> None:
    """Take the step."""
    begun = time.monotonic()
    warnings.simplefilter("ignore")
    import torch
    from lightning.pytorch import Trainer

    from nemo_speechlm.models import SpeechLMModel
    from nemo_speechlm.testing.configs import tiny_pretrain_config
    from nemo_speechlm.testing.corpora import tiny_corpus

    on_gpu = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > _ROOM
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if on_gpu else "cpu", devices=1, max_steps=1, limit_val_batches=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, default_root_dir=folder,
        )  # fmt: skip
        model = SpeechLMModel(tiny_pretrain_config(tiny_corpus(Path(folder), n_speech=4, n_text=4)), trainer)
        before = model.unit_embedding.weight.detach().clone()
        trainer.fit(model)
        loss = float(trainer.callback_metrics["train_loss"])
    after = model.unit_embedding.weight.detach().cpu()
    if trainer.global_step != 1 or not torch.isfinite(torch.tensor(loss)) or torch.equal(before, after):
        sys.exit(f"unhealthy: {trainer.global_step} updates, loss {loss}, weights changed: {not before.equal(after)}")
    place = torch.cuda.get_device_name() if on_gpu else "the CPU"
    print(f"healthy: an update on {place}, loss {loss:.3f}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
