"""The one place that chooses between the ways of running; only ``pipelines`` calls it."""

from __future__ import annotations

import os

from cluster.cluster import Cluster
from cluster.config import RuntimeConfig
from cluster.environment import prepare
from components.errors import ConfigError, Problem
from components.models.device import device_problems, dtype_problems


def open_cluster(runtime: RuntimeConfig) -> Cluster:
    """The cluster that the runtime section asks for. Its runtime is imported only now, after the environment was set.

    Raises:
        ConfigError: GPUs or a dtype are asked for on a machine without, or which of two clusters is meant is not clear.
    """
    joined = os.environ.get("RAY_ADDRESS")
    if runtime.executor == "ray" and joined and not runtime.address:
        rule = f"the address of a cluster where the environment names one (RAY_ADDRESS={joined}), as inside a Ray job"
        remedy = "set runtime.address=auto to use that one, or unset RAY_ADDRESS to start another on this machine"
        raise ConfigError([Problem("runtime.address", "", rule, remedy)])
    on = runtime.placed_on
    lost = [*device_problems(on, "runtime.device"), *dtype_problems(on, runtime.dtype, "runtime.dtype")]
    if lost and not runtime.address:  # a cluster that is joined may have what this machine has not
        raise ConfigError(lost)
    prepared = prepare(runtime)
    try:
        if runtime.executor == "local":
            from cluster.local import LocalCluster

            return LocalCluster(runtime, prepared)
        from cluster.ray_cluster import RayCluster

        return RayCluster(runtime, prepared)
    except BaseException:
        prepared.close()
        raise
