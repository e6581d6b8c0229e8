"""`harness serve`: one process that accepts, and workers that answer."""
