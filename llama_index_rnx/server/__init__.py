"""`rnx serve`: a ranker behind HTTP, in the shapes of Cohere, Jina, vLLM, Voyage and TEI."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "MAPPED_ERRORS",
    "ASGIMessage",
    "GuardedProtocol",
    "Limits",
    "Receive",
    "RequestError",
    "RerankRequest",
    "RerankResponse",
    "Scope",
    "Send",
    "create_app",
    "create_listener",
    "decode_headers",
    "request_error",
    "run_server",
    "serving",
]

if TYPE_CHECKING:
    from llama_index_rnx.server.app import create_app
    from llama_index_rnx.server.asgi import ASGIMessage, Receive, Scope, Send, decode_headers
    from llama_index_rnx.server.connections import GuardedProtocol
    from llama_index_rnx.server.errors import MAPPED_ERRORS, RequestError, request_error
    from llama_index_rnx.server.limits import Limits
    from llama_index_rnx.server.run import create_listener, run_server, serving
    from llama_index_rnx.server.schemas import RerankRequest, RerankResponse
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "app": [
                "create_app",
            ],
            "asgi": [
                "ASGIMessage",
                "Receive",
                "Scope",
                "Send",
                "decode_headers",
            ],
            "connections": [
                "GuardedProtocol",
            ],
            "errors": [
                "MAPPED_ERRORS",
                "RequestError",
                "request_error",
            ],
            "limits": [
                "Limits",
            ],
            "run": [
                "create_listener",
                "run_server",
                "serving",
            ],
            "schemas": [
                "RerankRequest",
                "RerankResponse",
            ],
        },
    )
