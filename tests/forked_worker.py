"""What Ray starts in place of its `setup_worker.py`: asks the server of `worker_forks` for a worker.

It runs for every worker, so it imports next to nothing. The server's socket is in the folder of
the link by which it is called.
"""

import json
import os
import socket
import sys

LIMIT = 2**20
"""Of the size of a request."""


def main() -> None:
    """Return when the worker has ended; without a server, become the usual one."""
    folder, arguments = os.path.dirname(sys.argv[0]), sys.argv[1:]
    request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"{folder}/socket")
    except OSError:
        usual = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, usual, *arguments])
    socket.send_fds(connection, [request], [0, 1, 2])
    connection.recv(1)  # the worker holds the other end


if __name__ == "__main__":
    main()
