"""The secret that the processes of one user share, with which they prove to each other that they belong together.

It is looked for in this order:

1. ``$DSMEM_SECRET``: the text itself.
2. ``$DSMEM_SECRET_FILE``: the path of a file that holds it.
3. ``$XDG_CONFIG_HOME/dsmem/secret``, by default ``~/.config/dsmem/secret``; made at random when it is missing.

The home folder is ``$HOME``, or without it that of the password file. ``$XDG_CONFIG_HOME`` counts where it is an
absolute path, as its standard says. A secret is bytes: text in any encoding, or in none.

A file is read without the white space around its text, so that text may be given as ``$DSMEM_SECRET`` on another host.
Nobody but its owner may have any right to the file.

What the core is given is the :func:`key` that the secret stands for (docs/SECURITY.md).
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
    """What the core is given in place of a secret: slow to guess where people have chosen it.

    Parameters
    ----------
    secret : bytes
        At least 16 bytes. 64 hexadecimal digits, as :func:`default_secret` makes them, are taken as they are. Anything
        else is stretched by scrypt, once per process: that takes about 0.1 s.

    Returns
    -------
    bytes

    Raises
    ------
    InvalidArgumentError
        It is too short.
    """
    return stretch(_checked(bytes(secret), "the shared secret"))


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
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else _home() / ".config") / "dsmem" / "secret"


def _home() -> Path:
    """The home folder, which is there: a path that is not absolute would give each working folder its own secret."""
    remedy = "set HOME, or DSMEM_SECRET, or DSMEM_SECRET_FILE"
    try:
        home = Path(os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise InvalidArgumentError(
            f"no home folder for the secret file: HOME is not set, and user {os.geteuid()} has no entry; {remedy}"
        ) from None
    if not home.is_absolute():
        raise InvalidArgumentError(
            f"no home folder for the secret file: HOME={str(home)!r} is no absolute path; {remedy}"
        )
    if not home.is_dir():
        raise InvalidArgumentError(f"no home folder for the secret file: {home} is no folder; {remedy}")
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
    """Whole or not at all, and never over another: several processes may get here at once, and all use the first's."""
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
