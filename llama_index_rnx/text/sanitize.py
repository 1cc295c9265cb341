"""Makes foreign text safe to show: no escapes, no control characters, no turned text. It knows no
terminal.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# A sequence that a terminal would act on goes as a whole, not only its first character. The title
# of a window (OSC) ends at the end of its line at the latest: text after it must not vanish.
_SEQUENCES = re.compile(r"\x1b(?:\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\[[0-?]*[ -/]*[@-~]?|.?)")

# C0, DEL and C1 (U+009B is a CSI of its own), and what separates lines and paragraphs.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029"

# Characters without width: they turn the reading direction (Arabic letter mark, embeddings,
# overrides, isolates), or hide (soft hyphen, zero-width space, word joiner, byte order mark, tags).
# The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji are spelled with them.
_MARKS = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f"
)
_SURROGATES = "\ud800-\udfff"

# For a character class of a regular expression.
UNSAFE = _CONTROLS + _MARKS + _SURROGATES

_CONTROL_RUN = re.compile(f"[{_CONTROLS}]+")
_MARK = re.compile(f"[{_MARKS}]+")
_HALF_PAIR = re.compile(f"[{_SURROGATES}]")

# Characters that `lines` takes away or replaces: all that are unsafe but the ends of lines.
UNSAFE_IN_LINES = re.compile(f"(?!\n)[{UNSAFE}]")

_UNSAFE_IN_JSON = re.compile(f"[\x7f-\x9f\u2028\u2029{_MARKS}{_SURROGATES}]")

# Controls and format marks, by Unicode's categories.
_INVISIBLE = ("Cc", "Cf")


def lines(text: str) -> str:
    """Return plain text with its lines and blanks, without anything that a terminal acts on.

    Example:
        >>> lines("one \\x1b[31mred\\x1b[0m line\\r\\nand \\u202eanother")
        'one red line\\nand another'
    """
    text = _MARK.sub("", _SEQUENCES.sub("", text))
    text = _CONTROL_RUN.sub(lambda run: "\n" * run[0].count("\n") or " ", text)
    return _HALF_PAIR.sub("?", text)


def clean(text: str) -> str:
    """Return one line of plain text: as `lines`, with white space of any kind as single blanks.

    Example:
        >>> clean("one\\n\\ttwo \\x07 three")
        'one two three'
    """
    return " ".join(lines(text).split())


def one_line(text: str) -> str:
    """Return the text as `lines` does, on one line; unlike `clean`, it keeps blanks, so that file
    names can be copied.
    """
    return " ".join(lines(text).splitlines())


def encodable(text: str, encoding: str, errors: str = "replace") -> str:
    """Return the text as far as an encoding can show it, with a `?` for the rest, or as `errors`
    says.

    Example:
        >>> encodable("Käse \\u2192", "latin-1")
        'Käse ?'
    """
    return text.encode(encoding, errors).decode(encoding)


def json_text(value: Any, *, ensure_ascii: bool = False) -> str:
    """Return JSON over several lines, with what a terminal would act on as `\\uXXXX`.

    Example:
        >>> print(json_text({"text": "a\\u2028b\\x9bc"}))
        {
         "text": "a\\u2028b\\u009bc"
        }
    """
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=1)
    return _UNSAFE_IN_JSON.sub(lambda unsafe: json.dumps(unsafe[0])[1:-1], text)


def clean_text(text: str) -> str:
    """Return the text without white space around it and without halves of surrogate pairs, which no
    tokenizer takes.

    A text in which nothing can be seen (a byte order mark, zero-width spaces, NUL bytes) becomes
    the empty text.

    Example:
        >>> clean_text(" half a pair: \\ud800 ")
        'half a pair: ?'
        >>> clean_text("\\ufeff \\u200b \\0")
        ''
    """
    cleaned = text.encode("utf-8", "replace").decode().strip()
    return cleaned if any(map(_is_visible, cleaned)) else ""


def clean_texts(texts: Iterable[str]) -> list[str]:
    """Return what `clean_text` gives for each of these texts."""
    return [clean_text(text) for text in texts]


def printable_lines(texts: Iterable[str], encoding: str) -> list[str]:
    """Return each text as one clean line that an encoding can show: `clean`, then `encodable`.

    Example:
        >>> printable_lines(["Käse\\n\\u2192", "a\\tb"], "latin-1")
        ['Käse ?', 'a b']
    """
    return [encodable(clean(text), encoding) for text in texts]


def _is_visible(letter: str) -> bool:
    return not letter.isspace() and unicodedata.category(letter) not in _INVISIBLE
