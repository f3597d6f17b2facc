r"""Train the centroids that make hidden units: k-means over a teacher's features of speech, transcribed or not.

    python examples/train_kmeans.py manifest=train.json output=kmeans.safetensors model=hubert.nemo layer=9
    python examples/train_kmeans.py manifest=train.json output=mfcc.safetensors clusters=100

Speech is read in random order and never kept, so memory does not grow with the corpus. The first iteration of a
teacher of your own has MFCC (39 numbers, 100 frames a second), the second one a layer of the model that was pretrained
on these. phones=manifest adds a report of what the units say about phones. To continue an interrupted run, give the
same command again.

The file then makes units of speech:

    python examples/tokenize_speech.py speech_tokenizer=kmeans kmeans=kmeans.safetensors manifest=train.json \
        output=train_units.json units=units.json
"""

import os
from dataclasses import fields, replace

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, dump_line, refuse_overwrite
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.jobs.progress import skipped_path
from nemo_speechlm.units.inventory import UnitInventory


@command("train_kmeans", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "threads", least=1)
    whole_numbers(cfg, "num_workers")
    refuse_overwrite(cfg.output, cfg.overwrite)
    if (cfg.phones is None) != (cfg.phones_units is None):
        raise InputError("phones and phones_units go together: a manifest and the inventory of its units")
    phones = None if cfg.phones is None else UnitInventory.load(cfg.phones_units)

    import torch

    from nemo_speechlm.evaluation.unit_quality import quality_of_kmeans
    from nemo_speechlm.tensor_file import progress_path
    from nemo_speechlm.tokenizers.kmeans.centroids import save_kmeans
    from nemo_speechlm.tokenizers.kmeans.teacher import make_teacher
    from nemo_speechlm.tokenizers.kmeans.training import KMeansTraining

    torch.set_num_threads(int(cfg.threads or os.environ.get("OMP_NUM_THREADS") or available_cores()))
    manifests = tuple(expand_shards(cfg.manifest))
    own = {field.name for field in fields(KMeansTraining)} - {"manifests"}
    training = KMeansTraining(manifests, **{name: cfg[name] for name in own})
    teacher = make_teacher(cfg.model, cfg.layer, cfg.normalize, cfg.batch_seconds, cfg.device, cfg.precision)
    kmeans, errors = training.run(teacher, cfg.output, cfg.language.code, cfg.overwrite)
    if phones is not None:
        quality = quality_of_kmeans(
            kmeans, teacher, cfg.phones, phones, cfg.phones_utterances, cfg.merge_phones, cfg.channel
        )
        kmeans = replace(kmeans, statistics={**kmeans.statistics, "phones": quality.to_dict()})
        print(quality)
    skipped_path(cfg.output).unlink(missing_ok=True)  # of an earlier training
    if errors:
        with atomic_write(skipped_path(cfg.output)) as file:
            file.writelines(dump_line({"reason": error}) for error in errors)
        print(f"{len(errors)} lines left out: {skipped_path(cfg.output)}")
    save_kmeans(cfg.output, kmeans)
    progress_path(cfg.output).unlink(missing_ok=True)
    found = kmeans.statistics
    print(
        f"{cfg.output}: {len(kmeans.centroids)} centroids of {found['frames']} frames at "
        f"{kmeans.source.frame_rate:g} a second; inertia {found['inertia_per_frame']:.4g} a frame, "
        f"{found['used_clusters']} used, perplexity {found['perplexity']:.0f}"
    )


if __name__ == "__main__":
    main()
