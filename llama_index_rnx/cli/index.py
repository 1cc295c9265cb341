"""`rnx index`: options in, a collection filled, a report out; by one process, by several, or one
shard of the work. It knows no models.
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

from llama_index_rnx.cli.options import CollectionName
from llama_index_rnx.collection import FIELD_KINDS, Storage
from llama_index_rnx.console import print_note
from llama_index_rnx.defaults import COLLECTION_NAME
from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.ingestion import Shard, device_of, resolve_shard
from llama_index_rnx.system import lasting_imports

if TYPE_CHECKING:
    from llama_index_rnx.collection import NodeCollection, Skipped
    from llama_index_rnx.ingestion import IndexReport, Survey


class Quantization(StrEnum):
    """How a server keeps dense vectors in RAM."""

    int8 = "int8"


class ProgressFormat(StrEnum):
    """How progress is shown."""

    bar = "bar"
    json = "json"


@dataclass(frozen=True, kw_only=True)
class IndexJob:
    """One run of `rnx index`: the paths, and the files below them."""

    paths: list[Path]
    shard: Shard
    surveyed: Survey


# Headings on the help page.
SERVER = "Qdrant server"
WORK = "Many processes and machines"

MAX_LINKS_SHOWN = 3  # of those that were not followed
MAX_REASONS_SHOWN = 3  # for one file, of nodes that were left out

# The options that a process with `--workers` does not hand on to them.
OPTIONS_OF_PARENT = ("--workers", "--share", "--progress")


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
    collection: CollectionName = COLLECTION_NAME,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links that lead out of the folders, too.")
    ] = False,
    memory_path: Annotated[
        str | None,
        typer.Option(
            help="Where memories are kept: a folder, or an address (file://, s3:// ...) for many "
            "machines."
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
        ProgressFormat,
        typer.Option(help="A bar, or lines of JSON on stdout.", rich_help_panel=WORK),
    ] = ProgressFormat.bar,
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
    ] = Storage.timeout,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts.", rich_help_panel=SERVER)
    ] = Storage.retries,
    batches_in_flight: Annotated[
        int, typer.Option(min=1, help="Batches being written.", rich_help_panel=SERVER)
    ] = Storage.batches_in_flight,
) -> None:
    """Index PDFs (page by page), images and texts. Run it again to take up what is new or
    changed.
    """
    storage = Storage(
        shards=shards,
        replication_factor=replication_factor,
        write_consistency_factor=write_consistency_factor,
        on_disk=on_disk or None,
        payload_on_disk=payload_on_disk or None,
        quantization="int8" if quantization else None,
        metadata_indexes=_parse_metadata_indexes(metadata_index or []),
        grpc=grpc,
        timeout=timeout,
        retries=retries,
        batches_in_flight=batches_in_flight,
    )
    shard = resolve_shard(share, os.environ)

    # A wrong path shows before an empty index is made.
    job = IndexJob(paths=paths, shard=shard, surveyed=_survey(paths, follow_links))
    own_device = device_of(device, os.environ)

    with _open_target(to, collection, storage, memory_path, own_device) as target:
        if progress is ProgressFormat.json:
            _index_with_json_lines(target, job)
        else:
            if workers == 1:
                report = _index_alone(target, job)
            elif target.embedded:
                report = _index_with_memory_workers(target, job, workers, own_device)
            else:
                report = _index_in_shards(target, job, workers, sys.argv[2:])
            _print_report(report, len(target), to)
        _optimize(target)


def _survey(paths: list[Path], follow_links: bool) -> Survey:
    from llama_index_rnx.ingestion import survey

    return survey(paths, follow_links)


@contextmanager
def _open_target(
    to: str, name: str, storage: Storage, memory_path: str | None, device: str | None
) -> Iterator[NodeCollection]:
    with lasting_imports():
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


def _index_alone(target: NodeCollection, job: IndexJob) -> IndexReport:
    from llama_index_rnx.ingestion import index_paths

    return index_paths(target, job.paths, share=job.shard, surveyed=job.surveyed)


def _index_with_json_lines(target: NodeCollection, job: IndexJob) -> None:
    """Index in this process and write the progress and the report as lines of JSON on stdout."""
    from llama_index_rnx.console import JsonLines
    from llama_index_rnx.ingestion import index_paths, send_report

    lines = JsonLines()
    report = index_paths(target, job.paths, share=job.shard, bar=lines, surveyed=job.surveyed)
    send_report(report, lines)


def _index_with_memory_workers(
    target: NodeCollection, job: IndexJob, workers: int, device: str | None
) -> IndexReport:
    """Index into a folder. Embedded Qdrant allows one writer per folder, so the workers only
    precompute memories, which is nearly all of the work, and this process writes.
    """
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.ingestion import MemoryWorkerPool, index_paths

    print_note(f"a folder has one writer: {workers} workers read and embed, this process writes")
    with progress_bar("indexing", 0, "steps (embedded, written)") as bar:
        pool = MemoryWorkerPool(workers, str(target.memories.path), device, bar)
        try:
            return index_paths(
                target,
                job.paths,
                share=job.shard,
                bar=bar,
                prepare=pool.prepare,
                surveyed=job.surveyed,
            )
        finally:
            pool.close()


def _index_in_shards(
    target: NodeCollection, job: IndexJob, workers: int, arguments: list[str]
) -> IndexReport:
    """Index into a server: every worker runs this command line for a shard of its own."""
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.ingestion import index_sharded, look_back

    worker_arguments = remove_options(arguments, *OPTIONS_OF_PARENT)
    with progress_bar("indexing", 0, "nodes") as bar:
        report = index_sharded(worker_arguments, workers, job.shard, bar)
    if job.shard == Shard():
        look_back(target, job.paths, report)
    return report


def _optimize(target: NodeCollection) -> None:
    """Make the index fast to search. Where that cannot be done, it is whole all the same."""
    from llama_index_rnx.console import note_if_slow

    try:
        with note_if_slow("preparing the index for fast searches; Ctrl-C leaves it as it is"):
            target.optimize()
    except StorageError as error:
        print_note(error)


def remove_options(arguments: list[str], *names: str) -> list[str]:
    """Return a command line without these options and their values.

    Example:
        >>> arguments = ["docs", "--workers", "4", "--share=1/2", "--to", "x"]
        >>> remove_options(arguments, "--workers", "--share")
        ['docs', '--to', 'x']
    """
    remaining: list[str] = []
    is_value = False
    for argument in arguments:
        option = argument.split("=")[0]
        if not is_value and option not in names:
            remaining.append(argument)

        # The value of an option without "=" is the next argument.
        is_value = not is_value and argument in names
    return remaining


def _parse_metadata_indexes(texts: list[str]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for text in texts:
        field, _, kind = text.rpartition(":")
        kinds[field] = kind
    if "" in kinds:
        raise SettingsError(
            f"--metadata-index {', '.join(texts)}: FIELD:KIND is allowed, "
            f"KIND one of {', '.join(FIELD_KINDS)}."
        )
    return kinds


def _print_report(report: IndexReport, total: int, to: str) -> None:
    changed = report.files - report.unchanged
    print_note(
        f"{report.written} nodes written from {changed} new or changed files, "
        f"{report.unchanged} files unchanged, {report.ignored} of other kinds; "
        f"{total} nodes in {to}"
    )
    for path in report.missing:
        print_note(f"gone: {path} (its nodes are kept)")
    for line in _skip_reasons(report.skipped):
        print_note(f"left out: {line}")
    _print_links(report)


def _skip_reasons(skipped: Sequence[Skipped]) -> Iterator[str]:
    """Yield why nodes were left out: for each file a few reasons and how many more, as a file may
    claim to have 20,000 pages.
    """
    from llama_index_rnx.ingestion import file_of

    reasons_by_file: dict[str, list[str]] = {}
    for node in skipped:
        reasons_by_file.setdefault(file_of(node.id), []).append(node.reason)

    for file, reasons in reasons_by_file.items():
        yield from reasons[:MAX_REASONS_SHOWN]
        if len(reasons) > MAX_REASONS_SHOWN:
            yield f"{file}: {len(reasons) - MAX_REASONS_SHOWN:,} more of its pages or passages"


def _print_links(report: IndexReport) -> None:
    if not report.outside:
        return

    count = len(report.outside)
    verb = "link leads" if count == 1 else "links lead"
    paths = ", ".join(report.outside[:MAX_LINKS_SHOWN])
    ellipsis = ", ..." if count > MAX_LINKS_SHOWN else ""
    print_note(
        f"not followed: {count} {verb} out of the folders ({paths}{ellipsis}); "
        "followed with --follow-links"
    )
    if report.outside_kept:
        print_note(
            f"kept as they are: {len(report.outside_kept)} files "
            "that were indexed through them before"
        )
