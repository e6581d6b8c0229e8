"""Each door to the two packages, gone through from outside them: an implementation comes in by its `module:Class`."""
