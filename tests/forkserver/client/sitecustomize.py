"""Python's first import where this folder is on its path: a process that the fork server can stand in for becomes its
client, before anything else is imported. The others start as ever."""

import os
import sys

ADDRESS = "HARNESS_TESTS_FORK_SERVER"


def served(words):
    """Whether `python WORDS` is of the kind that the server forks: a command of ours, a script, horovodrun."""
    if words[:1] == ["-m"]:
        return len(words) > 1 and words[1].partition(".")[0] in ("harness", "search")
    if not words or os.path.basename(words[0]) == "start_server.py":  # it inherits sockets
        return False
    return words[0].endswith((".py", "/horovodrun")) and os.path.isfile(words[0])


def become_client(address):
    """Never returns, unless the server is not there or cannot stand in."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.path.insert(0, os.path.join(root, "harness", "launching", "warm"))  # without the packages around it
    import client

    del sys.path[0], sys.modules["client"]
    client.stand_in(address, client.request(sys.orig_argv[1:], os.environ, os.getcwd(), path=list(sys.path)))


if __name__ == "sitecustomize" and os.environ.get(ADDRESS) and served(sys.orig_argv[1:]):
    become_client(os.environ[ADDRESS])
