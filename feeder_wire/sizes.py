"""Sizes as users write them."""

from __future__ import annotations

import re

from feeder_wire.errors import ConfigError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


def parse_size(text: str) -> int:
    """Bytes meant by a text such as ``2GiB``, ``500 MB`` or ``1000000``. Raises ConfigError."""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*", text) if isinstance(text, str) else None
    if not match or match[2].lower() not in _UNITS:
        raise ConfigError(f"{text!r:.80} is not a size: write for example 512MiB or 2GiB")
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size < 1 << 20:
        raise ConfigError(f"{text!r} is too small: a batch has to fit, give at least 1MiB")
    return size
