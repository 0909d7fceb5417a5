"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

from capo_lit.core.errors import DataError


def write_atomic(path: Path, write: Callable[[Path], object], change: str = "") -> None:
    """Write a file under another name and move it into place, so that no half file ever has the final name.

    Args:
        path: of the file; its folder is made if it is not there.
        write: writes the file whose path it is given.
        change: the setting that names the path, for the error.

    Raises:
        DataError: if `change` is given and the disk refuses the file; without it, the OSError itself.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if not change:
            raise
        raise DataError(f"{error.strerror or error}", "a place to write", str(path), change) from error
