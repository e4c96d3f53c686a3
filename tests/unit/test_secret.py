"""Where the secret comes from, and who may read it."""

import multiprocessing
import os
import stat

import pytest

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


def test_all_who_start_at_once_get_the_same():
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
    with pytest.raises(InvalidArgumentError, match="set DSMEM_SECRET"):
        default_secret()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user_is_refused(config):
    default_secret()
    os.chown(config / "dsmem/secret", 12345, 12345)
    with pytest.raises(InvalidArgumentError, match="another user"):
        default_secret()
