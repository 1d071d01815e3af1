"""A loopback server of chat completions that does what real servers only do at times."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[[dict[str, Any], dict[str, str]], tuple[int, Any]]


@contextlib.contextmanager
def odd_servers() -> Iterator[Callable[[Handler], str]]:
    """Start servers that answer chats with a function of the request's body and headers; a text is sent as it is."""
    servers = []

    def start(handle: Handler) -> str:
        class Chat(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(404, {"error": {"message": "no such page"}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(*handle(body, {name.lower(): value for name, value in self.headers.items()}))

            def reply(self, status: int, body: Any) -> None:
                text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(content: Any, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
