"""The release as a pipeline's pod meets it: MLflow answers and finds its database, the store keeps an object."""

import argparse
import os
import sys
import uuid

import requests
from botocore.exceptions import BotoCoreError, ClientError
from bucket import client

TIMEOUT_S = 20


def mlflow(url: str) -> None:
    """/health needs no database, so a search that does comes after it."""
    requests.get(f"{url}/health", timeout=TIMEOUT_S).raise_for_status()
    found = requests.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, timeout=TIMEOUT_S)
    found.raise_for_status()
    print("MLflow: the server and its database answer")


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
    except requests.RequestException as error:
        return f"MLflow at {url}: {error}"
    try:
        store(os.environ["LONGTAKE_BUCKET"])
    except (BotoCoreError, ClientError, RuntimeError) as error:
        return f"S3: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
