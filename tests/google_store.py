# SPDX-License-Identifier: Apache-2.0
"""gs:// on this machine: gcp-storage-emulator, and what it lacks of Google's JSON API.

That is the conditions on generations and the header with which TensorStore works, the bounds of a
listing, several requests at once, and the answer to the last part of an upload that comes again because
the first answer was lost.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import logging
import threading
import urllib.parse
from collections.abc import Iterator
from http import HTTPStatus

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator import storage as emulated

_decode = emulator._decode_raw_data


def _decode_whole(raw: bytes, handler: http.server.BaseHTTPRequestHandler) -> bytes | None:
  """Returns a request's body; of gcsfs's, CR before the last boundary is of the object, not its end."""
  body = _decode(raw, handler)
  return body.replace(b"\r\n--==0==--", b"\r\r\n--==0==--") if body else body


emulator._decode_raw_data = _decode_whole


class _Storage(emulated.Storage):
  """An emulated storage that keeps no record beside its objects: to write it takes all objects.

  Attributes:
    uploaded: what became of resumable uploads that are done, by their ids.
  """

  def __init__(self, **options: object):
    self.uploaded: dict[str, dict[str, object]] = {}
    super().__init__(**options)

  def create_file(self, bucket_name, file_name, content, file_obj, file_id=None) -> None:
    super().create_file(bucket_name, file_name, content, file_obj, file_id)
    if file_id:
      self.uploaded[file_id] = file_obj

  def _write_config_to_file(self) -> None:
    pass


class _Handler(emulator.RequestHandler):
  """Serves a request, if the conditions hold that it sets on the generation of its object."""

  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True  # an answer is several packets
  lock = threading.Lock()

  def do_GET(self) -> None:
    self._serve("GET")

  def do_POST(self) -> None:
    self._serve("POST")

  def do_PUT(self) -> None:
    self._serve("PUT")

  def do_DELETE(self) -> None:
    self._serve("DELETE")

  def _serve(self, method: str) -> None:
    url = urllib.parse.urlparse(self.path)
    query = {name: values[-1] for name, values in urllib.parse.parse_qs(url.query).items()}
    with self.lock:
      bucket, name = self._object(url.path, query)
      known = self.storage.objects.get(bucket, {})
      generation = known[name]["generation"] if name in known else "0"
      self.generation = generation
      wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
      if wanted not in (None, generation) or unwanted == generation != "0":
        emulator._read_raw_data(self)
        status = HTTPStatus.NOT_MODIFIED if unwanted else HTTPStatus.PRECONDITION_FAILED
        self._answer(status, b"")
      elif method == "PUT" and (uploaded := self.storage.uploaded.get(query.get("upload_id"))):
        emulator._read_raw_data(self)
        self._answer(HTTPStatus.OK, json.dumps(uploaded).encode())
      elif method == "GET" and url.path.endswith("/o"):
        self._answer(HTTPStatus.OK, json.dumps(self._listing(bucket, query)).encode())
      else:
        emulator.Router(self).handle(method)

  def _object(self, path: str, query: dict[str, str]) -> tuple[str, str]:
    """Returns bucket and object of a request; no object if it is not about one."""
    _, _, rest = path.partition("/b/")
    bucket, _, rest = rest.partition("/o")
    return bucket, urllib.parse.unquote(rest[1:]) or query.get("name", "")

  def _listing(self, bucket: str, query: dict[str, str]) -> dict[str, object]:
    items, prefixes = self.storage.get_file_list(
      bucket, query.get("prefix"), query.get("delimiter")
    )
    first, end = query.get("startOffset", ""), query.get("endOffset")
    items = [one for one in items if first <= one["name"] and (not end or one["name"] < end)]
    return {"kind": "storage#objects", "prefixes": prefixes, "items": items}

  def _answer(self, status: HTTPStatus, body: bytes) -> None:
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def end_headers(self) -> None:
    """Adds the generation that was read: TensorStore takes it from there."""
    if self.command == "GET":
      self.send_header("x-goog-generation", self.generation)
    super().end_headers()


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: object, client_address: object) -> None:
    """Says nothing: a client that hangs up half-way, or is killed, is what tests do."""


@contextlib.contextmanager
def google_store(bucket: str) -> Iterator[str]:
  """Serves a bucket of gs:// on a free port; yields its address."""
  logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
  logging.getLogger("api.object").setLevel(logging.CRITICAL)
  storage = _Storage(use_memory_fs=True)
  emulator.buckets.create_bucket(bucket, storage)
  served = _Server(("127.0.0.1", 0), functools.partial(_Handler, storage))
  thread = threading.Thread(target=served.serve_forever, daemon=True)
  thread.start()
  try:
    yield f"http://127.0.0.1:{served.server_port}"
  finally:
    served.shutdown()
    served.server_close()
