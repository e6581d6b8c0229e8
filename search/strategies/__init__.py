"""Samplers and pruners by name, and the points that they propose."""
