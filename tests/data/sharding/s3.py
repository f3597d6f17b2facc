"""A real S3 server in this process: moto's."""

from contextlib import contextmanager
from unittest import mock

import pytest

BUCKET = "speech"


@contextmanager
def s3_server():
    """Start a server with a bucket, and tell all AWS clients of it."""
    pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    from nemo_speechlm import storage

    try:
        with mock.patch.dict("os.environ", told):
            storage._client.cache_clear()
            import boto3

            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        storage._client.cache_clear()
        server.stop()
