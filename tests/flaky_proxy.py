# SPDX-License-Identifier: Apache-2.0
"""An HTTP proxy in front of a store that is slow and fails, as a seed says."""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping

REFUSED = "refused"  # 503, and the store hears nothing
RESET = "reset"  # the connection is reset, and the store hears nothing
LOST = "lost"  # the store does it, and the connection is reset before the answer
SLOW = "slow"  # the answer comes later
_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length", "date", "server")


class FlakyProxy:
  """What happens to requests, and what has happened.

  Args:
    store: the address of what it stands before.
    seed: of the plan.
    rates: by what goes wrong, in how many of all requests.
    delay: seconds of a slow one.

  Attributes:
    address: of the proxy.
    happened: how many requests of each kind there were; "" are those that went well.
    down: whether every request is refused now.
  """

  def __init__(self, store: str, seed: int, rates: Mapping[str, float], delay: float):
    self.store, self.rates, self.delay = urllib.parse.urlsplit(store), dict(rates), delay
    self.address, self.down = "", False
    self.happened: collections.Counter[str] = collections.Counter()
    self._random, self._lock = random.Random(seed), threading.Lock()

  def next(self) -> str:
    """Returns what goes wrong with the next request, "" if nothing does."""
    with self._lock:
      place, fault = self._random.random(), ""
      for name, rate in self.rates.items():
        if 0 <= place < rate:
          fault = name
        place -= rate
      fault = REFUSED if self.down else fault
      self.happened[fault] += 1
      return fault


@contextlib.contextmanager
def flaky(
  store: str, *, seed: int, rates: Mapping[str, float], delay: float = 0.5
) -> Iterator[FlakyProxy]:
  """Serves a proxy on a free port; see `FlakyProxy`."""
  proxy = FlakyProxy(store, seed, rates, delay)

  class Handler(_Handler):
    plan = proxy

  served = _Server(("127.0.0.1", 0), Handler)
  proxy.address = f"http://127.0.0.1:{served.server_port}"
  threading.Thread(target=served.serve_forever, daemon=True).start()
  try:
    yield proxy
  finally:
    served.shutdown()
    served.server_close()


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: object, client_address: object) -> None:
    """Says nothing: clients hang up half-way, or are killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  plan: FlakyProxy

  def log_message(self, *arguments: object) -> None:
    """Says nothing."""

  def _pass_on(self) -> None:
    body, fault = self._body(), self.plan.next()
    if fault == REFUSED:
      self._answer(503, {}, b"{}")
      return
    if fault == RESET:
      self._reset()
      return
    if fault == SLOW:
      time.sleep(self.plan.delay)
    status, headers, content = self._ask(body)
    if fault == LOST:
      self._reset()
      return
    self._answer(status, headers, content)

  do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _pass_on

  def _body(self) -> bytes:
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    content = b""
    while size := int(self.rfile.readline().partition(b";")[0], 16):
      content += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return content

  def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
    store = self.plan.store
    connection = http.client.HTTPConnection(str(store.hostname), store.port, timeout=60)
    headers = {n: v for n, v in self.headers.items() if n.lower() not in _NOT_PASSED_ON}
    try:
      connection.request(
        self.command, self.path, body, headers | {"Content-Length": str(len(body))}
      )
      answer = connection.getresponse()
      content = answer.read()
      kept = {n: v for n, v in answer.getheaders() if n.lower() not in _NOT_PASSED_ON}
      if self.command == "HEAD":
        kept["Content-Length"] = answer.getheader("Content-Length") or "0"
      return answer.status, kept, content
    finally:
      connection.close()

  def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    if "Content-Length" not in headers:
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _reset(self) -> None:
    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    self.connection.close()
    self.close_connection = True
