"""What boto3 raises: which of it may pass by itself, and the rest as one clear line."""

from __future__ import annotations

from components.common.errors import ExitCode, StageError

# Codes that some stores send with a status below 500.
PASSING = {
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestTimeout", "RequestThrottled",
    "InternalError", "ServiceUnavailable", "BadDigest", "IncompleteBody", "OperationAborted",
}  # fmt: skip
TOO_MANY, NOT_IMPLEMENTED = 429, 501
REPLACED = "the object was replaced while it was read"
SAID = {
    "404": "no such object",
    "NoSuchKey": "no such object",
    "NoSuchBucket": "no such bucket",
    "403": "no access",
    "AccessDenied": "no access",
    "InvalidAccessKeyId": "the store does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the credentials have expired",
    "PreconditionFailed": REPLACED,
    "412": REPLACED,
}
DO = {
    "no such bucket": "make the bucket, or correct the address",
    "no access": "check the rights of AWS_ACCESS_KEY_ID",
    REPLACED: "run it again to read the new one",
}


class ShortBodyError(Exception):
    """A body of another length than asked for."""


def is_passing(error: Exception) -> bool:
    """Whether the same request may go well a moment later: 5xx, throttling, a broken or silent connection."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
        SSLError,
    )
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        failing = status == TOO_MANY or (status >= 500 and status != NOT_IMPLEMENTED)
        return failing or code_of(error) in PASSING
    if isinstance(error, SSLError):
        return False  # a certificate does not get better
    passing = (HTTPClientError, ConnectionError, IncompleteReadError, FlexibleChecksumError, ResponseParserError)
    return isinstance(error, (ShortBodyError, *passing))


def code_of(error: Exception) -> str:
    """The store's code (`NoSuchKey`, or the status where a HEAD has no body); empty for other errors."""
    response = getattr(error, "response", None) or {}  # an error of the connection has the attribute too: None
    return str(response.get("Error", {}).get("Code", ""))


def explained(error: Exception, where: str, tries: int = 1) -> StageError:
    """The StageError that says what went wrong at the address `where`."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    after = f" after {tries} tries" if tries > 1 else ""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        do = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
        return StageError("no credentials for the store", where=where, do=do)
    if is_passing(error):
        what = f"the store does not answer{after}, {_short(error)}"
        do = "check AWS_ENDPOINT_URL; run it again, it goes on from where it was"
        return StageError(what, where=where, do=do, code=ExitCode.UNREACHABLE)
    if isinstance(error, ClientError):
        what = SAID.get(code_of(error)) or f"the store answers {_short(error)}"
        return StageError(what, where=where, do=DO.get(what))
    return StageError(f"the store cannot be used, {_short(error)}", where=where, do="check the AWS_* variables")


def _short(error: Exception) -> str:
    """The store's own words where there are any, without what botocore puts around them."""
    response = getattr(error, "response", None) or {}
    message = response.get("Error", {}).get("Message") or str(error)
    return " ".join(f"{code_of(error)} {message}".split())[:200]
