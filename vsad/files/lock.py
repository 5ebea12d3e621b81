"""A lock on an open file, which the system takes back when its process ends in whatever way."""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path

# Windows lets no other process read the bytes that are locked: these are never written.
_FAR = 1 << 62
_NOT_OFFERED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def lock(descriptor: int, path: Path) -> bool:
    """Lock an open file until it is closed; returns whether no other process has it locked.

    Where the file system offers no locks there is a warning, and the answer is yes.
    """
    try:
        if sys.platform == "win32":
            import msvcrt
            import os

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NOT_OFFERED:
            warnings.warn(f"{path}: the file system has no locks; let one process at a time write there", stacklevel=3)
            return True
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
