"""Read the config tree from YAML files and dotted flags; report one line per mistake.

The flags, their groups and their help are generated from `RunConfig`.
"""

import argparse
import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from sdavs_model.architectures import ARCHITECTURES
from sdavs_model.files import as_on_disk, read_text
from sdavs_model.suggestions import did_you_mean, nearest_key
from sdavs_platform.config.tree import NAME, RunConfig

TEXTS = "mapping to text"
"""The kind of a key that holds names and texts, such as environment variables."""


class Key(NamedTuple):
    """One leaf of the tree."""

    path: str
    kind: str
    default: Any
    help: str
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    """The values of `model.architecture` with which it exists."""
    other_defaults: tuple[tuple[str, Any], ...] = ()
    """The architectures, after the first, with another default, and what it is."""


def config_keys() -> list[Key]:
    """Every leaf of `RunConfig` in declaration order, with its type in words, default and docstring.

    A key that several architectures have is listed once, with the type and default of the first.
    """
    schema = _schema()
    keys = _walk(schema, schema["$defs"], RunConfig().model_dump(mode="json"), "")
    found: dict[str, Key] = {}
    for key in keys:
        first = found.setdefault(key.path, key)
        if first is not key:
            differs = key.default != first.default and not key.path.endswith(".architecture")
            (name,) = key.architectures
            found[key.path] = first._replace(
                architectures=(*first.architectures, name),
                other_defaults=(*first.other_defaults, *([(name, key.default)] if differs else [])),
            )
    return list(found.values())


def config_kinds(architecture: str | None = None) -> dict[str, str]:
    """Type in words by dotted path, of all keys or of those that exist with one architecture."""
    return {
        key.path: key.kind
        for key in config_keys()
        if architecture is None or architecture in key.architectures
    }


def text_kinds() -> dict[str, str]:
    """`config_kinds`, and the keys of mappings in lists, such as `data.mix.*.root`."""
    schema = _schema()
    return config_kinds() | dict(_walk_lists(schema, schema["$defs"], ""))


def load_config(
    sources: Sequence[str | Path | Mapping[str, Any]] = (), overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Merge YAML files or nested values (later ones win), then `overrides` (dotted key -> value), and validate.

    Raises:
        ValueError: a file is missing or is no mapping; or one line per wrong key with its dotted name, what is
            wrong, what is allowed, and for an unknown key the nearest known one.
    """
    values: dict[str, Any] = {}
    for source in sources:
        values = _merged(values, source if isinstance(source, Mapping) else read_yaml(Path(source)))
    for dotted, value in (overrides or {}).items():
        values = _merged(values, _nested(dotted, value))
    return validated(values)


def validated(values: dict[str, Any]) -> RunConfig:
    """`RunConfig` from plain nested values.

    Raises:
        ValueError: see `load_config`.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(e) for e in error.errors(include_url=False))) from None


def parse_config(
    parser: argparse.ArgumentParser,
    *,
    default_yaml: Path | None,
    argv: Sequence[str] | None = None,
    on_refusal: Callable[[str], None] = lambda message: None,
) -> tuple[RunConfig, argparse.Namespace]:
    """The config from the command line, and the flags that `parser` had before; `--help` explains every key.

    Mistakes are reported on stderr and passed to `on_refusal`; the process then exits with status 2.
    """
    add_config_flags(parser, default_yaml=default_yaml)
    known, unknown = parser.parse_known_args(argv)
    flags, keys = vars(known), config_kinds()
    own = argparse.Namespace(**{name: flags.pop(name) for name in set(flags) - {"config", *keys}})
    files = flags.pop("config") or ([default_yaml] if default_yaml else [])
    try:
        return load_config(files, overrides_of(flags, unknown)), own
    except ValueError as error:
        print(textwrap.indent(str(error), f"{parser.prog}: "), file=sys.stderr, flush=True)
        on_refusal(str(error))
        parser.exit(2)


def add_config_flags(
    parser: argparse.ArgumentParser, *, default_yaml: Path | None, without: Sequence[str] = ()
) -> None:
    """`--config FILE`, and a flag with help for every key of the tree but `without`, in groups by section."""
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help=f"YAML file of keys; may be repeated, later ones win (default: {default_yaml or 'none'})",
    )
    groups: dict[str, Any] = {}
    sections = RunConfig.model_fields
    for key in config_keys():
        if key.path in without:
            continue
        section = key.path.split(".")[0] if "." in key.path else "run"
        if section not in groups:
            about = sections[section].description if section in sections else "Identity of the run."
            groups[section] = parser.add_argument_group(section, about)
        only = "" if len(key.architectures) == len(ARCHITECTURES) else f"{', '.join(key.architectures)}: "
        default = "".join(
            [yaml_text(key.default), *(f"; {name}: {yaml_text(value)}" for name, value in key.other_defaults)]
        )
        text = f"{only}{key.help} [{key.kind}; default {default}]"
        groups[section].add_argument(
            f"--{key.path}",
            dest=key.path,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )


def overrides_of(flags: dict[str, str], unknown: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value, from the flags of `add_config_flags` and the arguments that argparse did not recognise.

    Raises:
        ValueError: an argument is no flag.
    """
    kinds = text_kinds()
    return {key: _value(text, key, kinds) for key, text in (flags | _loose_flags(unknown)).items()}


def yaml_text(value: Any) -> str:
    """A value as one line of YAML, as it can be typed on the command line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n...\n").strip()


@functools.cache
def _schema() -> dict[str, Any]:
    """The JSON schema of the tree, computed once: a command asks for it several times."""
    return RunConfig.model_json_schema()


def _walk(node: dict[str, Any], defs: dict[str, Any], default: Any, prefix: str) -> Iterator[Key]:
    for name, field in node["properties"].items():
        path = f"{prefix}{name}"
        ref = field.get("$ref", "").removeprefix("#/$defs/")
        if "discriminator" in field:
            yield from _walk_architectures(field["discriminator"]["mapping"], defs, f"{path}.")
        elif ref and "properties" in defs[ref]:
            yield from _walk(defs[ref], defs, default[name], f"{path}.")
        else:
            help_text = " ".join(field.get("description", "").split())
            yield Key(path=path, kind=_kind(field), default=default[name], help=help_text)


def _walk_lists(node: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in node["properties"].items():
        ref = field.get("$ref", "").removeprefix("#/$defs/")
        item = field.get("items", {}).get("$ref", "").removeprefix("#/$defs/")
        if ref and "properties" in defs[ref]:
            yield from _walk_lists(defs[ref], defs, f"{prefix}{name}.")
        for key, inside in defs[item]["properties"].items() if item else ():
            yield f"{prefix}{name}.*.{key}", _kind(inside)


def _walk_architectures(refs: Mapping[str, str], defs: dict[str, Any], prefix: str) -> Iterator[Key]:
    """The keys of every architecture's config, each with that architecture alone."""
    for name, architecture in ARCHITECTURES.items():  # the schema's own order is alphabetical
        node = defs[refs[name].removeprefix("#/$defs/")]
        config: Any = architecture.config
        for key in _walk(node, defs, config(architecture=name).to_dict(), prefix):
            kind = " | ".join(ARCHITECTURES) if key.path == f"{prefix}architecture" else key.kind
            about = key.help or _docs(name)[key.path.removeprefix(prefix)]
            yield key._replace(kind=kind, help=about, architectures=(name,))


@functools.cache
def _docs(architecture: str) -> dict[str, str]:
    docs = _field_docstrings(ARCHITECTURES[architecture].config)
    return {field: " ".join(text.split()) for field, text in docs.items()}


def _field_docstrings(cls: type) -> dict[str, str]:
    """Field -> the text below its declaration, for a dataclass and its bases; not in pydantic's schemas."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in zip(declared.body, declared.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about))):
                    found[name] = about
    return found


def _kind(field: dict[str, Any]) -> str:
    """A JSON schema type for users: `0 | 1 | 2`, `number`, `list of text`."""
    if "$ref" in field:
        return "mapping"
    if "anyOf" in field:
        return " | ".join(_kind(option) for option in field["anyOf"])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        items = field.get("items") or field["prefixItems"][0]
        return f"list of {_kind(items)}"
    if field.get("additionalProperties") == {"type": "string"}:
        return TEXTS
    words = {"string": "text", "boolean": "true | false", "integer": "whole number", "object": "mapping"}
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    bounds = [f"{word} {field[limit]:g}" for limit, word in limits.items() if limit in field]
    return " ".join([words.get(field["type"], field["type"]), *bounds])


def read_yaml(path: Path, kinds: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The mapping that a YAML file holds; text keys hold their text as it was typed.

    Args:
        kinds: dotted path -> `Key.kind` (default: the config tree's).

    Raises:
        ValueError: the file does not exist, or holds something else.
    """
    path = as_on_disk(path)
    if not path.is_file():
        raise ValueError(f"--config: there is no file {path}")
    content = read_text(path) if path.read_bytes().strip() else ""
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold keys and values, not a {type(values).__name__}")
    _require_single_keys(path, yaml.compose(content, yaml.BaseLoader))
    # BaseLoader leaves every scalar as it was typed.
    typed = yaml.load(content, yaml.BaseLoader)
    return _with_text(values, typed, text_kinds() if kinds is None else kinds, "")


def _require_single_keys(path: Path, node: yaml.Node | None) -> None:
    """Raises ValueError for a key that a mapping has twice, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ValueError(
                    f"{path}: line {key.start_mark.line + 1}: {key.value} is given more than once"
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else repr(key))
            _require_single_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _require_single_keys(path, value)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _value(text: str, key: str, kinds: Mapping[str, str]) -> Any:
    """The value of a flag: its text itself for a text key, else what YAML reads in it."""
    kind = kinds.get(key, "")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    is_quoted = isinstance(value, str) and text.lstrip()[:1] in ("'", '"')
    if _is_text(kind) and not is_quoted and not (value is None and "null" in kind):
        return text
    return _with_text(value, yaml.load(text, yaml.BaseLoader), kinds, key)


def _with_text(value: Any, typed: Any, kinds: Mapping[str, str], path: str) -> Any:
    """`value` as YAML reads it, but with text keys as they were typed: YAML takes 2026-07-01 for a date, 007 for 7.

    Args:
        typed: the same with every scalar as text.
        kinds: `Key.kind` by path.
        path: position of `value` in the config tree.
    """
    kind = kinds.get(path, "")
    if isinstance(value, dict) and isinstance(typed, dict):
        if kind == TEXTS:
            return {
                raw: _with_text(each, typed[raw], {"": "text"}, "")
                for raw, each in zip(typed, value.values(), strict=True)
            }
        inside = {key: f"{path}.{key}" if path else str(key) for key in value}
        return {key: _with_text(each, typed.get(str(key)), kinds, inside[key]) for key, each in value.items()}
    if isinstance(value, list) and isinstance(typed, list) and kind == "list of text":
        return [raw if isinstance(raw, str) else each for each, raw in zip(value, typed, strict=True)]
    if isinstance(value, list) and isinstance(typed, list):
        return [_with_text(each, raw, kinds, f"{path}.*") for each, raw in zip(value, typed, strict=True)]
    is_null = value is None and "null" in kind
    return typed if _is_text(kind) and isinstance(typed, str) and not is_null else value


def _is_text(kind: str) -> bool:
    return kind in ("text", "text | null")


def _loose_flags(unknown: Sequence[str]) -> dict[str, str]:
    """Unknown flags, kept so that validation names the nearest key; and `KEY=VALUE`.

    Raises:
        ValueError: an argument is neither.
    """
    overrides: dict[str, str] = {}
    words = list(unknown)
    while words:
        word = words.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals and not word.startswith("--"):
            raise ValueError(f"{word!r} is not a flag; write --section.key VALUE")
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else ""
        overrides[name] = text
    return overrides


def _explain(error: Any) -> str:
    """One line for one pydantic error."""
    where = [str(part) for part in error["loc"]]
    # pydantic puts the name of the architecture into the path: model.tpavi.width.
    architecture = (
        where.pop(1) if where[:1] == ["model"] and where[1:2] and where[1] in ARCHITECTURES else None
    )
    path = ".".join(where)
    if error["type"] == "union_tag_invalid":
        name = str(error["ctx"]["tag"])
        hint = did_you_mean(name, ARCHITECTURES)
        return f"{path}.architecture: no {name!r}; {hint and f'{hint} '}allowed: {', '.join(ARCHITECTURES)}"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = config_kinds(architecture)
        if path in known and "." in str(error["loc"][-1]):
            *sections, leaf = path.split(".")
            opened, closed = "".join(f"{section}: {{" for section in sections), "}" * len(sections)
            return f"{path}: in a file, a key belongs in its section: {opened}{leaf}: ...{closed}"
        if path.startswith("model.") and (owners := _owners(path)):
            own = ", ".join(key for key in known if key.startswith("model."))
            return f"{path}: a key of model.architecture={' or '.join(owners)}, not of {architecture}; allowed: {own}"
        return f"{path}: unknown key; {nearest_key(path, list(known))}"
    if error["type"] == "value_error":
        return _joined(path, str(error["ctx"]["error"]))
    message = error["msg"][0].lower() + error["msg"][1:]
    message = re.sub(r"^input should (be )?", "must be ", message)
    kinds = config_kinds()
    parent = re.sub(r"(\.\d+)+$", "", path)
    allowed = f"; allowed: {kinds[parent]}" if parent in kinds else ""
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME:
        message = "must begin with a letter from A to Z or a digit, and hold only these and . _ -"
        allowed = ""
    return f"{path}: {yaml_text(error['input'])} is not allowed: {message}{allowed}"


def _owners(path: str) -> list[str]:
    """The architectures that have this key or section."""
    return sorted(
        {
            name
            for key in config_keys()
            if key.path == path or key.path.startswith(f"{path}.")
            for name in key.architectures
        }
    )


def _joined(path: str, message: str) -> str:
    """A dataclass or section starts its message with its field: `model` + `width: ...` -> `model.width: ...`."""
    head = path.rsplit(".", 1)[-1]
    if head and message.startswith(f"{head}."):
        message = message.removeprefix(f"{head}.")
    named = re.match(r"^[a-z_]+(\.[a-z_]+)*: ", message)
    if not path:
        return message
    return f"{path}.{message}" if named else f"{path}: {message}"
