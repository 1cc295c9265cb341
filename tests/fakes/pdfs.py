"""PDFs made by code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def pdf_bytes(
    texts: Sequence[str],
    colour: tuple[int, int, int] = (255, 255, 255),
    encrypted: bool = False,
    broken_page: int | None = None,
    drawings: Sequence[str] = (),
) -> bytes:
    """A PDF with one page for each text, on a ground of one colour; `broken_page` (from 0) points
    at nothing.

    `drawings`: PDF operators, of each page in turn.
    """
    ground = " ".join(f"{shade / 255:.3f}" for shade in colour)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(texts)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(texts):
        extra_drawing = drawings[i] if i < len(drawings) else ""
        drawing = (
            f"{ground} rg 0 0 300 400 re f 0 g BT /F1 14 Tf 20 350 Td ({text}) Tj ET "
            f"{extra_drawing}"
        )
        page = (
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append("(no page at all)" if i == broken_page else page)
        objects.append(f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream")
    extra = ""
    if encrypted:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{'ab' * 32}> /U <{'cd' * 32}> /P -4 >>")
        extra = f" /Encrypt {len(objects)} 0 R /ID [<{'01' * 16}> <{'01' * 16}>]"
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {size} /Root 1 0 R{extra} >>\nstartxref\n{len(out)}\n"
    )
    return out + trailer.encode() + b"%%EOF\n"


def write_objects(path: Path, objects: Sequence[str]) -> Path:
    """A PDF of these objects, the first its catalog; without a table of where they are, which
    PDFium makes itself.
    """
    body = "".join(f"{number} 0 obj\n{text}\nendobj\n" for number, text in enumerate(objects, 1))
    path.write_bytes(
        f"%PDF-1.7\n{body}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\n%%EOF".encode("latin-1")
    )
    return path


def pdf_stream(text: str, fields: str = "") -> str:
    return f"<<{fields}/Length {len(text)}>>stream\n{text}\nendstream"


def write_endless_pdf(path: Path, depth: int = 12, repeats: int = 10, pages: int = 1) -> Path:
    """Forms that draw one another: the last one `repeats` ** `depth` times."""
    kids = " ".join(f"{3 + number} 0 R" for number in range(pages))
    first = 4 + pages
    page = (
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]"
        f"/Resources<</XObject<</X {first} 0 R>>>>/Contents {3 + pages} 0 R>>"
    )
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {pages}>>",
        *([page] * pages),
        pdf_stream("/X Do"),
    ]
    for level in range(depth):
        last = level == depth - 1
        inner = "" if last else f"/Resources<</XObject<</X {first + level + 1} 0 R>>>>"
        drawn = "0 0 m 600 700 l S " if last else "/X Do " * repeats
        objects.append(pdf_stream(drawn, f"/Type/XObject/Subtype/Form/BBox[0 0 612 792]{inner}"))
    return write_objects(path, objects)


def write_pdf(path: Path, texts: Sequence[str], **options: Any) -> Path:
    path.write_bytes(pdf_bytes(texts, **options))
    return path
