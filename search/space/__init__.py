"""The parameter space: parsed, sampled, shown."""
