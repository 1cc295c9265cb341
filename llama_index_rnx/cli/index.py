"""`rnx index`: options in, a collection filled, a report out; by one process, by several, or one
share of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_index_rnx.collection import FIELD_KINDS, Storage
from llama_index_rnx.console import print_note
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion import Shard, device_of, resolve_shard

if TYPE_CHECKING:  # torch and LlamaIndex take seconds to load
    from llama_index_rnx.collection import NodeCollection, Skipped
    from llama_index_rnx.ingestion import IndexReport, Survey


class Quantization(StrEnum):
    """How a server keeps dense vectors in RAM."""

    int8 = "int8"


class Shown(StrEnum):
    """How the progress is told."""

    bar = "bar"
    json = "json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be indexed: the paths, and what lies below them."""

    paths: list[Path]
    share: Shard
    surveyed: Survey


SERVER = "Qdrant server"
WORK = "Many processes and machines"
SHOWN_LINKS = 3  # of those that were not followed
SHOWN_PARTS = 3  # of one file, of those that were left out


def index(
    paths: Annotated[
        list[Path], typer.Argument(help="Files and folders: .pdf .png .jpg .webp .txt .md")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Where the index goes: a folder, or the URL of a Qdrant server (several: a,b,c).",
        ),
    ],
    collection: Annotated[
        str, typer.Option("--collection", help="Name of the Qdrant collection.")
    ] = "rnx",
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links that lead out of the folders, too.")
    ] = False,
    memory_path: Annotated[
        str | None,
        typer.Option(
            help="Where memories are kept: a folder, or an address (file://, s3:// ...) for many machines."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, mps; of several cuda processes each takes its own."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes at work.", rich_help_panel=WORK)
    ] = 1,
    share: Annotated[
        str | None,
        typer.Option(
            help="i/n: only the i-th of n shares, of the same paths; default: RANK of WORLD_SIZE.",
            rich_help_panel=WORK,
        ),
    ] = None,
    progress: Annotated[
        Shown, typer.Option(help="A bar, or lines of JSON on stdout.", rich_help_panel=WORK)
    ] = Shown.bar,
    shards: Annotated[
        int | None, typer.Option(help="Parts of the collection.", rich_help_panel=SERVER)
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(help="Copies of each shard.", rich_help_panel=SERVER)
    ] = None,
    write_consistency_factor: Annotated[
        int | None, typer.Option(help="Copies that must have written.", rich_help_panel=SERVER)
    ] = None,
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Full vectors on disk.", rich_help_panel=SERVER)
    ] = False,
    payload_on_disk: Annotated[
        bool,
        typer.Option(
            "--payload-on-disk", help="Texts and inline images on disk.", rich_help_panel=SERVER
        ),
    ] = False,
    quantization: Annotated[
        Quantization | None,
        typer.Option(help="Vectors in RAM by a byte a dimension.", rich_help_panel=SERVER),
    ] = None,
    metadata_index: Annotated[
        list[str] | None,
        typer.Option(help="FIELD:KIND, for filters; may be repeated.", rich_help_panel=SERVER),
    ] = None,
    grpc: Annotated[
        bool,
        typer.Option("--grpc", help="gRPC on the port after the URL's.", rich_help_panel=SERVER),
    ] = False,
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds a request.", rich_help_panel=SERVER)
    ] = 60,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts.", rich_help_panel=SERVER)
    ] = 4,
    batches_in_flight: Annotated[
        int, typer.Option(min=1, help="Batches being written.", rich_help_panel=SERVER)
    ] = 2,
) -> None:
    """Index PDFs (page by page), pictures and texts. Run it again to take up what is new or
    changed.
    """
    storage = Storage(
        shards=shards,
        replication_factor=replication_factor,
        write_consistency_factor=write_consistency_factor,
        on_disk=on_disk or None,
        payload_on_disk=payload_on_disk or None,
        quantization="int8" if quantization else None,
        metadata_indexes=_metadata_indexes(metadata_index or []),
        grpc=grpc,
        timeout=timeout,
        retries=retries,
        batches_in_flight=batches_in_flight,
    )
    part, own_device = resolve_shard(share, os.environ), device_of(device, os.environ)
    # A wrong path shows before an empty index is made.
    work = Work(paths=paths, share=part, surveyed=_survey(paths, follow_links))
    with _opened(to, collection, storage, memory_path, own_device) as target:
        if progress is Shown.json:
            _tell(target, work)
        elif workers == 1:
            _print_report(_alone(target, work), len(target), to)
        elif target.embedded:
            _print_report(_one_writer(target, work, workers, own_device), len(target), to)
        else:
            _print_report(_in_shares(target, work, workers, sys.argv[2:]), len(target), to)


def _survey(paths: list[Path], follow_links: bool) -> Survey:
    from llama_index_rnx.ingestion import survey

    return survey(paths, follow_links)


@contextmanager
def _opened(
    to: str, name: str, storage: Storage, memory_path: str | None, device: str | None
) -> Iterator[NodeCollection]:
    from llama_index_rnx.collection import NodeCollection
    from llama_index_rnx.embed import RNXEmbedding

    embedding = RNXEmbedding(device=device)
    target = NodeCollection(
        to, name=name, embedding=embedding, memory_path=memory_path, storage=storage
    )
    try:
        yield target
    finally:
        target.close()


def _alone(target: NodeCollection, work: Work) -> IndexReport:
    from llama_index_rnx.ingestion import index_paths

    return index_paths(target, work.paths, share=work.share, surveyed=work.surveyed)


def _tell(target: NodeCollection, work: Work) -> None:
    from llama_index_rnx.console import JsonLines
    from llama_index_rnx.ingestion import index_paths, send_report

    lines = JsonLines()
    report = index_paths(target, work.paths, share=work.share, bar=lines, surveyed=work.surveyed)
    send_report(report, lines)


def _one_writer(
    target: NodeCollection, work: Work, workers: int, device: str | None
) -> IndexReport:
    """A folder has one writer: the others make the memories that it needs, which is nearly all of
    the work.
    """
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.ingestion import MemoryWorkerPool, index_paths

    print_note(f"a folder has one writer: {workers} workers read and embed, this process writes")
    with progress_bar("indexing", 0, "steps (embedded, written)") as bar:
        crew = MemoryWorkerPool(workers, str(target.memories.path), device, bar)
        try:
            return index_paths(
                target,
                work.paths,
                share=work.share,
                bar=bar,
                prepare=crew.prepare,
                surveyed=work.surveyed,
            )
        finally:
            crew.close()


def _in_shares(
    target: NodeCollection, work: Work, workers: int, arguments: list[str]
) -> IndexReport:
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.ingestion import index_sharded, look_back

    with progress_bar("indexing", 0, "nodes") as bar:
        report = index_sharded(
            _without(arguments, "--workers", "--share", "--progress"), workers, work.share, bar
        )
    if work.share == Shard():
        look_back(target, work.paths, report)
    return report


def _without(arguments: list[str], *names: str) -> list[str]:
    """The same command line without these options and their values."""
    kept, skip = list[str](), False
    for argument in arguments:
        option = argument.split("=")[0]
        if not skip and option not in names:
            kept.append(argument)
        skip = not skip and argument in names  # its value follows
    return kept


def _metadata_indexes(asked: list[str]) -> dict[str, str]:
    found = dict(one.rpartition(":")[::2] for one in asked)
    if "" in found:
        raise RNXError(
            f"--metadata-index {', '.join(asked)}: FIELD:KIND is allowed, KIND one of {', '.join(FIELD_KINDS)}."
        )
    return found


def _print_report(report: IndexReport, total: int, to: str) -> None:
    print_note(
        f"{report.written} nodes written from {report.files - report.unchanged} new or changed files, "
        f"{report.unchanged} files unchanged, {report.ignored} of other kinds; {total} nodes in {to}"
    )
    for path in report.missing:
        print_note(f"gone: {path} (its nodes are kept)")
    for line in _left_out(report.skipped):
        print_note(f"left out: {line}")
    _print_links(report)


def _left_out(skipped: Sequence[Skipped]) -> Iterator[str]:
    """The reasons; of one file a few and how many more, for it may say that it has 20,000 pages."""
    from llama_index_rnx.ingestion import file_of

    by_file: dict[str, list[Skipped]] = {}
    for one in skipped:
        by_file.setdefault(file_of(one.id), []).append(one)

    for file, parts in by_file.items():
        yield from (part.reason for part in parts[:SHOWN_PARTS])
        if len(parts) > SHOWN_PARTS:
            yield f"{file}: {len(parts) - SHOWN_PARTS:,} more of its pages or passages"


def _print_links(report: IndexReport) -> None:
    if not report.outside:
        return
    count, first = len(report.outside), ", ".join(report.outside[:SHOWN_LINKS])
    more = ", ..." if count > SHOWN_LINKS else ""
    print_note(
        f"not followed: {count} {'link leads' if count == 1 else 'links lead'} out of the folders "
        f"({first}{more}); followed with --follow-links"
    )
    if report.outside_kept:
        print_note(
            f"kept as they are: {len(report.outside_kept)} files that were indexed through them before"
        )
