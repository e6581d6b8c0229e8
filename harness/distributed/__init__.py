"""The ranks: their groups, what carries their calls, the flat arena, and how replicas stay one policy."""
