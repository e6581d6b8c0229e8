"""Tuned configs, one TOML each."""
