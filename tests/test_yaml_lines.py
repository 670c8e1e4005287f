from pathlib import Path

import pytest

from mnist_mlp.errors import ConfigError
from mnist_mlp.words import printable
from mnist_mlp.yaml_lines import YamlReader, dump_yaml, shown


def read(text: str) -> tuple[dict[str, object], YamlReader]:
    reader = YamlReader()
    Path("some.yaml").write_text(text)
    return reader.read_file(Path("some.yaml")), reader


def test_values_and_their_places() -> None:
    values, reader = read("a: 1e-3\nb:\n  c: [1, no, ~, true]\n  d: 010\n")
    assert values == {"a": 1e-3, "b": {"c": [1, "no", None, True], "d": "010"}}
    assert reader.places == {
        ("a",): "some.yaml:1", ("b",): "some.yaml:2", ("b", "c"): "some.yaml:3",
        ("b", "d"): "some.yaml:4",
    }  # fmt: skip
    assert reader.problems == []


def test_every_problem_is_noted_with_its_line() -> None:
    _, reader = read("a: 1\nb: {c: 1, c: 2}\n? [x]\n: 3\na: 4\n")
    assert reader.problems == [
        "some.yaml:2: b.c: repeated key, first set at some.yaml:2; remove one",
        "some.yaml:3: a key must be a word",
        "some.yaml:5: a: repeated key, first set at some.yaml:1; remove one",
    ]


def test_overrides_set_nested_keys_and_their_places() -> None:
    values, reader = read("a: 1")
    reader.override(values, "b.c.d=[2, x]")
    reader.override(values, "a=3")
    assert values == {"a": 3, "b": {"c": {"d": [2, "x"]}}}
    assert reader.places["b", "c"] == 'override "b.c.d=[2, x]"'
    reader.override(values, "a.b=1")
    assert reader.problems == ['override "a.b=1": a has no keys of its own']
    assert values["a"] == 3


def test_a_file_without_a_mapping_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"some\.yaml:1: no keys here"):
        read("- a")


@pytest.mark.parametrize("text", ["no", "1e-3", "010", "null", "~", "1" * 500, "a: #b", "é", ""])
def test_dumped_strings_are_read_back_as_strings(text: str) -> None:
    values = {"a": text, "b": [text, 1], "c": {"d": 0.5}}
    assert read(dump_yaml(values))[0] == values


def test_shown_values_are_short_and_printable() -> None:
    assert shown(["a", 1, None]) == '["a", 1, null]'
    assert printable("a\x00\n") == "a??"
    assert len(printable("x" * 100)) == 60
