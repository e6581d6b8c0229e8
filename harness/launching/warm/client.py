"""Asks a server for a process: what is handed over, and the program that stands in for it under a launcher.

    python -S -E client.py ADDRESS PYTHON -m harness train …

A rank's launcher starts this in place of `PYTHON -m harness train …`. It hands over its arguments, environment,
directory, cores, limits and standard streams, and then only waits: signals are passed on, and it ends as the process
that was forked for it ends, by the same signal where there was one. Where the server is gone, or cannot stand in, it
becomes the command itself. Standard library alone and no import of this package: it has to start in milliseconds.
"""

import marshal
import os
import signal
import socket
import sys

FORWARDED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH
)  # fmt: skip
REFUSED = b"no!!"
ANSWER_SECONDS = 120.0
"""A server answers once its imports are done."""


def request(words, environ, cwd, **more):
    """What a server needs to know of the process `python WORDS`, beside its standard streams.

    `more`: `path`, sys.path without its first folder where it is not the server's; `outlives`, whether it goes on when
    its client is gone; `noted`, whether its standard error is told how it ended.
    """
    import resource

    umask = os.umask(0)
    os.umask(umask)
    kinds = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)
    return {
        "words": list(words),
        "environ": dict(environ),
        "cwd": str(cwd),
        "network": network(),
        "umask": umask,
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": [(kind, resource.getrlimit(kind)) for kind in kinds],
        "ignored": [int(number) for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN],
        **more,
    }


def network():
    """Which network this process is in: hosts that are made of one machine have one each."""
    return os.readlink("/proc/self/ns/net")


def ask(address, asked, descriptors, seconds=None):
    """(pid, connection) of the process that was forked; None where the server is gone, cannot stand in, or has not
    answered in time. Then it will not fork one either.

    The connection brings four bytes when the process ends, its wait status.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_SECONDS if seconds is None else seconds)
        connection.connect(address)
        message = marshal.dumps(asked)
        socket.send_fds(connection, [len(message).to_bytes(4, "little")], descriptors)
        connection.sendall(message)
        answer = connection.recv(4)
    except OSError:
        answer = last_answer(connection)
    if len(answer) < 4 or answer == REFUSED:
        connection.close()
        return None
    return int.from_bytes(answer, "little"), connection


def last_answer(connection):
    """What came just before it was too late. From then on the server cannot send, and kills what it has forked."""
    try:
        connection.shutdown(socket.SHUT_RD)
        return connection.recv(4)
    except OSError:
        return b""


def exit_code(status):
    """Python's exit code (-9 for signal 9) of the four bytes of an end; None where the server died before it."""
    return os.waitstatus_to_exitcode(int.from_bytes(status, "little")) if len(status) == 4 else None


def stand_in(address, asked):
    """Never returns, unless the server is gone or cannot stand in."""
    heeded = {*FORWARDED, signal.SIGIO}
    # blocked and waited for, not caught: whoever looks for processes that listen to a signal must not find this one
    signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    answer = ask(address, asked, [0, 1, 2])
    if answer is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        return
    child, connection = answer
    code = wait_for(child, connection, heeded)
    code = 1 if code is None else code
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


def wait_for(child, connection, heeded):
    """Passes signals on until the child has ended: its exit code."""
    import fcntl

    connection.setblocking(False)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    os.closerange(0, 3)  # whoever reads our output must see its end when the child's ends
    while True:
        try:
            return exit_code(connection.recv(4))
        except BlockingIOError:
            number = signal.sigwaitinfo(heeded).si_signo
            if number != signal.SIGIO:
                try:
                    os.kill(child, number)
                except ProcessLookupError:
                    pass


if __name__ == "__main__":
    address, command = sys.argv[1], sys.argv[2:]
    stand_in(address, request(command[1:], os.environ, os.getcwd()))
    os.execvp(command[0], command)
