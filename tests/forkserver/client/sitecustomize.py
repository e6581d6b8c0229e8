"""Python's first import where this folder is on its path: a process that the fork server can stand in for becomes its
client, before anything else is imported. The others start as ever.

The client hands over its arguments, environment, directory, cores, limits and standard streams, and then only waits:
signals are passed on, and it ends as the process that was forked for it ends, by the same signal where there was one.
"""

import os
import sys

ADDRESS, PADDING = "HARNESS_TESTS_FORK_SERVER", "HARNESS_TESTS_PADDING"
NUMERIC = ("OMP_", "KMP_", "MKL_", "OPENBLAS_", "GOMP_", "CUDA_", "TORCH", "PYTORCH_")
AT_IMPORT = (*NUMERIC, "LD_", "PYTHON", "MUJOCO_GL", "LC_", "LANG")
"""Prefixes of what libraries, and Python itself, read once: another value than the server's needs a fresh process."""
SET_ANEW = ("PYTHONPATH", "PYTHONUNBUFFERED", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "CUDA_MODULE_LOADING")
"""…but for these, which the server sets anew in what it forks, or which imports set themselves."""
READ_LATE = "TORCHINDUCTOR_"
"""The compiler is not imported before the fork."""


THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The server's own, since it must hold no thread; where they are unset, what it forks is given torch's default."""


def read_at_import(environ):
    """What of an environment is read once, when a library is loaded."""
    chosen = {name: environ[name] for name in environ if name.startswith(AT_IMPORT) and name not in SET_ANEW}
    chosen = {name: value for name, value in chosen.items() if not name.startswith(READ_LATE)}
    # mpirun puts its own folder there, which is this environment's: its library is found without
    folders = [folder for folder in chosen.pop("LD_LIBRARY_PATH", "").split(":") if folder != sys.prefix + "/lib"]
    return {**THREADS, **chosen, "LD_LIBRARY_PATH": ":".join(folders)}


def served(words):
    """Whether `python WORDS` is of the kind that the server forks: a command of ours, a script, horovodrun."""
    if words[:1] == ["-m"]:
        return len(words) > 1 and words[1].partition(".")[0] in ("harness", "search")
    return bool(words) and (words[0].endswith(".py") or words[0].endswith("/horovodrun")) and os.path.isfile(words[0])


def network():
    """Which network this process is in: hosts that tests make of one machine have one each."""
    return os.readlink("/proc/self/ns/net")


def become_client(address):
    """Never returns, unless the server is not there or cannot stand in."""
    import marshal
    import resource
    import signal
    import socket
    import time

    while not os.path.exists(address) and os.path.exists(address + ".starting"):
        time.sleep(0.02)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except OSError:
        return
    forwarded = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}
    forwarded |= {signal.SIGWINCH}
    # blocked and waited for, not caught: whoever looks for processes that listen to a signal must not find this one
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGIO})
    asked = {
        "words": sys.orig_argv[1:],
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "network": network(),
        "path": sys.path,
        "umask": os.umask(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": [
            (kind, resource.getrlimit(kind))
            for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)
        ],
        "ignored": [int(number) for number in forwarded if signal.getsignal(number) == signal.SIG_IGN],
    }
    os.umask(asked["umask"])
    message = marshal.dumps(asked)
    socket.send_fds(connection, [len(message).to_bytes(4, "little")], [0, 1, 2])
    connection.sendall(message)
    answer = connection.recv(4)
    if len(answer) < 4 or answer == b"no!!":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded | {signal.SIGIO})
        return
    child = int.from_bytes(answer, "little")
    wait_for(connection, child, forwarded)


def wait_for(connection, child, forwarded):
    import fcntl
    import signal

    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    os.closerange(0, 3)  # whoever reads our output must see its end when the child's ends
    while True:
        try:
            status = connection.recv(4)
        except BlockingIOError:
            number = signal.sigwaitinfo(forwarded | {signal.SIGIO}).si_signo
            if number != signal.SIGIO:
                try:
                    os.kill(child, number)
                except ProcessLookupError:
                    pass
            continue
        break
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "little")) if len(status) == 4 else 1
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


if os.environ.get(ADDRESS) and served(sys.orig_argv[1:]):
    become_client(os.environ[ADDRESS])
