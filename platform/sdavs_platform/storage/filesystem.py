"""Files in a local folder or at any URI that pyarrow understands, such as s3://bucket/folder."""

import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyarrow import fs

from sdavs_model.files import replacing
from sdavs_platform.ray_internals import STORAGE_MARKER

REFUSALS = (
    *("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID"),
    *("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "Unable to locate credentials"),
)
"""Pyarrow's and boto3's names for S3's responses to wrong or missing keys."""


class Storage:
    """Files below one address, read and written the same way in a folder and in a bucket.

    Credentials, region and endpoint come from the standard places (AWS_ENDPOINT_URL, AWS_PROFILE, an instance's role).
    With an endpoint, buckets are part of the path. Large files are transferred in parts, several at once. Pyarrow
    retries connection failures and server errors for 6 s; Ray Train uses the same.

    Args:
        uri: s3://bucket/folder, another URI of pyarrow's, or a local path.
        field: config key or flag of the address, for messages.

    Raises:
        ValueError: the address is not understood, or its storage cannot be reached; names `field` and the address.
    """

    def __init__(self, uri: str, *, field: str) -> None:
        self.uri = uri.rstrip("/")
        self._field = field
        try:
            if "://" in uri:
                self._system, self._base = fs.FileSystem.from_uri(self.uri)
            else:
                self._system, self._base = fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None

    def sizes(self) -> dict[str, int]:
        """{path: bytes} of every file below the address; empty if there is none."""
        selector = fs.FileSelector(self._base, recursive=True, allow_not_found=True)
        try:
            found = self._system.get_file_info(selector)
        except OSError as error:
            raise self._unreachable(error) from None
        prefix = len(self._base) + 1
        return {info.path[prefix:]: info.size for info in found if info.type == fs.FileType.File}

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            return self._system.get_file_info(f"{self._base}/{path}").type == fs.FileType.File
        except OSError as error:
            raise self._unreachable(error) from None

    def open(self, path: str) -> IO[bytes]:
        """A file to read.

        Raises:
            ValueError: it is not there, or the storage cannot be reached.
        """
        try:
            return self._system.open_input_stream(f"{self._base}/{path}")
        except FileNotFoundError:
            raise ValueError(f"{self._field}: {self.uri}/{path} is missing") from None
        except OSError as error:
            raise self._unreachable(error) from None

    def write(self, path: str, content: bytes) -> None:
        """As `write_from`, with all of `content`."""
        self.write_from(path, io.BytesIO(content))

    def write_from(self, path: str, source: IO[bytes]) -> None:
        """Write what a file has from its position on; memory does not grow with it. Atomic; S3 is so by itself.

        Raises:
            ValueError: the storage cannot be reached or written.
        """
        target = f"{self._base}/{path}"
        try:
            if isinstance(self._system, fs.LocalFileSystem):
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                with replacing(Path(target)) as part, part.open("wb") as file:
                    shutil.copyfileobj(source, file)
                return
            with self._system.open_output_stream(target) as stream:
                shutil.copyfileobj(source, stream)
        except OSError as error:
            raise self._unreachable(error, verb="written") from None

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        try:
            with self._system.open_input_stream(f"{self._base}/{path}") as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreachable(error) from None

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """A part of a file, in one request.

        Raises:
            ValueError: it is not there, is shorter, or the storage cannot be reached.
        """
        try:
            with self._system.open_input_file(f"{self._base}/{path}") as file:
                content: bytes = file.read_at(size, offset)
        except FileNotFoundError:
            raise ValueError(f"{self._field}: {self.uri}/{path} is missing") from None
        except OSError as error:
            raise self._unreachable(error) from None
        if len(content) != size:
            raise ValueError(f"{self._field}: {self.uri}/{path} ends before byte {offset + size}")
        return content

    def replace(self, path: str, content: bytes, *, expected: bytes | None) -> bool:
        """Write a file if its content is `expected` (None: if there is no such file); returns whether it was written.

        Atomic in folders and on S3, so of several writers one succeeds. Other storages have no such operation that
        pyarrow offers: there the comparison and the write are two steps.

        Raises:
            ValueError: the storage cannot be reached, or refuses to be written.
        """
        if isinstance(self._system, fs.S3FileSystem):
            return self._replace_on_s3(path, content, expected=expected)
        with self._exclusively(path):
            if self.read(path) != expected:
                return False
            self.write(path, content)
            return True

    @contextmanager
    def _exclusively(self, path: str) -> Iterator[None]:
        """Context manager that locks a file of a folder between processes; a killed process releases it. Network disks
        have such locks, too; storages that are not folders have none."""
        if not isinstance(self._system, fs.LocalFileSystem):
            yield
            return
        folder, _, name = f"{self._base}/{path}".rpartition("/")
        path = f"{folder}/.{name}.lock"
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._unreachable(error, verb="written") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace_on_s3(self, path: str, content: bytes, *, expected: bytes | None) -> bool:
        if expected is None:
            return self._on_s3(
                path, lambda s3, **where: s3.put_object(**where, Body=content, IfNoneMatch="*")
            )

        def put(s3: Any, **where: str) -> bool:
            if (tag := _tag_if(expected, s3, **where)) is None:
                return False
            s3.put_object(**where, Body=content, IfMatch=tag)
            return True

        return self._on_s3(path, put)

    def _on_s3(self, path: str, request: Callable[..., Any]) -> bool:
        """Make conditional requests, which pyarrow has not; boto3 reads the same addresses and credentials.

        Args:
            request: gets a client, the bucket and the key; returns False where the condition does not hold.
        """
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        has_endpoint = "AWS_ENDPOINT_URL_S3" in os.environ or "AWS_ENDPOINT_URL" in os.environ
        s3: Any = {"addressing_style": "path"} if has_endpoint else {}
        client = boto3.client("s3", config=Config(s3=s3, connect_timeout=5, read_timeout=20))
        bucket, _, key = f"{self._base}/{path}".partition("/")
        try:
            return request(client, Bucket=bucket, Key=key) is not False
        except ClientError as error:
            # 412: the condition does not hold; 409: another writer came first; 404: there is nothing to replace.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                if error.response["Error"]["Code"] == "NoSuchBucket":
                    raise self._unreachable(error) from None
                return False
            raise self._unreachable(error, verb="written") from None
        except BotoCoreError as error:
            raise self._unreachable(error) from None

    def delete_if(self, path: str, *, expected: bytes) -> bool:
        """Remove a file if its content is `expected`; returns whether it was removed. As atomic as `replace`; on S3
        where the server knows conditional deletes, as Amazon's does.

        Raises:
            ValueError: the storage cannot be reached, or refuses to be written.
        """

        def delete(s3: Any, **where: str) -> bool:
            if (tag := _tag_if(expected, s3, **where)) is None:
                return False
            s3.delete_object(**where, IfMatch=tag)
            return True

        if isinstance(self._system, fs.S3FileSystem):
            return self._on_s3(path, delete)
        with self._exclusively(path):
            if self.read(path) != expected:
                return False
            self.delete(path)
            return True

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        try:
            self._system.delete_file(f"{self._base}/{path}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreachable(error, verb="written") from None

    def require(self) -> None:
        """Check that the bucket exists: listing a missing one finds nothing and raises nothing.

        Raises:
            ValueError: it does not exist, refuses the keys, or does not respond.
        """
        if isinstance(self._system, fs.LocalFileSystem):
            return
        bucket = self._base.partition("/")[0]
        try:
            found = self._system.get_file_info(bucket).type
        except OSError as error:
            raise self._unreachable(error) from None
        if found == fs.FileType.NotFound:
            raise ValueError(f"{self._field}: {self.uri}: there is no bucket {bucket}; create it first")

    def _unreachable(self, error: Exception, *, verb: str = "reached") -> ValueError:
        if any(word in str(error) for word in REFUSALS):
            return ValueError(
                f"{self._field}: {self.uri} refuses access ({error}); set the keys where AWS's tools look for "
                f"them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or the machine's role"
            )
        return ValueError(f"{self._field}: {self.uri} cannot be {verb}: {error}")


def _tag_if(expected: bytes, s3: Any, **where: str) -> str | None:
    """The entity tag of an object in S3 whose content is `expected`; None if it has another one."""
    found = s3.get_object(**where)
    return found["ETag"] if found["Body"].read() == expected else None


def require_writable(uri: str, name: str) -> None:
    """Check that a training of this name can write checkpoints to `uri`.

    Raises:
        ValueError: the storage cannot be written or reached.
    """
    Storage(uri, field="storage.uri").write(f"{name}/{STORAGE_MARKER}", b"")
