"""`rnx serve`: a ranker behind HTTP, in the shapes of Cohere, Jina, vLLM, Voyage and TEI."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "GuardedProtocol",
    "Limits",
    "Receive",
    "Refused",
    "RerankRequest",
    "RerankResponse",
    "Scope",
    "Send",
    "create_app",
    "open_door",
    "run_server",
    "serving",
]

if TYPE_CHECKING:
    from llama_index_rnx.server.app import create_app, open_door, run_server, serving
    from llama_index_rnx.server.connections import GuardedProtocol
    from llama_index_rnx.server.limits import Limits, Receive, Refused, Scope, Send
    from llama_index_rnx.server.schemas import RerankRequest, RerankResponse
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "app": [
                "create_app",
                "open_door",
                "run_server",
                "serving",
            ],
            "connections": [
                "GuardedProtocol",
            ],
            "limits": [
                "Limits",
                "Receive",
                "Refused",
                "Scope",
                "Send",
            ],
            "schemas": [
                "RerankRequest",
                "RerankResponse",
            ],
        },
    )
