"""Docstrings of dataclass fields, those of base classes included, which pydantic leaves out of its schemas."""

import ast
import inspect
import textwrap


def field_docstrings(cls: type) -> dict[str, str]:
    """Field -> the text below its declaration, for the fields of a dataclass and its base classes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in zip(declared.body, declared.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about))):
                    found[name] = about
    return found
