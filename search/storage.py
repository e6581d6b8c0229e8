"""Where a study is kept: SQLite in its directory, which others can read while the driver writes; or any URL."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from harness.errors import BadInput

BUSY_SECONDS = 60  # how long a writer waits for another: at SQLite's default of 5 s some trials get lost
CONNECT_SECONDS = 5
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def open_storage(url: str, create: bool = False) -> RDBStorage:
    """The storage at `url`; a SQLite file is made only with `create`. `BadInput` where it cannot be had."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise BadInput(
            f"storage {url!r} is no database URL such as sqlite:///study.db or postgresql://host/name"
        ) from None
    shown = parsed.render_as_string(hide_password=True)
    kind = parsed.get_backend_name()
    kwargs: dict[str, object] = {"pool_pre_ping": True}
    if kind == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            prepare_sqlite(Path(parsed.database), create)
        kwargs = {"connect_args": {"timeout": BUSY_SECONDS}}
    elif parsed.host:
        port = parsed.port or DEFAULT_PORTS.get(kind)
        if port is not None:
            reach(shown, parsed.host, port)
    try:
        return RDBStorage(url, engine_kwargs=kwargs)
    except ImportError as error:
        extra = " (pip install 'rl-harness[postgres]')" if kind == "postgresql" else ""
        raise BadInput(f"storage {shown} needs a Python package: {error.__cause__ or error}{extra}") from None
    except sqlalchemy.exc.NoSuchModuleError:
        raise BadInput(f"storage {shown}: there is no database of the kind {parsed.drivername!r}") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        cause = getattr(error, "orig", None) or error
        raise BadInput(f"storage {shown} cannot be used: {first_line(cause)}") from None


def without_password(url: str) -> str:
    """The URL as it may be shown and written down."""
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)


def prepare_sqlite(path: Path, create: bool) -> None:
    """Write-ahead logging, which the file remembers: readers (the dashboard, `status`) do not block the one writer."""
    if not path.exists() and not create:
        raise BadInput(f"storage {path}: there is no such file")
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise BadInput(f"storage {path} cannot be used: {error}") from None


def reach(shown: str, host: str, port: int) -> None:
    """Finds out within seconds that nobody answers; database clients may take minutes."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BadInput(f"storage {shown} cannot be reached at {host}:{port}: {error.strerror or error}") from None


def first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
