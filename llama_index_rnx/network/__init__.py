"""The network: hosts of this machine, proxies, safe downloads. It knows no nodes and no servers."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "FetchError",
    "fetch",
    "http_options",
    "is_loopback",
    "is_loopback_url",
    "is_same_origin",
    "names_this_machine",
    "usable_proxies",
]

if TYPE_CHECKING:
    from llama_index_rnx.network.download import FetchError, fetch
    from llama_index_rnx.network.hosts import is_loopback, is_same_origin, names_this_machine
    from llama_index_rnx.network.proxies import http_options, is_loopback_url, usable_proxies
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "download": [
                "FetchError",
                "fetch",
            ],
            "hosts": [
                "is_loopback",
                "is_same_origin",
                "names_this_machine",
            ],
            "proxies": [
                "http_options",
                "is_loopback_url",
                "usable_proxies",
            ],
        },
    )
