"""The code blocks of the README and of docs/, found and run as a reader would run them.

What the fences say:

- ``python``: run in the page's session, one after the other. Where its print lines end in comments, these are the
  output that is expected, line for line.
- ``python`` whose first line is a comment ``# name.py``: saved under that name, for the commands of the page. More such
  lines begin more programs. Those with ``# name.py, in terminal 1`` run when all are saved, at the same time as others.
- ``console``: lines after ``$ `` are commands, other lines the output that is expected; ``…`` stands for anything.
  Commands marked ``# terminal N`` run at the same time, one terminal beside the other.
- ``text``, ``dockerfile``, ``ini``: not run.

A comment ``<!-- needs: command docker -->``, ``<!-- needs: module torch -->`` or ``<!-- not run: REASON -->`` on the
line before the fence is for the tests alone; neither GitHub nor the site shows it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?:<!-- (needs|not run): ([^\n]*?) -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)
PROGRAM = re.compile(r"^# ([\w.-]+\.py)\b(?:, in terminals? ([\d and]+))?", re.M)
RUN, NOT_RUN = {"python", "console"}, {"text", "dockerfile", "ini"}
SECONDS = 60
DRIVER = """
import json, sys
space = {"__name__": "__main__"}
for line in sys.stdin:
    code, page = json.loads(line)
    exec(compile(code, page, "exec"), space)
    print("\\0", flush=True)
"""


@dataclass
class Program:
    name: str
    terminals: list[str]  # where it runs
    text: str


@dataclass
class Block:
    """One fence: its line in the page, its language, what it needs, its text."""

    line: int
    kind: str
    needs: str
    reason: str  # why no test runs it
    text: str

    @property
    def programs(self) -> list[Program]:
        """What is saved: everything, if its first line names a file."""
        if self.kind != "python" or not PROGRAM.match(self.text):
            return []
        heads = list(PROGRAM.finditer(self.text))
        ends = [*(head.start() for head in heads[1:]), len(self.text)]
        return [
            Program(head[1], re.findall(r"\d+", head[2] or ""), self.text[head.start() : end])
            for head, end in zip(heads, ends, strict=True)
        ]

    def missing(self) -> str:
        """What it needs and this machine lacks."""
        for need in filter(None, self.needs.split(", ")):
            how, name = need.split()
            there = importlib.util.find_spec(name) if how == "module" else shutil.which(name)
            if not there:
                return f"no {how} {name}"
        return ""


def blocks_of(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        how, what, kind, body = match.groups()
        line = text.count("\n", 0, match.start(3)) + 2
        needs, reason = (what or "") * (how == "needs"), (what or "") * (how == "not run")
        found.append(Block(line, kind, needs, reason, body))
    return found


def expected_output(code: str) -> list[str] | None:
    """The comments behind the lines that print, where there are any."""
    printing = [line for line in code.splitlines() if re.match(r"\s*print\(", line)]
    said = [re.search(r"\) +# (.*)$", line) for line in printing]
    return [match[1] for match in said if match] if any(said) else None


def matches(expected: list[str], output: str) -> bool:
    pattern = "\n".join(".*".join(re.escape(part) for part in line.split("…")) for line in expected)
    lines = [line.rstrip() for line in output.rstrip("\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines), re.S) is not None


@dataclass
class Command:
    line: str
    terminal: str
    expected: list[str]


def commands_of(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            command, *comment = re.split(r"\s+# ", line[2:], maxsplit=1)
            terminal = re.match(r"terminal (\d+)", "".join(comment))
            found.append(Command(command, terminal[1] if terminal else "", []))
        elif not found:
            raise AssertionError(f"line {block.line}: a console block begins with '$ '")
        else:
            found[-1].expected.append(line)
    return found


def free_port() -> int:
    """Below those that the kernel gives to sockets which ask for any: no other test has it before it is used."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_listening(port: int) -> bool:
    tables = [Path(f"/proc/self/net/{name}") for name in ("tcp", "tcp6")]
    listening = rf":{port:04X} [0-9A-F:]+ 0A "
    return any(re.search(listening, table.read_text()) for table in tables if table.exists())


class Scene:
    """A folder, an interpreter and a cluster in which the blocks of one page run."""

    def __init__(self, page: Path, folder: Path, cluster: str) -> None:
        self.page, self.folder, self.cluster, self.port = page, folder, cluster, free_port()
        here = str(Path(sys.executable).parent)
        self.env = os.environ | {"PATH": f"{here}:{os.environ['PATH']}", "PYTHONWARNINGS": "error"}
        self.session: subprocess.Popen[str] | None = None

    def own(self, text: str) -> str:
        """The same in a cluster and on a port of the test's own."""
        text = re.sub(r'dsmem\.connect\((?:f?"[^"]*")?(?=[,)])', f'dsmem.connect("{self.cluster}"', text)
        text = text.replace("5555", str(self.port))
        return re.sub(r"^dsmem (rm|ls|gc|top|store \w+)\b", rf"dsmem \1 --cluster {self.cluster}", text)

    def run(self, block: Block) -> None:
        if block.programs:
            self._save(block)
        elif block.kind == "python":
            self._run_code(block)
        else:
            self._run_commands(block, commands_of(block))

    def _save(self, block: Block) -> None:
        """Write its programs, and run those that say where, in the order of terminals."""
        commands = []
        for program in block.programs:
            (self.folder / program.name).write_text(self.own(program.text))
            expected = expected_output(program.text) or []
            commands += [Command(f"python {program.name}", number, expected) for number in program.terminals]
        self._run_commands(block, sorted(commands, key=lambda command: int(command.terminal)))

    def _run_code(self, block: Block) -> None:
        if self.session is None:
            with (self.folder / "stderr").open("w") as stderr:
                self.session = subprocess.Popen(
                    [sys.executable, "-c", DRIVER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=self.folder,
                    env=self.env,
                    text=True,
                )
        assert self.session.stdin and self.session.stdout
        code = "\n" * (block.line - 1) + self.own(block.text)
        self.session.stdin.write(json.dumps([code, str(self.page)]) + "\n")
        self.session.stdin.flush()
        output = ""
        for line in self.session.stdout:
            if line == "\0\n":
                break
            output += line
        else:
            raise AssertionError(f"{self.page.name}:{block.line} ended the session\n{output}\n{self._stderr()}")
        expected = expected_output(block.text)
        assert expected is None or matches(expected, output), f"{self.page.name}:{block.line} printed\n{output}"

    def _run_commands(self, block: Block, commands: list[Command]) -> None:
        failed: list[str] = []

        def run(command: Command) -> None:
            done = subprocess.run(
                ["bash", "-c", self.own(command.line)],
                cwd=self.folder,
                env=self.env,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            good = not command.expected or matches(command.expected, done.stdout)
            if done.returncode or done.stderr or not good:
                failed.append(f"$ {command.line}: status {done.returncode}\n{done.stdout}{done.stderr}")

        terminals: dict[str, list[Command]] = {}
        for command in commands:
            if command.terminal:
                terminals.setdefault(command.terminal, []).append(command)
        threads = []
        for own in terminals.values():
            threads.append(threading.Thread(target=lambda own=own: [run(command) for command in own]))
            threads[-1].start()
            self._let_listen(own, threads[-1])
        for thread in threads:
            thread.join()
        for command in commands:
            if not command.terminal and not failed:
                run(command)
        assert not failed, f"{self.page.name}:{block.line}\n" + "\n".join(failed)

    def _let_listen(self, own: list[Command], thread: threading.Thread) -> None:
        """A server's terminal comes first; a reader types the next command when it listens."""
        names = re.findall(r"[\w.-]+\.py", own[0].line)
        programs = "".join((self.folder / name).read_text() for name in names)
        if "create_server" in programs and str(self.port) in programs:
            while thread.is_alive() and not is_listening(self.port):
                time.sleep(0.01)

    def _stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def close(self) -> None:
        """The session ends normally, without a word on stderr."""
        if self.session is None:
            return
        output, _ = self.session.communicate(timeout=SECONDS)
        end = (self.session.returncode, output, self._stderr())
        assert end == (0, "", ""), f"{self.page.name}: the session ended with {end}"

    def kill(self) -> None:
        if self.session is not None:
            self.session.kill()
            self.session.communicate()
