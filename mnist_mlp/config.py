"""What a run is: models that check every value of a config, and `load_config`, which reads one."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from mnist_mlp.constants import CLASSES, INPUT_SIZE, LESSON_LAYER_SIZES, TRAINING_EXAMPLES
from mnist_mlp.errors import ConfigError
from mnist_mlp.words import WORDS
from mnist_mlp.yaml_lines import KeyPath, YamlReader, dotted, dump_yaml, shown

DATA_ROOT_VARIABLE = "MNIST_MLP_DATA"  # in the environment: overrides a file's `data.root`
MAX_PARAMETERS = 100_000_000
MAX_RATE = 1e15  # the product of two such rates still fits a float32, whose largest is 3.4e38

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]


class Section(BaseModel):
    """One mapping of the config file: strict types, no unknown keys, only finite numbers."""

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
    root: Annotated[str, Field(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")] = "data"
    """The folder that contains, or will contain, `MNIST/raw/`; relative to the current folder."""
    mirrors: Annotated[tuple[Url, ...], Field(strict=False)] = ()
    """Download addresses, tried in this order before torchvision's own."""
    validation: Annotated[int, Field(ge=0)] = 5000
    """Number of training examples held out for validation; the seed selects them."""
    test: bool = True
    """Whether training evaluates on the test set; false: never, as when settings are chosen."""

    @field_validator("validation")
    @classmethod
    def _check_validation(cls, validation: int, info: ValidationInfo) -> int:
        dataset = info.data.get("dataset")
        if dataset and validation >= (examples := TRAINING_EXAMPLES[dataset]):
            raise ValueError(f"must be below the {examples} training examples of {dataset}")
        return validation


class ModelConfig(Section):
    """The network."""

    layer_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=2, max_length=100)
    ] = LESSON_LAYER_SIZES
    """Number of inputs, of units in each hidden layer, and of classes."""
    activation: Literal["relu", "identity", "tanh", "sigmoid", "gelu"] = "relu"
    """The function applied to each hidden unit."""
    batch_norm: bool = False
    """Batch normalisation of the hidden layers while training; checkpoints fold it into W and b."""

    @field_validator("layer_sizes", mode="before")
    @classmethod
    def _split_layer_sizes(cls, sizes: Any) -> Any:
        """Accept `784,32,10` and `784-32-10` too: a shell may take brackets for a pattern."""
        if isinstance(sizes, str) and re.fullmatch(r"[0-9]{1,9}((-|, ?)[0-9]{1,9})+", sizes):
            return tuple(map(int, re.split(r"-|, ?", sizes)))
        return sizes

    @field_validator("layer_sizes")
    @classmethod
    def _check_layer_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if (sizes[0], sizes[-1]) != (INPUT_SIZE, CLASSES):
            ends = f"{INPUT_SIZE} (28 × 28 pixels) and end with {CLASSES} (digits)"
            raise ValueError(f"must begin with {ends}")
        if (made := sum(n * m + m for n, m in pairwise(sizes))) > (most := MAX_PARAMETERS):
            raise ValueError(f"must make at most {most:,} parameters; these make {made:,}")
        return sizes


class TrainConfig(Section):
    """The training loop."""

    epochs: Count = 10
    """Passes over the training set."""
    batch_size: Annotated[int, Field(ge=1, le=60_000)] = 64
    """Examples in one update; the last mini-batch of an epoch may be smaller."""
    backward: Literal["auto", "chain_rule", "autograd"] = "auto"
    """`auto`: the fastest way that gives the same updates. `chain_rule`: the lesson's formulas,
    step by step (steps/backprop.py, steps/optimizer.py). `autograd`: PyTorch's."""
    test_each_epoch: bool = True
    """Evaluate on the test set after every epoch, as the lesson does; false: once, at the end."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation loss; null: train all epochs."""


class AugmentConfig(Section):
    """Random deformation of the training images, new in each epoch: the largest amounts."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees."""
    scale: Fraction = 0.0
    """The fraction by which each axis grows or shrinks."""
    shear: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Horizontal shift in pixels for each row of distance from the middle row."""
    translation: Annotated[float, Field(ge=0, le=28)] = 0.0
    """Pixels along each axis."""
    elastic: Annotated[float, Field(ge=0, le=28)] = 0.0
    """Standard deviation, in pixels, of the displacements of an elastic 4 × 4 grid."""
    fade_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The last fraction of the run, in which all amounts shrink, linearly from epoch to epoch."""
    fade_to: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The part of each amount that is left in the last epoch."""

    @property
    def deforms(self) -> bool:
        """Whether any amount is above 0."""
        return any((self.rotation, self.scale, self.shear, self.translation, self.elastic))


class OptimizerConfig(Section):
    """How a gradient becomes an update."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """`torch.optim`'s SGD, Adam or AdamW."""
    learning_rate: Annotated[float, Field(gt=0, le=MAX_RATE)] = 0.1
    """The step size; under a schedule, its highest value."""
    momentum: Fraction = 0.0
    """The fraction of the previous step that is added to the next one (sgd)."""
    nesterov: bool = False
    """Nesterov's form of momentum (sgd with momentum)."""
    weight_decay: Annotated[float, Field(ge=0, le=MAX_RATE)] = 0.0
    """L2 penalty (sgd, adam) or decoupled weight decay (adamw)."""


class ScheduleConfig(Section):
    """How the learning rate changes from update to update."""

    name: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    """None, or `torch.optim.lr_scheduler`'s StepLR, CosineAnnealingLR (to 0) or OneCycleLR."""
    step_epochs: Count = 10
    """Epochs between two drops (step)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The factor of each drop (step)."""
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The fraction of the run in which the learning rate rises (one_cycle)."""


class CheckpointConfig(Section):
    """When a checkpoint is saved, besides at the end and whenever validation is best so far."""

    every_epochs: Count = 1
    """Epochs between two checkpoints."""
    keep: Count = 3
    """How many of the newest checkpoints are kept, besides the best by validation."""


class Config(Section):
    """Everything that decides a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "run"
    """The run directory's prefix; by default the config file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides every random choice: initial weights, order, deformation and validation split."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA if a CUDA device is available, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of one PyTorch operation; null: one or two, by a fixed rule."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    report: bool = False
    """Whether `mnist-mlp train` ends by drawing what `mnist-mlp report` draws."""

    @field_validator("train")
    @classmethod
    def _check_train(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        """Check what depends on other sections; an error's type is the key that it is about."""
        data, model = info.data.get("data"), info.data.get("model")
        relu = model and model.activation == "relu" and not model.batch_norm
        if model and train.backward == "chain_rule" and len(model.layer_sizes) > 2 and not relu:
            message = "must be auto or autograd, unless activation is relu and batch_norm false"
            raise PydanticCustomError("backward", message, {"value": train.backward})
        if data and train.patience and not data.validation:
            message = "must be null without a validation split: set data.validation too"
            raise PydanticCustomError("patience", message, {"value": train.patience})
        if data and model and model.batch_norm:
            examples = TRAINING_EXAMPLES[data.dataset] - data.validation
            if 1 in (train.batch_size, examples % train.batch_size):
                message = f"makes a batch of 1 of {examples:,} examples, too few for batch_norm"
                raise PydanticCustomError("batch_size", message, {"value": train.batch_size})
        return train

    @field_validator("report")
    @classmethod
    def _check_report(cls, report: bool, info: ValidationInfo) -> bool:
        if report and "data" in info.data and not info.data["data"].test:
            raise ValueError("must be false where data.test is: a report evaluates on the test set")
        return report

    def to_yaml(self) -> str:
        """The whole config as YAML that `load_config` reads back to an equal one."""
        return dump_yaml(self.model_dump(mode="json"))

    def shareable(self) -> "Config":
        """The config without the places of this machine, for pages that are shown to others."""
        nowhere = DataConfig().model_dump(include={"root", "mirrors"})
        return self.model_copy(update={"data": self.data.model_copy(update=nowhere)})

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key."""
        return {
            f"{key}.{leaf}" if leaf else key: x
            for key, value in self.model_dump(mode="json").items()
            for leaf, x in (value.items() if isinstance(value, dict) else [("", value)])
        }

    def validation_score(self, row: Mapping[str, Any]) -> float | None:
        """How good an epoch is by validation: its accuracy, or with patience its loss, negated."""
        if not self.train.patience:
            return row.get("validation_accuracy")
        loss = row.get("validation_loss")
        return None if loss is None else -loss

    def ignored_settings(self) -> list[str]:
        """The keys that differ from their default and have no effect in this config."""
        sgd, schedule = self.optimizer.name == "sgd", self.schedule.name
        has_effect = {
            "data.mirrors": self.data.dataset == "mnist",
            "augment.fade_fraction": self.augment.deforms,
            "augment.fade_to": self.augment.deforms and self.augment.fade_fraction > 0,
            "train.test_each_epoch": self.data.test,
            "optimizer.momentum": sgd,
            "optimizer.nesterov": sgd and self.optimizer.momentum > 0,
            "schedule.step_epochs": schedule == "step",
            "schedule.gamma": schedule == "step",
            "schedule.warmup_fraction": schedule == "one_cycle",
        }
        values, defaults = self.flat(), Config().flat()
        return [k for k, used in has_effect.items() if not used and values[k] != defaults[k]]


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read a config from a path or, for a bare name such as `mnist`, from the bundled ones.

    Overrides are strings such as `train.epochs=3`; the last one for a key wins. `MNIST_MLP_DATA`
    is looked up in `environment`, by default `os.environ`. A ConfigError has one line for each
    problem: file and line (or override), key, what to do.
    """
    path, reader = _find(source), YamlReader()
    values = reader.read_file(path)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip("_.-")[:64]
    values.setdefault("name", name or "run")
    if root := (os.environ if environment is None else environment).get(DATA_ROOT_VARIABLE):
        if isinstance(data := values.setdefault("data", {}), dict):
            data["root"] = root
        reader.places["data", "root"] = f"{DATA_ROOT_VARIABLE} in the environment"
    for override in overrides:
        reader.override(values, override)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        reader.problems += _messages(error, reader.places, str(path))
    if reader.problems:
        raise ConfigError("\n".join(dict.fromkeys(reader.problems)))
    return config


def bundled_configs() -> dict[str, Path]:
    """The configs that come with the package, by bare name."""
    package = Path(__file__).parent
    # A wheel has them inside the package, a checkout beside it.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    """The file at a path, or else the bundled config of that name."""
    path, bundled = Path(source), bundled_configs()
    with suppress(OSError):  # such as a name that is too long; reading it will say so
        if not path.exists() or path.is_dir():
            path = bundled.get(str(source), path)
        if not path.exists():
            name = re.sub(r"\.ya?ml$", "", path.name.lower())
            close = difflib.get_close_matches(name, bundled, n=1)
            names = f"give a path, or the name of a bundled one: {', '.join(bundled)}"
            hint = f"did you mean --config {close[0]}?" if close else names
            raise ConfigError(f"{path}: no such config file; {hint}")
    return path


def _messages(error: ValidationError, places: dict[KeyPath, str], file: str) -> Iterator[str]:
    """A line for each of pydantic's errors."""
    for detail in error.errors(include_url=False):
        path, value, kind = detail["loc"], detail["input"], detail["type"]
        if kind in ("backward", "batch_size", "patience"):
            path, value = (*path, kind), detail["ctx"]["value"]  # found on the whole section
        prefixes = (path[:n] for n in range(len(path), 0, -1))
        place = next((places[prefix] for prefix in prefixes if prefix in places), file)
        if kind == "extra_forbidden":
            meant = resembling_key(str(path[-1]), path[:-1])
            keys = f"the keys here are {', '.join(_keys(path[:-1]))}"
            hint = f"did you mean {meant}?" if meant else keys
            if meant == path[-1] and "." in meant:
                hint = "write {1}: below {0}:".format(*meant.split("."))
            yield f"{place}: {dotted(path)}: unknown key; {hint}"
            continue
        message = detail["msg"]
        for theirs, ours in WORDS["pydantic"].items():
            message = re.sub(theirs, ours, message)
        if kind == "model_type":
            message = f"must be a section with its own keys: {', '.join(_keys(path))}"
        elif kind == "string_pattern_mismatch":
            message = WORDS["pattern"][dotted(path[:2])]
        yield f"{place}: {dotted(path)}: {message}, not {shown(value)}"


def short_keys(keys: Sequence[str]) -> list[str]:
    """Each key's last part, such as epochs of train.epochs; the whole key where that says little.

    That is where two share it, and for a name.
    """
    last = [key.rpartition(".")[2] for key in keys]
    both = zip(last, keys, strict=True)
    return [n if last.count(n) == 1 and n != "name" else key for n, key in both]


def resembling_key(name: str, section: KeyPath = ()) -> str | None:
    """The key whose last part resembles a name, first among those of the same section."""
    name = WORDS["short"].get(name, name)
    everywhere = {key.rpartition(".")[2]: key for key in reversed(Config().flat())}
    for names in ({key: dotted((*section, key)) for key in _keys(section)}, everywhere):
        if close := difflib.get_close_matches(name, names, n=1):
            return names[close[0]]
    return None


def _keys(section: KeyPath) -> list[str]:
    """The keys of a section; those at the top level for an empty path."""
    values: Any = Config().model_dump()
    return list(values[section[0]] if section else values)
