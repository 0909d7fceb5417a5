"""Stands between a trainer and a server of its own: whichever of the two dies, nothing of the server is left.

Run as a program, the leader of a process group: guard.py PARENT FOLDER COMMAND... A server is several processes, and a
trainer that is killed can end none of them; nor does vLLM's first process, when it is killed, end the others.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

_LOOK_S = 0.2


def main() -> None:
    """Run the command until it ends or the parent is gone; then kill the whole group, this process included."""
    parent, folder, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    child = subprocess.Popen(command)
    while child.poll() is None and os.getppid() == parent:
        time.sleep(_LOOK_S)
    if os.getppid() != parent and folder:
        shutil.rmtree(folder, ignore_errors=True)  # the weights that it was to push
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
