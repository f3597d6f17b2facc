r"""Divide a manifest into shards: tar files of audio with a manifest for each, as NeMo has them, or shards of text.

    python examples/make_tarred.py manifest=train.json output=tarred

The manifest may be any: transcribed or not, with units or without, gzipped, or several (a list).
Lines whose audio is a part of a file (offset, duration) get a file of their own. A manifest without audio becomes
shards of text. The command prints the names of all manifests and all tars; the first stands wherever a manifest may:

    python examples/speechlm_finetune_ctc.py model.train_ds.manifest_filepath=tarred/manifest__OP_0..31_CL_.json

Equal input and options make equal files on every engine. To continue an interrupted run, give the same command again.
"""

from omegaconf import DictConfig

from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, is_speech, make_shards
from nemo_speechlm.jobs.engines import Executor


@command("make_tarred")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "workers", least=1)
    encoding = AudioEncoding(cfg.audio_format, cfg.sample_rate, cfg.channel, cfg.check)
    division = Division(cfg.shards, cfg.shard_size, cfg.shuffle, cfg.seed)
    manifests = expand_shards(cfg.manifest)
    made = make_shards(
        manifests,
        cfg.output,
        encoding=encoding if is_speech(manifests[0]) else None,
        division=division,
        gzipped=cfg.gzipped,
        workers=cfg.workers,
        engine=chosen(cfg.engine, Executor),
        skip_bad=cfg.skip_bad,
        overwrite=cfg.overwrite,
        job_folder=cfg.job_folder,
    )
    print(made)


if __name__ == "__main__":
    main()
