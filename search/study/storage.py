"""Where a study is kept: SQLite in its directory, which others can read while the driver writes; or any URL."""

from __future__ import annotations

import re
import socket
import sqlite3
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from harness.errors import BadInput

BUSY_SECONDS = 60  # how long a writer waits for another: at SQLite's default of 5 s some trials get lost
CONNECT_SECONDS = 5
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


def sqlite_url(path: Path) -> str:
    """The URL of a file with any name: what would end the path in a URL is written with %."""
    text = str(path)
    return "sqlite:///" + (quote(text) if set(text) & set("?#%") else text)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None where the database is in memory, and gone with the process."""
    text, _, query = url.partition("://")[2].removeprefix("/").partition("?")
    text = unquote(text).removeprefix("file:")
    return None if text in ("", ":memory:") or "mode=memory" in query else Path(text)


def parse_url(url: str) -> sqlalchemy.engine.URL:
    """The URL taken apart; `BadInput`, which shows no password, where it is none."""
    if url.startswith(("postgres://", "postgres+")):  # as providers write it; SQLAlchemy knows the whole name alone
        url = "postgresql" + url.removeprefix("postgres")
    shown = without_password(url)
    before_path = url.partition("://")[2].partition("?")[0]
    if before_path.count("@") > 1 and not url.startswith("sqlite"):
        raise BadInput(f"storage {shown}: an @ in a user's name or password is written %40, a / %2F, a : %3A")
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError, TypeError) as error:
        if "invalid literal for int" in str(error):
            raise BadInput(f"storage {shown}: the port must be a number; a : in a password is written %3A") from None
        raise BadInput(
            f"storage {shown!r} is no database URL such as sqlite:///study.db or postgresql://host/name"
        ) from None
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise BadInput(f"storage {shown}: the port must be from 1 to 65535, got {parsed.port}")
    return parsed


def check_url(url: str) -> sqlalchemy.engine.URL:
    """Checks of a URL before it is opened; `BadInput` also for a database that would not stay."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and sqlite_file(url) is None:
        raise BadInput(
            f"storage {without_password(url)} is kept in memory, and gone when the search ends: leave study.storage "
            "out, or give sqlite:///study.db"
        )
    return parsed


def open_storage(url: str, create: bool = False) -> RDBStorage:
    """The storage at `url`; a SQLite file is made only with `create`. `BadInput` where it cannot be had."""
    parsed = check_url(url)
    shown = without_password(url)
    kind = parsed.get_backend_name()
    kwargs: dict[str, object] = {"pool_pre_ping": True}
    if kind == "sqlite":
        file = sqlite_file(url)
        assert file is not None
        prepare_sqlite(file, create)
        kwargs = {"connect_args": {"timeout": BUSY_SECONDS}}
        if not parsed.query:  # by the file itself: versions of SQLAlchemy read % and # in a URL in different ways
            kwargs = {"creator": partial(connect, file)}
    elif parsed.host:
        port = parsed.port or DEFAULT_PORTS.get(kind)
        if port is not None:
            reach(shown, parsed.host, port)
    try:
        return RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=kwargs)
    except ImportError as error:
        extra = " (pip install 'rl-harness[postgres]')" if kind == "postgresql" else ""
        raise BadInput(f"storage {shown} needs a Python package: {error.__cause__ or error}{extra}") from None
    except sqlalchemy.exc.NoSuchModuleError:
        raise BadInput(f"storage {shown}: there is no database of the kind {parsed.drivername!r}") from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError, ValueError) as error:
        cause = getattr(error, "orig", None) or error
        raise BadInput(f"storage {shown} cannot be used: {first_line(cause)}") from None


def connect(file: Path) -> sqlite3.Connection:
    """A connection whose commits wait for no disk: in WAL mode they survive any end of the process, and where the
    machine itself goes down the last of them may be missing, with the trials that ran on it."""
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def without_password(url: str) -> str:
    """The URL as it may be shown and written down, whatever is wrong with it: between the scheme and the last @ stands
    at most a user's name."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme.startswith("sqlite"):
        return url
    secret, at, place = rest.rpartition("@")
    user, colon, _ = secret.partition(":")
    shown, mark, query = (f"{user}:***@{place}" if colon else f"{secret}{at}{place}").partition("?")
    query = re.sub(r"(?i)((?:password|passwd|pwd|passfile|sslpassword)=)[^&]*", r"\1***", query)
    return f"{scheme}://{shown}{mark}{query}"


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
    """Finds out within seconds that no server answers; database clients may take minutes."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"storage {shown} cannot be reached at {host}:{port}: {why}") from None


def first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
