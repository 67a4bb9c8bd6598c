"""Make the cache's volume and write to it once, as a pipeline's pod does.

A new volume belongs to root, and Kubeflow gives its pods no fsGroup. This pod has one, 0, so that the kubelet hands the
volume to that group. It also makes a volume whose class waits for the first pod, before a pipeline is submitted.
"""

import os
import sys
from pathlib import Path


def main(folder: Path) -> str | None:
    probe = folder / ".writable"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        found = folder.stat()
        return (
            f"{folder}: {error.strerror} for user {os.getuid()} and group {os.getgid()}; the volume belongs to "
            f"{found.st_uid}:{found.st_gid} with mode {found.st_mode & 0o7777:o}: make it writable for group 0"
        )
    print(f"{folder} can be written")
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
