"""A real S3 server on the loopback, moto's, that a test fills, stops and starts again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a-key-of-no-account",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-no-account",
    "AWS_DEFAULT_REGION": "us-east-1",
}
NO_OTHERS = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
}


class S3Server:
    """The server, and a client of it that knows nothing of the tool."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: ThreadedMotoServer | None = None
        self._port = 0
        self.start()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}),
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start, on the port that it had; what was put there is there."""
        if self._server is None:
            self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
            self._server.start()
            self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def bucket(self, name: str, folder: Path | None = None, below: str = "") -> str:
        """Make a bucket, put the files of a folder into it, and return its URL."""
        self.client.create_bucket(Bucket=name)
        for path in sorted(folder.rglob("*")) if folder is not None else ():
            if path.is_file():
                key = f"{below}{path.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=name, Key=key, Body=path.read_bytes())
        return f"s3://{name}"

    def objects(self, bucket: str) -> dict[str, bytes]:
        """What lies in a bucket, by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
