"""How a rank steps its share of the environments: by their own vector class, EnvPool, one after the other, or in worker
processes."""
