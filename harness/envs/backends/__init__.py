"""How a rank steps its share of the environments: by their own vector class, EnvPool, one after the other, or in worker
processes. A new way is one file and a line in `BACKENDS`."""

BACKENDS = {
    "native": "harness.envs.backends.native:NativeBackend",
    "envpool": "harness.envs.backends.envpool:EnvPoolBackend",
    "workers": "harness.envs.backends.workers:WorkersBackend",
    "sync": "harness.envs.backends.sync:SyncBackend",
}
"""By the names of `env.backend`; `auto` takes the first that prefers to step an environment."""
