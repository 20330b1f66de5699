# SPDX-License-Identifier: Apache-2.0
"""Object stores on this machine, for tests: gs:// and s3:// without a network.

Fixtures give a fresh place on one; `served` is for drills. gs:// is gcp-storage-emulator (see
`google_store`), s3:// is moto's server.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator

import fsspec
import pytest

BUCKET = "bucket"
_counter = itertools.count()


@contextlib.contextmanager
def _amazon_store(bucket: str) -> Iterator[str]:
  """Serves a bucket of s3:// on a free port; yields its address."""
  import boto3
  from moto.server import ThreadedMotoServer

  logging.getLogger("werkzeug").setLevel(logging.ERROR)
  served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
  served.start()
  host, port = served.get_host_and_port()
  address = f"http://{host}:{port}"
  try:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    yield address
  finally:
    served.stop()


def environment(scheme: str, address: str) -> dict[str, str]:
  """Returns the variables with which every library finds the store at `address`."""
  if scheme == "gs":
    return {
      "STORAGE_EMULATOR_HOST": address,
      "TENSORSTORE_GCS_HTTP_URL": address,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",  # TensorStore's
      "NO_GCE_CHECK": "true",  # gcsfs's and google-auth's: no metadata server is asked
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks Google about the bucket
    }
  return {
    "AWS_ENDPOINT_URL": address,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
  }


def _store(scheme: str) -> contextlib.AbstractContextManager[str]:
  if scheme == "s3":
    return _amazon_store(BUCKET)
  from google_store import google_store  # here: most tests need no store

  return google_store(BUCKET)


@contextlib.contextmanager
def served(scheme: str) -> Iterator[str]:
  """Serves a store, and lets this process and those that it starts find it."""
  with _store(scheme) as address, pytest.MonkeyPatch.context() as patch:
    for name, value in environment(scheme, address).items():
      patch.setenv(name, value)
    # A client of an earlier store would still go there.
    fsspec.get_filesystem_class(scheme).clear_instance_cache()
    yield address


@pytest.fixture(scope="session")
def gs_store() -> Iterator[str]:
  """The address of a gs:// store."""
  with served("gs") as address:
    yield address


@pytest.fixture(scope="session")
def s3_store() -> Iterator[str]:
  """The address of an s3:// store."""
  with served("s3") as address:
    yield address


@pytest.fixture
def gs_prefix(gs_store: str) -> str:
  """A fresh place on gs://."""
  return f"gs://{BUCKET}/{next(_counter)}"


@pytest.fixture
def s3_prefix(s3_store: str) -> str:
  """A fresh place on s3://."""
  return f"s3://{BUCKET}/{next(_counter)}"


@pytest.fixture(params=["gs", "s3"])
def remote_prefix(request: pytest.FixtureRequest) -> str:
  """A fresh place on each store in turn."""
  return request.getfixturevalue(f"{request.param}_prefix")
