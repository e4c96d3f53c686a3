"""dsmem ls, rm and gc."""

import json
import os
import pty
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dsmem import _core
from dsmem.cli import main
from dsmem.names import local


def run(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_ls(here):
    here.segment("a", (3, 4), "f8", create=True, lifetime="creator").close()
    here.clock("b", create=True).close()
    rows = json.loads(run("ls", "-c", here.name, "--json"))
    assert [(r["cluster"], r["name"], r["kind"], r["lifetime"]) for r in rows] == [
        (here.name, "a", "segment", "creator"),
        (here.name, "b", "clock", "name"),
    ]
    # Numbers of processes are kept for the newest identities only: a long run of tests makes many.
    known = _core.identity_pid(_core.identity()) == os.getpid()
    assert rows[0]["nbytes"] == 8192 and rows[0]["owner"].endswith(f"pid {os.getpid()}") == known
    table = run("ls", "-c", here.name)
    assert "segment" in table and "8192" in table and "clock" in table
    assert {r["cluster"] for r in json.loads(run("ls", "--json"))} >= {here.name}
    assert run("ls", "-c", here.name, "--owner", str(os.geteuid())) == table
    assert "no such user" in run("ls", "--owner", "no-such-user", code=2)
    assert "no such cluster" in run("ls", "-c", f"{here.name}-absent", code=1)


def test_ls_has_a_line_per_name_where_others_read_it(here):
    here.segment("a" * 100, 4, create=True).close()
    lines = run("ls", "-c", here.name).splitlines()
    assert len(lines) == 2 and "a" * 100 in lines[1]


DSMEM = [sys.executable, "-c", "import sys; from dsmem.cli import main; sys.exit(main())"]
COMMANDS = [["ls"], ["ls", "--json"], ["gc"], ["gc", "--json"], ["rm", "none"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_is_closed(here, command, stream):
    here.segment("a", 4, create=True).close()
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {stream}>&-', "sh", *DSMEM, *command, "-c", here.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr and done.returncode == (command[0] == "rm")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_what_the_terminal_has_no_letters_for(here, encoding):
    """Names of files that dsmem did not make."""
    odd = [local.user_folder(os.geteuid()) / here.name / os.fsdecode(name) for name in (b"\xc3\xa4", b"\xff")]
    here.segment("a", 4, create=True).close()
    for path in odd:
        path.touch()
    command = [*DSMEM, "ls", "-c", here.name]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, encoding="latin-1", check=False
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4, done.stderr
    for path in odd:
        path.unlink()


def test_rm(here):
    for name in "abc":
        here.segment(name, 4, create=True).close()
    run("rm", "-c", here.name, "a")
    assert f"'a' in the cluster {here.name!r}: no object has this name" in run("rm", "-c", here.name, "a", "b", code=1)
    assert [i.name for i in here.list()] == ["c"]
    run("rm", code=2)


CREATOR = """
import os, sys, dsmem
dsmem.connect(sys.argv[1]).segment('a', 4, create=True, lifetime='creator').close()
os._exit(0)
"""


def test_gc(here):
    subprocess.run([sys.executable, "-c", CREATOR, here.name], check=True)
    here.segment("b", 4, create=True).close()
    rows = json.loads(run("ls", "-c", here.name, "--json"))
    assert [(r["name"], r["left"]) for r in rows] == [("a", True), ("b", False)]
    assert "creator (dead)" in run("ls", "-c", here.name)
    assert json.loads(run("gc", "-c", here.name, "--json")) == {
        "names": [{"cluster": here.name, "name": "a"}],
        "clusters": [],
    }
    here.unlink("b")
    assert run("gc", "-c", here.name) == f"removed the empty cluster {here.name}\n"
    assert here.name not in local.clusters()


def test_rm_of_what_is_no_object_any_more(here):
    """Whatever was overwritten: the number by which handles know their own object, too."""
    for offset, nbytes in ((0, 8), (8, 4), (24, 8), (0, 64)):
        for remove in (lambda: run("rm", "-c", here.name, "a"), lambda: here.unlink("a")):
            lock = here.lock("a", create=True)
            lock._memory.remote.write(offset, b"\xff" * nbytes)
            remove()
            assert here.list() == []
            lock.close()


# ---- completion ----


def completed(line):
    """Words that bash is offered at the end of the line."""
    words = line.split(" ")
    environment = {"_DSMEM_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(main, [], prog_name="dsmem", env=environment)
    return [text.partition(",")[2] for text in result.output.split()]


def test_names_are_completed(here):
    for name in ("apple", "apricot", "pear"):
        here.event(name, create=True).close()
    cluster = here.name
    assert completed(f"dsmem rm -c {cluster} ") == ["apple", "apricot", "pear"]
    assert completed(f"dsmem rm -c {cluster} ap") == ["apple", "apricot"]
    assert completed(f"dsmem rm -c {cluster} apple ap") == ["apricot"]
    assert completed(f"dsmem rm -c {cluster} --owner {os.geteuid()} p") == ["pear"]
    assert cluster in completed("dsmem ls -c ") and completed(f"dsmem gc --cluster {cluster}") == [cluster]
    assert completed(f"dsmem rm -c {cluster}-absent ") == []
    assert "no such cluster" in run("ls", "-c", f"{cluster}-absent", code=1)  # asking has not made it
    assert completed("dsmem rm --owner nosuchuser ") == []


def test_completion_is_explained():
    output = run("--help")
    for shell in ("bash", "zsh", "fish"):
        assert f"_DSMEM_COMPLETE={shell}_source dsmem" in output
        script = CliRunner().invoke(main, [], prog_name="dsmem", env={"_DSMEM_COMPLETE": f"{shell}_source"}).output
        assert "_DSMEM_COMPLETE" in script


# ---- what is dead ----


def test_gc_says_what_it_would_do(here):
    program = (
        f"import dsmem, os; c = dsmem.connect({here.name!r})\n"
        "c.event('left', create=True, lifetime='creator'); c.event('stays', create=True); os._exit(0)"
    )
    # A connection now would collect what it leaves.
    subprocess.run([sys.executable, "-c", program], check=True)
    (line,) = (line for line in run("ls", "-c", here.name).splitlines() if "left" in line)
    assert line.split()[-2:] == ["creator", "(dead)"]
    before = run("ls", "-c", here.name, "--json")
    assert run("gc", "-c", here.name, "--dry-run") == f"would remove {here.name}/left\n"
    assert json.loads(run("gc", "-c", here.name, "-n", "--json")) == {
        "names": [{"cluster": here.name, "name": "left"}],
        "clusters": [],
    }
    assert run("ls", "-c", here.name, "--json") == before
    assert run("gc", "-c", here.name) == f"removed {here.name}/left\n"
    here.unlink("stays")
    assert run("gc", "-c", here.name, "--dry-run") == f"would remove the empty cluster {here.name}\n"
    assert run("gc", "-c", here.name) == f"removed the empty cluster {here.name}\n"


# ---- wrong arguments ----


def test_wrong_names_are_refused_before_anything_is_removed(here):
    here.event("a", create=True).close()
    assert "a name has 1 to 200 letters" in run("rm", "-c", here.name, "a", "no name", code=2)
    assert [info.name for info in here.list()] == ["a"]
    for command in (["ls"], ["gc"], ["rm", "a"]):
        run(*command, "-c", "no/name", code=2)
    run("rm", code=2)
    here.unlink("a")


# ---- help ----


@pytest.mark.parametrize(
    "arguments, write",
    [
        ("ls AT", "-c AT"),
        ("ls --json AT", "-c AT"),
        ("gc -n AT", "-c AT"),
        ("top AT", "-c AT"),
        ("nodes AT", "-c AT"),
        ("store ls AT", "-c AT"),
        ("store stat AT/pages", "pages -c AT"),
        ("store check pages AT", "pages -c AT"),
        ("store stat AT/", "NAME -c AT"),
        ("store wait AT/pages", "pages -c AT"),
        ("store drop AT/pages", "pages -c AT"),
        ("rm AT/table", "table -c AT"),
        ("rm AT", "NAME -c AT"),
        ("rm one AT/table two", "one table two -c AT"),
        ("rm -c tcp://127.0.0.1:2/demo AT/table", "table -c AT"),
    ],
)
def test_an_address_that_is_no_value_of_an_option(arguments, write):
    at = "tcp://127.0.0.1:1/demo"
    done = CliRunner().invoke(main, arguments.replace("AT", at).split())
    assert done.exit_code == 2 and done.output.rstrip().endswith(f"; write '{write.replace('AT', at)}'")


@pytest.mark.parametrize(
    "arguments",
    [
        "ls -c tcp://bad",
        "ls x",
        "ls --bad tcp://127.0.0.1:1/demo",
        "nodes --drain tcp://127.0.0.1:1",
        "nodes -c tcp://127.0.0.1:1 tcp://127.0.0.1:1",
        "rm -c tcp://127.0.0.1:1/demo a/b",
        "store stat tcp://127.0.0.1:1/demo/a/b",
        "store wait tcp://127.0.0.1:1/demo/a -t x",
    ],
)
def test_other_mistakes_have_no_such_advice(arguments):
    done = CliRunner().invoke(main, arguments.split())
    assert done.exit_code == 2 and "write '" not in done.output


def test_summaries_are_whole():
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    summaries = result.output.partition("Commands:")[2]
    assert all(f"  {name} " in summaries for name in main.commands) and "..." not in summaries and "…" not in summaries


@pytest.mark.parametrize("name", sorted(main.commands))
def test_options_are_explained(name):
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert len((parameter.help or "").split()) >= 2 or parameter.name == "as_json", parameter.name


# ---- pipes ----


@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["--help"], ["doctor"], ["doctor", "--json"],
                                     ["bench", "-o", "read", "-s", "8", "-n", "5"], ["demo"]])  # fmt: skip
def test_a_reader_that_is_gone_is_no_error(here, command):
    here.event("a", create=True).close()
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen([*DSMEM, *command], stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        said = process.stderr.read()
    here.unlink("a")
    assert (process.returncode, said) == (0, b"")


def test_an_empty_list_says_so_and_puts_nothing_into_a_pipe():
    command = [sys.executable, "-m", "dsmem", "ls", "--owner", "54321"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "no names\n")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=True)
    os.close(theirs)
    os.close(ours)
    assert done.stderr == "no names\n"
