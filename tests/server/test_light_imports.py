"""Stand-ins for Keras and TensorFlow: on small libraries of the same build, and, with one start of the real ones, on those."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parents[2])

# What Keras 3, tf_keras and TensorFlow are built like, as far as it matters here. `loaded` says what was run, and in which order.
LIBRARIES = {
    "loaded.py": "NAMES = []",
    "keras/__init__.py": """
        import loaded
        loaded.NAMES.append("keras")
        import random
        random.random()
        from keras import layers as layers
        from keras import utils as utils
        __version__ = "3.0"
        def __getattr__(name):
            if name == "late":
                return "late"
            raise AttributeError(f"module 'keras' has no attribute {name!r}")
    """,
    "keras/layers.py": "class Layer: pass",
    "keras/lonely.py": "from keras import layers\nVALUE = 5",
    "keras/utils/__init__.py": """
        from keras.src.trainers.data_adapters.py_dataset_adapter import PyDataset as PyDataset
        from keras.src.trainers.data_adapters.py_dataset_adapter import PyDataset as Sequence
        from keras.src.utils.numerical_utils import to_categorical as to_categorical
        OTHER = 3
    """,
    "keras/src/__init__.py": "",
    "keras/src/backend.py": "def is_tensor(x): return type(x).__name__ == 'Tensor'",
    "keras/src/export.py": "def keras_export(names): return lambda thing: thing",
    "keras/src/trainers/__init__.py": "",
    "keras/src/trainers/data_adapters/__init__.py": "",
    "keras/src/trainers/data_adapters/py_dataset_adapter.py": """
        import itertools
        from keras.src.export import keras_export
        @keras_export(["keras.utils.PyDataset", "keras.utils.Sequence"])
        class PyDataset:
            def __init__(self, workers=1):
                self._workers = workers
            @property
            def workers(self):
                return self._workers
            @property
            def num_batches(self):
                return len(self)
            def __iter__(self):
                for i in itertools.islice(itertools.count(), self.num_batches):
                    yield self[i]
            def on_epoch_end(self):
                pass
    """,
    "keras/src/utils/__init__.py": "",
    "keras/src/utils/numerical_utils.py": """
        import numpy as np
        from keras.src import backend
        from keras.src.export import keras_export
        @keras_export("keras.utils.to_categorical")
        def to_categorical(x, num_classes=None):
            if backend.is_tensor(x):
                return "a tensor"
            return np.eye(num_classes or int(np.max(x)) + 1)[np.array(x)]
    """,
    "tf_keras/__init__.py": "import loaded\nloaded.NAMES.append('tf_keras')\nfrom tf_keras import utils",
    "tf_keras/utils/__init__.py": "from tf_keras.src.utils.data_utils import Sequence",
    "tf_keras/src/__init__.py": "",
    "tf_keras/src/utils/__init__.py": "",
    "tf_keras/src/utils/data_utils.py": """
        from abc import abstractmethod
        def keras_export(names): return lambda thing: thing
        @keras_export("keras.utils.Sequence")
        class Sequence:
            @abstractmethod
            def __getitem__(self, index):
                raise NotImplementedError
    """,
    "tensorflow/__init__.py": """
        import loaded
        loaded.NAMES.append("tensorflow")
        import os, types, importlib
        __path__ = [os.path.join(os.path.dirname(__file__), "api"), *__path__]  # as for "keras._tf_keras.keras"
        class Lazy(types.ModuleType):
            def __getattr__(self, name):
                return getattr(importlib.import_module("keras"), name)
        keras = Lazy("keras")
        from tensorflow import math as math
        __version__ = "2.20"
    """,
    "tensorflow/math.py": "def add(a, b): return a + b",
    "tensorflow/python/__init__.py": "DEEP = 1",
    "tensorflow/api/keras/__init__.py": "from keras import layers as layers",
    "tensorflow/api/keras/utils.py": "from keras.utils import *",
}

START = """
    import contextlib, json, sys
    sys.path[:0] = [{root!r}, {libraries!r}]
    import random
    import numpy as np
    from feeder_server import light_imports, seeding
    from feeder_server.undisturbed import undisturbed
    light_imports.install({around})
    def really():
        return sys.modules["loaded"].NAMES if "loaded" in sys.modules else []
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    for name, text in LIBRARIES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


def run(code: str, libraries: Path | str = "", around: str = "contextlib.nullcontext", **env: str) -> list[Any]:
    """What `code` prints as JSON, line by line, in a fresh interpreter with stand-ins."""
    text = textwrap.dedent(START).format(root=ROOT, libraries=str(libraries), around=around) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", **env},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


LIGHT = [
    "import keras\nBase = keras.utils.Sequence",
    "import keras.utils\nBase = keras.utils.PyDataset",
    "import keras.utils as ku\nBase = ku.PyDataset",
    "from keras import utils\nBase = utils.Sequence",
    "from keras.utils import PyDataset as Base, to_categorical",
    "from keras.src.trainers.data_adapters.py_dataset_adapter import PyDataset as Base",
    "import tensorflow as tf\nBase = tf.keras.utils.Sequence",
    "import tensorflow.keras\nBase = tensorflow.keras.utils.Sequence",
    "import tensorflow.keras as K\nBase = K.utils.Sequence",
    "from tensorflow import keras\nBase = keras.utils.Sequence",
    "from tensorflow.keras import utils\nBase = utils.PyDataset",
    "from tensorflow.keras.utils import Sequence as Base, to_categorical",
]

MINE = """
class Mine(Base):
    def __init__(self):
        super().__init__(workers=3)
    def __len__(self):
        return 2
    def __getitem__(self, i):
        return i
def f():
    held = Base
    return lambda: held
inside, mine = f(), Mine()
"""


def test_every_way_to_import_a_base_class(libraries: Path) -> None:
    """Without loading anything; and after everything was loaded all the same, it is as if it had been loaded at once."""
    code = f"""
        ways = {LIGHT!r}
        spaces = []
        for place, way in enumerate(ways):
            space = type(sys)(f"user{{place}}")
            sys.modules[space.__name__] = space
            exec(way, vars(space))
            exec({MINE!r}, vars(space))
            spaces.append(space)
        import tf_keras
        print(json.dumps([really(), [(s.mine.workers, s.mine.num_batches, list(s.mine)) for s in spaces]]))
        from keras.utils import to_categorical as kept
        print(json.dumps(kept([1, 0]).tolist()))
        import tensorflow
        tensorflow.math
        import keras
        real = sys.modules["keras.utils"].PyDataset
        print(json.dumps(really()))
        print(json.dumps([[s.Base is real, isinstance(s.mine, real), issubclass(s.Mine, s.Base), s.inside() is real,
            list(s.mine), s.mine.workers, s.Mine().workers] for s in spaces]))
        modules = [(s, k, v) for s in [*spaces, sys.modules["__main__"]] for k, v in vars(s).items() if isinstance(v, type(sys))]
        print(json.dumps([(s.__name__, k) for s, k, v in modules if light_imports.is_stand_in(v)]))
        print(json.dumps([keras is sys.modules["keras"], tensorflow is sys.modules["tensorflow"], kept is keras.utils.to_categorical]))
        class Later(spaces[0].Base): pass
        print(json.dumps([Later.__mro__[1] is real, Later().workers]))
    """
    light, matrix, loaded, classes, left, same, later = run(code, libraries)
    assert light == [[], [[3, 2, [0, 1]]] * len(LIGHT)]
    assert matrix == [[0.0, 1.0], [1.0, 0.0]]
    assert loaded == ["keras", "tensorflow", "tf_keras"], "in the order in which they were imported"
    # In a closure the borrowed class stays, with the real one below it.
    assert classes == [[True, True, True, False, [0, 1], 3, 3]] * len(LIGHT)
    assert left == []
    assert same == [True, True, True]
    assert later == [True, 1]


HEAVY = [
    "import keras\nkeras.layers.Layer",
    "import keras\nassert keras.__version__ == '3.0'",
    "import keras\nassert keras.late == 'late'",
    "import keras\nassert 'layers' in dir(keras)",
    "import keras\nkeras.utils.OTHER",
    "import keras.layers",
    "import keras\nimport keras.lonely\nassert keras.lonely.VALUE == 5",
    "import keras.lonely as lonely\nassert lonely.VALUE == 5",
    "from keras import layers\nlayers.Layer",
    "from keras.layers import Layer",
    "from keras.utils import OTHER",
    "from keras import *\nlayers.Layer",
    "import keras\nkeras.mine = 3\nassert sys.modules['keras'].mine == keras.mine == 3",
    "import keras\ntry:\n  keras.nothing\nexcept AttributeError as e:\n  assert 'keras' in str(e)\nelse:\n  raise SystemExit(1)",
    "try:\n  from keras import nothing\nexcept ImportError as e:\n  assert 'nothing' in str(e)\nelse:\n  raise SystemExit(1)",
    "try:\n  import keras.nothing\nexcept ImportError as e:\n  assert 'nothing' in str(e)\nelse:\n  raise SystemExit(1)",
    "import importlib.util, keras\nassert importlib.util.find_spec('keras.lonely').origin.endswith('lonely.py')",
    "import tensorflow as tf\nassert tf.math.add(1, 2) == 3",
    "from tensorflow.python import DEEP",
    "import tensorflow.python\ntensorflow.python.DEEP\nassert tensorflow.python.__spec__.loader.__class__.__name__ == 'SourceFileLoader'",
    "import tensorflow as tf\ntf.keras.layers.Layer",
    "from tensorflow import keras\nkeras.layers.Layer",
    "from tensorflow.keras import layers\nlayers.Layer",
    "from tensorflow.keras.utils import OTHER",
    "import keras.utils\nk = [keras.utils]\nkeras.layers\nassert k[0].OTHER == 3 and k[0].Sequence is sys.modules['keras.utils'].Sequence",
    "import keras\nk = [keras]\nk[0].layers\nk[0].new = 1\nassert sys.modules['keras'].new\ndel k[0].new\nassert not hasattr(keras, 'new')",
    "from keras.utils import to_categorical as f\nclass Tensor: pass\nTensor.__module__ = 'torch'\nassert f(Tensor()) == 'a tensor'",
]


def test_whatever_else_is_touched_loads_the_real_thing(libraries: Path) -> None:
    """Each in a state of its own: what one has loaded goes before the next one begins."""
    code = f"""
        failed = []
        for way in {HEAVY!r}:
            for name in list(sys.modules):
                if name.partition(".")[0] in ("keras", "tensorflow", "tf_keras", "loaded"):
                    del sys.modules[name]
            light_imports.uninstall()
            light_imports.install(contextlib.nullcontext)
            space = {{"sys": sys, "__name__": "space"}}
            try:
                exec(way, space)
                assert really(), "nothing was loaded"
            except BaseException as e:
                failed.append([way, repr(e)])
        print(json.dumps(failed))
    """
    (failed,) = run(code, libraries)
    assert failed == []


def test_what_is_not_touched_is_not_loaded(libraries: Path) -> None:
    """By looking at modules, as many libraries do at all that there are; and seeds ask nothing of it."""
    code = """
        import inspect, importlib.util, pkgutil
        import keras, tensorflow as tf, tf_keras
        from keras.utils import to_categorical
        class Mine(tf.keras.utils.Sequence): pass
        assert importlib.util.find_spec("keras").submodule_search_locations
        repr(keras), keras.__name__, keras.__file__, keras.__path__, keras.__spec__, keras.__doc__
        for module in list(sys.modules.values()):
            hasattr(module, "__file__"), hasattr(module, "__warningregistry__"), hasattr(module, "__wrapped__")
        inspect.getmodule(Mine), inspect.getsource(to_categorical), inspect.signature(Mine)
        seeding.seed_globals(3)
        print(json.dumps([really(), seeding.frameworks(), str(inspect.signature(to_categorical))]))
    """
    assert run(code, libraries) == [[[], [], "(x, num_classes=None)"]]


def test_where_tensorflow_is_told_to_use_the_old_keras(libraries: Path) -> None:
    code = """
        from tensorflow.keras.utils import Sequence
        import tensorflow as tf
        print(json.dumps([Sequence.__module__, hasattr(Sequence, "workers"), tf.keras.utils.Sequence is Sequence, really()]))
    """
    assert run(code, libraries, TF_USE_LEGACY_KERAS="1") == [["tf_keras.src.utils.data_utils", False, True, []]]


def test_the_generators_are_as_if_it_had_been_there_before(libraries: Path) -> None:
    """The library draws a number when it is loaded."""
    code = """
        import keras
        random.seed(1)
        keras.layers
        print(json.dumps([random.random(), random.Random(1).random(), seeding.frameworks()]))
    """
    ((got, expected, frameworks),) = run(code, libraries, around="undisturbed")
    assert got == expected
    assert frameworks == ["tensorflow", "keras"] or frameworks == ["keras"]


def test_a_library_that_can_not_be_loaded_says_so_each_time(libraries: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise ImportError('a DLL is missing')\n", encoding="utf-8")
    code = f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import tensorflow as tf, keras
        for _ in range(2):
            try:
                tf.math
            except ImportError as e:
                print(json.dumps(str(e)))
        print(json.dumps(light_imports.is_stand_in(keras)))
    """
    assert run(code, libraries) == ["a DLL is missing", "a DLL is missing", True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", "class PyDataset(Other): pass"),
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", "@final\nclass PyDataset: pass"),
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", "class PyDataset:\n  def __len__(self): return secret()"),
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", "class PyDataset:\n  x = 1 / 0"),
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", "class PyDataset("),
        ("keras/src/trainers/data_adapters/py_dataset_adapter.py", ""),
        ("keras/src/backend.py", None),
    ],
)
def test_a_version_that_is_built_otherwise_is_loaded_at_once(libraries: Path, tmp_path: Path, name: str, text: str | None) -> None:
    """And with a backend for which arrays are tensors, `to_categorical` isn't ours to give."""
    shutil.copytree(libraries, tmp_path / "copy")
    if text is not None:
        other = "" if text.startswith("class PyDataset(") or not text else "\n\nkeras_export = None\n"
        (tmp_path / "copy" / name).write_text(text + other, encoding="utf-8")
    code = """
        try:
            from keras.utils import {what}
        except Exception:
            pass
        print(json.dumps(really()))
    """.format(what="Sequence" if text is not None else "to_categorical")
    (loaded,) = run(code, tmp_path / "copy", **({} if text is not None else {"KERAS_BACKEND": "numpy"}))
    assert loaded == ["keras"]


def test_where_nothing_is_installed_an_import_fails_as_ever(tmp_path: Path) -> None:
    code = """
        sys.path[:] = [p for p in sys.path if "site-packages" not in p]
        try:
            import keras
        except ModuleNotFoundError as e:
            print(json.dumps([str(e), e.name]))
    """
    assert run(code, tmp_path) == [["No module named 'keras'", "keras"]]


@pytest.mark.keras
def test_the_real_ones() -> None:
    """What is borrowed is what the installed versions have; and touched, they come."""
    code = """
        import inspect, warnings
        from tensorflow.keras.utils import Sequence, to_categorical
        import tensorflow as tf, keras, tf_keras
        from tf_keras.utils import to_categorical as to_categorical_2
        held = [Sequence, to_categorical, keras.utils.PyDataset, tf_keras.utils.Sequence, to_categorical_2]
        light = not any(name.startswith(("tensorflow.python", "keras.src.backend")) for name in sys.modules)

        class Mine(Sequence):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
            def __len__(self): return 3
            def __getitem__(self, i): return i

        class Silent(tf.keras.utils.Sequence):
            def __init__(self): pass

        def facts(mine, silent):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                silent.workers
            return [mine.workers, mine.use_multiprocessing, mine.max_queue_size, mine.num_batches, list(mine), len(said)]

        mine, silent = Mine(workers=2, use_multiprocessing=True), Silent()
        def texts_of(things):  # without their decorators
            return [inspect.getsource(thing).partition("def ")[2] for thing in things if not isinstance(thing, type)]

        texts = texts_of(held)
        before = facts(mine, silent)
        rng = np.random.default_rng(0)
        shapes = [(5,), (5, 1), (2, 3), (2, 3, 1), (1,), (1, 1)]
        inputs = [rng.integers(0, 7, shape).astype(dtype) for shape in shapes for dtype in ("i8", "u1", "f4", "?")]
        inputs += [3, [1, 2], [[1], [0]], (4, 0), np.int64(2), np.array(2), [True, False], range(3), [], np.zeros((0, 3))]
        inputs += [[1.7], [-1, 2], ["1", "2"], None, "x"]
        def outcomes(functions):
            found = []
            for function in functions:
                for x in inputs:
                    for more in [{}, {"num_classes": 9}, {"num_classes": 2}]:
                        try:
                            made = function(x, **more)
                            found.append([made.dtype.str, made.shape, made.tobytes().hex(), made.flags.c_contiguous])
                        except Exception as e:
                            found.append([type(e).__name__, str(e)])
            return found
        got = outcomes([held[1], held[4]])
        still = not any(name.startswith("tensorflow.python") for name in sys.modules)
        tf.constant
        three, two = keras.utils, tf_keras.utils
        real = [three.Sequence, three.to_categorical, three.PyDataset, two.Sequence, two.to_categorical]
        print(json.dumps([light, still, texts_of(real) == texts != ["", ""]]))
        expected = outcomes([real[1], real[4]])
        print(json.dumps([len({str(g) for g in got}), [pair for pair in zip(got, expected) if pair[0] != pair[1]][:3]]))
        print(json.dumps([before, facts(mine, Silent())]))
        print(json.dumps([isinstance(mine, tf.keras.utils.Sequence), isinstance(mine, three.PyDataset), tf is sys.modules["tensorflow"]]))
        print(json.dumps([Sequence is real[0], to_categorical is real[1], to_categorical_2 is real[4]]))
        print(json.dumps([int(tf.constant(3)), int(to_categorical(tf.constant([1, 0]), 2).shape[1])]))
        keras.Sequential([keras.layers.Dense(1)])
    """
    light, (count, differ), (before, after), kinds, same, used = run(code)
    assert light == [True, True, True]
    assert count > 50 and differ == []
    assert before == after == [2, True, 10, 3, [0, 1, 2], 1]
    assert kinds == same == [True, True, True]
    assert used == [3, 2]
