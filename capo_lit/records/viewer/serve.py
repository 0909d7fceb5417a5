"""Serves one page on loopback."""

import errno
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from capo_lit.core.errors import ConfigError

HOST = "127.0.0.1"


def server(page: str, port: int) -> ThreadingHTTPServer:
    """A server of one page, on loopback alone.

    Args:
        page: its HTML.
        port: 0 takes a free one; the server's `server_port` names it.

    Raises:
        ConfigError: if the port is taken, or is none that may be used.
    """
    try:
        return ThreadingHTTPServer((HOST, port), _handler(page.encode()))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        got = f"port {port}, which is in use" if taken else f"port {port} ({error})"
        raise ConfigError(got, "a port that is free", HOST, "--serve PORT (0: any)") from error


def _handler(body: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """The page, to a browser that was pointed at loopback."""
            # A name that somebody else's server resolves to loopback would let its pages read this one.
            name = self.headers.get("Host", "").split(":")[0]
            if name not in (HOST, "localhost"):
                self.send_error(403, f"open http://{HOST} instead")
            elif self.path.split("?")[0] != "/":
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Frame-Options", "DENY")
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing of requests."""

    return Handler
