"""FeederClient: batches from feeder servers, in order, with exactly the structure that the source returned. Knows no Keras."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from feeder_client import saved
from feeder_client.connection import Keys
from feeder_client.core import Core
from feeder_client.cuda import pins_where_cuda_is_used
from feeder_client.local import LocalServer
from feeder_client.options import Options, check_local
from feeder_client.pinned import Pins
from feeder_client.position import Position
from feeder_client.receiver import Receiver
from feeder_client.skips import Missing, Skipped, budget_from
from feeder_client.stats import Stats
from feeder_client.waiting import PassEnded
from feeder_wire.errors import ConfigError
from feeder_wire.security import check_endpoint, load_pair, load_public
from feeder_wire.sizes import parse_size

log = logging.getLogger("feeder.client")

Self = TypeVar("Self", bound="FeederClient")


class FeederClient:
    """Batches of one source, made by the workers of one or several feeder servers.

    The constructor connects, waits until a server serves the source, and begins to prefetch. Batches are read by ``client[i]``,
    by ``for batch in client`` (one pass), or through the Keras adapter `FeederSequence`. Arrays may be views of memory shared with
    the server: they stay valid as long as they are alive, also after `close`.

    Args:
        endpoints: ``"tcp://HOST:PORT"``, or several of them, of servers that serve the same source.
        source: its name on the server.
        steps: how many batches make a pass of a stream, so that it has a length; of an indexed source, at most so many.
        prefetch: batches asked for ahead, or ``"auto"``: enough to keep every worker busy and one batch ready.
        lookahead: whether the next pass may be begun before this one is over. False for sources that the trainer changes in between.
        rank, world_size: this trainer's share of the batches of an indexed source: ``rank``, ``rank + world_size``, ...
        connect_timeout: seconds for which no server may be in reach before `NodeUnreachable` is raised.
        batch_timeout: seconds to wait for one batch before `BatchTimeout` is raised; None: as long as it takes, with a word in the
            log after ten seconds.
        hedge: whether a second server is asked for a batch that is late on the first one. The first answer counts.
        memory: cap on the bytes of batches on their way and waiting, for example ``"512MiB"``. One batch is always allowed.
        keys: this client's CURVE key: a ``.key_secret`` file, or the folder that holds it.
        server_key: the server's public key: its ``.key`` file.
        on_error: ``"raise"``, or ``"skip"``: a batch that can't be made (your code raised, its workers died) is left out, with a report at
            the end of the pass. Iterating, a pass is then shorter; `FeederSequence` gives Keras another batch of the pass in its place.
        skip_budget: with ``"skip"``, how many batches of a pass may be left out before the error is raised: a count (int), or a share of
            the pass (float; one at least). None: 0.05.
        resume: a position to begin at: what `state_dict` gave, or the file of a `FeederCheckpoint`; where there is no such file, the
            beginning.
        transport: ``"auto"`` maps the server's memory where it runs on this machine; ``"tcp"`` always takes the socket. The
            environment variable FEEDER_TRANSPORT is the default.

    Raises:
        ConfigError: an argument can't work.
        NodeUnreachable: no server answers.
        AuthenticationError: the keys don't fit.
        SourceNotFound: no source of that name, or its file, module or attribute is missing.
        SourceError: loading the source raised.
        VersionMismatch: client and server don't speak the same version.
    """

    _pins: Pins | None = None  # the page-locked blocks, where there are any
    _more_options: tuple[str, ...] = ()  # of `local`, besides those of a client

    def __init__(
        self,
        endpoints: str | Sequence[str],
        source: str = "default",
        *,
        steps: int | None = None,
        prefetch: int | str = "auto",
        lookahead: bool = True,
        rank: int = 0,
        world_size: int = 1,
        connect_timeout: float = 30.0,
        batch_timeout: float | None = None,
        hedge: bool = True,
        on_error: str = "raise",
        skip_budget: int | float | None = None,
        memory: int | str = "1GiB",
        keys: str | os.PathLike[str] | None = None,
        server_key: str | os.PathLike[str] | None = None,
        resume: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        transport: str | None = None,
    ) -> None:
        self._connect(
            endpoints, source, _load_keys(keys, server_key), None, transport,
            steps=steps, prefetch=prefetch, lookahead=lookahead, rank=rank, world_size=world_size,
            connect_timeout=connect_timeout, batch_timeout=batch_timeout, memory=memory, resume=resume,
            hedge=hedge, on_error=on_error, skip_budget=skip_budget,
        )  # fmt: skip

    @classmethod
    def local(
        cls: type[Self],
        source: object,
        workers: int | Literal["auto"] | None = None,
        *,
        args: Mapping[str, Any] | None = None,
        seed: int = 0,
        server: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Start a private server on this machine and connect to it; it ends with this object, or with this process.

        Nobody else can connect to it: it listens on loopback, with keys made for this one use. Works in a notebook and in a plain
        script without ``if __name__ == "__main__"``: nothing of the script is imported again.

        Args:
            source: ``"file.py:name"`` or ``"module:name"``; or an object or generator function of this process, which is packed with
                cloudpickle and handed to the workers through pipes. Arrays of 1 MB or more in it are shared by all workers.
            workers: worker processes; None: as many as there are usable cores; "auto": begin with one and add more while the training
                waits for data and they help, see docs/operations.md.
            args: arguments for a target's class or function: numbers, texts, booleans, lists and dicts of those.
            seed: of everything random in the source.
            server: options of the server: ``threads``, ``gpu``, ``max_retries``, ``batch_timeout``, ``hedge``, ``light_imports``,
                ``memory``, ``single``, ``on_divergence``, ``stream_order``.
            options: as for the constructor.

        Raises:
            ConfigError: what was handed over can't be packed; the message names the attribute and shows the other way.
            TypeError: there is no such option.
            SourceNotFound, SourceError: as for the constructor.
        """
        check_local(options, {*(FeederClient._connect.__kwdefaults__ or ()), "transport", *cls._more_options}, f"{cls.__name__}.local")
        self = cls.__new__(cls, **{k: v for k, v in options.items() if k == "keras"})
        running = LocalServer(source, workers, args, seed, server)
        try:
            self._init_local(running, options)
        except BaseException:
            running.stop()
            raise
        return self

    def _init_local(self, running: LocalServer, options: dict[str, Any]) -> None:
        transport = options.pop("transport", None)
        self._connect(running.endpoint, "default", running.keys, running, transport, **options)

    def _connect(
        self,
        endpoints: str | Sequence[str],
        source: str,
        keys: Keys | None,
        running: LocalServer | None,
        transport: str | None,
        *,
        steps: int | None = None,
        prefetch: int | str = "auto",
        lookahead: bool = True,
        rank: int = 0,
        world_size: int = 1,
        connect_timeout: float = 30.0,
        batch_timeout: float | None = None,
        hedge: bool = True,
        on_error: str = "raise",
        skip_budget: int | float | None = None,
        memory: int | str = "1GiB",
        resume: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        where = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not where:
            raise ConfigError("endpoints: name at least one server, for example tcp://127.0.0.1:5555")
        for endpoint in where:
            check_endpoint(endpoint)
        if len(set(where)) != len(where):
            raise ConfigError("endpoints: the same server is named twice")
        if not (prefetch == "auto" or (type(prefetch) is int and prefetch > 0)):
            raise ConfigError(f"prefetch={prefetch!r}: 'auto' or a number of batches from 1 on is needed")
        if steps is not None and (type(steps) is not int or steps < 1):
            raise ConfigError(f"steps={steps!r}: a number of batches from 1 on is needed")
        if not (type(rank) is int and type(world_size) is int and 0 <= rank < world_size):
            raise ConfigError(f"rank={rank!r}, world_size={world_size!r}: rank goes from 0 to world_size - 1")
        options = Options(
            source=source,
            steps=steps,
            prefetch=None if prefetch == "auto" else int(prefetch),
            memory_bytes=parse_size(memory if isinstance(memory, str) else str(memory)),
            lookahead=lookahead,
            connect_timeout=connect_timeout,
            batch_timeout=batch_timeout,
            hedge=bool(hedge),
            rank=rank,
            world_size=world_size,
            skip_budget=budget_from(on_error, skip_budget),
            resume=saved.state_from(resume),
            rolls=self._rolls(),
        )
        core = Core(where, options)
        self._core = core
        self._receiver = Receiver(core, keys, _may_map(transport), running.ended if running else lambda: None)
        # Not __del__: a finalizer also runs at interpreter exit, in time, and can't bring anything back to life.
        self._finalizer = weakref.finalize(self, _shut, self._receiver, running)
        self._receiver.start()
        try:
            core.wait_open()
        except BaseException:
            self._finalizer()
            raise

    # ------------------------------------------------------------------------------------------------------------- reading

    @property
    def num_batches(self) -> int | None:
        """Batches of one pass; None for an endless stream without `steps`. A local value: no request.

        While the rest of an epoch is read whose position was taken up again, this is what it still owes.
        """
        return self._core.pass_length

    def __len__(self) -> int:
        """`num_batches`; raises TypeError where there is none."""
        length = self._core.pass_length
        if length is None:
            raise TypeError("this source is endless and has no length: pass steps=, the number of batches that make a pass")
        return length

    def __getitem__(self, index: int) -> Any:
        """Batch `index`; waits for it. What happens with an index out of sequence is written in docs/architecture.md, "Order".

        Raises:
            IndexError: there is no such batch.
            SourceError: the user's code raised for this batch.
            FeederError: it can't be had, and why.
        """
        return self._form(self._core.get(index))

    def __iter__(self) -> Iterator[Any]:
        """One pass: the next epoch of an indexed source; of a stream `steps` batches, or one run up to its end."""
        return self._iterate(Missing.PASS_OVER)

    def _iterate(self, missing: Missing) -> Iterator[Any]:
        """One pass; `missing`: what is given in the place of a batch that is skipped."""
        return self._run() if self._core.in_runs else self._pass(missing)

    def _pass(self, missing: Missing) -> Iterator[Any]:
        self._core.begin_pass()
        index = 0
        while self.num_batches is None or index < self.num_batches:
            with suppress(Skipped):
                yield self._form(self._core.get(index, missing))
            index += 1
        self._core.end_pass()

    def _run(self) -> Iterator[Any]:
        while True:
            try:
                batch = self._core.get_in_run()
            except PassEnded:
                return
            yield self._form(batch)

    def _form(self, batch: Any) -> Any:
        """What is handed out for a batch: the batch. The Keras adapter has its own."""
        return batch

    def _rolls(self) -> bool:
        """Whether what reads this can't do with a pass that is shorter than the others, see order.py."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """The position: plain data, for JSON.

        It is after the batch that was handed out last, or, once `track_training` was called, after the one that was trained on
        last. `load_state_dict`, in another process and with any number of workers of an indexed source, then goes on with exactly the
        batches that would have come, and none is made again to get there. What holds for streams: docs/correctness.md.
        """
        return self._core.where(Position.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a position that `state_dict` gave.

        Raises:
            ConfigError: it is none, or was saved with another source, length or seed.
        """
        self._core.load_state(state)

    def track_training(self) -> None:
        """Say that `mark_trained` will be called, so that `state_dict` gives what was trained on and not what was read ahead.

        To be called where nothing is read ahead, so before the training. `FeederCheckpoint` does it by itself.
        """
        self._core.where(Position.track)

    def mark_trained(self, count: int = 1) -> None:
        """Say that `count` batches more were trained on, in the order in which they were handed out."""
        self._core.where(lambda position: position.trained(count))

    def as_tf_dataset(self, output_signature: Any = None) -> Any:
        """A ``tf.data.Dataset`` of these batches; every iteration over it is one pass. See `feeder_client.tf_dataset`.

        Args:
            output_signature: as of ``tf.data.Dataset.from_generator``; None: dtypes and ranks as in the first batch, which is looked
                at now and handed out again, with every length open.

        Raises:
            ConfigError: TensorFlow is not installed.
            UnsupportedBatch: TensorFlow has no such type.
        """
        from feeder_client.tf_dataset import make_tf_dataset

        return make_tf_dataset(self, output_signature)

    def as_torch_dataset(self, pin: bool = False) -> Any:
        """A torch ``IterableDataset`` of these batches, for ``DataLoader(dataset, batch_size=None)``. See `feeder_client.torch_dataset`.

        Args:
            pin: whether tensors in shared memory shall be page-locked once CUDA is in use: ``.to(device, non_blocking=True)`` then
                returns at once. For copies on a stream of your own see docs/operations.md.

        Raises:
            ConfigError: torch is not installed.
        """
        from feeder_client.torch_dataset import make_torch_dataset

        return make_torch_dataset(self, pin)

    def _page_locked(self, pin: bool) -> AbstractContextManager[None]:
        """What is opened in this context lies in page-locked memory, if `pin`, and where that can be."""
        if not pin or self._core.closed:
            return nullcontext()
        if self._pins is None:
            self._pins = pins_where_cuda_is_used()
            if self._pins is not None:
                weakref.finalize(self, self._pins.close)
        return nullcontext() if self._pins is None else self._pins.asking()

    def stats(self) -> Stats:
        """Counters, see `Stats`."""
        return replace(self._core.stats(), borrowed_bytes=self._receiver.borrowed_bytes())

    def verdict(self) -> str:
        """One sentence: is the training held up by its data, by how much, and how many workers would cure it."""
        return self.stats().verdict()

    # ------------------------------------------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Leave the servers, and end a private one. Takes at most a few seconds; may be called again."""
        self._finalizer()
        if self._pins is not None:
            self._pins.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        core = self._core
        if core.closed:
            return f"<{type(self).__name__} {core.options.source!r}, closed>"
        stats = self.stats()
        epoch, position = core.position()
        length = "endless" if core.num_batches is None else f"{core.num_batches} batches"
        outcome = "".join(f", {word}" for word in sorted({n.outcome for n in core.roster.nodes if n.outcome}))
        nodes = ", ".join(n.endpoint + ("" if n.connected else " (not connected)") for n in core.roster.nodes)
        return (
            f"<{type(self).__name__} {core.options.source!r} ({length}) from {nodes}: {stats.workers} workers{outcome}, "
            f"epoch {epoch}, batch {position}, {stats.stored} ready, {stats.owed} on their way>"
        )


def _shut(receiver: Receiver, running: LocalServer | None) -> None:
    receiver.close()
    if running is not None:
        running.stop()


def _may_map(transport: str | None) -> bool:
    chosen = transport if transport is not None else os.environ.get("FEEDER_TRANSPORT") or "auto"
    if chosen not in ("auto", "tcp"):
        raise ConfigError(f"transport {chosen!r}: 'auto' or 'tcp' is needed (argument transport=, or FEEDER_TRANSPORT)")
    return chosen == "auto"


def _load_keys(keys: str | os.PathLike[str] | None, server_key: str | os.PathLike[str] | None) -> Keys | None:
    if keys is None and server_key is None:
        return None
    if keys is None or server_key is None:
        raise ConfigError("keys= and server_key= belong together: this client's own .key_secret file, and the server's .key file")
    return Keys(load_pair(Path(keys)), load_public(Path(server_key)))
