"""What the user's modules draw while they are imported: it doesn't matter who imports them, in which order, and what else is there."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_server import entropy, seeding
from feeder_server.failure import describe
from feeder_server.importer import own_name
from feeder_server.maker import Maker
from feeder_server.module_seeds import seeded
from feeder_server.target import Target
from feeder_wire.errors import FeederError

COMMON = "import random, numpy as np\nDRAWN = [np.random.rand(), random.random(), np.random.default_rng().random()]\n"
SOURCE = "def make():\n    return [DRAWN]\n"
FILES = {
    "common": COMMON,
    "other": "import numpy as np\nnp.random.rand(); np.random.default_rng()\n",
    "one": "import numpy as np, other\nnp.random.rand()\nimport common\nDRAWN = [*common.DRAWN, np.random.rand()]\n" + SOURCE,
    "two": "import numpy as np, common\nDRAWN = [*common.DRAWN, np.random.rand()]\n" + SOURCE,
    "late": "def make():\n    import common\n    return [common.DRAWN]\n",
}


@pytest.fixture(name="files")
def files_of_a_user(tmp_path: Path) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    forget()


def forget() -> None:
    """As in a new process."""
    for name in [*FILES, "data", "data_2", "drawing_library"]:
        sys.modules.pop(name, None)


def made(folder: Path, *names: str) -> dict[str, Any]:
    """What the sources of these files give, made in this order by a worker that has loaded nothing yet."""
    forget()
    out = {}
    for name in names:
        source = Maker(Target(name, str(folder / f"{name}.py"), "make"), seed=5)()
        out[name] = source.get(0)  # type: ignore[union-attr]
    return out


def test_in_any_order_and_company(files: Path) -> None:
    both = made(files, "one", "two")
    assert both["one"][:3] == both["two"][:3]
    assert both["one"][3] != both["two"][3]  # drawn after another number of draws
    assert made(files, "two", "one") == both
    assert made(files, "one") == {"one": both["one"]}
    assert made(files, "two") == {"two": both["two"]}


def test_a_module_that_a_constructor_imports(files: Path) -> None:
    common = made(files, "two")["two"][:3]
    assert made(files, "late")["late"] == common
    assert made(files, "two", "late")["late"] == common
    assert made(files, "late", "two")["two"][:3] == common


def test_a_library_that_draws_when_it_is_imported(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second source finds it there already."""
    library = files / "site-packages"
    library.mkdir()
    (library / "drawing_library.py").write_text("import random, numpy as np\nnp.random.rand(); random.random()\n")
    monkeypatch.syspath_prepend(library)
    for name in ("one", "two"):
        path = files / f"{name}.py"
        path.write_text("import drawing_library\n" + path.read_text())
    assert made(files, "one", "two") == made(files, "two", "one")


def test_files_of_one_name(files: Path) -> None:
    """Which of them is data and which data_2 makes no difference."""
    text = (
        "import numpy as np\nRNG = np.random.default_rng()\n\ndef make():\n    return [[RNG.random(), np.random.default_rng().random()]]\n"
    )
    for folder in ("a", "b"):
        (files / folder).mkdir()
        (files / folder / "data.py").write_text(text)
    targets = [Target(folder, str(files / folder / "data.py"), "make") for folder in ("a", "b")]
    found = []
    for order in (targets, targets[::-1]):
        forget()
        sources = {target.name: Maker(target, seed=1)() for target in order}
        assert {"data", "data_2"} <= sys.modules.keys()
        found.append({name: source.get(0) for name, source in sorted(sources.items())})  # type: ignore[union-attr]
    assert found[0] == found[1]
    assert (own_name("data_2"), own_name("data"), own_name("numpy_2")) == ("data", "data", "numpy_2")


def test_a_generator_of_the_module_begins_each_copy_alike(files: Path) -> None:
    """It goes on from copy to copy, so each but the first would be built with other numbers; the user's own seed counts."""
    (files / "one.py").write_text(
        "import numpy as np, random\nRNG = np.random.default_rng(42)\nSTATE = np.random.RandomState(1)\nOLD = random.Random(2)\n"
        "def make():\n    return [[RNG.random(), STATE.rand(), OLD.random()]]\n"
    )
    forget()
    maker = Maker(Target("one", str(files / "one.py"), "make"), seed=1)
    want = [np.random.default_rng(42).random(), np.random.RandomState(1).rand(), random.Random(2).random()]
    assert [maker().get(0) for _ in range(3)] == [want] * 3  # type: ignore[union-attr]


def test_the_importer_is_left_as_it_was(files: Path) -> None:
    """Also when the module raises; and its traceback is the user's own."""
    (files / "one.py").write_text("import other, two\n")
    (files / "two.py").write_text("raise ValueError('no data')\n")
    forget()
    sys.path.insert(0, str(files))
    before = SourceFileLoader.exec_module
    random.seed(3)
    want = random.random()
    random.seed(3)
    with pytest.raises(ValueError, match="no data") as caught, seeded(1):
        import one  # type: ignore[import-not-found]  # noqa: F401
    assert random.random() == want
    assert SourceFileLoader.exec_module is before and "exec_module" not in vars(SourceFileLoader)
    assert not entropy._users
    forget()
    with pytest.raises(FeederError) as error:
        Maker(Target("one", str(files / "one.py"), "make"), seed=1)
    text = describe(error.value).traceback
    assert "no data" in str(caught.value)
    assert "one.py" in text and "two.py" in text and "module_seeds.py" not in text


def test_a_framework_that_is_loaded_on_the_way_is_seeded(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For code that goes on after its import it makes no difference whether another source had loaded it before."""
    library = files / "site-packages"
    library.mkdir()
    (library / "cv2.py").write_text("SEEN = [0]\nsetRNGSeed = SEEN.append\n")
    monkeypatch.syspath_prepend(library)
    for name in ("one", "two"):
        (files / f"{name}.py").write_text("import cv2\nDRAWN = [cv2.SEEN[-1]]\n" + SOURCE)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    found = made(files, "one", "two")
    assert found["one"] == found["two"] == [seeding.import_seed(5) & 0x7FFFFFFF]
    del sys.modules["cv2"]
