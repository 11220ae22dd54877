"""A prefix of an S3 bucket: AWS, Yandex Object Storage, MinIO and others that speak its protocol.

Who asks and where is what boto3 is told by the environment: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_ENDPOINT_URL_S3`` and the like. boto3 is imported on first use.
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
_PAUSES = (1, 2, 4, 8, 16)  # half a minute: a store that is started again is waited for
_DELETED_AT_ONCE = 1000  # the protocol's limit
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REFUSED_AS_THERE = (409, 412)  # HTTP: another one is just being put there, or is there
_NO_CONDITIONS = {"NotImplemented", "InvalidArgument", "InvalidRequest", "501"}  # from stores without the header
_MISSING = {"NoSuchKey", "404", "NotFound"}
_RIGHTS = "the key may not do this; it needs the rights to list, get, put and delete below the prefix"
_LOG_IN = "the login has ended; log in again (aws sso login)"
_NEW_TOKEN = "the temporary credentials have expired; get new ones and set all three AWS_ variables of them"
_CLOCK = "this machine's clock is wrong; set it by NTP"
_REGION = "the bucket lies in another region; set AWS_DEFAULT_REGION to it, and AWS_ENDPOINT_URL_S3 if it names one"
_QUOTA = "the quota of the bucket or the account is used up; raise it, or remove old versions (job clean_storage)"
_AWAY = "the store does not answer as it should; check AWS_ENDPOINT_URL_S3 and the network, then try again"
_REMEDIES = {  # by the store's code, or by the name of what boto3 raises
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "InvalidBucketName": "no store takes this name for a bucket; correct the URL",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL_S3",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "403": _RIGHTS,
    "400": "the store does not take the request; check whether the credentials have expired, the region and the clock",
    "ExpiredToken": _NEW_TOKEN,
    "ExpiredTokenException": _NEW_TOKEN,
    "TokenRefreshRequired": _NEW_TOKEN,
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to the key; set it anew, or unset it for a lasting key",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "RecursionError": _REGION,  # boto3 follows a redirect to a region that the store never names
    "InvalidRegionError": "AWS_DEFAULT_REGION (or the profile) names no region; write it like eu-central-1",
    "QuotaExceeded": _QUOTA,
    "XMinioAdminBucketQuotaExceeded": _QUOTA,
    "XMinioStorageFull": "the store's disks are full; free some, then try again",
    "ProfileNotFound": "AWS_PROFILE names no profile of ~/.aws/config and ~/.aws/credentials; correct it, or unset it",
    "NoCredentialsError": "no key is set; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "PartialCredentialsError": "one half of the key is missing; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "CredentialRetrievalError": "the profile gives no key; check credential_process and the role in ~/.aws/config",
    "ConfigParseError": "~/.aws/config or ~/.aws/credentials cannot be read; mend it, or unset AWS_PROFILE",
    "InvalidConfigError": "~/.aws/config does not hold what the profile needs; mend it, or unset AWS_PROFILE",
    "SSOTokenLoadError": _LOG_IN,
    "UnauthorizedSSOTokenError": _LOG_IN,
    "TokenRetrievalError": _LOG_IN,
    "SSLError": "its certificate is not trusted here; set AWS_CA_BUNDLE to the certificates of its issuer",
    "ProxyConnectionError": "the proxy does not answer; check HTTPS_PROXY and NO_PROXY",
}
_ONE_LINE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)


@dataclass(frozen=True)
class ObjectFacts:
    """What a listing says of an object.

    Args:
        size: bytes.
        stamp: its ETag, which another content does not share.
        modified: when it was put there.
    """

    size: int
    stamp: str
    modified: datetime


class ObjectStore:
    """The objects below ``s3://bucket/prefix``, by their names from there on.

    Requests that fail for reasons of the store or the network are sent again, six times in all, and while the store is
    away, after growing pauses, for half a minute more. Large objects go in parts. Every method raises
    :class:`GenrecError` where the store refuses or stays away.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        GenrecError: ``url`` has another form.
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

        def ask() -> dict[str, ObjectFacts]:
            found = {}
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + below)
            for entry in (entry for page in pages for entry in page.get("Contents", [])):
                facts = ObjectFacts(entry["Size"], entry["ETag"].strip('"'), entry["LastModified"])
                found[entry["Key"].removeprefix(self.prefix)] = facts
            return found

        return self._ask(below or "the prefix", ask)

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None where there is none."""

        def ask() -> bytes | None:
            try:
                content = io.BytesIO()  # the transfer, other than get_object, asks again where a body breaks off
                _client().download_fileobj(self.bucket, self.prefix + name, content)
                return content.getvalue()
            except _client().exceptions.ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return None
                raise

        return self._ask(name, ask)

    def download(self, name: str, target: Path) -> None:
        """Copy an object to ``target``, which appears whole or not at all."""
        with atomic_file(target) as part:
            self._ask(name, lambda: _client().download_file(self.bucket, self.prefix + name, str(part)))

    def upload(self, source: Path, name: str) -> None:
        """Put a file there as ``name``; what was there is replaced whole."""
        self._ask(name, lambda: _client().upload_file(str(source), self.bucket, self.prefix + name))

    def write(self, name: str, content: bytes) -> None:
        """Put a small object there; what was there is replaced whole."""
        self._ask(name, lambda: _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content))

    def create(self, name: str, content: bytes) -> bool:
        """Put a small object there if there is none of its name: ``If-None-Match: *``.

        Args:
            name: the object's name.
            content: what no other writer puts there.

        Returns:
            Whether it lies there now; False if another one was there first.
        """

        def ask() -> bool:
            key = self.prefix + name
            try:
                _client().put_object(Bucket=self.bucket, Key=key, Body=content, IfNoneMatch="*")
            except _client().exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in _REFUSED_AS_THERE:
                    raise
                return False
            return True

        return self._ask(name, ask) or self.read(name) == content  # its answer was lost, and it was sent again

    def creates_once(self, name: str) -> bool:
        """Whether this store honours ``If-None-Match``, found out by putting the object ``name`` there twice."""

        def refuses() -> bool:
            for _ in range(2):
                try:
                    _client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=b"", IfNoneMatch="*")
                except _client().exceptions.ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] in _REFUSED_AS_THERE:
                        return True
                    if error.response["Error"]["Code"] not in _NO_CONDITIONS:
                        raise
                    return False
            return False

        return self._ask(name, refuses)

    def delete(self, names: list[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for first in range(0, len(names), _DELETED_AT_ONCE):
            keys = [{"Key": self.prefix + name} for name in names[first : first + _DELETED_AT_ONCE]]
            done = self._ask(names[first], partial(self._delete, keys))
            if failed := done.get("Errors"):
                raise GenrecError(f"{self.url}/{names[first]}: cannot be removed ({failed[0].get('Code')})")

    def _delete(self, keys: list[dict[str, str]]) -> Any:
        return _client().delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})

    def _ask(self, name: str, request: Callable[[], Answer]) -> Answer:
        """The answer to a request, made again after pauses while the store is away.

        The client itself tries again too, but gives up within two seconds where nobody listens.

        Raises:
            GenrecError: the store refuses or stays away; says in one line what, and what to do.
        """
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from s3transfer.exceptions import RetriesExceededError

        refusals = (BotoCoreError, ClientError, HTTPClientError, S3UploadFailedError, RetriesExceededError)
        pauses = iter(_PAUSES)
        while True:
            try:
                return request()
            except (*refusals, RecursionError) as error:
                cause = error.__context__ if isinstance(error, S3UploadFailedError) else error
                pause = next(pauses, None) if _is_away(cause) else None
                if pause is None:
                    code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else type(cause).__name__
                    other = f"there is no {name}; put it there" if code in _MISSING else _AWAY
                    raise GenrecError(f"{self.url}: {name}: {code}: {_REMEDIES.get(code, other)}") from error
            time.sleep(pause)


def _is_away(cause: BaseException | None) -> bool:
    """Whether a store may be back soon; one that hangs has been waited for long enough already."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, ReadTimeoutError
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(cause, RetriesExceededError):
        cause = cause.last_exception
    if isinstance(cause, ClientError):
        return int(cause.response["ResponseMetadata"]["HTTPStatusCode"]) >= 500
    return isinstance(cause, ConnectionError | HTTPClientError | OSError) and not isinstance(cause, ReadTimeoutError)


@cache
def _client() -> Any:
    """One for the process; it may be shared by threads.

    The checksums that newer clients add on their own are left to what asks for them: stores other than AWS refuse them,
    and artefacts bring their own sha256.

    Raises:
        GenrecError: a variable holds more than its value, or the endpoint is no address.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    _require_values_alone()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except BotoCoreError:
        raise
    except ValueError as error:  # of the endpoint alone
        reason = without_secrets(str(error))
        raise GenrecError(f"AWS_ENDPOINT_URL_S3: {reason}; write https:// before the name of the server") from error


def _require_values_alone() -> None:
    """Refuse a line end or a space around a value: a file with Windows line ends gives such, and none can be sent."""
    for name in _ONE_LINE:
        value = os.environ.get(name, "")
        if value != value.strip() or not value.isprintable():
            raise GenrecError(f"{name}: a line end or a space is part of the value; set it without (check for CRLF)")
