"""The verbs on the command line, generated from the configs of the jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
from rich.markup import escape

import vitrail
from vitrail.contracts import VitrailError
from vitrail.engine import Interrupted, close, let_go, stderr_console
from vitrail.jobs.settings import read_config


@dataclass(frozen=True)
class Verb:
    """One word of the command line: its options and the job behind it, which are imported when they are asked for.

    Attributes:
        home: the module that has both.
        options: name of the config.
        does: name of the function.
    """

    home: str
    options: str
    does: str

    @property
    def config(self) -> type[Any]:
        """The options' class."""
        return self._named(self.options)

    @property
    def job(self) -> Callable[[Any], object]:
        """What is called with a config."""
        return self._named(self.does)

    def _named(self, name: str) -> Any:
        return getattr(import_module(f"vitrail.{self.home}"), name)


VERBS: dict[str, Verb] = {
    "train": Verb("jobs.train", "TrainConfig", "train"),
    "pretrain": Verb("jobs.pretrain", "PretrainConfig", "pretrain"),
    "probe": Verb("jobs.probe", "ProbeConfig", "probe"),
    "evaluate": Verb("jobs.evaluate", "EvaluateConfig", "evaluate"),
    "predict": Verb("jobs.predict", "PredictConfig", "predict"),
    "embed": Verb("jobs.embed", "EmbedConfig", "embed"),
    "explain": Verb("jobs.explain", "ExplainConfig", "explain"),
    "explore": Verb("web.explore", "ExploreConfig", "explore"),
    "plan": Verb("jobs.plan", "PlanConfig", "plan"),
    "advise": Verb("jobs.advise", "AdviseConfig", "advise"),
    "bench": Verb("jobs.bench", "BenchConfig", "bench"),
    "list": Verb("recipes.listing", "ListConfig", "list_all"),
    "convert": Verb("jobs.convert", "ConvertConfig", "convert"),
    "export": Verb("jobs.export", "ExportConfig", "export"),
    "quantise": Verb("jobs.quantise", "QuantiseConfig", "quantise"),
}

USAGE = """usage: vitrail VERB …

  train      train or fine-tune a classifier on pictures
  pretrain   learn features from pictures without labels
  probe      measure frozen features: nearest neighbours and a linear probe
  evaluate   score a trained classifier
  predict    classes and confidences of pictures, into a table
  embed      feature vectors of pictures, into a table
  explain    attention, evidence for a class and patch features, as PNG, NPZ and a page
  explore    a local page on which they follow the mouse
  plan       parameters, multiply-adds and memory of models, before anything is run
  advise     a model and a recipe for a task, with the reasons
  bench      Vitrail's speed beside other libraries, on the same model and weights
  list       models, weights, data sets, methods and recipes by name
  convert    a checkpoint from one library's format to another's
  export     a model as an ONNX or OpenVINO graph, checked to say the same
  quantise   a model in 8 bits for OpenVINO, calibrated on your pictures and kept only if it holds

vitrail VERB --help shows the options of a verb. Every option can also stand in a YAML file: --config FILE;
train, pretrain and probe know recipes by name: --recipe NAME (vitrail list recipes)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with 0, 1 (an explained error), 2 (wrong usage) or 129, 130, 143 (a signal)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    if arguments[0] in ("-V", "--version"):
        print(f"vitrail {vitrail.__version__}")
        sys.exit(0)
    if arguments[0] not in VERBS:
        _complain(f"there is no verb {arguments[0]!r}; there are {', '.join(VERBS)}")
        sys.exit(2)
    verb = arguments[0]
    # Here, as below: what one verb needs, help and other verbs need not wait for.
    from vitrail.speed.malloc import keep_freed_memory

    keep_freed_memory()
    try:
        VERBS[verb].job(parse(verb, arguments[1:]))
    except Interrupted as stop:
        _complain(str(stop))
        sys.exit(stop.exit_code)
    except VitrailError as error:
        _complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        _complain("stopped")
        sys.exit(130)
    except BrokenPipeError:
        # Who read the results has seen enough of them.
        _let_go_of_output()
        sys.exit(1)
    except OSError as error:
        _complain(str(error))
        _let_go_of_output()
        sys.exit(1)
    finally:
        close()


def parse(verb: str, arguments: Sequence[str]) -> Any:
    """The config that a verb's arguments describe: a recipe's values, then a file's, then the options'."""
    kind = VERBS[verb].config
    rest = list(arguments)
    base: dict[str, Any] = {}
    if (recipe := _take(rest, "--recipe")) is not None:
        from vitrail.recipes import recipe_config

        base["default"] = recipe_config(recipe)
        if not isinstance(base["default"], kind):
            raise VitrailError(f"recipe {recipe} is not for {verb}: it is a {type(base['default']).__name__}")
    if (file := _take(rest, "--config")) is not None:
        stored = _values_of(kind, read_config(Path(file)), file)
        base["default"] = replace(base["default"], **stored) if base else kind(**{**_required(kind), **stored})
    return tyro.cli(kind, args=rest, prog=f"vitrail {verb}", **base)


def _required(kind: type[Any]) -> dict[str, Any]:
    """What a file may leave to the command line: such options count as missing until they are given there."""
    without = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return dict.fromkeys(without, tyro.MISSING)


def _values_of(kind: type[Any], values: Mapping[str, Any], file: str) -> dict[str, Any]:
    """A config file's values in the types of the options that they stand for."""
    hints = get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise VitrailError(f"{file}: unknown option {', '.join(map(str, unknown))}; there are {', '.join(hints)}")
    empty = [name for name in _required(kind) if name in values and values[name] is None]
    if empty:
        raise VitrailError(f"{file}: {', '.join(empty)} needs a value")
    # A line without a value leaves an option as it was; only where None is a value of its own does it say that.
    given = {name: value for name, value in values.items() if value is not None or type(None) in get_args(hints[name])}
    return {name: _judged(hints[name], value, f"{file}: {name}") for name, value in given.items()}


def _judged(hint: Any, value: Any, where: str) -> Any:
    """A value of a file as the option's parser reads it, so that one parser judges files and command lines.

    Args:
        hint: the option's type.
        value: what YAML made of the line; a list stands for several words.
        where: file and option, for the message.

    Raises:
        VitrailError: the parser does not take it.
    """
    if value is None:
        return None
    words = value if isinstance(value, list) else [value]
    strange = any(word is None or isinstance(word, list | dict) for word in words)
    # YAML reads yes, no, on and off as booleans: as somebody's words they would silently become True and False.
    if not strange and (hint is bool or not any(isinstance(word, bool) for word in words)):
        # The parser's own message would name neither the file nor the option.
        with suppress(SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return tyro.cli(hint, args=["--", *map(str, words)])
    raise VitrailError(f"{where}: {value!r} is not {_described(hint)}")


def _described(hint: Any) -> str:
    """A type as a user would put it."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if hint is bool:
        return "true or false"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("pathlib.", "")


def _take(arguments: list[str], option: str) -> str | None:
    """Remove ``option VALUE`` (or ``option=VALUE``) from the arguments and give the value."""
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            del arguments[index]
            return argument.partition("=")[2]
        if argument == option:
            if index + 1 >= len(arguments):
                raise VitrailError(f"{option} needs a value")
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
    return None


def _let_go_of_output() -> None:
    """What could not be written to standard output would fail again, with a traceback, when Python ends."""
    with suppress(OSError):
        sys.stdout.flush()
        return
    let_go(sys.stdout)


def _complain(text: str) -> None:
    stderr_console(soft_wrap=True).print(f"[red]error:[/] {escape(text)}")
