"""One function over every line of a file, in this process or on many, resumed where a killed job stopped."""

from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.types import BatchWork, Place, Result, Work
from nemo_speechlm.jobs.workers import default_workers

__all__ = ["BatchWork", "JobReport", "Place", "Result", "Work", "default_workers", "run_job"]
