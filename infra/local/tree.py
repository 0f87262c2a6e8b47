"""Keep README's file tree true: one line a file, taken from the file's own first line of documentation.

.venv/bin/python infra/local/tree.py           rewrites it (`make tree`)
.venv/bin/python infra/local/tree.py --check   fails if it is not current
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- tree: made by `make tree` -->\n```\n", "```\n<!-- end of tree -->"

TOP = {
    "sdavs_model": "the model: pure PyTorch, runs without a cluster",
    "platform": "a source root, not a package (it would hide the standard library's `platform`)",
    "serve": "a source root: the endpoint",
    "jobs": "what is run: parse, validate, one call",
    "infra": "what surrounds the code",
    "docs": "how it works and how to run it",
    "tests": "mirrors the tree; a test's name is a sentence",
}


def main() -> int:
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    wanted = before + BEGIN + tree() + END + after
    if wanted == README.read_text():
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md: the file tree is not current; run `make tree`", file=sys.stderr)
        return 1
    README.write_text(wanted)
    return 0


def tree() -> str:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *TOP]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    files = [Path(name) for name in listed if name and (ROOT / name).is_file()]
    lines: list[str] = []
    for top, about in TOP.items():
        lines.append(_line(top + "/", about))
        lines += _folder(Path(top), [file for file in files if file.parts[0] == top], depth=1)
    return "\n".join(lines) + "\n"


def _folder(folder: Path, files: list[Path], *, depth: int) -> list[str]:
    lines = []
    for file in sorted(f for f in files if f.parent == folder):
        # A package's own line stands beside its folder.
        if file.name != "__init__.py" and (about := _about(file)):
            lines.append(_line("  " * depth + file.name, about))
    for name in sorted({f.parts[depth] for f in files if len(f.parts) > depth + 1}):
        inside = [f for f in files if len(f.parts) > depth + 1 and f.parts[depth] == name]
        described = _folder(folder / name, inside, depth=depth + 1)
        about = _about(folder / name / "__init__.py")
        if about or described:
            lines += [_line("  " * depth + name + "/", about), *described]
    return lines


def _line(name: str, about: str) -> str:
    return f"{name:<35} {about}".rstrip()


def _about(file: Path) -> str:
    """First line of a docstring, a leading comment or a Markdown title; empty for files that explain nothing."""
    path = ROOT / file
    if not path.is_file():
        return ""
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    if file.suffix in (".yaml", ".md"):
        first = path.read_text().split("\n")[0]
        return first.lstrip("# ") if first.startswith("#") else ""
    return ""


if __name__ == "__main__":
    sys.exit(main())
