"""The program that starts an MCP server and ends with it: nothing of its process group is left when either is gone.

The MCP SDK ends a server by closing its standard input and, where that does not suffice, by signals to the group. But a
program that the server has started may stay behind, and a server that hangs would outlive a host that is killed.

    python mcp_supervisor.py HOST_PROCESS_ID COMMAND [ARGUMENT ...]

It is run by its path and imports the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NOT_STARTED = 127
HOST_DIED = signal.SIGHUP
WATCHED = (signal.SIGCHLD, signal.SIGTERM, HOST_DIED)


def main(host: int, command: list[str]) -> None:
    """Run the command until it or the host ends, and kill the process group, of which this process is the leader."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, HOST_DIED, 0, 0, 0)
    if os.getppid() != host:  # the host died before the signal was requested
        sys.exit(1)
    try:
        server = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_STARTED)
    for descriptor in (0, 1):  # they are the server's, which would not see the host close them
        os.close(descriptor)
    _wait(server)
    os.killpg(0, signal.SIGKILL)


def _wait(server: int) -> None:
    while (received := signal.sigwait(WATCHED)) != HOST_DIED:
        if received == signal.SIGCHLD:  # SIGTERM goes to the whole group: the server may take its time to end
            ended, status = os.waitpid(server, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
                print(f"[the server ended: {how}]", file=sys.stderr, flush=True)
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
