"""How it steps: from a loss to a gradient that all ranks agree on, and from there to new parameters."""
