"""The text-to-unit model: how often its unit is right, and how close its generation comes to the machine's limit.

    python benchmarks/text_to_unit.py accuracy --model text_to_unit.nemo --hidden hidden.json --phones phones.json
    python benchmarks/text_to_unit.py speed [--model text_to_unit.nemo] [--threads 2] [--rounds 3]

accuracy: under the true durations, on held-out speech, beside always saying its most frequent unit, and beside a
table of the most frequent unit of each phone, counted on that very speech; durations.
speed: generation of sentences of 20 to 120 phones, by a model of the paper's size with random weights (or one that is
given), in batches by length and one by one. Operations are those of products and convolutions over phones and frames
that are no padding; two for a multiplication and an addition.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import alternate, measure_ceiling, report
from nemo_speechlm.cli import CONF
from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.data.phone_units import PairedUnits
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.text_to_unit.model import TextToUnitModel
from nemo_speechlm.modules.durations import durations_of
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory

PACKAGES = ("torch", "nemo_toolkit")
FRAMES_OF_PHONE = 4.0
"""Mean of a phone at 50 frames a second, for weights that have not learned one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--hidden", type=Path, help="manifest with hidden units")
    parser.add_argument("--phones", type=Path, help="manifest of the same utterances with phones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--batch-frames", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "accuracy":
        if not (options.model and options.hidden and options.phones):
            parser.error("accuracy needs --model, --hidden and --phones")
        accuracy(options)
    else:
        speed(options)


@torch.inference_mode()
def accuracy(options: argparse.Namespace) -> None:
    model = restore_file(TextToUnitModel, options.model, "cpu")
    data = PairedUnits([options.hidden], [options.phones], model.inventory, model.phones, model.speakers)
    right = frames = phones = wrong = spoken = 0
    for batch in batches_by_length(data.frames(), options.batch_frames):
        pairs = data.collate([data[int(item)] for item in batch])
        output = model(pairs.phones, pairs.phone_lengths, pairs.durations, pairs.speakers)
        right += int((output.logits.argmax(2) == pairs.units).sum())
        predicted = durations_of(output.log_durations, pairs.phone_lengths)
        wrong += int((predicted - pairs.durations).abs().sum())
        spoken += int(predicted.sum())
        frames += int(pairs.durations.sum())
        phones += int(pairs.phone_lengths.sum())
    counts = np.zeros((len(model.phones), len(model.inventory)), dtype=np.int64)
    for number in range(len(data)):
        item = data[number]
        np.add.at(counts, (np.repeat(item.phones, item.durations), item.units), 1)
    row = {
        "utterances": len(data),
        "frames": frames,
        "units": len(model.inventory),
        "unit_accuracy": right / frames,
        "most_frequent_unit": float(counts.sum(0).max() / counts.sum()),
        "table_of_phones": float(counts.max(1).sum() / counts.sum()),
        "duration_error_frames": wrong / phones,
        "mean_duration_frames": frames / phones,
        "predicted_of_true_length": spoken / frames,
    }
    report("text_to_unit_accuracy", [row], PACKAGES)


def speed(options: argparse.Namespace) -> None:
    model = paper_size() if options.model is None else restore_file(TextToUnitModel, options.model, "cpu")
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 121, options.sentences)
    sentences = [rng.integers(len(model.phones), size=length).tolist() for length in lengths]
    voices = [0] * len(sentences) if model.speakers else None
    made = model.generate(sentences, voices, options.batch_frames)
    operations = sum(operations_of(model, len(s.phone_durations), len(s.units)) for s in made)
    frames = sum(len(s.units) for s in made)

    def one_by_one() -> None:
        for number, sentence in enumerate(sentences):
            model.generate([sentence], voices and voices[number : number + 1])

    ceiling = measure_ceiling()
    timings = alternate(
        {
            "batches by length": lambda: model.generate(sentences, voices, options.batch_frames),
            "one by one": one_by_one,
        },
        options.rounds,
    )
    rows = [
        {
            "case": name,
            "sentences": len(sentences),
            "batch_frames": options.batch_frames if name.startswith("batches") else 0,
            **timing.row(),
            "sentences_per_s": len(sentences) / timing.median,
            "hours_per_hour": frames / model.inventory.frame_rate / timing.median,
            "GFLOP": operations / 1e9,
            "GFLOP_per_s": operations / timing.median / 1e9,
            "product_GFLOP_per_s": ceiling.flops / 1e9,
            "of_ceiling": operations / timing.median / ceiling.flops,
        }
        for name, timing in timings.items()
    ]
    report("text_to_unit_speed", rows, PACKAGES)


def paper_size() -> TextToUnitModel:
    """The model of ``conf/text_to_unit.yaml`` with random weights, 41 phones and 500 units."""
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base=None):
        phones, units = Path(folder) / "phones.json", Path(folder) / "units.json"
        plain = phoneme_inventory("plain")
        UnitInventory("phoneme", "en", 100, (*plain.symbols, "SPN"), plain.silence).save(phones)
        UnitInventory("hidden", "en", 50, tuple(map(str, range(500)))).save(units)
        cfg = compose("text_to_unit", [f"model.phones={phones}", f"model.units={units}"]).model
        del cfg.train_ds, cfg.validation_ds, cfg.optim
        model = TextToUnitModel(cfg).eval()
    torch.nn.init.zeros_(model.duration_predictor.proj.weight)
    torch.nn.init.constant_(model.duration_predictor.proj.bias, float(np.log1p(FRAMES_OF_PHONE)))
    return model


def operations_of(model: TextToUnitModel, phones: int, frames: int) -> float:
    """Operations to speak a sentence of so many phones and frames."""
    predictor = model.duration_predictor
    total = stack_operations(model.encoder, phones) + stack_operations(model.decoder, frames)
    total += phones * sum(weights(conv) for conv in (predictor.conv1, predictor.conv2, predictor.proj))
    total += frames * weights(model.unit_proj)
    if model.speakers:
        total += phones * weights(model.speaker_proj)
    return total


def stack_operations(stack: torch.nn.Module, length: int) -> float:
    """Operations of FFT blocks on a sequence: projections and convolutions, and attention over all pairs."""
    total = 0.0
    for layer in stack.layers:
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, layer.conv1, layer.conv2)
        total += length * sum(map(weights, parts)) + 4.0 * length * length * stack.d_model
    return total


def weights(module: torch.nn.Module) -> float:
    """Operations of a linear layer or convolution for one frame."""
    return 2.0 * module.weight.numel()


if __name__ == "__main__":
    main()
