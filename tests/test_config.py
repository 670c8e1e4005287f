import math
import pydoc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mnist_mlp.config import Config, Section, bundled_configs, load_config
from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import ConfigError
from tests.conftest import REPOSITORY, program

MNIST_YAML = (REPOSITORY / "configs" / "mnist.yaml").read_text()


def load(text: str | bytes, *overrides: str, **environment: str) -> Config:
    path = Path("config.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides, environment)


def errors(text: str | bytes, *overrides: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(text, *overrides, **environment)
    return str(error.value).splitlines()


def sections(model: type[BaseModel] = Config) -> list[type[BaseModel]]:
    nested = [field.annotation for field in model.model_fields.values()]
    return [model] + [s for s in nested if isinstance(s, type) and issubclass(s, Section)]


@pytest.mark.parametrize("section", sections())
def test_every_field_is_documented(section: type[BaseModel]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description or field.annotation in sections()[1:], name


CONTRACT = """
seed device threads data.dataset data.root data.mirrors data.validation model.layer_sizes
model.activation train.epochs train.batch_size train.backward train.test_each_epoch optimizer.name
optimizer.learning_rate optimizer.momentum optimizer.nesterov optimizer.weight_decay schedule.name
checkpoint.every_epochs checkpoint.keep
"""


def test_the_contract_of_key_names() -> None:
    assert set(CONTRACT.split()) <= set(Config().flat())


@pytest.mark.parametrize("name", bundled_configs())
def test_bundled_configs_load_by_bare_name_and_by_path(name: str) -> None:
    assert load_config(name) == load_config(REPOSITORY / "configs" / f"{name}.yaml")
    assert load_config(name).name == name


def test_all_errors_at_once_each_with_file_line_and_key() -> None:
    text = "seed: -1\ntrain:\n  epochs: ten\n  batchsize: 3\noptimizer:\n  momentum: 1\n"
    assert errors(text) == [
        "config.yaml:1: seed: must be at least 0, not -1",
        'config.yaml:3: train.epochs: must be a whole number, not "ten"',
        "config.yaml:4: train.batchsize: unknown key; did you mean train.batch_size?",
        "config.yaml:6: optimizer.momentum: must be below 1, not 1",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer:\n  learning_rate: 1e-3", 1e-3),
        ("optimizer:\n  learning_rate: 1E-3", 1e-3),
        ("optimizer:\n  learning_rate: .5", 0.5),
        ("optimizer:\n  learning_rate: +2", 2.0),
        ("optimizer: {learning_rate: 3.}", 3.0),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    assert load(text).optimizer.learning_rate == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed: true", "seed"),
        ("seed: 1.0", "seed"),
        ("seed: 1e3", "seed"),
        ("seed: '1'", "seed"),
        ("seed: 010", "seed"),
        ("seed: 0x10", "seed"),
        ("seed: 1_000", "seed"),
        ("seed: 9223372036854775808", "seed"),
        ("seed: " + "9" * 5000, "seed"),
        ("seed: null", "seed"),
        ("seed: [1]", "seed"),
        ("threads: 0", "threads"),
        ("device: no", "device"),
        ("device: CPU", "device"),
        ("train:\n  test_each_epoch: no", "train.test_each_epoch"),
        ("train:\n  test_each_epoch: 1", "train.test_each_epoch"),
        ("optimizer:\n  nesterov: on", "optimizer.nesterov"),
        ("optimizer:\n  learning_rate: .nan", "optimizer.learning_rate"),
        ("optimizer:\n  learning_rate: .inf", "optimizer.learning_rate"),
        ("optimizer:\n  learning_rate: 1e999", "optimizer.learning_rate"),
        ("optimizer:\n  learning_rate: 0", "optimizer.learning_rate"),
        ("optimizer:\n  learning_rate: true", "optimizer.learning_rate"),
        ("model:\n  layer_sizes: [784]", "model.layer_sizes"),
        ("model:\n  layer_sizes: [784, 0, 10]", "model.layer_sizes.1"),
        ("model:\n  layer_sizes: [100, 10]", "model.layer_sizes"),
        ("model:\n  layer_sizes: [784, 11]", "model.layer_sizes"),
        ("model:\n  layer_sizes: [784, 1000000, 10]", "model.layer_sizes"),
        ("model:\n  layer_sizes: 784", "model.layer_sizes"),
        ("model: relu", "model"),
        ("data: null", "data"),
        ("data:\n  validation: 60000", "data.validation"),
        ("data: {dataset: digits}", "data.validation"),
        ("data: {mirrors: [ftp://x/]}", "data.mirrors.0"),
        ("data: {mirrors: http://x/}", "data.mirrors"),
        ('data: {root: "a\\0b"}', "data.root"),
        ("name: ../x", "name"),
        ('data: {root: ""}', "data.root"),
        ('data: {root: "a\\u0085b"}', "data.root"),
        ("optimizer:\n  learning_rate: 1e16", "optimizer.learning_rate"),
        ("optimizer:\n  weight_decay: 1e16", "optimizer.weight_decay"),
        ("model: {activation: tanh}\ntrain: {backward: chain_rule}", "train.backward"),
        ("model: {batch_norm: true}\ntrain: {backward: chain_rule}", "train.backward"),
        ("model: {batch_norm: true}\ntrain: {batch_size: 1}", "train.batch_size"),
        ("model: {batch_norm: true}\ntrain: {batch_size: 54999}", "train.batch_size"),
        ("model: {batch_norm: true}\ndata: {validation: 31}", "train.batch_size"),
        ("model: {batch_norm: true}\ndata: {validation: 31}\ntrain: {}", "train.batch_size"),
    ],
)
def test_refused_values_name_their_key(text: str, key: str) -> None:
    (error,) = errors(text)
    assert error.startswith("config.yaml:")
    assert f" {key}: " in error


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"\xff\xfe", 1, "UTF-8"),
        (b"seed: 0\nname: \xe9", 2, "UTF-8"),
        ("seed: 0\nseed: 1", 2, "seed: repeated key, first set at config.yaml:1"),
        ("data: {root: a, root: b}", 1, "data.root: repeated key"),
        ("a: &a [1]\nb: *a", 1, "anchors and aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", 1, "anchors and aliases"),
        ("seed: !!int 3", 1, "tags"),
        ("seed: !!python/object/apply:os.system [id]", 1, "tags"),
        ("seed: 0\n---\nseed: 1", 2, "more than one document; remove"),
        ("seed: [", 1, "invalid YAML"),
        ("seed:\n\t- 1", 2, "invalid YAML"),
        ('name: "\\UFFFFFFFF"', 1, "invalid YAML"),
        ('"\\uD800": 1', 1, "invalid YAML"),
        ("seed: \x07", 1, "invalid YAML"),
        ("{[1]: 2}", 1, "a key must be a word"),
        ("[" * 100_000, 1, "too deeply nested"),
        ("- " * 1000, 1, "too deeply nested"),
        ("seed: 1\n" * 20_000, 5000, "too long"),
        ("", 1, "no keys here"),
        ("# nothing", 1, "no keys here"),
        ("just words", 1, "no keys here"),
        ("- seed", 1, "no keys here"),
        ("<<: {seed: 1}", 1, "unknown key"),
        ("train: {seed: 3}", 1, "train.seed: unknown key; did you mean seed?"),
        ("train.epochs: 3", 1, "train.epochs: unknown key; write epochs: below train:"),
    ],
)
def test_refused_yaml_names_its_line(text: str | bytes, line: int, reason: str) -> None:
    found = errors(text)
    assert found[0].startswith(f"config.yaml:{line}: ")
    assert reason in found[0]


def test_too_large_a_file_is_refused() -> None:
    assert load(b"seed: 3 #".ljust(1_000_000, b" ")).seed == 3
    assert "over 1,000,000 bytes" in errors(b"seed: 3 #".ljust(1_000_001, b" "))[0]


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("sede", "did you mean seed?"),
        ("learning_rate", "did you mean optimizer.learning_rate?"),
        ("xyzzy", "the keys here are name, seed"),
        ("lr", "did you mean optimizer.learning_rate?"),
    ],
)
def test_unknown_keys_are_told_the_nearest(key: str, suggestion: str) -> None:
    assert suggestion in errors(f"{key}: 1")[0]


def test_a_missing_config_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError, match=r"nope: no such .*best, digits, fast, lesson, mnist"):
        load_config("nope")
    with pytest.raises(ConfigError, match="directory"):
        load_config(".")


def test_a_folder_does_not_hide_a_bundled_config() -> None:
    Path("mnist").mkdir()
    assert load_config("mnist").name == "mnist"


def test_a_late_section_is_blamed_at_its_own_line() -> None:
    text = "model: {activation: tanh}\ntrain:\n  epochs: 3\n  backward: chain_rule\n"
    assert errors(text) == [
        "config.yaml:4: train.backward: must be auto or autograd, unless activation is relu and "
        'batch_norm false, not "chain_rule"'
    ]


@pytest.mark.parametrize(
    ("model", "applies"),
    [
        ("{}", True),
        ("{activation: tanh}", False),
        ("{batch_norm: true}", False),
        ("{layer_sizes: [784, 10], activation: tanh}", True),
        ("{layer_sizes: [784, 10], batch_norm: true}", True),
        ("{layer_sizes: [784, 32, 10], activation: identity}", False),
    ],
)
def test_the_chain_rule_by_hand_applies_to_linear_and_relu_in_turn(
    model: str, applies: bool
) -> None:
    text = f"model: {model}\ntrain: {{backward: chain_rule}}"
    if applies:
        assert load(text).train.backward == "chain_rule"
    else:
        assert "train.backward: must be auto or autograd" in errors(text)[0]


def test_help_does_not_show_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "environ({" not in pydoc.render_doc(load_config)
    monkeypatch.setenv("MNIST_MLP_DATA", "from the environment")
    Path("config.yaml").write_text("seed: 0")
    assert load_config("config.yaml").data.root == "from the environment"


def test_overrides() -> None:
    config = load(
        "train: {epochs: 3}", "train.epochs=4", "train.epochs=5", "model.layer_sizes=[784, 10]"
    )
    assert config.train.epochs == 5
    assert config.model.layer_sizes == (784, 10)
    assert load("seed: 1", "data.root=/a b=c").data.root == "/a b=c"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.epochs=x", 'train.epochs: must be a whole number, not "x"'),
        ("train.epoch=1", "train.epoch: unknown key; did you mean train.epochs?"),
        ("train.epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train..epochs=3", "expected KEY=VALUE"),
        ("train={epochs: 3}", "set one key at a time"),
        ("train=3", "train: must be a section"),
        ("seed.x=3", "seed: must be a whole number"),
        ("device.x=3", "device has no keys of its own"),
        ("seed=[", "invalid YAML"),
        ("seed=&a 1", "anchors"),
        ("name=\udcff", "invalid YAML"),
    ],
)
def test_refused_overrides_are_named(override: str, reason: str) -> None:
    (error,) = errors("device: cpu", override)
    assert error.startswith('override "')
    assert reason in error


def test_the_data_root_comes_from_override_then_environment_then_file() -> None:
    text = "data: {root: file}"
    assert load(text).data.root == "file"
    assert load(text, MNIST_MLP_DATA="environment").data.root == "environment"
    assert load(text, "data.root=override", MNIST_MLP_DATA="e").data.root == "override"
    assert load(text, MNIST_MLP_DATA="").data.root == "file"
    assert errors(text, MNIST_MLP_DATA="a\0")[0].startswith("MNIST_MLP_DATA in the environment: ")


def test_ignored_settings() -> None:
    config = load(
        "optimizer: {name: adam, momentum: 0.5, nesterov: true}\nschedule: {gamma: 0.5}\n"
        "data: {dataset: digits, root: /x, validation: 0}\naugment: {shear: 0.1, fade_to: 0.5}"
    )
    assert config.ignored_settings() == [
        "augment.fade_to",
        "optimizer.momentum",
        "optimizer.nesterov",
        "schedule.gamma",
    ]
    assert load("optimizer: {momentum: 0.5, nesterov: true}").ignored_settings() == []
    assert load("augment: {fade_fraction: 0.5}").ignored_settings() == ["augment.fade_fraction"]
    untested = "data: {test: false}\ntrain: {test_each_epoch: false}"
    assert load(untested).ignored_settings() == ["train.test_each_epoch"]


def test_training_examples_are_those_of_the_data_sets() -> None:
    from mnist_mlp.steps.data import load_dataset

    assert len(load_dataset("digits").train.labels) == TRAINING_EXAMPLES["digits"]
    assert TRAINING_EXAMPLES["mnist"] == 60_000


def test_lesson_yaml_is_plain_gradient_descent_on_single_examples() -> None:
    config = load_config("lesson")
    assert config.train.batch_size == 1
    assert config.data.validation == 0
    assert config.schedule.name == "constant"
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0, 0)


NASTY = [
    "", "null", "true", "no", "1e-3", "1e999", "-0", "010", ".nan", "9" * 30, "[]", "{}",
    "[1, [2]]", "{a: b}", "'x'", '"\\uD800"', "&a 1", "*a", "!!str 1", "|", "> x", "@", "`", "%",
    "\t", "---", "...", "2026-01-01", "12:30:45", "0o17", "0b1", "=", "<<", "? a", "- 1", "é",
    "\u2028", "\x85", "#", ": :",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    lines = MNIST_YAML.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        key, _, value = lines[at].partition(":")
        new = draw(st.sampled_from(NASTY) | st.text(max_size=12))
        lines[at : at + 1] = draw(
            st.sampled_from(
                [
                    [f"{key}: {new}"],
                    [f"{key}{new}: {value}"],
                    [f"  {new}: {value}"],
                    [lines[at], lines[at]],
                    [lines[at], new],
                    [" " + lines[at]],
                    [],
                ]
            )
        ) or ["seed: 0"]
    return "\n".join(lines)


def known_keys_only(tree: Any, section: type[BaseModel] = Config) -> bool:
    fields = section.model_fields
    return all(
        key in fields
        and (not isinstance(value, dict) or known_keys_only(value, fields[key].annotation))  # type: ignore[arg-type]
        for key, value in tree.items()
    )


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_any_file_is_accepted_whole_or_refused_with_a_place(count: int) -> None:
    texts = st.one_of(mutated(), mutated(), st.text(max_size=80)).map(str.encode)
    attempt = given(texts | st.binary(max_size=60))(accepted_whole_or_refused_with_a_place)
    settings(
        max_examples=count,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )(attempt)()


def accepted_whole_or_refused_with_a_place(content: bytes) -> None:
    Path("config.yaml").write_bytes(content)
    try:
        config = load_config("config.yaml", environment={})
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith("config.yaml"), line
            assert line.isprintable()
        return
    assert known_keys_only(yaml.load(content, Loader=yaml.BaseLoader))
    assert math.isfinite(config.optimizer.learning_rate + config.optimizer.weight_decay)
    Path("again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config("again.yaml", environment={}) == config


@pytest.mark.parametrize("seed", range(20))
def test_any_file_through_the_program_is_accepted_or_exit_2(seed: int) -> None:
    import random

    shuffled = random.Random(seed)
    lines = MNIST_YAML.splitlines()
    at = shuffled.randrange(len(lines))
    lines[at] = lines[at].partition(":")[0] + ": " + shuffled.choice(NASTY)
    Path("config.yaml").write_text("\n".join(lines), encoding="utf-8")
    outcome = program("validate", "--config", "config.yaml")
    if outcome.code == 0:
        assert yaml.safe_load(outcome.out)["model"]["layer_sizes"]
    else:
        assert outcome.code == 2
        assert outcome.err.startswith("mnist-mlp: config.yaml:")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1.5", "must be a whole number, not 1.5"),
        ("optimizer: {learning_rate: x}", 'must be a number, not "x"'),
        ("name: 5", "must be text, in quotes, not 5"),
        ("model: {batch_norm: yes}", 'must be true or false, not "yes"'),
        (
            "model: {layer_sizes: 784}",
            "must be a list, such as [a, b] or, for layer sizes, 784-32-10, not 784",
        ),
        ("model: {layer_sizes: [784]}", "must have at least 2 entries, not [784]"),
        (f"model: {{layer_sizes: {[784] * 101}}}", "must have at most 100 entries, not ["),
        ("train: {epochs: 2000000}", "must be at most 1,000,000, not 2000000"),
        ("schedule: {gamma: 0}", "must be above 0, not 0"),
        ("seed: 1\n\tname: x", "invalid YAML: a tab; use spaces"),
        ("seed: @x", "invalid YAML: a value that begins with @, ` or %; put it in quotes"),
        ("name: a: b", "a ':' too many; check the indentation, or quote the value"),
        ("name: a\n  seed: 1", "a ':' too many; check the indentation, or quote the value"),
        ("key: - x", "a '-' where no list can begin; quote the value"),
        ("data: {mirrors: [a", "a list whose ] or comma is missing"),
        ("train: {epochs: 3 batch_size: 4}", "a { whose } or comma is missing"),
        ("name: 'a", "a quote that is not closed"),
        ("seed: 1\nname", "a key without ': ' and a value"),
        ("seed: 1\n- 2", "a line indented otherwise than its neighbours"),
        ("{seed: 1}}", "something is left over after the end, or a value begins with %"),
        ("seed: ]", "a value is missing"),
    ],
)
def test_mistakes_are_told_in_our_words(text: str, words: str) -> None:
    (error,) = errors(text)
    assert error.endswith(words) or (words.endswith("[") and words in error), error


@pytest.mark.parametrize("sizes", ["784,32,10", "784-32-10", "[784, 32, 10]", "784, 32, 10"])
def test_lists_of_sizes_need_no_brackets(sizes: str) -> None:
    config = load_config("digits", [f"model.layer_sizes={sizes}"])
    assert config.model.layer_sizes == (784, 32, 10)
    Path("again.yaml").write_text(f"model: {{layer_sizes: '{sizes.strip('[]')}'}}")
    assert load_config("again.yaml").model.layer_sizes == (784, 32, 10)


@pytest.mark.parametrize("sizes", ["784,32,", "-784-10", "784,x,10", "784 x 10", "784;10"])
def test_other_text_is_no_list_of_sizes(sizes: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.layer_sizes: must be a list"):
        load_config("digits", [f"model.layer_sizes={sizes}"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnst", "did you mean --config mnist?"),
        ("Digits", "did you mean --config digits?"),
        ("elsewhere/Digits.yml", "did you mean --config digits?"),
        ("xyzzy", "give a path, or the name of a bundled one: best, digits, fast, "),
    ],
)
def test_a_config_that_is_not_there_is_told_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert str(error.value).startswith(f"{name}: no such config file; {hint}")
