"""What a run is: strict models, YAML with line numbers, KEY=VALUE overrides.

`load_config` reads a file, applies overrides and checks everything at once. The YAML it takes is
the plain part of YAML 1.2: mappings, lists and scalars. `1e-3` is a number, `no` and `on` are
words, and anchors, tags, merge keys and further documents are refused.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from mnist_mlp.constants import CLASSES, INPUT_SIZE, LESSON_LAYER_SIZES, TRAINING_EXAMPLES
from mnist_mlp.errors import ConfigError

DATA_ROOT_VARIABLE = "MNIST_MLP_DATA"
"""The environment variable that names the data root; it beats the file, an override beats it."""

MAX_PARAMETERS = 100_000_000
MOST = 1e15
"""Of a rate; the optimizers multiply two of them in float32, which ends at 3.4e38."""
MAX_BYTES = 1_000_000
MAX_DEPTH = 8
MAX_NODES = 10_000
MAX_NUMBER = 400
"""Characters of a number; any double can be written in fewer."""


class Section(BaseModel):
    """One mapping of the config file: no unknown keys, no guessed types, nothing infinite."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


class DataConfig(Section):
    """Where the images come from."""

    dataset: Literal["mnist", "digits"] = "mnist"
    """`mnist`: torchvision's MNIST. `digits`: scikit-learn's bundled handwritten digits."""
    root: Annotated[str, StringConstraints(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")] = "data"
    """The folder that holds (or will hold) `MNIST/raw/`; relative to the current folder."""
    mirrors: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")], ...],
        Field(strict=False),
    ] = ()
    """Addresses that are tried before torchvision's own, in this order."""
    validation: Annotated[int, Field(ge=0)] = 5000
    """Training examples held out for validation, chosen by the seed; 0 for none."""

    @field_validator("validation")
    @classmethod
    def _leave_something_to_train_on(cls, validation: int, info: ValidationInfo) -> int:
        available = TRAINING_EXAMPLES.get(info.data.get("dataset", ""), validation + 1)
        if validation >= available:
            raise PydanticCustomError(
                "validation_size",
                "must be below the {available} training examples of {dataset}",
                {"available": available, "dataset": info.data["dataset"]},
            )
        return validation


class ModelConfig(Section):
    """The network."""

    layer_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(strict=False, min_length=2, max_length=100),
    ] = LESSON_LAYER_SIZES
    """Inputs, hidden units of each layer, classes: the list of sizes is the architecture."""
    activation: Literal["relu", "identity", "tanh", "sigmoid", "gelu"] = "relu"
    """The function between layers, element by element."""
    batch_norm: bool = False
    """Normalise each hidden layer's z by its batch while training; saved folded into W and b."""

    @property
    def is_linear_relu_stack(self) -> bool:
        """Whether the network is Linear and ReLU in turn, so that the chain rule by hand applies.

        With a single layer it is, whatever the activation: nothing lies between layers.
        """
        return len(self.layer_sizes) == 2 or (self.activation == "relu" and not self.batch_norm)

    @field_validator("layer_sizes")
    @classmethod
    def _fit_the_images(cls, layer_sizes: tuple[int, ...]) -> tuple[int, ...]:
        if layer_sizes[0] != INPUT_SIZE or layer_sizes[-1] != CLASSES:
            raise PydanticCustomError(
                "layer_sizes",
                "must begin with {inputs} (28 × 28 pixels) and end with {classes} (digits)",
                {"inputs": INPUT_SIZE, "classes": CLASSES},
            )
        parameters = sum(n * m + m for n, m in pairwise(layer_sizes))
        if parameters > MAX_PARAMETERS:
            raise PydanticCustomError(
                "parameters",
                "must make at most {limit} parameters; these make {parameters}",
                {"limit": f"{MAX_PARAMETERS:,}", "parameters": f"{parameters:,}"},
            )
        return layer_sizes


class TrainConfig(Section):
    """The training loop."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Passes over the training set."""
    batch_size: Annotated[int, Field(ge=1, le=60_000)] = 64
    """Examples an update; the last batch of an epoch may be smaller."""
    backward: Literal["auto", "chain_rule", "autograd"] = "auto"
    """`chain_rule`: by hand, for ReLU networks; `autograd`: PyTorch's; `auto`: the first it can."""
    test_each_epoch: bool = True
    """Report the test set after every epoch, as the lesson does; false: once, at the end."""


class AugmentConfig(Section):
    """How training images are deformed, each anew in each epoch; the largest amounts."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part by which each axis grows or shrinks."""
    shear: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Columns that a row moves for each row away from the middle."""
    translation: Annotated[float, Field(ge=0, le=28)] = 0.0
    """Pixels along each axis."""
    elastic: Annotated[float, Field(ge=0, le=28)] = 0.0
    """Standard deviation, in pixels, of the displacements of an elastic 7 × 7 grid."""


class OptimizerConfig(Section):
    """How a gradient becomes an update."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """`torch.optim`'s SGD, Adam or AdamW."""
    learning_rate: Annotated[float, Field(gt=0, le=MOST)] = 0.1
    """The step size; under a schedule, its highest value."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the last step that the next one keeps (sgd)."""
    nesterov: bool = False
    """Nesterov's form of momentum (sgd with momentum)."""
    weight_decay: Annotated[float, Field(ge=0, le=MOST)] = 0.0
    """L2 penalty (sgd, adam) or decoupled decay (adamw)."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Use a running average of the weights that keeps this share at each update; 0: the weights."""


class ScheduleConfig(Section):
    """How the learning rate changes from update to update."""

    name: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    """`torch.optim.lr_scheduler`'s StepLR, CosineAnnealingLR (to 0) or OneCycleLR, or none."""
    step_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Epochs between two drops (step)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The factor of each drop (step)."""
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The part of the run in which the learning rate rises (one_cycle)."""


class CheckpointConfig(Section):
    """When the network is saved; it always is at the end."""

    every_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Epochs between two checkpoints."""
    keep: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """The newest so many are kept."""


class Config(Section):
    """Everything that decides a run."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "run"
    """The run directory's prefix; by default the config file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the initial weights, the order of the examples and the validation split."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a device, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of one operation; null: one or two, by a fixed rule."""
    data: DataConfig = DataConfig()
    """Where the images come from."""
    model: ModelConfig = ModelConfig()
    """The network."""
    augment: AugmentConfig = AugmentConfig()
    """How training images are deformed."""
    train: TrainConfig = TrainConfig()
    """The training loop."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How a gradient becomes an update."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate changes."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the network is saved."""
    report: bool = False
    """`mnist-mlp train` ends with the run's pictures and page, as `mnist-mlp report` draws them."""

    @field_validator("train")
    @classmethod
    def _can_differentiate(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        model = info.data.get("model")
        if model and train.backward == "chain_rule":
            if model.activation != "relu":
                raise PydanticCustomError(
                    "backward", "must be auto or autograd where the activation is not relu"
                )
            if model.batch_norm:
                raise PydanticCustomError(
                    "backward", "must be auto or autograd with model.batch_norm"
                )
        data = info.data.get("data")
        if model and model.batch_norm and data:
            examples = TRAINING_EXAMPLES[data.dataset] - data.validation
            if 1 in (train.batch_size, examples % train.batch_size):
                raise PydanticCustomError(
                    "batch_size",
                    "leaves a batch of one of {examples} examples, which model.batch_norm cannot "
                    "normalise",
                    {"examples": f"{examples:,}"},
                )
        return train

    def to_yaml(self) -> str:
        """The whole config as YAML that `load_config` reads back to an equal one."""
        return yaml.dump(
            self.model_dump(mode="json"),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            width=100,
        )

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key."""
        values = self.model_dump(mode="json")
        return {
            f"{key}.{leaf}" if leaf else key: x
            for key, value in values.items()
            for leaf, x in (value.items() if isinstance(value, dict) else [("", value)])
        }

    def ignored_settings(self) -> list[str]:
        """The keys that were changed from their default and that this config does not use."""
        optimizer, schedule = self.optimizer.name, self.schedule.name
        user_of = {
            "data.mirrors": self.data.dataset == "mnist",
            "optimizer.momentum": optimizer == "sgd",
            "optimizer.nesterov": optimizer == "sgd" and self.optimizer.momentum > 0,
            "schedule.step_epochs": schedule == "step",
            "schedule.gamma": schedule == "step",
            "schedule.warmup_fraction": schedule == "one_cycle",
        }
        ignored = []
        for key, used in user_of.items():
            section, field = key.split(".")
            values = getattr(self, section)
            if not used and getattr(values, field) != type(values).model_fields[field].default:
                ignored.append(key)
        return ignored


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """Read, override and check a config.

    Args:
        source: A YAML file's path, or the bare name of a bundled config (`mnist`).
        overrides: `KEY=VALUE` strings such as `train.epochs=3`; the last one for a key wins.
        environment: Where `MNIST_MLP_DATA` is looked up.

    Raises:
        ConfigError: One line for each problem: file and line (or override), key, what to do.
    """
    text, path = _read(source)
    reading = _Reading()
    tree = reading.document(text, str(path))
    tree.setdefault("name", _as_name(path.stem))
    if root := environment.get(DATA_ROOT_VARIABLE):
        if isinstance(data := tree.setdefault("data", {}), dict):
            data["root"] = root
        reading.places["data", "root"] = f"{DATA_ROOT_VARIABLE} in the environment"
    for override in overrides:
        reading.override(tree, override)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        reading.problems += _problems(error, reading.places, str(path))
    if reading.problems:
        raise ConfigError("\n".join(dict.fromkeys(reading.problems)))
    return config


def bundled_configs() -> dict[str, Path]:
    """The configs that come with the package, by bare name."""
    package = Path(__file__).parent
    # A wheel carries them inside the package; a checkout has them beside it.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _read(source: str | Path) -> tuple[str, Path]:
    path = Path(source)
    try:
        if not path.exists() or path.is_dir():
            path = bundled_configs().get(str(source), path)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        names = ", ".join(bundled_configs())
        raise ConfigError(
            f"{path}: no such config file; give a path, or the name of a bundled one: {names}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot read this config: {reason}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: over {MAX_BYTES:,} bytes, which is no config of ours")
    try:
        return content.decode("utf-8-sig"), path
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _as_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("_.-")[:64] or "run"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with YAML 1.2's idea of what a plain scalar is."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with the same idea, so that what it leaves unquoted is read back alike."""


# The core schema of YAML 1.2.2, section 10.3.2, less octal and hexadecimal numbers; a decimal
# integer with a leading zero, which YAML 1.1 reads as octal, is text and so refused as a number.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, (_pattern, _first) in _SCALARS.items():
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )

_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", value, flow_style=True
    ),
)

_Path = tuple[str | int, ...]
_Place = Callable[[int], str]
"""From a line number to where a person finds it."""


class _Reading:
    """YAML text into plain values, with the place of every key and every problem found."""

    def __init__(self) -> None:
        self.places: dict[_Path, str] = {}
        self.problems: list[str] = []

    def document(self, text: str, name: str) -> dict[str, Any]:
        """The mapping that a whole file holds.

        Raises:
            ConfigError: The text is not one plain YAML mapping.
        """
        tree = self._parse(text, lambda line: f"{name}:{line}", ())
        if not isinstance(tree, dict):
            self.problems = self.problems or [f"{name}:1: no keys here; expected such as 'seed: 0'"]
            raise ConfigError("\n".join(self.problems))
        return tree

    def override(self, tree: dict[str, Any], override: str) -> None:
        """Set one KEY=VALUE in the tree."""
        place = f"override {_shown(override)}"
        key, equals, text = override.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.problems.append(f"{place}: expected KEY=VALUE, such as train.epochs=3")
            return
        problems = len(self.problems)
        value = self._parse(text, lambda _line: place, path)
        if isinstance(value, dict):
            self.problems.append(f"{place}: set one key at a time, such as {key}.KEY=VALUE")
        if len(self.problems) > problems:
            return
        section: Any = tree
        for depth, part in enumerate(path[:-1], start=1):
            self.places.setdefault(path[:depth], place)
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                self.problems.append(f"{place}: {_dotted(path[:depth])} has no keys of its own")
                return
        section[path[-1]] = value
        self.places[path] = place

    def _parse(self, text: str, place: _Place, path: _Path) -> Any:
        """The value of one YAML document; None, with the problems noted, where it has none."""
        try:
            if problems := list(_forbidden(text, place)):
                self.problems += problems
                return None
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, place, path)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            reason = ", ".join(filter(None, (error.context, error.problem)))
            self.problems.append(f"{place(line)}: not YAML: {_shown(reason, quote=False)}")
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML's reader, and its scanner where an escape names no character.
            self.problems.append(f"{place(1)}: not YAML: a character that YAML does not allow")
        return None

    def _value(self, loader: _Loader, node: yaml.Node, place: _Place, path: _Path) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(loader, item, place, (*path, i)) for i, item in enumerate(node.value)
            ]
        if not isinstance(node, yaml.MappingNode):
            node.value.encode()  # an escape can smuggle in half a character: a ValueError
            if len(node.value) > MAX_NUMBER and not node.tag.endswith(":str"):
                return str(node.value)  # which is refused wherever a number is wanted
            return loader.construct_object(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = place(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{here}: a key must be a word")
                continue
            key = str(key_node.value)
            key.encode()
            key_path = (*path, key)
            if key in mapping:
                first = self.places[key_path]
                self.problems.append(
                    f"{here}: {_dotted(key_path)}: this key stands at {first} already; remove one"
                )
                continue
            self.places[key_path] = here
            mapping[key] = self._value(loader, value_node, place, key_path)
        return mapping


def _forbidden(text: str, place: _Place) -> Iterator[str]:
    """What the parser's events show before any value is built: cheap, and without recursion."""
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        here = place(event.start_mark.line + 1 if event.start_mark else 1)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            yield f"{here}: a second document; a config is one document, remove the '---'"
            return
        if depth > MAX_DEPTH or count > MAX_NODES:
            yield f"{here}: too deeply nested or too long for a config"
            return
        if getattr(event, "anchor", None):
            yield f"{here}: anchors and aliases (& and *) are not accepted; write the value out"
        if tag := getattr(event, "tag", None):
            yield f"{here}: tags ({_shown(tag)}) are not accepted; remove it"


def _problems(error: ValidationError, places: dict[_Path, str], name: str) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        path, value = detail["loc"], detail["input"]
        if (key := detail["type"]) in ("backward", "batch_size"):
            path, value = (*path, key), value[key]  # found on the section, as it looks at others
        place = next(
            (places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), name
        )
        if detail["type"] == "extra_forbidden":
            yield f"{place}: {_dotted(path)}: unknown key; {_nearest(path)}"
            continue
        message = detail["msg"].replace("Input should be", "must be").replace("tuple", "list")
        if detail["type"] in ("model_type", "model_attributes_type"):
            message = f"must be a section with its own keys: {', '.join(_keys(path))}"
        elif detail["type"] == "string_pattern_mismatch":
            message = _PATTERN_MESSAGES.get(str(path[-1]), _PATTERN_MESSAGES["mirrors"])
        yield f"{place}: {_dotted(path)}: {message}, not {_shown(value)}"


_PATTERN_MESSAGES = {
    "name": "must be letters, digits, '_', '.' and '-', at most 64, beginning with one of the "
    "first two",
    "root": "must be a folder's path",
    "mirrors": "must be an http:// or https:// address",
}


def _nearest(path: _Path) -> str:
    """The known key that an unknown one was most likely meant to be."""
    key = str(path[-1])
    siblings = _keys(path[:-1])
    if close := difflib.get_close_matches(key, siblings, n=1):
        return f"did you mean {_dotted((*path[:-1], close[0]))}?"
    everywhere = {key: f"{name}.{key}" for name in _SECTIONS for key in _keys((name,))}
    everywhere |= {key: key for key in _keys(())}
    if close := difflib.get_close_matches(key, everywhere, n=1):
        return f"did you mean {everywhere[close[0]]}?"
    return f"the keys here are {', '.join(siblings)}"


def _keys(path: _Path) -> list[str]:
    """The keys of the section at a path."""
    section: type[Section] = Config
    for part in path:
        section = _SECTIONS[str(part)]
    return list(section.model_fields)


_SECTIONS: dict[str, type[Section]] = {
    key: field.annotation
    for key, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def _dotted(path: _Path) -> str:
    return ".".join(_shown(str(part), quote=False) for part in path)


def _shown(value: Any, *, quote: bool = True) -> str:
    """A value as YAML would have it, in one short line of printable characters."""
    text = json.dumps(value, ensure_ascii=False, default=str) if quote else value
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:57] + "..."
