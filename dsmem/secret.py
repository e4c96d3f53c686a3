"""The secret that the processes of one user share, and with which they authenticate each other.

It is looked for in this order:

1. ``$DSMEM_SECRET``: the text itself.
2. ``$DSMEM_SECRET_FILE``: the path of a file that holds it.
3. ``$XDG_CONFIG_HOME/dsmem/secret``, by default ``~/.config/dsmem/secret``; created with a random secret if missing.

The home folder is ``$HOME``, or that of the password file if HOME is not set. ``$XDG_CONFIG_HOME`` is used if it is an
absolute path, as its standard requires. A secret is bytes: text in any encoding, or arbitrary bytes.

White space around the text of a file is ignored, so that the text may be given as ``$DSMEM_SECRET`` on another host.
No user but the owner may have any right to the file.

The core is given the :func:`key` that is derived from the secret (docs/SECURITY.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import stat
from pathlib import Path

from .errors import InvalidArgumentError
from .handshake import stretch

_log = logging.getLogger("dsmem")

SHORTEST = 16  # bytes


def default_secret() -> bytes:
    """Return the secret of this user.

    Returns
    -------
    bytes
        At least 16 bytes.

    Raises
    ------
    InvalidArgumentError
        The secret is too short; or its file is missing, can't be created or read, or is open to other users.
    """
    text = os.environb.get(b"DSMEM_SECRET")
    if text is not None:
        return _checked(text, "DSMEM_SECRET")
    path = secret_path()
    try:
        if not os.environ.get("DSMEM_SECRET_FILE") and not path.exists():
            _create(path)
        return _checked(_read(path), str(path))
    except OSError as e:
        raise InvalidArgumentError(
            f"the secret file {path}: {e.strerror}; make it a file that is readable for you alone, or set DSMEM_SECRET",
            sys=e.errno or 0,
        ) from e


def key(secret: bytes) -> bytes:
    """Derive the key that the core is given in place of a secret. A secret chosen by people becomes slow to guess.

    Parameters
    ----------
    secret : bytes
        At least 16 bytes. 64 hexadecimal digits, as :func:`default_secret` generates them, are used as they are. Any
        other secret is stretched by scrypt, once per process, which takes about 0.1 s.

    Returns
    -------
    bytes

    Raises
    ------
    InvalidArgumentError
        The secret is too short.
    """
    return stretch(_checked(bytes(secret), "the shared secret"))


def secret_path() -> Path:
    """Return the path of the file that holds the secret if ``$DSMEM_SECRET`` is not set.

    Returns
    -------
    Path
        The file may not exist yet.

    Raises
    ------
    InvalidArgumentError
        There is no home folder to look in.
    """
    named = os.environ.get("DSMEM_SECRET_FILE")
    if named:
        return Path(named)
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else _home() / ".config") / "dsmem" / "secret"


def _home() -> Path:
    """Return the home folder, which exists. A relative path would give each working folder its own secret."""
    remedy = "set HOME, or DSMEM_SECRET, or DSMEM_SECRET_FILE"
    try:
        home = Path(os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise InvalidArgumentError(
            f"no home folder for the secret file: HOME is not set, and user {os.geteuid()} has no entry; {remedy}"
        ) from None
    if not home.is_absolute():
        raise InvalidArgumentError(
            f"no home folder for the secret file: HOME={str(home)!r} is not an absolute path; {remedy}"
        )
    if not home.is_dir():
        raise InvalidArgumentError(f"no home folder for the secret file: {home} is not a folder; {remedy}")
    return home


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
    """Create the file atomically and never over another: of several processes here at once, all use the first's."""
    draft = path.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as f:
                f.write(secrets.token_hex(32) + "\n")
                f.flush()
                os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
                _log.info("a new secret was made: %s", path)
        finally:
            draft.unlink()
    except OSError as e:
        raise InvalidArgumentError(
            f"the secret file {path} can't be made: {e.filename or draft}: {e.strerror}; set DSMEM_SECRET, or "
            "DSMEM_SECRET_FILE to a file with at least 16 bytes",
            sys=e.errno or 0,
        ) from e
