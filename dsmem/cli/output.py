"""What the commands share: output, exit status, and the option --fabric."""

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
from dsmem.names.remote import is_address

_IN_A_CLUSTER = 3  # slashes of tcp://HOST:PORT/CLUSTER; one more, and a name follows


class Page(Console):
    """A console that leaves a broken pipe to :class:`Group`."""

    def on_broken_pipe(self) -> None:
        """Raise the exception that is being handled again."""
        raise


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader has closed it, as in ``dsmem ls | head -1``."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # closed, or not a real file
        return False


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """Exit with status 0 if the reader of standard output has closed the pipe, as in ``dsmem ls | head -1``."""
    try:
        yield
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        raise SystemExit(0) from None


class Group(click.Group):
    """Commands whose failures are one line for the user, not a traceback.

    Exit status: 0 success, or the reader of standard output has gone; 1 failure; 2 wrong arguments; 130 Ctrl-C.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments. --help and --version write to standard output here."""
        with _reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run a command, and report an error of the system or the library in one line."""
        try:
            with _reader_may_go():
                return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            return context.exit(130)
        except (dsmem.DsmemError, OSError, MemoryError) as error:
            raise click.ClickException(str(error) or type(error).__name__) from error


class Placed(click.Command):
    """A command on a cluster, or at a server, that an option names: where an address stands elsewhere, it says so."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what is wrong with them comes with what to write."""
        given = list(args)
        try:
            return super().parse_args(context, args)
        except click.UsageError as error:
            text = error.format_message().rstrip(".")
            hint = self._hint(given)
            is_cause = isinstance(error, click.MissingParameter) or any(
                is_address(arg) and arg in text for arg in given
            )
            if hint is None or not is_cause:
                raise
            raise click.UsageError(f"{text}; write '{hint}'", context) from None

    def _hint(self, given: list[str]) -> str | None:
        """Return the arguments to write, if an address is not the value of an option."""
        options = [each for each in self.params if isinstance(each, click.Option) and not each.is_flag]
        values = {name for each in options for name in each.opts}
        stray = [arg for before, arg in zip(["", *given], given, strict=False) if before not in values]
        stray = [arg for arg in stray if not arg.startswith("-")]
        address = next((arg for arg in stray if is_address(arg)), None)
        if address is None or given.count(address) > stray.count(address):  # it is where it should be, too
            return None
        place, name = address.rstrip("/"), ""
        if place.count("/") > _IN_A_CLUSTER:
            place, _, name = place.rpartition("/")
        if place.count("/") > _IN_A_CLUSTER:  # no name has a slash
            return None
        if not any(isinstance(each, click.Argument) for each in self.params):
            return f"-c {place}"
        names = [name if arg == address else arg for arg in stray]
        return f"{' '.join(filter(None, names)) or 'NAME'} -c {place}"


def _fabric(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        parse_fabric(value)
    except errors.InvalidArgumentError as error:
        raise click.BadParameter(str(error)) from None
    return value


fabric_option = click.option(
    "-f", "--fabric", default="auto", show_default=True, callback=_fabric, help="shm, verbs, tcp, or a URL."
)
