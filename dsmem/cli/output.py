"""What the commands have in common: how they write, how they end, and the option --fabric."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

import dsmem
from dsmem import errors
from dsmem.context import parse_fabric


class Page(Console):
    """A console that leaves a broken pipe to :class:`Group`."""

    def on_broken_pipe(self) -> None:
        """Raise again what is being handled."""
        raise


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as of ``dsmem ls | head -1``."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # closed, or not a file
        return False


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """A pipe that is read no more, as of ``dsmem ls | head -1``, ends the command and is no failure."""
    try:
        yield
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered still
        raise SystemExit(0) from None


class Group(click.Group):
    """Commands whose failures are one line for the user, not a traceback.

    Exit status: 0 success or a reader that has gone, 1 failure, 2 wrong arguments, 130 Ctrl-C.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments; --help and --version write."""
        with _reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run a command, and say in one line what the system or the library refused."""
        try:
            with _reader_may_go():
                return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            return context.exit(130)
        except (dsmem.DsmemError, OSError, MemoryError) as error:
            raise click.ClickException(str(error) or type(error).__name__) from error


def _fabric(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        parse_fabric(value)
    except errors.InvalidArgumentError as error:
        raise click.BadParameter(str(error)) from None
    return value


fabric_option = click.option(
    "-f", "--fabric", default="auto", show_default=True, callback=_fabric, help="shm, verbs, or a URL."
)
