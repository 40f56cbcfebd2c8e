"""dtypes as text, and foreign arrays as NumPy arrays: what a leaf of a batch may be made of.

The text of a dtype is NumPy's own (``"<f4"``, ``">i2"``, ``"|S7"``, ``"<M8[ns]"``), except for
    ``long:<f16:63``   longdouble with the width of its mantissa: x86 and ARM have one of the same name and size, but not the same format
    ``ml:bfloat16``    a type of the package ml_dtypes, which is imported only when such a text turns up
    ``["struct", names, formats, offsets, titles, itemsize, aligned]`` and ``["sub", format, shape]``
                       structured dtypes and subarrays, as JSON; every format is again one of these
Nothing else is read: `dtype_of` gets its text from a socket, so it matches a whitelist and never gives NumPy a text to interpret.
Metadata of a dtype is dropped, and the record dtype of a recarray arrives as the plain structured one.
"""

from __future__ import annotations

import json
import math
import re
import sys
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from feeder_wire.errors import ProtocolError, UnsupportedBatch

AnyArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
AnyDtype: TypeAlias = "np.dtype[Any]"

MAX_RANK = 64
RANK_HERE = 64 if int(np.__version__.split(".")[0]) >= 2 else 32
MAX_DTYPE_TEXT = 256 * 1024
MAX_ITEMSIZE = (1 << 31) - 1  # a C int; checked here, because NumPy before 1.24 lets sizes beyond it wrap around

_NATIVE = re.compile(
    r"\|b1|\|[iu]1|[<>][iuf][248]|[<>]c(?:8|16)|\|[SV](?:0|[1-9][0-9]{0,9})|[<>]U(?:0|[1-9][0-9]{0,8})"
    r"|[<>][mM]8(?:\[(?:[1-9][0-9]{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_LONG = re.compile(r"long:([<>][fc](?:12|16|24|32)):([0-9]{1,3})")
_ML_DTYPES = frozenset(
    {"bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"}
    | {"float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "int1", "int2", "int4", "uint1", "uint2", "uint4"}
    | {"bcomplex32", "complex32"}
)
# torch can't give these to NumPy itself: they are read as integers of the same width first.
_TORCH_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_TORCH_AS = {"bfloat16": "int16", **dict.fromkeys(_TORCH_FLOAT8, "uint8")}
_SAFE_TO_CACHE = frozenset("biufcSU")
_MANTISSA = int(np.finfo(np.longdouble).nmant)


class Refused(UnsupportedBatch):
    """A leaf can't travel; `steps` grows from the leaf to the root while the exception passes the containers around it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.steps: list[str] = []


def type_name(value: object) -> str:
    """Qualified name of the type of `value`, without ``builtins``."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# -- dtype to text ------------------------------------------------------------------------------------------------------


_texts: dict[AnyDtype, str] = {}


def text_of(dtype: AnyDtype) -> str:
    """The text of a dtype.

    Raises:
        Refused: it holds objects, or is a type that neither NumPy nor ml_dtypes defines.
    """
    text = _texts.get(dtype)
    if text is None:
        if dtype.names is not None or dtype.subdtype is not None:
            text = json.dumps(_describe(dtype), separators=(",", ":"))
            if len(text) > MAX_DTYPE_TEXT:
                raise Refused(f"its structured dtype has {len(dtype.names or ())} fields, too many to be sent with each batch")
            return text
        text = _plain_text(dtype)
        # Equal dtypes need not have equal texts (aligned structs, M8[1000ms] and M8[s]), so only these are remembered.
        if dtype.kind in _SAFE_TO_CACHE and len(_texts) < 1024:
            _texts[dtype] = text
    return text


def _plain_text(dtype: AnyDtype) -> str:
    if dtype.hasobject:
        raise Refused("an object array can't be sent; make it plain (pad and np.stack, .astype(str) for texts) or send its items as a list")
    name = dtype.name
    if dtype.type.__module__.partition(".")[0] == "ml_dtypes" and name in _ML_DTYPES and dtype.isnative:
        return f"ml:{name}"
    text: str = dtype.str
    if (dtype.kind == "f" and dtype.itemsize > 8) or (dtype.kind == "c" and dtype.itemsize > 16):
        return f"long:{text}:{_MANTISSA}"
    # A user-defined dtype may print like a native one; only what NumPy makes again from the text is native.
    if _NATIVE.fullmatch(text) is None or np.dtype(text) != dtype:
        raise Refused(f"dtype {dtype} can't be sent: NumPy and ml_dtypes don't define it; convert it with .astype(...)")
    return text


def _describe(dtype: AnyDtype) -> object:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["sub", _describe(base), list(shape)]
    if dtype.names is None:
        return _plain_text(dtype)
    fields: Any = dtype.fields
    formats, offsets, titles = [], [], []
    for name in dtype.names:
        field, offset, *title = fields[name]
        if title and not isinstance(title[0], str):
            raise Refused(f"the title of field {name!r} is no text")
        try:
            formats.append(_describe(field))
        except Refused as refused:
            raise Refused(f"field {name!r}: {refused}") from None
        offsets.append(offset)
        titles.append(title[0] if title else None)
    return ["struct", list(dtype.names), formats, offsets, titles if any(titles) else None, dtype.itemsize, dtype.isalignedstruct]


# -- text to dtype ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def dtype_of(text: str) -> AnyDtype:
    """The dtype for a text that came from a peer; never one that holds objects.

    Raises:
        ProtocolError: `text_of` does not write such a text.
        UnsupportedBatch: it does, but this machine has no such type (ml_dtypes missing, another long double).
    """
    if len(text) > MAX_DTYPE_TEXT:
        raise ProtocolError(f"a dtype of {len(text)} characters")
    try:
        dtype = _build(json.loads(text) if text.startswith("[") else text)
        if dtype.hasobject or dtype.subdtype is not None:
            raise ProtocolError(f"dtype {text!r:.80} is none that may travel")
    except (ProtocolError, UnsupportedBatch):
        raise
    except Exception as exc:  # NumPy and json refuse in half a dozen ways; to the caller they are one
        raise ProtocolError(f"dtype {text!r:.80} makes no sense: {type(exc).__name__}") from exc
    return dtype


def _build(form: object) -> AnyDtype:
    if isinstance(form, str):
        return _plain(form)
    if isinstance(form, list) and form and form[0] == "sub":
        _, base, shape = form
        if not (isinstance(shape, list) and shape and len(shape) <= RANK_HERE and all(type(n) is int and n >= 0 for n in shape)):
            raise ProtocolError("the shape of a subarray must be a list of sizes")
        inner = _build(base)
        if math.prod(shape) * inner.itemsize > MAX_ITEMSIZE:
            raise ProtocolError("a subarray of more than 2 GB")
        return np.dtype((inner, tuple(shape)))
    if not (isinstance(form, list) and form and form[0] == "struct"):
        raise ProtocolError(f"{form!r:.80} is no dtype")
    _, names, formats, offsets, titles, itemsize, aligned = form
    parts = [_build(f) for f in formats]
    titled = titles is None or (isinstance(titles, list) and len(titles) == len(names) and all(t is None or type(t) is str for t in titles))
    sizes = all(type(n) is int and 0 <= n <= MAX_ITEMSIZE for n in [*offsets, itemsize]) and len(names) == len(parts) == len(offsets)
    if not (titled and sizes and type(aligned) is bool and isinstance(names, list) and all(type(n) is str for n in names)):
        raise ProtocolError("names, offsets, titles or size of a structured dtype are malformed")
    if any(offset + part.itemsize > itemsize for offset, part in zip(offsets, parts, strict=True)):
        raise ProtocolError("a field lies outside its structured dtype")
    spec = {"names": names, "formats": parts, "offsets": offsets, "itemsize": itemsize}
    if titles is not None:
        spec["titles"] = titles
    make: Any = np.dtype  # its stub wants a literal
    made: AnyDtype = make(spec, align=aligned)
    return made


def _plain(text: str) -> AnyDtype:
    if _NATIVE.fullmatch(text):
        if text[1] in "SUV" and int(text[2:]) * (4 if text[1] == "U" else 1) > MAX_ITEMSIZE:
            raise ProtocolError(f"a dtype of more than 2 GB: {text}")
        return np.dtype(text)
    if text.startswith("ml:") and text[3:] in _ML_DTYPES:
        return _ml_dtype(text[3:])
    long = _LONG.fullmatch(text)
    if long is None:
        raise ProtocolError(f"dtype {text!r:.80} is none that may travel")
    here = np.dtype(np.longdouble if long[1][1] == "f" else np.clongdouble).newbyteorder("<" if long[1][0] == "<" else ">")
    if here.str != long[1] or int(long[2]) != _MANTISSA:
        raise UnsupportedBatch(f"a longdouble array ({text}) came from a machine with another long double; send float64 instead")
    return here


def _ml_dtype(name: str) -> AnyDtype:
    try:
        import ml_dtypes
    except ImportError:
        raise Refused(f"an array of {name} needs the package ml_dtypes here: pip install ml_dtypes") from None
    scalar = getattr(ml_dtypes, name, None)
    if scalar is None:
        raise Refused(f"this ml_dtypes is too old for {name}: pip install --upgrade ml_dtypes")
    made: AnyDtype = np.dtype(scalar)
    return made


# -- foreign arrays -----------------------------------------------------------------------------------------------------


def is_foreign_array(value: object) -> bool:
    """Whether `value` is no NumPy array but can be made one: torch, TensorFlow and JAX tensors, PIL images, data frames."""
    cls = type(value)  # not the instance: objects that answer to every attribute are no arrays
    return not isinstance(value, type) and any(hasattr(cls, name) for name in ("__array__", "__array_interface__", "__array_struct__"))


def as_array(value: object) -> AnyArray:
    """A foreign array as a plain NumPy array, without a copy where the other library allows it.

    Raises:
        Refused: the other library would not.
    """
    is_torch = any(cls.__module__.partition(".")[0] == "torch" for cls in type(value).__mro__)
    try:
        return _from_torch(value) if is_torch else np.asarray(value)
    except Refused:
        raise
    except Exception as exc:
        raise Refused(f"{type_name(value)} can't be made a NumPy array: {type(exc).__name__}: {exc}") from exc


def _from_torch(tensor: Any) -> AnyArray:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).rpartition(".")[2]
    if name not in _TORCH_AS:
        return np.asarray(tensor.numpy())
    integer = getattr(sys.modules["torch"], _TORCH_AS[name])  # the tensor's own module: it is loaded
    return np.asarray(tensor.view(integer).numpy().view(_ml_dtype(name)))
