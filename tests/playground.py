"""A playground served from a thread, and a client that may say anything."""

import http.client
import json
import threading
from contextlib import contextmanager

from femtogpt.playground import server
from femtogpt.playground.models import Served

TOKEN = "a-token"


class Client:
    """Requests to a playground; .playground is what answers them."""

    def __init__(self, port, playground):
        self.port, self.playground = port, playground
        self.url = f"http://127.0.0.1:{port}/?token={TOKEN}"

    def open(self, method, path, body=None, **changed):
        """A response that can be read bit by bit. changed: headers, with _ for -; None: left out.
        """
        headers = {"host": f"127.0.0.1:{self.port}", "x-femtogpt-token": TOKEN}
        if body is not None:
            headers |= {"origin": f"http://127.0.0.1:{self.port}",
                        "content-type": "application/json"}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        response.connection = connection
        return response

    def ask(self, method, path, body=None, **changed):
        """(status, what the JSON holds), of a stream a list."""
        with self.open(method, path, body, **changed) as response:
            text = response.read().decode()
        if response.headers["content-type"] == "application/x-ndjson":
            return response.status, [json.loads(line) for line in text.splitlines()]
        return response.status, json.loads(text)

    def generate(self, **settings):
        """(the first line, those of the tokens, the last, the text)."""
        status, lines = self.ask("POST", "/api/generate", settings)
        assert status == 200, lines
        text = "".join(text for line in lines for text, _ in line.get("parts", ()))
        return lines[0], lines[1:-1], lines[-1], text


@contextmanager
def serving(*paths):
    """A Client of the models at these paths."""
    listener = server.listen(0)
    ours = server.make_server([Served(path) for path in paths], TOKEN)
    thread = threading.Thread(target=ours.run, args=([listener],))
    thread.start()
    try:
        yield Client(listener.getsockname()[1], ours.playground)
    finally:
        ours.playground.closing.set()
        ours.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
