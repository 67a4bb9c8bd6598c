"""The release as a pipeline's pod meets it: MLflow answers and finds its database, the store keeps an object."""

import argparse
import os
import sys
import urllib.error
import urllib.request
import uuid

from botocore.exceptions import BotoCoreError, ClientError
from bucket import client

TIMEOUT_S = 20


def mlflow(url: str) -> None:
    """/health needs no database, so a search that does comes after it."""
    for path, body in (("/health", None), ("/api/2.0/mlflow/experiments/search", b'{"max_results": 1}')):
        request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            print(f"MLflow: {path} {answer.status}")


def store(bucket: str) -> None:
    s3, key, content = client(), f"check/{uuid.uuid4().hex}", os.urandom(1024)
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    try:
        if s3.get_object(Bucket=bucket, Key=key)["Body"].read() != content:
            raise RuntimeError(f"s3://{bucket}/{key} came back changed")
        print(f"S3: an object in s3://{bucket} was written, read and removed")
    finally:
        s3.delete_object(Bucket=bucket, Key=key)


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", required=True, help="address of the server")
    url = parser.parse_args().mlflow
    try:
        mlflow(url)
    except OSError as error:  # an HTTP answer, a refusal or a timeout
        return f"MLflow at {url}: {error}"
    try:
        store(os.environ["LONGTAKE_BUCKET"])
    except (BotoCoreError, ClientError, RuntimeError) as error:
        return f"S3: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
