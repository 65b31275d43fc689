"""Quarantine: bad bytes are kept for a person to look at, each stretch in a file of its own."""

import errno

from msg.store.disk import Disk
from msg.store.scan import Damage

QUARANTINE = "quarantine"


def quarantine(disk: Disk, bad: Damage) -> bool:
    """Copy the bytes, once. False when there is no room: that must stop neither a start nor
    a commit."""
    folder, _, name = bad.file.rpartition("/")
    path = f"{QUARANTINE}/{folder.replace('/', '-')}-{name[:20]}-{bad.offset}"
    if disk.exists(path):
        return True
    try:
        disk.mkdir(QUARANTINE)
        file = disk.create(path)
        try:
            file.append(disk.read(bad.file, bad.offset, bad.length))
            file.datasync()
        finally:
            file.close()
        disk.sync_dir(QUARANTINE)
    except FileNotFoundError:  # the segment is gone: nothing to keep
        disk.unlink(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return False
    return True
