"""Studies whose every trial is a multi-rank job."""
