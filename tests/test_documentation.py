"""What the documentation names: its links, files, config keys, make targets, and the commands to type."""

import argparse
import ast
import functools
import importlib
import re
import shlex
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sdavs_platform.config import cli
from sdavs_platform.config.cli import config_keys, load_config, overrides_of
from test_repository import JOBS, ROOT, tracked

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    ROOT.glob("docs/*.md")
)
SECTIONS = sorted({key.path.split(".")[0] for key in config_keys() if "." in key.path})
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
NOT_IN_THE_TREE = {
    "gpu_check.md",
    "OUT/DATASHEET.md",
    "config.yaml",
    "test.sh",
    "platform.py",
    "platform/__init__.py",
}
"""Files that commands write, that other projects have, or that must not exist."""


@functools.cache
def spans(page: Path) -> tuple[str, ...]:
    """The text of every code span of a page, on one line each."""
    return tuple(" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", page.read_text())))


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    kept = (
        "".join(c for c in title.lower() if c in "-_ " or unicodedata.category(c)[0] in "LN")
        for title in titles
    )
    return frozenset(text.replace(" ", "-") for text in kept)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_readme_has_at_most_150_lines_and_two_commands_in_its_quick_start():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    quick_start = text.split("## Quick start")[1].split("\n## ")[0]
    (block,) = FENCE.findall(quick_start)
    assert [line.split("  ")[0] for line in block.splitlines()[1:-1]] == ["make demo", "make test"]


def test_every_page_of_the_documentation_is_linked_from_readme_or_architecture():
    linked = "".join((ROOT / name).read_text() for name in ("README.md", "docs/architecture.md"))
    assert not [page.name for page in ROOT.glob("docs/*.md") if f"{page.name}" not in linked]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page: Path):
    names = {f"/{path.relative_to(ROOT)}" for path in tracked()}
    for span in spans(page):
        for name in re.findall(r"(?<![\w./~-])[\w][\w./-]*\.(?:py|yaml|md|sh)\b(?![/*])", span):
            if "NAME" in name or name in NOT_IN_THE_TREE:
                continue
            assert any(each.endswith(f"/{name}") for each in names), f"{page.name}: {name}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_every_config_key_that_a_page_names_exists(page: Path):
    known = {key.path for key in config_keys()}
    known |= {path.rsplit(".", n)[0] for path in known for n in range(1, path.count(".") + 1)}
    for span in spans(page):
        key = re.match(rf"(?:--)?((?:{'|'.join(SECTIONS)})\.[a-z_.0-9]+)(?=$|[:= ])", span)
        if key and not re.search(r"\.(py|json|yaml|csv|txt|safetensors)$", key[1]):
            assert key[1] in known, f"{page.name}: {span}"


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make (?:-s )?([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


class Parsed(Exception):
    """Raised with what a job's parser returned, before the job does anything."""


def commands() -> dict[str, str]:
    """Every `python jobs/...` without placeholders, in the pages and in the jobs' docstrings -> where it is."""
    found: dict[str, str] = {}
    for path in (*PAGES, *JOBS):
        text = path.read_text() if path in PAGES else ast.get_docstring(ast.parse(path.read_text())) or ""
        text = re.sub(r"\s*\\\n\s*", " ", text)
        indented = [line for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]
        in_text = SPAN.findall(FENCE.sub("", text)) if path in PAGES else []
        for line in (*"\n".join(FENCE.findall(text)).splitlines(), *indented, *in_text):
            found |= dict.fromkeys(typed(line), path.name)
    return found


def typed(line: str) -> Iterator[str]:
    """The jobs that a line calls, without explanation, redirection and `...`; none with a placeholder for a flag."""
    for part in re.split(r"&&|[|;]|\s\d?>", re.sub(r"\s#.*", "", line)):
        call = re.search(r"python (jobs/\w+\.py.*)", part, re.DOTALL)
        if call:
            command = re.split(r"\s{2,}", call[1])[0] if "\n" not in call[1] else " ".join(call[1].split())
            command = command.replace("...", "").strip()
            if not re.search(r"KEY|NAME\.|\$", command):
                yield command


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Checks a command line as its job does, with the config keys and files that it names."""
    original = argparse.ArgumentParser.parse_known_args
    depth = 0

    def parse_known_args(self, args=None, namespace=None):
        nonlocal depth
        depth += 1
        try:
            result = original(self, args, namespace)
        finally:
            depth -= 1
        if depth == 0:
            raise Parsed(*result)
        return result

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "config_keys", functools.cache(config_keys))
    monkeypatch.syspath_prepend(ROOT / "jobs")
    monkeypatch.chdir(ROOT)

    def check(command: str) -> None:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        job = importlib.import_module(Path(sys.argv[0]).stem)
        with pytest.raises(Parsed) as parsed:
            job.main()
        namespace, unknown = parsed.value.args
        takes_keys = job.__name__ in ("train", "tune", "deploy")
        assert takes_keys or not unknown, unknown
        if takes_keys:
            keys = {name: value for name, value in vars(namespace).items() if "." in name}
            default = [] if job.__name__ == "deploy" else ["jobs/configs/demo.yaml"]
            load_config(namespace.config or default, overrides_of(keys, unknown))

    return check


def test_every_command_that_the_documentation_shows_can_be_typed(parse: Callable[[str], None]):
    wrong = {}
    for command, where in commands().items():
        try:
            parse(command)
        except (SystemExit, ValueError) as error:
            if isinstance(error, SystemExit) and not error.code:  # --help
                continue
            wrong[f"{where}: {command}"] = str(error)
    assert not wrong
