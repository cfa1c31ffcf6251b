"""Files that are whole or absent, whatever happens while they are written. Standard library only."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Hand out a draft beside `path`; it takes the name `path` once all of it is on the disk.

    When the body fails, the draft is removed and an earlier `path` stays as it is; an OSError is raised again with the
    name of `path`. A draft left by a killed process is overwritten by the next one.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, f"cannot write the file: {os.strerror(error.errno)}", str(path)) from error
        raise
