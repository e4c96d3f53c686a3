"""The arguments of a context, and what it logs: the library prints nothing."""

import errno
import logging
import socket
import struct
import subprocess
import sys
import textwrap
import zlib

import pytest

import dsmem
from dsmem import errors
from dsmem.context import parse_fabric, parse_fabrics

SECRET = b"the secret of these tests"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (5, "fabric=5: a str"),
        (None, "fabric=None: a str"),
        ("udp", "fabric='udp': there are shm, verbs, tcp and auto"),
        ("shm,", "there are shm, verbs, tcp and auto"),
        ("shm,shm", "a fabric comes twice"),
        ("shm,verbs://a,shm", "a fabric comes twice"),
        ("fault+shm,verbs", "into all fabrics alike, or into none"),
        ("verbs://[", "Invalid IPv6 URL"),
        ("verbs://a:x", "port=x: a number from 0 to 255"),
        ("verbs://a:99999999999", "port=99999999999: a number from 0 to 255"),
        ("verbs://?sl=x", "sl=x: a number from 0 to 15"),
        ("verbs://?tc=1", "no option 'tc'; there are device, port, gid, mtu, depth, sl, traffic_class"),
        ("verbs://a?device=b", "device='b'; options follow a '?', each once"),
        ("verbs://a&b", "options follow a '?', each once"),
        ("verbs://?device=a%26b", "options follow a '?', each once"),
        ("verbs://?sl=1&sl=1", "options follow a '?', each once"),
        ("shm://?depth=1", "shm has no option 'depth'"),
        ("shm://a", "shm has no option 'device'"),
        ("verbs://a\udcff", "that UTF-8 cannot encode"),
        ("verbs://a\0", "that UTF-8 cannot encode"),
        ("fault+shm://?a=\udcff", "that UTF-8 cannot encode"),
    ],
)
def test_fabric(url, says):
    with pytest.raises(errors.InvalidArgumentError) as caught:
        dsmem.Context(url, secret=SECRET)
    assert says in str(caught.value)


def test_fabric_of_the_environment(monkeypatch):
    monkeypatch.setenv("DSMEM_FABRIC", "verbs://\udcff")
    with pytest.raises(errors.InvalidArgumentError, match=r"DSMEM_FABRIC=.* that UTF-8 cannot encode"):
        dsmem.Context(secret=SECRET)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"listen": "a\udcff:1"}, "listen="),
        ({"listen": "a\0b"}, "listen="),
        ({"listen": 5}, "listen=5: a str"),
        ({"advertise": 5}, "advertise=5: a str"),
        ({"depth": "x"}, "depth='x'"),
        ({"depth": 1 << 40}, "depth="),
        ({"secret": "text of more than sixteen bytes"}, "pass bytes, of text its .encode()"),
        ({"secret": 32}, "secret= is of type int"),
        ({"secret": [0] * 32}, "secret= is of type list"),
    ],
)
@pytest.mark.parametrize("kind", ["shm", "verbs"])
def test_arguments(kind, arguments, says):
    with pytest.raises(errors.InvalidArgumentError) as caught:
        dsmem.Context(kind, **{"secret": SECRET, **arguments})
    assert says in str(caught.value) and "sixteen" not in str(caught.value)


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "", " 80", "0x50", "80a", "00000080", "http"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_port_is_a_number_up_to_65535(host, port):
    for arguments in ({"listen": f"{host}:{port}"}, {"listen": "127.0.0.1", "advertise": f"{host}:{port}"}):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            dsmem.Context("tcp", secret=SECRET, **arguments).close()
        assert f"'{host}:{port}'" in str(caught.value) and "a number from 0 to 65535" in str(caught.value)


def test_an_address_that_cannot_be_listened_on_is_named_with_a_remedy():
    with pytest.raises(errors.InvalidArgumentError, match=r"'not an address' is no address: .*; give it in"):
        dsmem.Context("tcp", secret=SECRET, listen="not an address")
    with pytest.raises(errors.SystemCallError, match=r"192\.0\.2\.1 port any: .*'ip address'") as caught:
        dsmem.Context("tcp", secret=SECRET, listen="192.0.2.1")
    assert caught.value.sys == errno.EADDRNOTAVAIL
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as owner:
        port = owner.agent_address.rpartition(":")[2]
        with pytest.raises(errors.SystemCallError, match=f"127.0.0.1 port {port}: .*; take another port"):
            dsmem.Context("tcp", secret=SECRET, listen=f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("text", "core"),
    [
        ("shm", ["shm"]),
        ("shm, verbs", ["shm", "verbs"]),
        ("fault+verbs://m:2?fail=1", ["verbs?device=m&port=2"]),
        (
            "verbs://mlx5_0:1?gid=3&mtu=4096&depth=8&sl=1&traffic_class=106,shm",
            ["verbs?device=mlx5_0&port=1&gid=3&mtu=4096&depth=8&sl=1&traffic_class=106", "shm"],
        ),
    ],
)
def test_fabrics_as_the_core_takes_them(text, core):
    assert [url.for_core() for url in parse_fabrics(text)] == core


def test_several_fabrics_are_no_single_one():
    with pytest.raises(errors.InvalidArgumentError, match="one fabric is needed here, not 2"):
        parse_fabric("shm,verbs")


def test_a_descriptor_whose_address_is_no_text():
    with dsmem.Context("shm", secret=SECRET) as context, context.empty(8) as region:
        body = bytearray(bytes(region.descriptor)[:-4])
        for wrong in (0xFF, 0x0A, 0x20):
            body[-1] = wrong
            descriptor = bytes(body) + struct.pack("<I", zlib.crc32(body))
            for take in (dsmem.Descriptor, context.attach):
                with pytest.raises(errors.DescriptorError, match="not printable ASCII"):
                    take(descriptor)


def test_an_unauthenticated_client_is_logged_and_nothing_printed(capfd, caplog):
    context = dsmem.Context("shm", secret=SECRET)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + context.agent_address.removeprefix("unix:@"))
            client.sendall(b"GET / HTTP/1.1\r\n" * 5)
            assert client.recv(1) == b""
    with caplog.at_level(logging.WARNING, "dsmem"):
        assert context.stats["rejected"] == 2 == context.stats["rejected"]
        context.close()
    assert [record.name for record in caplog.records] == ["dsmem"]
    assert "dropped 2 connections" in caplog.text and context.agent_address in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["shm", "fault+shm"])
@pytest.mark.parametrize("how", ["context.close()", "del context", "pass"])
def test_a_context_whose_file_descriptors_were_closed_ends(name, how):
    """As a process that becomes a daemon does. What has the numbers afterwards is not the context's."""
    script = f"""
        import os, dsmem
        context = dsmem.Context({name!r}, secret={SECRET!r})
        os.closerange(3, 4096)
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(16)]
        {how}
        [os.fstat(fd) for fd in others]
        pid = os.fork()
        [os.fstat(fd) for fd in others]
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", ["no hex", "0", None, 7, b"00"])
def test_what_is_no_descriptor_in_hex(text):
    with pytest.raises(errors.DescriptorError, match=r"what descriptor\.hex\(\) gave"):
        dsmem.Descriptor.fromhex(text)
