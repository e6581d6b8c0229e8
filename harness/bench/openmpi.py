"""Which algorithm Open MPI reduces by, as far as it can be known: it tells nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FORCED = ("default", "basic linear", "nonoverlapping", "recursive doubling", "ring", "segmented ring", "Rabenseifner")
"""By the number in `coll_tuned_allreduce_algorithm`; what `ompi_info --param coll tuned --level 9` lists."""

CHOSEN_BY_4_1: tuple[tuple[int, tuple[tuple[int, str], ...]], ...] = (
    (3, ((4096, "ring"), (8192, "recursive doubling"), (16384, "ring"), (65536, "segmented ring"), (1 << 18, ""))),
    (15, ((0, "recursive doubling"), (8192, ""))),
    (31, ((64, "recursive doubling"), (4096, ""))),
    (63, ((128, ""),)),
    (64, ((0, "recursive doubling"), (1 << 18, ""))),
)
"""Up to so many ranks: from so many bytes on, so; empty is Rabenseifner. What component `tuned` of 4.1.8 chose for sums
of float32 on 2 to 64 ranks, without rules of the user's: seen by functions that took its algorithms' place."""


def allreduce_algorithm(library: str | None, env: Mapping[str, str], ranks: int, size: int) -> str | None:
    """The algorithm for `size` bytes of float32, with who chose it; None where MPI does not carry the reduce."""
    if library is None:
        return None
    if env.get("OMPI_MCA_coll_tuned_use_dynamic_rules", "0") not in ("0", "false"):
        forced = env.get("OMPI_MCA_coll_tuned_allreduce_algorithm", "0")
        if forced != "0":
            return f"{FORCED[int(forced)] if forced.isdigit() and int(forced) < len(FORCED) else forced}, forced"
        return f"as {Path(env.get('OMPI_MCA_coll_tuned_dynamic_rules_filename', 'rules')).name} say"
    touched = any(name.startswith("OMPI_MCA_coll") and "_libnbc_" not in name for name in env)
    if re.match(r"Open MPI v4\.1\.", library) and not touched:
        for most, choices in CHOSEN_BY_4_1:
            if ranks <= most:
                return [name or "Rabenseifner" for least, name in choices if least <= size][-1]
    return f"{library}'s choice"
