"""The secret that the processes of one user share, with which they prove to each other that they belong together.

It is looked for in this order:

1. ``$DSMEM_SECRET``: the text itself.
2. ``$DSMEM_SECRET_FILE``: the path of a file that holds it.
3. ``$XDG_CONFIG_HOME/dsmem/secret``, by default ``~/.config/dsmem/secret``; made at random when it is missing.

A file is read without the white space around its text, so that text may be given as ``$DSMEM_SECRET`` on another host.
Nobody but its owner may have any right to the file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from .errors import InvalidArgumentError

SHORTEST = 16  # bytes


def default_secret() -> bytes:
    """The secret of this user.

    Returns
    -------
    bytes
        At least 16 bytes.

    Raises
    ------
    InvalidArgumentError
        The secret is too short, its file is missing, can't be made or read, or is open to others.
    """
    text = os.environ.get("DSMEM_SECRET")
    if text is not None:
        return _checked(text.encode(), "DSMEM_SECRET")
    named = os.environ.get("DSMEM_SECRET_FILE")
    path = secret_path()
    try:
        if not named and not path.exists():
            _create(path)
        return _checked(_read(path), str(path))
    except OSError as e:
        raise InvalidArgumentError(
            f"the secret file {path}: {e.strerror}; make it readable for you alone, or set DSMEM_SECRET",
            sys=e.errno or 0,
        ) from e


def secret_path() -> Path:
    """The file that holds the secret, where ``$DSMEM_SECRET`` does not.

    Returns
    -------
    Path
        Nothing may be there yet.

    Raises
    ------
    InvalidArgumentError
        There is no home folder to look in.
    """
    named = os.environ.get("DSMEM_SECRET_FILE")
    if named:
        return Path(named)
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError as e:
        raise InvalidArgumentError("no home folder for the secret file; set DSMEM_SECRET or DSMEM_SECRET_FILE") from e
    return Path(base) / "dsmem" / "secret"


def _checked(secret: bytes, source: str) -> bytes:
    if len(secret) < SHORTEST:
        raise InvalidArgumentError(f"{source} holds {len(secret)} bytes; a secret needs at least {SHORTEST}")
    return secret


def _read(path: Path) -> bytes:
    with path.open("rb") as f:
        info = os.fstat(f.fileno())
        if info.st_uid != os.geteuid():
            raise InvalidArgumentError(f"the secret file {path} belongs to another user; make one of your own")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise InvalidArgumentError(f"others have rights to the secret file {path}; run: chmod 600 '{path}'")
        return f.read().strip()


def _create(path: Path) -> None:
    """Whole or not at all, and never over another: several processes may get here at once, and all use the first's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as f:
            f.write(secrets.token_hex(32) + "\n")
            f.flush()
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
