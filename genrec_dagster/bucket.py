"""The S3 client of a storage in a bucket, as a resource of dagster-aws, which takes up to a second to import."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from botocore.handlers import disable_signing
from dagster_aws.s3 import S3Resource
from pydantic import Field

from genrec_core.storage.object_store import new_client, use_client
from genrec_dagster.io_manager import ArtifactStorage


class BucketClient(S3Resource):
    """How the steps of a run reach the bucket. The keys come from the environment or the profile.

    Sensors and commands do not read this resource, but the environment.
    """

    max_attempts: int = Field(6, ge=1, description="How often a request is sent at most.")

    def get_client(self) -> Any:
        """The client of these fields. dagster-aws' own would have neither our timeouts nor our rule for checksums."""
        options = self.model_dump(exclude={"profile_name", "max_attempts", "use_unsigned_session"})
        client = new_client(self.profile_name, self.max_attempts, **options)
        if self.use_unsigned_session:
            client.meta.events.register("choose-signer.s3.*", disable_signing)
        return client

    def get_object_to_set_on_execution_context(self) -> Any:
        """This resource: the client is made with the first request, whose error says what to do."""
        return self

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["BucketClient"]:
        """Let this process use the client until the run ends."""
        use_client(self.get_client)
        try:
            yield self
        finally:
            use_client(None)


class BucketStorage(ArtifactStorage):
    """A storage in a bucket: the folder mirrors it."""

    s3: dg.ResourceDependency[BucketClient]


def bucket_resources(root: Path) -> dict[str, Any]:
    """The IO manager of the bucket that ``root`` mirrors, and the resource ``s3``, filled from the environment."""
    s3 = BucketClient.configure_at_launch(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None,
        region_name=os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or None,
        profile_name=os.environ.get("AWS_PROFILE") or None,
    )
    return {"io_manager": BucketStorage(root=str(root), s3=s3), "s3": s3}
