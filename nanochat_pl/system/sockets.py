"""Where processes meet: a folder whose path leaves room for the name of a Unix socket.

Loader workers hand tensors over through a socket among the temporary files. Its path has 107 bytes at most, which a
scratch file system's folders use up; the worker would then fail for each batch, and the run wait for ever.
"""

from __future__ import annotations

import os
import tempfile

from nanochat_pl.system.errors import BadInput

LONGEST_PATH = 103  # bytes: Linux has 107, macOS 103
NAME = "/pymp-12345678/listener-12345678"  # what multiprocessing adds
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def socket_folder() -> str:
    """Return the folder of temporary files, or one with a shorter path where sockets in it could not be named.

    Raises:
        BadInput: there is none that can be written to.
    """
    usual = tempfile.gettempdir()
    for folder in (usual, *SHORT_FOLDERS):
        if len(os.fsencode(folder + NAME)) <= LONGEST_PATH and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise BadInput(
        f"TMPDIR={usual} has {len(os.fsencode(usual))} bytes, too many for the sockets in it\n"
        f"Give a folder of {LONGEST_PATH - len(NAME)} bytes at most, or make /tmp writable, "
        "or do without the loader's process: --data.init_args.num_workers 0"
    )
