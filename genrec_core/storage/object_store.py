"""A prefix of an S3 bucket: AWS, Yandex Object Storage, MinIO and others that speak its protocol.

boto3, imported on first use, reads keys and addresses from the environment: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL_S3`` and the like. :func:`use_client` has the client made elsewhere.
"""

import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_file
from genrec_core.storage.redact import without_secrets

SCHEME = "s3://"
Answer = TypeVar("Answer")
_ATTEMPTS, _CONNECT_SECONDS, _READ_SECONDS = 6, 10, 60
_PAUSES = (1, 2, 4, 8, 16)  # half a minute: time for a store to restart
_DELETED_AT_ONCE = 1000  # the protocol's limit
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_EXISTS = (409, 412)  # HTTP: an object of this name is there, or is just being put there
_NO_CONDITIONS = {"NotImplemented", "InvalidArgument", "InvalidRequest", "501"}  # from stores without If-None-Match
_MISSING = {"NoSuchKey", "404", "NotFound"}
_AWAY = "the store does not answer as it should; check AWS_ENDPOINT_URL_S3 and the network, then try again"
_REMEDIES = {  # codes that a store sends, or the names of what boto3 raises
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "InvalidBucketName": "no store takes this name for a bucket; correct the URL",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied AllAccessDisabled 403": "the key lacks the rights to list, get, put and delete below the prefix",
    "400": "the store refuses the request; check whether the credentials have expired, the region and the clock",
    "ExpiredToken ExpiredTokenException TokenRefreshRequired": "the credentials have expired; get new ones",
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to the key; set it anew, or unset it for a lasting key",
    "RequestTimeTooSkewed RequestExpired": "this machine's clock is wrong; set it by NTP",
    # RecursionError: boto3 follows a redirect to a region that the store never names.
    "PermanentRedirect AuthorizationHeaderMalformed 301 RecursionError": "the bucket lies in another region; "
    "set AWS_DEFAULT_REGION to it, and AWS_ENDPOINT_URL_S3 if it names one",
    "InvalidRegionError": "AWS_DEFAULT_REGION (or the profile) names no region; write it like eu-central-1",
    "QuotaExceeded XMinioAdminBucketQuotaExceeded": "the quota is used up; raise it, or run the job clean_storage",
    "XMinioStorageFull": "the store's disks are full; free some, then try again",
    "ProfileNotFound": "AWS_PROFILE names no profile of ~/.aws/config and ~/.aws/credentials; correct or unset it",
    "NoCredentialsError": "no key is set; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "PartialCredentialsError": "one half of the key is missing; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "CredentialRetrievalError": "the profile gives no key; check credential_process and the role in ~/.aws/config",
    "ConfigParseError": "~/.aws/config or ~/.aws/credentials cannot be read; mend it, or unset AWS_PROFILE",
    "InvalidConfigError": "~/.aws/config lacks a setting of the profile; add it, or unset AWS_PROFILE",
    "SSOTokenLoadError UnauthorizedSSOTokenError TokenRetrievalError": "the login has ended; run aws sso login",
    "SSLError": "its certificate is not trusted here; set AWS_CA_BUNDLE to the certificates of its issuer",
    "ProxyConnectionError": "the proxy does not answer; check HTTPS_PROXY and NO_PROXY",
}
_ONE_LINE = (  # variables whose value holds no line end and no space
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
)


@dataclass(frozen=True)
class ObjectFacts:
    """Bytes, ETag (which changes with the content), and when the object was put there."""

    size: int
    stamp: str
    modified: datetime


class ObjectStore:
    """The objects below ``s3://bucket/prefix``, named from there on.

    The client sends a failed request again, six times in all. If the store still does not answer, requests are repeated
    for half a minute more.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        parts = [part for part in prefix.split("/") if part]
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket) or {".", ".."} & set(parts):
            raise GenrecError(f"{url}: no address of objects; write s3://bucket or s3://bucket/prefix")
        self.bucket, self.prefix = bucket, "".join(f"{part}/" for part in parts)
        self.url = f"{SCHEME}{bucket}/{self.prefix}".rstrip("/")

    def listing(self, below: str = "") -> dict[str, ObjectFacts]:
        """The objects whose names begin with ``below``, by name."""

        def request() -> dict[str, ObjectFacts]:
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + below)
            return {
                entry["Key"].removeprefix(self.prefix): ObjectFacts(
                    entry["Size"], entry["ETag"].strip('"'), entry["LastModified"]
                )
                for page in pages
                for entry in page.get("Contents", [])
            }

        return self._send(below or "the prefix", request)

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is no such object."""

        def request() -> bytes | None:
            try:
                content = io.BytesIO()  # unlike get_object, this asks again if the answer breaks off
                _client().download_fileobj(self.bucket, self.prefix + name, content)
                return content.getvalue()
            except _client().exceptions.ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return None
                raise

        return self._send(name, request)

    def download(self, name: str, target: Path) -> None:
        """Copy an object to ``target``, which appears whole or not at all."""
        with atomic_file(target) as part:
            self._send(name, lambda: _client().download_file(self.bucket, self.prefix + name, str(part)))

    def upload(self, source: Path, name: str) -> None:
        """Put a file there as ``name``."""
        self._send(name, lambda: _client().upload_file(str(source), self.bucket, self.prefix + name))

    def write(self, name: str, content: bytes) -> None:
        """Put a small object there."""
        self._send(name, lambda: _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content))

    def create(self, name: str, content: bytes) -> bool:
        """Put a small object there if there is none of its name; whether it lies there now (``If-None-Match: *``).

        No other writer may put the same content there.
        """
        if self._send(name, partial(self._put_new, name, content)):
            return True
        return self.read(name) == content  # the first answer was lost, and the request was sent again

    def creates_once(self, name: str) -> bool:
        """Whether this store honours ``If-None-Match``; puts the object ``name`` there twice to see it."""

        def request() -> bool:
            try:
                return not (self._put_new(name, b"") and self._put_new(name, b""))
            except _client().exceptions.ClientError as error:
                if error.response["Error"]["Code"] in _NO_CONDITIONS:
                    return False
                raise

        return self._send(name, request)

    def delete(self, names: list[str]) -> None:
        """Remove objects; names without an object are no error."""
        for first in range(0, len(names), _DELETED_AT_ONCE):
            keys = [{"Key": self.prefix + name} for name in names[first : first + _DELETED_AT_ONCE]]
            request = partial(_client().delete_objects, Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
            if failed := self._send(names[first], request).get("Errors"):
                raise GenrecError(self._refusal(names[first], str(failed[0].get("Code"))))

    def _put_new(self, name: str, content: bytes) -> bool:
        """Whether the object was put there; False if one of this name is there already."""
        try:
            _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content, IfNoneMatch="*")
        except _client().exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in _EXISTS:
                return False
            raise
        return True

    def _send(self, name: str, request: Callable[[], Answer]) -> Answer:
        """Send a request, again after pauses while the store is away: the client alone gives up within two seconds."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        refusals = (BotoCoreError, ClientError, S3UploadFailedError, RetriesExceededError, RecursionError)
        pauses = iter(_PAUSES)
        while True:
            try:
                return request()
            except refusals as error:
                cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
                pause = next(pauses, None) if _is_away(cause) else None
                if pause is None:
                    code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else type(cause).__name__
                    raise GenrecError(self._refusal(name, code)) from error
            time.sleep(pause)

    def _refusal(self, name: str, code: str) -> str:
        other = f"there is no {name}; put it there" if code in _MISSING else _AWAY
        remedy = next((remedy for codes, remedy in _REMEDIES.items() if code in codes.split()), other)
        return f"{self.url}: {name}: {code}: {remedy}"


def new_client(profile: str | None = None, attempts: int = _ATTEMPTS, **options: Any) -> Any:
    """An S3 client of boto3 for any store. What is not named here, boto3 finds in the environment.

    It adds checksums only when required: stores other than AWS refuse them, and artefacts have their own sha256.
    ``options`` are other arguments of boto3's ``Session.client``, such as ``endpoint_url`` and ``region_name``.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session(profile_name=profile).client("s3", config=config, **options)


_make_client: Callable[[], Any] = new_client


def use_client(make: Callable[[], Any] | None) -> None:
    """Send all requests with the client that ``make`` returns, such as one of :func:`new_client`; None: the default."""
    global _make_client
    _make_client = make or new_client
    _client.cache_clear()


def _is_away(cause: BaseException | None) -> bool:
    """Whether a store may be back soon; a store that hangs was waited for long enough already."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, ReadTimeoutError
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(cause, RetriesExceededError):
        cause = cause.last_exception
    if isinstance(cause, ClientError):
        return int(cause.response["ResponseMetadata"]["HTTPStatusCode"]) >= 500
    return isinstance(cause, ConnectionError | HTTPClientError | OSError) and not isinstance(cause, ReadTimeoutError)


@cache
def _client() -> Any:
    """The S3 client of this process; threads share it."""
    from botocore.exceptions import BotoCoreError

    _require_clean_values()
    try:
        return _make_client()
    except BotoCoreError:
        raise
    except ValueError as error:  # only an endpoint that is no address gives it
        reason = without_secrets(str(error))
        raise GenrecError(f"AWS_ENDPOINT_URL_S3: {reason}; write https:// before the name of the server") from error


def _require_clean_values() -> None:
    """Refuse a line end or a space around a value, as from a file with Windows line ends; no request could be sent."""
    for name in _ONE_LINE:
        value = os.environ.get(name, "")
        if value != value.strip() or not value.isprintable():
            raise GenrecError(f"{name}: a line end or a space is part of the value; set it without (check for CRLF)")
