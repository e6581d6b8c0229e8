"""The program of a server. Python runs it by its path, so that no module of the present folder is imported."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[3])  # where our package lies, in place of this file's folder
    from harness.launching.warm.server import main

    main(sys.argv[1:])
