"""LlamaIndex's nodes and queries as candidates and queries of ours, and back. It opens no images."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    QueryBundle,
    TextNode,
)

from llama_index_rnx.candidates.candidate import Candidate, Query, without_unreadable_images
from llama_index_rnx.candidates.images import (
    FileState,
    ImageSource,
    base64_source,
    file_digest,
    file_source,
    is_data_uri,
    source_at,
    url_source,
)
from llama_index_rnx.errors import ImageError, RNXError, short, shown
from llama_index_rnx.pdf import draw_page
from llama_index_rnx.text import clean_text

EMPTY = "holds neither text nor image; give it one of them or leave it out."


T = TypeVar("T")


class PageNode(ImageNode):
    """One page of a PDF: its text layer as text, its image rendered when somebody looks at it.

    Nothing is stored beside the PDF: the page stays where it is. `page` counts from 1.
    `has_fields`: there are fields of a form on it, whose values are part of text and picture.
    """

    pdf_path: str
    page: int
    has_fields: bool = False

    _indexed: FileState | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        return "PageNode"

    def resolve_image(self) -> io.BytesIO:
        """The rendered page as a JPEG in memory."""
        return io.BytesIO(_page_source(self).jpeg())

    def get_content_blocks(
        self, metadata_mode: MetadataMode = MetadataMode.NONE
    ) -> list[BaseContentBlock]:
        """Text and picture, for a multimodal prompt (`ImageNode` gives the picture only); of a page
        that is gone the text.
        """
        blocks: list[BaseContentBlock] = list(self.get_metadata_content_blocks(metadata_mode))
        if self.text:
            blocks.append(TextBlock(text=self.text))
        with suppress(ImageError):
            blocks.append(
                ImageBlock(image=self.resolve_image().read(), image_mimetype="image/jpeg")
            )
        return blocks


class IndexedImageNode(ImageNode):
    """The node of an image file as an index gives it back: it knows what the file was like when it
    was indexed, so that its memory is found after the file is gone.
    """

    _indexed: FileState | None = PrivateAttr(default=None)


def with_file_state(node: BaseNode, size: int, mtime_ns: int) -> BaseNode:
    """Return the node of an indexed file, with what the file was like when it was indexed.

    Args:
        node: made anew from an index; a `PageNode` is changed in place.
    """
    state = FileState(size=size, mtime_ns=mtime_ns)
    if isinstance(node, PageNode):
        node._indexed = state
        return node
    if type(node) is not ImageNode:
        return node

    image_node = IndexedImageNode.model_construct(node.model_fields_set, **dict(node))
    image_node._indexed = state
    return image_node


def candidate_of(node: BaseNode, allow_urls: bool = False) -> Candidate:
    """A node of any shape as a candidate; nothing is opened yet.

    The text is what LlamaIndex would embed: with the metadata, less `excluded_embed_metadata_keys`.
    The image may be base64, bytes, a path, or a page of a PDF; a URL only with `allow_urls`, and
    then of a public address.

    Raises:
        RNXError: the node holds neither text nor image, or something in it cannot be used.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> found = candidate_of(TextNode(id_="a", text="Bees make honey.", metadata={"title": "Bees"}))
        >>> found.kind, found.text
        ('text', 'title: Bees\\n\\nBees make honey.')
    """
    candidate, fault = usable_candidate(node, allow_urls)
    if fault:
        raise RNXError(fault)
    return candidate


def usable_candidate(node: Any, allow_urls: bool = False) -> tuple[Candidate, str]:
    """What a node of any shape can be ranked by, and in one line why the rest cannot be used (""
    where all can).

    It never raises: a node that holds nothing, or is no node, gives an empty candidate. A picture
    is not opened here.

    Example:
        >>> from llama_index.core.schema import ImageNode
        >>> node = ImageNode(id_="a", text="Rust is red.", image_url="http://10.0.0.1/rust.png")
        >>> candidate, fault = usable_candidate(node)
        >>> candidate.kind, fault
        ('text', "node 'a' has its image at http://10.0.0.1/rust.png: no URL is fetched unless allowed; load it first.")
    """
    if not isinstance(node, BaseNode):
        return Candidate(id=""), f"{type(node).__name__} was got where a node is needed."

    text, text_fault = _attempt(lambda: _text_of(node), node)
    image, image_fault = _attempt(lambda: image_of(node, allow_urls=allow_urls), node)

    candidate = Candidate(id=str(node.node_id), text=text or "", image=image)
    fault = text_fault or image_fault
    if candidate.is_empty and not fault:
        fault = f"node {candidate.id!r} {EMPTY}"
    return candidate, fault


def query_of(bundle: QueryBundle | str | None, dense: bool = False) -> Query:
    """A LlamaIndex query as ours.

    Args:
        dense: take over `custom_embedding_strs` and `embedding`, too, as a retriever does; one of
            them is enough for a query.

    Raises:
        RNXError: there is neither text nor image in it, or an embedding is no list of numbers.
    """
    if bundle is None:
        raise RNXError("no query was given; pass query_bundle=QueryBundle(...) or query_str='...'.")
    if isinstance(bundle, str):
        bundle = QueryBundle(bundle)
    if not isinstance(bundle, QueryBundle) or not isinstance(bundle.query_str, str | None):
        raise RNXError(
            f"the query is {shown(bundle)}; a string or a QueryBundle(query_str) is needed."
        )

    query = Query(
        text=clean_text(bundle.query_str or ""),
        image=_picture_of_query(bundle.image_path),
        dense_texts=dense_texts_of(bundle.custom_embedding_strs) if dense else (),
        dense_vector=dense_vector_of(bundle.embedding) if dense else None,
    )
    if query.is_empty:
        raise RNXError("the query is empty; give it a text, an image, or both.")
    return query


def _picture_of_query(location: Any) -> ImageSource | None:
    if location is None or (isinstance(location, str) and not location):
        return None
    if not isinstance(location, str | Path):
        raise RNXError(
            f"the query's image_path is {shown(location)}; a path or a data: URI is needed."
        )
    return source_at(location, label="the query's picture")


def dense_texts_of(texts: Any) -> tuple[str, ...]:
    """Those of `custom_embedding_strs` that say something.

    Raises:
        RNXError: one of them is no string, or they are no list.
    """
    if texts is None:
        return ()
    if not isinstance(texts, Iterable):
        raise RNXError(
            f"custom_embedding_strs={shown(texts)} was given; a list of texts is needed."
        )

    strings = [texts] if isinstance(texts, str) else list(texts)
    for text in strings:
        if not isinstance(text, str):
            raise RNXError(f"custom_embedding_strs holds {shown(text)}; texts are allowed.")
    return tuple(cleaned for text in strings if (cleaned := clean_text(text)))


def dense_vector_of(embedding: Any) -> tuple[float, ...] | None:
    """The numbers of a query's `embedding`.

    Raises:
        RNXError: it is no list of numbers, or none that a search can use.
    """
    if embedding is None:
        return None
    try:
        vector = tuple(float(number) for number in embedding)
    except (TypeError, ValueError) as error:
        raise RNXError(
            f"the query's embedding is no list of numbers ({short(str(error))}); leave it out."
        ) from error
    if not all(map(math.isfinite, vector)) or not any(vector):
        raise RNXError(
            "the query's embedding has a number that is none, or is all zeros; leave it out, or embed again."
        )
    return vector


def image_of(node: BaseNode, allow_urls: bool = False) -> ImageSource | None:
    """The image of a node, if it has one: base64, bytes, a path, a page of a PDF, or (when allowed)
    a URL.
    """
    if isinstance(node, PageNode):
        return _page_source(node)
    if isinstance(node, ImageNode):
        return _first_source(
            node.image,
            node.image_path,
            node.image_url,
            node.node_id,
            allow_urls,
            indexed=node._indexed if isinstance(node, IndexedImageNode) else None,
        )
    if isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        return _first_source(resource.data, resource.path, resource.url, node.node_id, allow_urls)
    return None


def with_inline_image(node: BaseNode) -> BaseNode:
    """The node as a prompt can show it: with its picture in it, as a JPEG, or as a text where the
    picture cannot be read.

    LlamaIndex itself would fail over a file that is gone, and ask the network for a URL.
    """
    if isinstance(node, PageNode):
        return node
    candidate, fault = usable_candidate(node)
    (shown,) = without_unreadable_images([candidate])
    if shown.image is None and not (candidate.image or fault):
        return node

    fields = {"id_": node.node_id, "text": _own_text(node), "metadata": node.metadata}
    fields["excluded_llm_metadata_keys"] = node.excluded_llm_metadata_keys
    if shown.image is None:
        return TextNode(**fields)
    picture = base64.b64encode(shown.image.jpeg()).decode()
    return ImageNode(**fields, image=picture, image_mimetype="image/jpeg")


def inline_image(node: BaseNode) -> bytes | None:
    """The base64 that a node carries itself, which no file could bring back; otherwise None."""
    data: Any = node.image if isinstance(node, ImageNode) else None
    if isinstance(node, Node) and node.image_resource is not None:
        data = node.image_resource.data
    return data.encode("utf-8", "replace") if isinstance(data, str) else data


def restore_inline_image(node: BaseNode, data: bytes) -> None:
    """Puts base64 back where `inline_image` found it."""
    if isinstance(node, ImageNode):
        node.image = data.decode()
    elif isinstance(node, Node):
        node.image_resource = (node.image_resource or MediaResource()).model_copy(
            update={"data": data}
        )


def _page_source(node: PageNode) -> ImageSource:
    path, number = Path(node.pdf_path), node.page
    drawn = (
        "+fields" if node.has_fields else ""
    )  # they were not drawn when older memories were made
    return ImageSource(
        label=f"{path}#{number}",
        digest=f"{file_digest(path, node._indexed)}#{number}{drawn}",
        read=lambda: draw_page(path, number - 1),
    )


def _first_source(
    data: Any,
    path: Any,
    url: Any,
    label: str,
    allow_urls: bool,
    indexed: FileState | None = None,
) -> ImageSource | None:
    name = f"image of node {label!r}"
    if data:
        return base64_source(data, name)
    if path:
        return source_at(path, name, indexed)
    if not url:
        return None
    if is_data_uri(url):
        return base64_source(str(url), name)
    if str(url).lower().startswith("file:"):
        return file_source(str(url))
    if not allow_urls:
        raise RNXError(
            f"node {label!r} has its image at {short(str(url))}: no URL is fetched unless allowed; load it first."
        )
    return url_source(str(url))


def _own_text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE) or ""


def _text_of(node: BaseNode) -> str:
    """What LlamaIndex would embed; metadata alone is no text."""
    own_text = _own_text(node)
    embedded_text = node.get_content(metadata_mode=MetadataMode.EMBED)
    if embedded_text == own_text:
        return clean_text(own_text)
    return clean_text(embedded_text) if clean_text(own_text) else ""


def _attempt(work: Callable[[], T], node: BaseNode) -> tuple[T | None, str]:
    """What the work gives, or why it gives nothing. Whoever wrote the node's class chose what it
    raises.
    """
    try:
        return work(), ""
    except RNXError as error:
        return None, str(error)
    except Exception as error:
        return (
            None,
            f"node {node.node_id!r} cannot be read ({type(error).__name__}: {short(str(error))}).",
        )


SOURCE = "source"  # in the metadata of nodes that came from files: their file's name


PAGE = "page"  # in the metadata of nodes that came from files, beside SOURCE
