"""`rnx serve`: a ranker behind HTTP, in the shapes of Cohere, Jina, vLLM, Voyage and TEI."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "GuardedProtocol",
    "Limits",
    "Receive",
    "RequestError",
    "RerankRequest",
    "RerankResponse",
    "Scope",
    "Send",
    "create_app",
    "run_server",
    "serving",
    "warn_of_open_server",
]

if TYPE_CHECKING:
    from llama_index_rnx.server.app import create_app
    from llama_index_rnx.server.connections import GuardedProtocol
    from llama_index_rnx.server.limits import Limits, Receive, RequestError, Scope, Send
    from llama_index_rnx.server.run import run_server, serving, warn_of_open_server
    from llama_index_rnx.server.schemas import RerankRequest, RerankResponse
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "app": [
                "create_app",
            ],
            "connections": [
                "GuardedProtocol",
            ],
            "limits": [
                "Limits",
                "Receive",
                "RequestError",
                "Scope",
                "Send",
            ],
            "run": [
                "run_server",
                "serving",
                "warn_of_open_server",
            ],
            "schemas": [
                "RerankRequest",
                "RerankResponse",
            ],
        },
    )
