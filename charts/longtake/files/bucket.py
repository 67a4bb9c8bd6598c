"""Make the bucket LONGTAKE_BUCKET if it is not there. Waits for the store, which may still be starting."""

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE_S = 600


def client():
    """Path style: stores inside a cluster have no name for each bucket."""
    config = Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=20, retries={"max_attempts": 1})
    return boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], config=config)


def ensure(s3, bucket: str) -> str:
    """What was done. A store that answers 403 to a bucket that exists has the wrong keys: that is for people."""
    try:
        s3.head_bucket(Bucket=bucket)
        return "is there"
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    # us-east-1 is the one region that must not be named
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **where)
    return "made"


def main() -> str | None:
    bucket, deadline = os.environ["LONGTAKE_BUCKET"], time.monotonic() + PATIENCE_S
    while True:
        try:
            print(f"bucket {bucket} {ensure(client(), bucket)}")
            return None
        except (BotoCoreError, ClientError) as error:
            status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 503)
            if status < 500 or time.monotonic() > deadline:
                return f"bucket {bucket}: {error}"
            print(f"waiting: {error}", flush=True)
        time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
