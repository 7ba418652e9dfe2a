"""Sharding jobs: any source to shards of any format, on one machine or a cluster."""

from iopipe.jobs.job import JobReport as JobReport
from iopipe.jobs.job import Progress as Progress
from iopipe.jobs.job import plan_shards as plan_shards
from iopipe.jobs.job import shard as shard
from iopipe.jobs.options import ShardOptions as ShardOptions
from iopipe.jobs.transform import Sample as Sample
from iopipe.jobs.transform import Transform as Transform
from iopipe.jobs.transform import TransformSpec as TransformSpec
