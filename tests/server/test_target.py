from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_server.target import Target, apply_args, parse_target, parse_targets, parse_value
from feeder_wire.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "name", "location", "attr"),
    [
        ("augment.py:train", "default", "augment.py", "train"),
        ("mypkg.data:Val", "default", "mypkg.data", "Val"),
        ("val=mypkg.data:Data.train", "val", "mypkg.data", "Data.train"),
        (r"C:\x\augment.py:train", "default", r"C:\x\augment.py", "train"),
        (r"train=C:\x y\a.py:train", "train", r"C:\x y\a.py", "train"),
        ("train = C:/x/a.py:t", "train", "C:/x/a.py", "t"),
        (r"\\host\share\a.py:t", "default", r"\\host\share\a.py", "t"),
        ("./lr=0.1/a.py:t", "default", "./lr=0.1/a.py", "t"),
        ("my-val_2=a.py:t", "my-val_2", "a.py", "t"),
        ("prüfung=Bücher/größe.py:täglich", "prüfung", "Bücher/größe.py", "täglich"),
        ("A.PY:t", "default", "A.PY", "t"),
        ("con.py:nul", "default", "con.py", "nul"),
        ("~/a.py:t", "default", "~/a.py", "t"),
    ],
)
def test_parse(text: str, name: str, location: str, attr: str) -> None:
    target = parse_target(text)
    assert target == Target(name, location, attr)
    assert target.is_file == location.lower().endswith(".py")
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("augment.py", "write augment.py:NAME"),
        (r"C:\x\augment.py", r"write C:\x\augment.py:NAME"),
        ("train=C:/x/augment.py", "write C:/x/augment.py:NAME"),
        ("mypkg.data", "write mypkg.data:NAME"),
        ("", "write augment.py:NAME"),
        (":train", "names no module or file"),
        ("augment.py:", "write augment.py:NAME"),
        ("augment.py:train()", "write augment.py:train and give arguments with -a"),
        ("augment.py:train(batch_size=3)", "give arguments with -a"),
        ("augment.py:a b", "'a b'"),
        ("augment.py:a..b", "can't be the name"),
        ("2=augment.py:t", "'2'"),
        ("-x=augment.py:t", "'-x'"),
        ("a b=augment.py:t", "'a b'"),
        ("a.b=augment.py:t", "'a.b'"),
        ("=augment.py:t", "''"),
        ("folder/augment:train", "no .py ending"),
        ("augment.ipynb/:train", "no .py ending"),
        (r"C:\x\augment.txt:train", "no .py ending"),
        ("my-module:train", "neither a .py file nor a module name"),
        (".data:train", "neither a .py file nor a module name"),
    ],
)
def test_bad_targets_say_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_looked_at_for_better_words(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "augment.txt").touch()
    (tmp_path / "my-data.py").touch()
    with pytest.raises(ConfigError, match=r"augment\.txt has no \.py ending"):
        parse_target("augment.txt:train")
    with pytest.raises(ConfigError, match=r"write my-data\.py:train"):
        parse_target("my-data:train")


def test_several_targets() -> None:
    train, val = parse_targets(["train=a.py:t", "val=a.py:v"])
    assert (train.name, val.name) == ("train", "val")
    assert parse_targets(["a.py:t", "val=a.py:v"])[0].name == "default"
    with pytest.raises(ConfigError, match=r"write train=a\.py:t val=a\.py:v"):
        parse_targets(["a.py:t", "a.py:v"])
    with pytest.raises(ConfigError, match=r"two targets are called 'x': a\.py:t and b\.py:v"):
        parse_targets(["x=a.py:t", "x=b.py:v"])
    with pytest.raises(ConfigError, match="nothing to serve"):
        parse_targets([])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32),
        ("0x10", 16),
        ("0.5", 0.5),
        ("true", True),
        ("[64, 64]", [64, 64]),
        ("{a = 1, b = [true]}", {"a": 1, "b": [True]}),
        ('"32"', "32"),
        ("'C:\\x'", "C:\\x"),
        ("C:\\temp\\new", "C:\\temp\\new"),
        ("/data/train", "/data/train"),
        ("#ff0000", "#ff0000"),
        ("a=b", "a=b"),
        ("", ""),
        ("True", True),
        ("False", False),
        ("None", None),
        ("'None'", "None"),
        ("1\nother = 2", "1\nother = 2"),
        ("2024-05-01", "2024-05-01"),
        ("[2024-05-01T12:00:00Z]", ["2024-05-01T12:00:00+00:00"]),
        ("[" * 5000, "[" * 5000),
        ("bücher", "bücher"),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_arguments_go_where_they_are_meant_to() -> None:
    targets = parse_targets(["train=a.py:t", "my-val=a.py:v"])
    train, val = apply_args(targets, ["my-val.shuffle=false", "batch_size=32", "shuffle=true", "batch_size=64"])
    assert train.args == {"batch_size": 64, "shuffle": True}
    assert val.args == {"batch_size": 64, "shuffle": False}
    assert targets[0].args == {}
    again = apply_args((train,), ["shuffle=0"])
    assert again[0].args == {"batch_size": 64, "shuffle": 0}
    assert apply_args(parse_targets(["a.py:t"]), ["default.x=1"])[0].args == {"x": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch_size", "write batch_size=VALUE"),
        ("vall.x=1", "there is 'train', 'val'; did you mean 'val'?"),
        ("x.y.z=1", "there is 'train', 'val'"),
        ("=3", "''"),
        ("batch-size=3", "'batch-size'"),
        ("train.=3", "''"),
        ("--x=3", "'--x'"),
    ],
)
def test_bad_arguments(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_args(parse_targets(["train=a.py:t", "val=a.py:v"]), [text])
    assert said in str(caught.value)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain_values), st.text(alphabet=st.characters()))
def test_the_trip_to_a_worker(args: dict[str, object], location: str) -> None:
    target = Target("train", location, "Data.train", args)
    text = target.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert Target.from_json(text) == target


def test_what_travels_becomes_plain() -> None:
    target = Target("a", "b", "c", {"size": (2, 3), "folder": pathlib.PurePosixPath("/x"), "day": datetime.date(2024, 5, 1)})
    assert Target.from_json(target.to_json()).args == {"size": [2, 3], "folder": "/x", "day": "2024-05-01"}
    for bad in (object(), b"x", {1: 2}, [set()]):
        with pytest.raises(ConfigError, match="argument 'x' of a=b:c"):
            Target("a", "b", "c", {"x": bad}).to_json()


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", json.dumps({"name": 1, "location": "", "attr": "", "args": {}})])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a target"):
        Target.from_json(text)


def test_a_target_is_a_value() -> None:
    target = parse_target("a.py:t")
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "x"  # type: ignore[misc]
    assert len({target, parse_target("a.py:t")}) == 1
    assert (str(target), str(Target("val", "m", "v"))) == ("a.py:t", "val=m:v")
