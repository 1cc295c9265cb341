"""Pure: rows of TREC runs and judgments. Names that hold blanks or line ends stay one field of one
row.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from llama_index_rnx.text import UNSAFE

# White space of every script, by which programs divide a row, and the signs that a terminal or an
# editor acts on.
_BREAKS = re.compile(rf"[\s{UNSAFE}]+")


def field_of(docid: str) -> str:
    """Return a docid as one field: the UTF-8 bytes of what would end a field or a row are
    percent-encoded.

    `%` is encoded too, so that `docid_of` gives the docid back.

    Example:
        >>> field_of("my notes.md#2"), field_of("100 %")
        ('my%20notes.md#2', '100%20%25')
        >>> field_of("a\\u2028b")
        'a%E2%80%A8b'
    """
    return _encode_breaks(docid.replace("%", "%25"))


def docid_of(field: str) -> str:
    """Return the docid that `field_of` made this field of.

    Example:
        >>> docid_of("a%E2%80%A8b%20100%25")
        'a\\u2028b 100%'
    """
    try:
        return unquote_to_bytes(field).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # Another program wrote it, and its % is a plain character.
        return field


def run_row(qid: str, docid: str, rank: int, score: float, tag: str) -> str:
    """Return a row of a run, with its line end; ranks count from 1."""
    return f"{_encode_breaks(qid)} Q0 {field_of(docid)} {rank} {score:.9f} {tag}\n"


def judgment_row(qid: str, docid: str, grade: int) -> str:
    """Return a row of judgments (qrels), with its line end."""
    return f"{_encode_breaks(qid)} 0 {field_of(docid)} {grade}\n"


def _encode_breaks(text: str) -> str:
    return _BREAKS.sub(lambda run: quote(run[0], safe="", errors="surrogatepass"), text)
