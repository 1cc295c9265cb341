"""LlamaIndex's nodes as candidates, and candidates' images as nodes. It opens no images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
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
    TextNode,
)

from llama_index_rnx.candidates.candidate import Candidate, without_unreadable_images
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
from llama_index_rnx.errors import ImageError, RNXError, SettingsError, short, shown
from llama_index_rnx.pdf import draw_page
from llama_index_rnx.text import clean_texts

EMPTY = "holds neither text nor image; give it one of them or leave it out."

# In the metadata of nodes that came from files: the file's name, and the page from 1.
SOURCE = "source"
PAGE = "page"

T = TypeVar("T")


class IndexedImageNode(ImageNode):
    """The node of an image file as an index gives it back: it knows what the file was like when it
    was indexed, so that its memory is found after the file is gone.
    """

    _indexed: FileState | None = PrivateAttr(default=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the state of the file from a pickle; LlamaIndex restores public fields only."""
        super().__setstate__(state)
        private = state.get("__pydantic_private__") or {}
        self._indexed = private.get("_indexed")

    def __eq__(self, node: object) -> bool:
        """Return whether both nodes hold the same. The state of the file is no part of that: a node
        from an index equals the one that was indexed.
        """
        if not isinstance(node, ImageNode):
            return NotImplemented
        return self.to_dict() == node.to_dict()


class PageNode(IndexedImageNode):
    """One page of a PDF: its text layer as text, its image drawn when somebody looks at it.

    Nothing is stored beside the PDF: the page stays where it is. `page` counts from 1. A page that
    `has_fields` holds fields of a form, whose values are in its text and in its image.
    """

    pdf_path: str
    page: int
    has_fields: bool = False

    @classmethod
    def class_name(cls) -> str:
        return "PageNode"

    def resolve_image(self) -> io.BytesIO:
        """Return the drawn page as a JPEG in memory."""
        return io.BytesIO(_page_source(self).jpeg())

    def get_content_blocks(
        self, metadata_mode: MetadataMode = MetadataMode.NONE
    ) -> list[BaseContentBlock]:
        """Return text and image, for a multimodal prompt (`ImageNode` returns the image only). A
        page that is gone has its text only.
        """
        blocks: list[BaseContentBlock] = list(self.get_metadata_content_blocks(metadata_mode))
        if self.text:
            blocks.append(TextBlock(text=self.text))
        with suppress(ImageError):
            image = self.resolve_image().read()
            blocks.append(ImageBlock(image=image, image_mimetype="image/jpeg"))
        return blocks


def with_file_state(node: BaseNode, size: int, mtime_ns: int) -> BaseNode:
    """Return the node of an indexed file, with what the file was like when it was indexed.

    Args:
        node: made anew from an index; a `PageNode` is changed in place.
    """
    state = FileState(size=size, mtime_ns=mtime_ns)
    if isinstance(node, IndexedImageNode):
        node._indexed = state
        return node
    if type(node) is not ImageNode:
        return node

    image_node = IndexedImageNode.model_construct(node.model_fields_set, **dict(node))
    image_node._indexed = state
    return image_node


def candidate_of(node: BaseNode, allow_urls: bool = False) -> Candidate:
    """Return a node of any shape as a candidate; nothing is opened yet.

    The text is what LlamaIndex would embed: with the metadata, less `excluded_embed_metadata_keys`.
    The image may be base64, bytes, a path, or a page of a PDF; a URL only with `allow_urls`, and
    then of a public address.

    Raises:
        RNXError: the node holds neither text nor image, or something in it cannot be used.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> node = TextNode(id_="a", text="Bees make honey.", metadata={"title": "Bees"})
        >>> candidate = candidate_of(node)
        >>> candidate.kind, candidate.text
        ('text', 'title: Bees\\n\\nBees make honey.')
    """
    candidate, fault = usable_candidate(node, allow_urls)
    if fault:
        raise RNXError(fault)
    return candidate


def usable_candidate(node: Any, allow_urls: bool = False) -> tuple[Candidate, str]:
    """Return what a node of any shape can be ranked by, and in one line why the rest cannot be used
    ("" where all can).

    It never raises: for a node that holds nothing, or is no node, the candidate is empty. An image
    is not opened here.

    Example:
        >>> from llama_index.core.schema import ImageNode
        >>> node = ImageNode(id_="a", text="Rust is red.", image_url="http://10.0.0.1/rust.png")
        >>> candidate, fault = usable_candidate(node)
        >>> candidate.kind
        'text'
        >>> fault.split(": ")[1]
        'no URL is fetched unless allowed; load it first.'
    """
    return usable_candidates([node], allow_urls)[0]


def usable_candidates(
    nodes: Sequence[Any], allow_urls: bool = False
) -> list[tuple[Candidate, str]]:
    """Return what `usable_candidate` gives for each of these nodes; their texts are cleaned
    together.
    """
    texts = _texts_of(nodes)
    return [
        _usable(node, text, fault, allow_urls)
        for node, (text, fault) in zip(nodes, texts, strict=True)
    ]


def kinds_of(nodes: Sequence[BaseNode]) -> list[str]:
    """Return for each node whether it holds a `text`, an `image` or `both`; a URL counts as an
    image and is not fetched.
    """
    return [candidate.kind for candidate, _ in usable_candidates(nodes, allow_urls=True)]


def _usable(node: Any, text: str, text_fault: str, allow_urls: bool) -> tuple[Candidate, str]:
    """Return the candidate of a node whose text has been read, and what is wrong with the node."""
    if not isinstance(node, BaseNode):
        return Candidate(id=""), f"{type(node).__name__} was got where a node is needed."

    image, image_fault = _attempt(lambda: image_of(node, allow_urls=allow_urls), node)

    candidate = Candidate(id=str(node.node_id), text=text, image=image)
    fault = text_fault or image_fault
    if candidate.is_empty and not fault:
        fault = f"node {candidate.id!r} {EMPTY}"
    return candidate, fault


def image_of(node: BaseNode, allow_urls: bool = False) -> ImageSource | None:
    """Return the image of a node, if it has one: base64, bytes, a path, a page of a PDF, or (when
    allowed) a URL.

    Raises:
        SettingsError: the image is at a URL, and that is not allowed.
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
    """Return the node as a prompt can show it: with its image inside, as a JPEG, or as a text if
    the image cannot be read.

    LlamaIndex itself would fail over a file that is gone, and ask the network for a URL.
    """
    if isinstance(node, PageNode):
        return node

    candidate, fault = usable_candidate(node)
    (readable,) = without_unreadable_images([candidate])
    if readable.image is None and not (candidate.image or fault):
        return node

    fields = {
        "id_": node.node_id,
        "text": _content_of(node),
        "metadata": node.metadata,
        "excluded_llm_metadata_keys": node.excluded_llm_metadata_keys,
    }
    if readable.image is None:
        return TextNode(**fields)

    data = base64.b64encode(readable.image.jpeg()).decode()
    return ImageNode(**fields, image=data, image_mimetype="image/jpeg")


def inline_image(node: BaseNode) -> bytes | None:
    """Return the base64 that a node carries itself, which no file could bring back; or None."""
    data: Any = node.image if isinstance(node, ImageNode) else None
    if isinstance(node, Node) and node.image_resource is not None:
        data = node.image_resource.data
    return data.encode("utf-8", "replace") if isinstance(data, str) else data


def restore_inline_image(node: BaseNode, data: bytes) -> None:
    """Put base64 back where `inline_image` took it from."""
    if isinstance(node, ImageNode):
        node.image = data.decode()
    elif isinstance(node, Node):
        resource = node.image_resource or MediaResource()
        node.image_resource = resource.model_copy(update={"data": data})


def _page_source(node: PageNode) -> ImageSource:
    path = Path(node.pdf_path)
    number = node.page

    # Fields were not drawn when older memories were made.
    drawn = "+fields" if node.has_fields else ""
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
    """Return the image that the first of these holds: data, a path, or a URL."""
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
        raise SettingsError(
            f"node {label!r} has its image at {short(str(url))}: "
            "no URL is fetched unless allowed; load it first."
        )
    return url_source(str(url))


def _content_of(node: BaseNode) -> str:
    """Return the text of a node without its metadata."""
    return node.get_content(metadata_mode=MetadataMode.NONE) or ""


def _texts_of(nodes: Sequence[Any]) -> list[tuple[str, str]]:
    """Return for each node what LlamaIndex would embed, or "" and why it cannot be read.

    Metadata alone is no text, so a node without a text of its own has none.
    """
    plain = _contents_of(nodes, MetadataMode.NONE)
    embedded = _contents_of(nodes, MetadataMode.EMBED)
    cleaned = clean_texts([text for text, _ in plain + embedded])

    own_texts = cleaned[: len(nodes)]
    texts = cleaned[len(nodes) :]
    return [
        (text, embedded_fault) if own_text else ("", own_fault)
        for own_text, text, (_, own_fault), (_, embedded_fault) in zip(
            own_texts, texts, plain, embedded, strict=True
        )
    ]


def _contents_of(nodes: Sequence[Any], mode: MetadataMode) -> list[tuple[str, str]]:
    """Return the text of each node as it stands there, or "" and why it cannot be read."""
    readings = [_attempt(partial(_read_text, node, mode), node) for node in nodes]
    return [(text or "", fault) for text, fault in readings]


def _read_text(node: BaseNode, mode: MetadataMode) -> str:
    text: Any = node.get_content(metadata_mode=mode) or ""
    if not isinstance(text, str):
        raise TypeError(f"its text is {shown(text)}")
    return text


def _attempt(action: Callable[[], T], node: Any) -> tuple[T | None, str]:
    """Return what the action returns, or in one line why it failed. The class of the node may be
    anybody's, and raise anything.
    """
    try:
        return action(), ""
    except RNXError as error:
        return None, str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {short(str(error))}"
        return None, f"node {getattr(node, 'node_id', '')!r} cannot be read ({reason})."
