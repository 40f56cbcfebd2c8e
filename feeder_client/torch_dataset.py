"""A torch IterableDataset of a client's batches, as tensors on the client's own memory.

They are views (forms.py), and hold their block. For ``DataLoader(dataset, batch_size=None)``, whose own workers are not wanted: they are
copies of this process, and the batches are made by feeder's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from feeder_client.forms import tensors
from feeder_client.skips import Missing
from feeder_wire.errors import ConfigError

if TYPE_CHECKING:
    from feeder_client.client import FeederClient

_NO_WORKERS = (
    "feeder's dataset is read in the process that made it: DataLoader(dataset, batch_size=None, num_workers=0). The workers that make the "
    "batches are the server's: start it with --workers, or use FeederClient.local(..., workers=4)"
)


def make_torch_dataset(client: FeederClient, pin: bool = False) -> Any:
    """See `FeederClient.as_torch_dataset`."""
    plain, sized = _classes()
    return (plain if client.num_batches is None else sized)(client, pin)


@cache
def _classes() -> tuple[type[Any], type[Any]]:
    """Without and with a length: Keras looks whether there is a ``__len__``, and takes it at its word."""
    try:
        from torch.utils.data import IterableDataset, get_worker_info
    except ImportError as e:
        raise ConfigError(f"as_torch_dataset() needs torch, which can't be imported ({e}): pip install torch") from None

    class FeederDataset(IterableDataset):  # type: ignore[misc]
        """The batches of a feeder client; every iteration over it is one pass."""

        def __init__(self, client: FeederClient, pin: bool) -> None:
            self._client, self._pin = client, pin

        def __iter__(self) -> Iterator[Any]:
            if get_worker_info() is not None:
                raise ConfigError(_NO_WORKERS)
            batches = self._client._iterate(Missing.STAND_IN)  # its length was promised
            return map(tensors, _page_locked(self._client, batches) if self._pin else batches)

        def __reduce__(self) -> Any:
            raise ConfigError(_NO_WORKERS)  # where DataLoader's workers are spawned, not forked

        def __repr__(self) -> str:
            return f"<FeederDataset of {self._client!r}>"

    class SizedFeederDataset(FeederDataset):
        """The same, of a known number of batches."""

        def __len__(self) -> int:
            return len(self._client)

    return FeederDataset, SizedFeederDataset


def _page_locked(client: FeederClient, batches: Iterator[Any]) -> Iterator[Any]:
    over = object()
    while True:
        with client._page_locked(True):
            found = [next(batches, over)]
        if found[0] is over:
            return
        yield found.pop()  # else its block would be held until the next one is wanted
