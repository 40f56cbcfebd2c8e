"""Which class a dataset derives from: found without importing a Keras that nobody uses. Fake modules stand for the real ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from feeder_client import keras_base
from feeder_client.keras_base import find_base
from feeder_wire.errors import ConfigError


def keras(name: str, *bases: str) -> Any:
    """A module with `utils` that has these classes."""
    module = ModuleType(name)
    module.utils = SimpleNamespace(**{base: type(base, (), {"of": name}) for base in bases})  # type: ignore[attr-defined]
    return module


@pytest.fixture(autouse=True)
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is loaded, and to import one is an error."""
    for name in ("keras", "tf_keras"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)

    def import_module(name: str) -> ModuleType:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(keras_base, "importlib", SimpleNamespace(import_module=import_module))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What can be imported; import_module as far as it is needed."""
    found: dict[str, Any] = {}

    def import_module(name: str) -> ModuleType:
        if name in found:
            return found[name]  # type: ignore[no-any-return]
        return (
            importlib.import_module(name)
            if not name or name.startswith(".")
            else (_ for _ in ()).throw(ModuleNotFoundError(f"No module named {name!r}"))
        )

    monkeypatch.setattr(keras_base, "importlib", SimpleNamespace(import_module=import_module))
    return found


class TestTheArgument:
    def test_keras_3_has_a_py_dataset(self) -> None:
        module = keras("keras", "PyDataset", "Sequence")
        assert find_base(module) is module.utils.PyDataset

    def test_keras_2_has_a_sequence(self) -> None:
        module = keras("tf_keras", "Sequence")
        assert find_base(module) is module.utils.Sequence

    def test_goes_before_what_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "keras", keras("keras", "PyDataset"))
        module = keras("tf_keras", "Sequence")
        assert find_base(module) is module.utils.Sequence

    def test_a_name_is_imported(self, installed: dict[str, Any]) -> None:
        installed["my.keras"] = keras("my.keras", "Sequence")
        assert find_base("my.keras") is installed["my.keras"].utils.Sequence

    @pytest.mark.parametrize("wrong", [ModuleType("numpy"), 42, keras("keras"), SimpleNamespace(utils=SimpleNamespace(PyDataset="text"))])
    def test_something_else(self, wrong: Any) -> None:
        with pytest.raises(
            ConfigError, match=r"has neither utils\.PyDataset nor utils\.Sequence: pass the module whose model\.fit you call"
        ):
            find_base(wrong)

    @pytest.mark.usefixtures("installed")
    @pytest.mark.parametrize("name", ["kears", "", ".keras"])
    def test_a_name_that_cannot_be_imported(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"FeederSequence needs Keras, and .* can't be imported .*FeederClient, which needs none"):
            find_base(name)


class TestWhatIsLoaded:
    def test_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, base in (("tf_keras", "Sequence"), ("keras", "PyDataset")):  # keras goes before tf_keras
            monkeypatch.setitem(sys.modules, name, keras(name, base))
            assert find_base().of == name  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("value", "name"), [("1", "tf_keras"), ("True", "tf_keras"), ("0", "keras"), ("", "keras")])
    def test_legacy_keras_by_the_variable(self, monkeypatch: pytest.MonkeyPatch, value: str, name: str) -> None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
        for module in ("keras", "tf_keras"):
            monkeypatch.setitem(sys.modules, module, keras(module, "PyDataset"))
        assert find_base().of == name  # type: ignore[attr-defined]

    def test_none_in_sys_modules_is_not_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "keras", None)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "tf_keras", keras("tf_keras", "Sequence"))
        assert find_base().of == "tf_keras"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("variable", "name"), [("0", "keras"), ("1", "tf_keras")])
    def test_nothing_loaded_the_default_is_imported(
        self, monkeypatch: pytest.MonkeyPatch, installed: dict[str, Any], variable: str, name: str
    ) -> None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", variable)
        installed.update({"keras": keras("keras", "PyDataset"), "tf_keras": keras("tf_keras", "Sequence")})
        assert find_base().of == name  # type: ignore[attr-defined]

    @pytest.mark.usefixtures("installed")
    def test_nothing_there_at_all(self) -> None:
        with pytest.raises(ConfigError, match=r'keras can\'t be imported .*pip install "keras-feeder\[tensorflow\]"'):
            find_base()


def test_importing_the_client_loads_no_keras() -> None:
    code = "import sys, feeder_client; sys.exit(any(m in sys.modules for m in ('keras', 'tf_keras', 'tensorflow', 'torch', 'jax')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.keras
@pytest.mark.slow
def test_the_real_keras() -> None:
    code = "import keras; from feeder_client.keras_base import find_base; assert find_base() is keras.utils.PyDataset is find_base('keras')"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=100, check=False).returncode == 0
