from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from feeder_server.importer import load, module_name
from feeder_server.target import parse_target
from feeder_wire.errors import SourceError, SourceNotFound


@pytest.fixture(autouse=True)
def _nothing_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second here
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: pathlib.Path, text: str = "") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def refused(text: str) -> str:
    with pytest.raises(SourceNotFound) as caught:
        load(parse_target(text))
    return str(caught.value)


def failed(text: str) -> str:
    with pytest.raises(SourceError) as caught:
        load(parse_target(text))
    return str(caught.value)


def test_a_file(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "augment.py", "class Data:\n    class Train: value = 7\ndef train(): pass\n")
    found = load(parse_target("augment.py:Data.Train"))
    assert found.value == 7  # type: ignore[attr-defined]
    assert found.__module__ == "augment"
    assert sys.path[0] == str(tmp_path)
    assert load(parse_target(f"{tmp_path / 'augment.py'}:Data.Train")) is found  # one module for several targets
    assert load(parse_target("augment:Data.Train")) is found


def test_what_needs_a_real_module_name(tmp_path: pathlib.Path) -> None:
    write(
        tmp_path / "elsewhere" / "augment.py",
        """
        from __future__ import annotations
        import dataclasses
        import helper
        @dataclasses.dataclass
        class Config:
            size: int = helper.SIZE
        config = Config()
        """,
    )
    write(tmp_path / "elsewhere" / "helper.py", "SIZE = 5")
    config = load(parse_target("elsewhere/augment.py:config"))
    assert dataclasses.asdict(config) == {"size": 5}  # type: ignore[call-overload]
    assert pickle.loads(pickle.dumps(config)) == config


def test_relative_imports_inside_a_package(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "src" / "mypkg" / "__init__.py", "NAME = 'mypkg'")
    write(tmp_path / "src" / "mypkg" / "sizes.py", "SIZE = 5")
    write(tmp_path / "src" / "mypkg" / "sub" / "__init__.py")
    write(
        tmp_path / "src" / "mypkg" / "sub" / "data.py", "from ..sizes import SIZE\nfrom .. import NAME\nfrom . import near\nimport near\n"
    )
    write(tmp_path / "src" / "mypkg" / "sub" / "near.py")
    assert load(parse_target("src/mypkg/sub/data.py:SIZE")) == 5
    assert load(parse_target("src/mypkg/sub/data.py:__name__")) == "mypkg.sub.data"
    assert load(parse_target("src/mypkg/__init__.py:NAME")) == "mypkg"


@pytest.mark.parametrize(
    "name",
    [
        "con.py",
        "nul.py",
        "my data-v2.py",
        "größe.py",
        "1st.py",
        "random.py",
        "json.py",
        "class.py",
        "__main__.py",
        "__init__.py",
        "AUGMENT.PY",
        "a.b.py",
    ],
)
@pytest.mark.parametrize("folder", ["plain", "with space", "Bücher ✓"])
def test_names_of_all_kinds(tmp_path: pathlib.Path, folder: str, name: str) -> None:
    if sys.platform == "win32" and name in ("con.py", "nul.py"):
        pytest.skip("a device")
    import json
    import random

    write(tmp_path / folder / name, "import random, json\nclass Own: pass\nown = Own()\n")
    own = load(parse_target(f"{folder}/{name}:own"))
    assert type(pickle.loads(pickle.dumps(own))).__name__ == "Own"
    assert sys.modules["random"] is random
    assert sys.modules["json"] is json


def test_files_of_one_name_in_two_folders(tmp_path: pathlib.Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "augment.py", f"where = {folder!r}\ndef train(): return where")
    one, other = load(parse_target("a/augment.py:train")), load(parse_target("b/augment.py:train"))
    assert (one(), other()) == ("a", "b")  # type: ignore[operator]
    assert module_name(str(tmp_path / "b" / "augment.py"))[0] == "augment_2"


def test_home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "augment_home.py", "x = 1")
    assert load(parse_target("~/augment_home.py:x")) == 1


def test_a_module(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "mypkg" / "__init__.py")
    write(tmp_path / "mypkg" / "data.py", "class Train: pass")
    assert load(parse_target("mypkg.data:Train")).__name__ == "Train"  # type: ignore[attr-defined]
    assert sys.path[0] == str(tmp_path)


def test_which_part_is_missing(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "augment.py", "import os\nfrom pathlib import Path\n_private = 1\ndef train(): pass\nval = 3\nclass Data: size = 1\n")
    write(tmp_path / "mypkg" / "__init__.py")
    write(tmp_path / "mypkg" / "data.py")
    write(tmp_path / "declared.py", "__all__ = ['one']\none = two = 1")
    assert refused("augmnet.py:train").startswith(
        f"there is no file augmnet.py in {tmp_path}; did you mean 'augment.py'?; Python files there: "
    )
    assert "the folder" in refused("nowhere/augment.py:train")
    assert "is a folder, not a file" in refused_folder(tmp_path)
    assert refused("augment.py:trian") == "augment.py has no 'trian'; did you mean 'train'?; it has: train, val, Data"
    assert refused("augment.py:Train") == "augment.py has no 'Train'; did you mean 'train'?; it has: train, val, Data"
    assert refused("augment.py:Data.sise") == "augment.py:Data has no 'sise'; did you mean 'size'?; it has: size"
    assert refused("augment.py:private").startswith("augment.py has no 'private'; did you mean '_private'?")
    assert refused("declared.py:three") == "declared.py has no 'three'; it has: one"
    assert refused("mypkg.dta:Train") == "there is no module 'dta' in the package mypkg; did you mean 'data'?; it has: data"
    assert refused("mypkg:data") == "mypkg.data is a module: write mypkg.data:NAME"
    assert refused("mypkg.data.Train:x").startswith("mypkg.data is a module, not a package")
    assert refused("mypgk.data:Train").startswith("there is no module 'mypgk' (looked in ")
    assert refused("mypgk.data:Train").endswith("; did you mean 'mypkg'?")


def refused_folder(tmp_path: pathlib.Path) -> str:
    (tmp_path / "folder.py").mkdir()
    return refused("folder.py:train")


def test_long_lists_are_cut(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "augment.py", "\n".join(f"name{i} = 1" for i in range(100)))
    assert refused("augment.py:xyz").endswith(" and 80 more")


@pytest.mark.parametrize("target", ["broken.py:train", "broken:train"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_installed_anywhere\n", "ModuleNotFoundError: No module named 'not_installed_anywhere' (while broken"),
        ("from os import no_such_thing\n", "ImportError: cannot import name 'no_such_thing'"),
        ("import os.nothing\n", "ModuleNotFoundError"),
        ("def f(): 1 / 0\nf()\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(2)\n", "SystemExit: 2 (while broken"),
        ("import deeper\n", "ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_shows_the_users_traceback(tmp_path: pathlib.Path, target: str, text: str, said: str) -> None:
    path = write(tmp_path / "broken.py", text)
    write(tmp_path / "deeper.py", "1 / 0")
    message = failed(target)
    assert said in message
    traceback = message[message.index("Traceback") :].splitlines()
    assert f'File "{path}", line ' in traceback[1]
    assert "importlib" not in message
    assert "feeder_server" not in message
    assert "broken" not in sys.modules


def test_a_script_is_told_what_to_do(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "script.py", "import argparse\nargparse.ArgumentParser().parse_args(['--bad'])")
    assert "if __name__ == '__main__'" in failed("script.py:train")


@pytest.mark.parametrize("target", ["broken.py:train", "broken:train"])
def test_a_syntax_error_shows_file_line_and_caret(tmp_path: pathlib.Path, target: str) -> None:
    path = write(tmp_path / "broken.py", "def train():\n    return 1 +\n")
    message = failed(target)
    assert "SyntaxError" in message
    assert f'File "{path}", line 2' in message
    assert "return 1 +" in message
    assert "^" in message
    assert "importlib" not in message
    (tmp_path / "broken.py").write_bytes(b"x = '\xff'")
    assert "SyntaxError" in failed(target)
    (tmp_path / "broken.py").write_bytes(b"x = 1\0")
    assert "null bytes" in failed(target)


def test_the_builtin_type_stays(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "broken.py", "raise FileNotFoundError('no data')")
    with pytest.raises(FileNotFoundError, match="no data") as caught:
        load(parse_target("broken.py:train"))
    assert isinstance(caught.value, SourceError)


def test_attributes_that_are_computed(tmp_path: pathlib.Path) -> None:
    write(
        tmp_path / "lazy.py",
        """
        def __getattr__(name):
            if name == "bad":
                raise ValueError("later")
            if name == "good":
                return 4
            raise AttributeError(name)
        """,
    )
    assert load(parse_target("lazy.py:good")) == 4
    assert "ValueError: later (while 'bad' was read from lazy.py)" in failed("lazy.py:bad")
    assert refused("lazy.py:none").startswith("lazy.py has no 'none'")


def test_interrupts_are_not_the_users_fault(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "slow.py", "raise KeyboardInterrupt")
    for target in ("slow.py:x", "slow:x"):
        with pytest.raises(KeyboardInterrupt):
            load(parse_target(target))


@pytest.mark.parametrize("text", ["counted.py:item", "counted:item"])
def test_a_fresh_copy(tmp_path: pathlib.Path, text: str) -> None:
    write(tmp_path / "counted.py", "import shared\nitem = [shared.item]")
    write(tmp_path / "shared.py", "item = object()")
    first = load(parse_target(text))
    module = sys.modules["counted"]
    second = load(parse_target(text), fresh=True)
    assert second is not first
    assert second == first  # what it imports was not run again
    assert sys.modules["counted"] is module
    assert load(parse_target(text)) is first
    write(tmp_path / "counted.py", "1 / 0")
    with pytest.raises(SourceError):
        load(parse_target(text), fresh=True)
    assert load(parse_target(text)) is first


def test_in_a_process_of_its_own(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "Über Daten" / "augment.py", "import sys, helper\ndef train(): return helper.x, 'numpy' in sys.modules\n")
    write(tmp_path / "Über Daten" / "helper.py", "x = 1")
    root = pathlib.Path(__file__).parents[2]
    code = (
        "import sys; from feeder_server.importer import load; from feeder_server.target import Target\n"
        "print(load(Target.from_json(sys.stdin.readline()))())"
    )
    env = {**os.environ, "PYTHONPATH": str(root)}
    line = parse_target("Über Daten/augment.py:train").to_json()
    out = subprocess.run([sys.executable, "-c", code], input=line, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "(1, False)"
