"""The parameter space: parsed, sampled, told."""
