"""Where the secret comes from, and which users may read it."""

import multiprocessing
import os
import pwd
import re
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

import dsmem
from dsmem.errors import InvalidArgumentError
from dsmem.secret import default_secret


@pytest.fixture(autouse=True)
def config(monkeypatch, tmp_path):
    monkeypatch.delenv("DSMEM_SECRET", raising=False)
    monkeypatch.delenv("DSMEM_SECRET_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_made_once_for_the_owner_alone(config):
    secret = default_secret()
    path = config / "dsmem/secret"
    assert len(bytes.fromhex(secret.decode())) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert default_secret() == secret
    assert [p.name for p in path.parent.iterdir()] == ["secret"]


def test_home_is_the_default_place(config, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(config))
    default_secret()
    assert (config / ".config/dsmem/secret").exists()


def _get(_):
    return default_secret()


def test_all_that_start_at_once_get_the_same():
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_get, range(16), chunksize=1))) == 1


def test_environment_goes_first(monkeypatch, config):
    monkeypatch.setenv("DSMEM_SECRET", "sixteen bytes ü!")
    assert default_secret() == "sixteen bytes ü!".encode()
    assert not (config / "dsmem").exists()


def test_a_files_text_is_the_secret(monkeypatch, config):
    secret = default_secret()
    monkeypatch.setenv("DSMEM_SECRET", secret.decode())
    assert default_secret() == secret


def test_named_file(monkeypatch, config):
    path = config / "mine"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o400)
    monkeypatch.setenv("DSMEM_SECRET_FILE", str(path))
    assert default_secret() == b"0123456789abcdef"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_open_to_others_is_refused_with_the_remedy(config, mode):
    default_secret()
    path = config / "dsmem/secret"
    path.chmod(mode)
    with pytest.raises(InvalidArgumentError, match=f"chmod 600 '{path}'"):
        default_secret()


def test_too_short(monkeypatch, config):
    monkeypatch.setenv("DSMEM_SECRET", "short")
    with pytest.raises(InvalidArgumentError, match="5 bytes; a secret needs at least 16"):
        default_secret()
    monkeypatch.setenv("DSMEM_SECRET", "")
    with pytest.raises(InvalidArgumentError, match="0 bytes"):
        default_secret()


def test_a_named_file_is_never_made(monkeypatch, config):
    monkeypatch.setenv("DSMEM_SECRET_FILE", str(config / "none"))
    with pytest.raises(InvalidArgumentError, match="No such file"):
        default_secret()
    assert not (config / "none").exists()


def test_no_place_for_the_file(config, monkeypatch):
    (config / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config / "file"))
    says = f"can't be made: {config}/file/dsmem: Not a directory; set DSMEM_SECRET"
    with pytest.raises(InvalidArgumentError, match=re.escape(says)):
        default_secret()


def test_bytes_that_are_no_text(monkeypatch, config):
    monkeypatch.setitem(os.environb, b"DSMEM_SECRET", b"\xff\xfe sixteen bytes \x80")
    assert default_secret() == b"\xff\xfe sixteen bytes \x80"
    path = config / "mine"
    path.write_bytes(b"\xff\xfe sixteen bytes \x80\n")
    path.chmod(0o600)
    monkeypatch.delenv("DSMEM_SECRET")
    monkeypatch.setenv("DSMEM_SECRET_FILE", str(path))
    assert default_secret() == b"\xff\xfe sixteen bytes \x80"


def test_a_path_that_is_no_text(monkeypatch, config):
    monkeypatch.setitem(os.environb, b"XDG_CONFIG_HOME", os.fsencode(config) + b"/\xff")
    secret = default_secret()
    assert [os.fsencode(path.name) for path in config.iterdir()] == [b"\xff"] and default_secret() == secret


@pytest.mark.parametrize("home", ["relative", "", None])
def test_a_secret_does_not_depend_on_the_working_folder(monkeypatch, config, home):
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # counts as not set
    monkeypatch.setenv("HOME", str(config))
    monkeypatch.chdir(config)
    secret = default_secret()
    assert (config / ".config/dsmem/secret").exists() and not (config / "relative").exists()
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: types.SimpleNamespace(pw_dir=str(config)))
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    if home:
        with pytest.raises(InvalidArgumentError, match="HOME='relative' is not an absolute path; set HOME"):
            default_secret()
    else:
        assert default_secret() == secret


def test_a_home_folder_that_is_not_there_is_not_made(monkeypatch, config):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(config / "none"))
    with pytest.raises(InvalidArgumentError, match=f"{config}/none is not a folder; set HOME"):
        default_secret()
    assert not (config / "none").exists()


def test_a_user_without_a_home():
    unknown = ["unshare", "--user", "--map-user=54321"]
    if subprocess.run([*unknown, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces for this user")
    command = [*unknown, sys.executable, "-c", "from dsmem.secret import default_secret; default_secret()"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(dsmem.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "HOME is not set, and user 54321 has no entry; set HOME" in done.stderr, done.stderr
    done = subprocess.run(command, env={**environment, "HOME": "/proc"}, capture_output=True, text=True, check=False)
    assert "can't be made: /proc/.config: No such file or directory; set DSMEM_SECRET" in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user_is_refused(config):
    default_secret()
    os.chown(config / "dsmem/secret", 12345, 12345)
    with pytest.raises(InvalidArgumentError, match="another user"):
        default_secret()
