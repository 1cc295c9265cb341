"""The fields of a pydantic class as the arguments of its docstring, read off the class: each is
described once, in the code.
"""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx


def fields_of(thing: Any) -> dict[str, FieldInfo]:
    """Those that a class of ours describes itself; none for anything else."""
    if not isinstance(thing, type) or not issubclass(thing, BaseModel):
        return {}
    own = inspect.get_annotations(thing)
    return {
        name: info for name, info in thing.model_fields.items() if name in own and info.description
    }


def add_fields(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Before napoleon reads the docstring: an `Args:` of the fields, above `Raises:`."""
    fields = fields_of(thing)
    if fields:
        place = next(
            (i for i, line in enumerate(lines) if line in ("Raises:", "Example:")), len(lines)
        )
        lines[place:place] = [
            "Args:",
            *(_line(thing, field, info) for field, info in fields.items()),
            "",
        ]


def whole_sentence(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Of a property napoleon takes all before a colon for its type."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", " \u2013 ", 1)


def short_signature(
    app: Sphinx, what: str, name: str, thing: Any, *rest: Any
) -> tuple[str, str | None] | None:
    """Names and defaults only: types stand with the arguments below. Of a Protocol none: nobody
    makes one.
    """
    if getattr(thing, "_is_protocol", False):
        return "", None
    fields = fields_of(thing)
    if not fields:
        return None
    return "(" + ", ".join(
        f"{field}={_default(info)}" for field, info in fields.items()
    ) + ")", None


def hide_fields(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """A field is an argument; it is not shown a second time as an attribute."""
    return True if isinstance(thing, FieldInfo) else None


def _line(thing: type, field: str, info: FieldInfo) -> str:
    return f"    {field} ({thing.__annotations__[field]}): {info.description}"


def _default(info: FieldInfo) -> str:
    return "..." if info.default is PydanticUndefined else repr(info.default)


def setup(sphinx: Sphinx) -> dict[str, bool]:
    sphinx.connect("autodoc-process-docstring", add_fields, priority=400)  # napoleon comes at 500
    sphinx.connect("autodoc-process-docstring", whole_sentence, priority=400)
    sphinx.connect("autodoc-process-signature", short_signature)
    sphinx.connect("autodoc-skip-member", hide_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
