"""The command line: arguments to configuration, errors to exit codes. Nothing else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import click

from feeder_server.config import (
    COMPRESSIONS,
    DEFAULT_BIND,
    POLICIES,
    STREAM_ORDERS,
    ServeConfig,
    SourceEntry,
    parse_workers,
)
from feeder_server.cores import resolve_workers
from feeder_server.target import apply_args, parse_targets
from feeder_wire.errors import (
    BatchTimeout,
    ConfigError,
    DivergentSource,
    EndpointError,
    FeederError,
    NodeUnreachable,
    ProtocolError,
    SourceError,
    SourceNotFound,
    UnsupportedBatch,
    VersionMismatch,
    WorkerCrashed,
)
from feeder_wire.sizes import parse_size


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    USAGE = 2
    SOURCE = 3
    ENDPOINT = 4
    WORKERS = 5
    INTERRUPTED = 130


_CODES: tuple[tuple[type[FeederError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (SourceNotFound, Exit.SOURCE),
    (SourceError, Exit.SOURCE),
    (UnsupportedBatch, Exit.SOURCE),
    (DivergentSource, Exit.SOURCE),
    (BatchTimeout, Exit.SOURCE),
    (EndpointError, Exit.ENDPOINT),
    (NodeUnreachable, Exit.ENDPOINT),
    (VersionMismatch, Exit.ENDPOINT),
    (ProtocolError, Exit.ENDPOINT),
    (WorkerCrashed, Exit.WORKERS),
)


def exit_code(error: FeederError) -> Exit:
    """The exit code that says what kind of error it was."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.USAGE)


def fail(error: FeederError) -> NoReturn:
    """Print an error as the user should see it, and exit."""
    click.echo(f"feeder-server: error: {error}", err=True)
    sys.stderr.flush()
    sys.exit(exit_code(error))


class _Group(click.Group):
    """Turns errors of feeder into a line and an exit code, wherever in a command they come up."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FeederError as e:
            fail(e)
        except KeyboardInterrupt:  # which click would call "Aborted!", and a failure
            sys.exit(Exit.INTERRUPTED)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # `feeder-server augment.py:train` is the first thing people type.
        if args and self.get_command(ctx, args[0]) is None and ":" in args[0]:
            ctx.fail(f"{args[0]!r} is a target, not a command: write 'feeder-server serve {args[0]}'")
        return super().resolve_command(ctx, args)


def _plain_paragraphs(text: str) -> str:
    return "\b\n" + text


EXAMPLES = _plain_paragraphs(
    """Examples:
  feeder-server serve augment.py:train --workers 4
  feeder-server serve train=mypkg.data:Train val=mypkg.data:Val -a batch_size=32 -a val.shuffle=false
  feeder-server serve augment.py:train --bind tcp://0.0.0.0:5555 --keys keys --authorized-clients clients
  feeder-server check augment.py:train
  feeder-server status tcp://127.0.0.1:5555
  feeder-server demo

Exit codes: 0 done, 2 bad usage or configuration, 3 the source could not be loaded,
4 the endpoint could not be bound or reached, 5 workers keep dying."""
)


@click.group(cls=_Group, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="keras-feeder", prog_name="feeder-server")
def cli() -> None:
    """Make training batches in worker processes, and push them to Keras."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a user's file name must not kill us in cp1252


@cli.command(short_help="Run a node: workers that make batches, and a socket that clients connect to.", epilog=EXAMPLES)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "-a",
    "--arg",
    "args",
    multiple=True,
    metavar="[NAME.]KEY=VALUE",
    help="Argument for the source's class or function; VALUE is a TOML value, else a string. Repeatable.",
)
@click.option(
    "-b",
    "--bind",
    default=DEFAULT_BIND,
    show_default=True,
    metavar="ENDPOINT",
    help="Where clients connect; port 0 takes a free one.",
)
@click.option(
    "-w",
    "--workers",
    default=None,
    metavar="N|auto",
    help="Worker processes; auto: as many as are of use.  [default: usable cores]",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of everything random.")
@click.option(
    "--memory",
    default=None,
    metavar="SIZE",
    help="Cap on finished batches held by this node, for example 2GiB.  [default: 1GiB, less where there is less]",
)
@click.option(
    "--max-retries",
    type=int,
    default=2,
    show_default=True,
    metavar="N",
    help="Tries of a batch whose worker died, before the client is told.",
)
@click.option(
    "--batch-timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="A worker that takes longer on one batch is killed, and the batch tried again.  [default: as long as it takes]",
)
@click.option("--no-hedge", is_flag=True, help="Don't give a batch that is overdue to a second, idle worker.")
@click.option("--no-light-imports", is_flag=True, help="Let workers load Keras and TensorFlow at once, also for a base class alone.")
@click.option(
    "--drain-timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-Break, time to finish what is under way.",
)
@click.option(
    "--on-divergence",
    type=click.Choice(POLICIES),
    default="single",
    show_default=True,
    help="What to do if workers make different data for the same batch: let one worker make all, go on all the same, or end.",
)
@click.option(
    "--stream-order",
    type=click.Choice(STREAM_ORDERS),
    default="ready",
    show_default=True,
    help="How the workers' batches of a generator are mixed: as they are ready, or in turns, the same on every run.",
)
@click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    default="auto",
    show_default=True,
    help="Pack batches for clients on other machines: where that pays for their line, never, or always.",
)
@click.option("--single", is_flag=True, help="Each source is run by one worker only: for streams that can't be shared out.")
@click.option("--gpu", is_flag=True, help="Let workers see accelerators; they are hidden from them otherwise.")
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="BLAS, OpenMP and OpenCV threads per worker.")
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="This server's own CURVE key pair (feeder-server keygen DIR).",
)
@click.option(
    "--authorized-clients",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Public keys (*.key) of the clients to let in.",
)
@click.option("--insecure", is_flag=True, help="Allow a bind that other machines can reach without keys.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def serve(
    targets: tuple[str, ...],
    args: tuple[str, ...],
    bind: str,
    workers: str | None,
    seed: int,
    memory: str | None,
    max_retries: int,
    batch_timeout: float | None,
    no_hedge: bool,
    no_light_imports: bool,
    drain_timeout: float,
    on_divergence: str,
    stream_order: str,
    compression: str,
    single: bool,
    gpu: bool,
    threads: int,
    keys_dir: Path | None,
    authorized_clients: Path | None,
    insecure: bool,
    verbose: bool,
) -> None:
    """Serve sources from one pool of workers.

    TARGET is [NAME=]MODULE_OR_FILE:ATTR, for example augment.py:train or val=mypkg.data:Val. ATTR is a class or function (called
    with the -a arguments) or an object, and gives a Keras Sequence, anything with __getitem__ and __len__, or a generator. The
    folder of a file, or the current folder for a module, is on the path. Stop it with Ctrl-C; a second Ctrl-C kills it.
    """
    from feeder_wire.security import load_authorized, load_pair

    most, autoscale = resolve_workers(None if workers is None else parse_workers(workers))
    config = ServeConfig(
        sources=tuple(SourceEntry(t.name, target=t) for t in apply_args(parse_targets(targets), args)),
        bind=bind,
        workers=most,
        autoscale=autoscale,
        seed=seed,
        memory_bytes=parse_size(memory) if memory else 0,
        max_retries=max_retries,
        batch_timeout=batch_timeout,
        hedge=not no_hedge,
        light_imports=not no_light_imports,
        drain_timeout=drain_timeout,
        gpu=gpu,
        threads=threads,
        single=single,
        on_divergence=on_divergence,
        stream_order=stream_order,
        compression=compression,
        keys=load_pair(keys_dir) if keys_dir else None,
        authorized=load_authorized(authorized_clients) if authorized_clients else frozenset(),
        insecure=insecure,
    )
    from feeder_server.serve import run

    run(config, verbose)


@cli.command(short_help="Load a source, draw batches, and say whether it can be served.")
@click.argument("target")
@click.option("-a", "--arg", "args", multiple=True, metavar="KEY=VALUE", help="Argument for the source, as for serve. Repeatable.")
@click.option(
    "-w", "--workers", type=int, default=2, show_default=True, metavar="N", help="Worker processes; with one, nothing is compared."
)
@click.option("--batches", type=int, default=20, show_default=True, metavar="N", help="How many to draw in each of two passes.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of everything random.")
@click.option("--on-divergence", type=click.Choice(POLICIES), default="single", show_default=True, help="As for serve; error: exit with 3.")
@click.option("--timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For loading it, and for each batch.")
@click.option("--gpu", is_flag=True, help="Let workers see accelerators.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log too, with what your code prints.")
def check(
    target: str,
    args: tuple[str, ...],
    workers: int,
    batches: int,
    seed: int,
    on_divergence: str,
    timeout: float,
    gpu: bool,
    verbose: bool,
) -> None:
    """Load TARGET in worker processes as serve would, draw batches in two passes, and say what it is and what is to be changed.

    Exits with 0 if it can be served, and with 3 if it can't be loaded, its batches can't be made or sent, one takes too long, or
    with --on-divergence error its copies disagree.
    """
    from feeder_server.check import run

    config = ServeConfig(
        sources=tuple(SourceEntry(t.name, target=t) for t in apply_args(parse_targets((target,)), args)),
        bind="tcp://127.0.0.1:0",
        workers=workers,
        seed=seed,
        max_retries=0,
        gpu=gpu,
        on_divergence=on_divergence,
    )
    run(config, batches=batches, timeout=timeout, verbose=verbose)


@cli.command(short_help="One look at a running node.")
@click.argument("endpoint", metavar="ENDPOINT")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.option("--timeout", type=float, default=5.0, show_default=True, metavar="SECONDS", help="How long an answer may take.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="For a node with keys: a client's own pair (a .key_secret file, or its folder).",
)
@click.option(
    "--server-key",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="For a node with keys: its public key (a .key file, or its folder).",
)
def status(endpoint: str, as_json: bool, watch: bool, timeout: float, keys: Path | None, server_key: Path | None) -> None:
    """Show how the node at ENDPOINT is: workers, clients, sources and what their batches are made of, batches made.

    ENDPOINT is what 'feeder-server serve' has printed, for example tcp://127.0.0.1:5555. The node answers at once, also while its
    workers load or are busy, and does nothing else for it.
    """
    from feeder_server.watch import run

    run(endpoint, as_json=as_json, watch=watch, timeout=timeout, keys=keys, server_key=server_key)


@cli.command(short_help="Make a CURVE key pair.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", default="feeder", show_default=True, help="Name of the pair: NAME.key and NAME.key_secret.")
def keygen(folder: Path, name: str) -> None:
    """Make a CURVE key pair in DIR: NAME.key is public, NAME.key_secret is not. Servers and clients need a pair each."""
    from feeder_wire.security import make_key_files

    public, secret = make_key_files(folder, name)
    click.echo(f"{public}  public: give it to the other side")
    click.echo(f"{secret}  secret: keep it here")


@cli.command(short_help="The whole thing on this machine, with a table of what it gained.")
@click.option("-w", "--workers", type=int, default=None, metavar="N", help="Worker processes.  [default: usable cores]")
@click.option("--quick", is_flag=True, help="Shorter, with rougher figures.")
def demo(workers: int | None, quick: bool) -> None:
    """Train a small Keras model from slow data: by plain fit, with Keras' threads, and through feeder. At most two minutes."""
    from feeder_server.demo import run

    sys.exit(run(workers, quick))


def main() -> None:
    """Entry point of ``feeder-server``."""
    logging.captureWarnings(True)
    try:
        cli(prog_name="feeder-server")
    except KeyboardInterrupt:
        os._exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
