"""SeaweedFS, a server with S3's API, with one pair of keys and its data in a folder."""

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdavs_model.files import write_atomically
from sdavs_platform.local import processes
from sdavs_platform.local.processes import Service

START_LIMIT_S = 60.0
# Its parts listen on ports of their own, each with a second one for gRPC.
PARTS = ("master", "volume", "filer")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """Address and keys of a server."""

    host: str
    port: int
    key: str
    secret: str

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self, folder: Path) -> Service:
        """Start the server of `folder`; returns at once, see `wait`."""
        folder.mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "sdavs",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ["Admin"],
        }
        write_atomically(folder / "identities.json", json.dumps({"identities": [identity]}), private=True)
        options: dict[str, Any] = {
            "dir": folder,
            "ip": self.host,
            "ip.bind": self.host,
            "s3": "true",
            "s3.port": self.port,
            "s3.config": folder / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 0,  # as many as the disk holds
            "volume.preStopSeconds": 0,
        }
        port = self.port
        for name in ("s3.port.grpc", *(f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc"))):
            port = options[name] = processes.next_free(port + 1)
        command = [str(Path(sys.executable).with_name("weed")), "server"]
        command += [f"-{name}={value}" for name, value in options.items()]
        # Keys for another server: this one would make their owner its administrator.
        environment = {name: value for name, value in os.environ.items() if name not in _KEYS}
        return processes.start(command, cwd=folder, environment=environment, log=folder / "log")

    def wait(self, service: Service, *, folder: Path, buckets: Iterable[str]) -> None:
        """Wait until the server responds; creates missing buckets.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of its log.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        client, log = self.client(), folder / "log"
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
                for bucket in set(buckets) - there:
                    client.create_bucket(Bucket=bucket)
                return
            except (BotoCoreError, ClientError) as error:
                if not service.is_alive():
                    raise RuntimeError(f"the S3 server ended:\n{processes.tail(log)}") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the S3 server does not respond ({error}); see {log}") from None
                time.sleep(0.1)

    def client(self) -> Any:
        """A boto3 client with this server's keys."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )
