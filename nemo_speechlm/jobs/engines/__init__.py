"""Where the workers of a job run: in processes of this machine, on a Ray cluster, in jobs of SLURM."""

from nemo_speechlm.jobs.engines.executor import Executor, Resources
from nemo_speechlm.jobs.engines.local import LocalEngine
from nemo_speechlm.jobs.engines.ray import RayEngine
from nemo_speechlm.jobs.engines.slurm import SlurmEngine

__all__ = ["Executor", "LocalEngine", "RayEngine", "Resources", "SlurmEngine"]
