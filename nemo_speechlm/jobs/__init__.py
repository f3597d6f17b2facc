"""One function over every line of a file: in processes, on Ray or SLURM; resumed where a killed job stopped."""

from nemo_speechlm.jobs.engines import Executor, LocalEngine, RayEngine, Resources, SlurmEngine
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.stage import ManifestStage
from nemo_speechlm.jobs.types import BatchWork, Place, Result, Work

__all__ = [
    "BatchWork",
    "Executor",
    "JobReport",
    "LocalEngine",
    "ManifestStage",
    "Place",
    "RayEngine",
    "Resources",
    "Result",
    "SlurmEngine",
    "Work",
    "available_cores",
    "run_job",
]
