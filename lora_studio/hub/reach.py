"""Whether a host can be reached, found out within a few seconds."""

from __future__ import annotations

import socket
import threading
import urllib.parse
import urllib.request

CONNECT_SECONDS = 4.0  # so that being offline is said within five


def why_unreachable(address: str, seconds: float = CONNECT_SECONDS) -> str:
    """Say why the host of an address cannot be connected to within `seconds`; empty when it can.

    A resolver that gets no answer may block for half a minute and cannot be interrupted, and a host of many addresses takes
    a timeout for each; so a thread that holds nothing asks, and is left behind when it takes too long.
    """
    if {"http", "https", "all"} & set(urllib.request.getproxies()):
        return ""  # the proxy looks names up and connects
    parts = urllib.parse.urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    failed: list[OSError] = []
    done = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=seconds / 3).close()
        except OSError as error:
            failed.append(error)
        done.set()

    threading.Thread(target=connect, name="hub-connection-test", daemon=True).start()
    if not done.wait(seconds):
        return "it does not answer"
    return str(failed[0].strerror or failed[0]) if failed else ""
