"""What went wrong between here and the cluster, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.common.errors import ExitCode, StageError

SAID_CHARS = 300  # of a server's own words; some send whole pages


class MissingError(StageError):
    """The server answered that it does not have what was asked for."""


@contextmanager
def explained(server: str, host: str, doing: str) -> Iterator[None]:
    """Turn the exceptions of both generated clients (Kubeflow Pipelines, Kubernetes) into a StageError.

    Args:
        server: how to call it: `Kubeflow Pipelines`, `Kubernetes`.
        host: its address.
        doing: what was attempted, as `upload the pipeline`.
    """
    import kfp_server_api
    import kubernetes
    import urllib3

    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        do = "is the address right, and the port-forward or VPN up?"
        what = f"no answer from {server}, could not {doing}: {_last_words(error)}"
        raise StageError(what, where=host, do=do, code=ExitCode.UNREACHABLE) from None
    except (kfp_server_api.ApiException, kubernetes.client.ApiException) as error:
        raise _refused(error, server, host, doing) from None
    except AttributeError as error:  # raised by the clients while they handle a TLS failure: its answer has no body
        if not isinstance(error.__context__, (kfp_server_api.ApiException, kubernetes.client.ApiException)):
            raise
        raise _refused(error.__context__, server, host, doing) from None
    except ValueError as error:  # the clients parse what the server sent
        raise StageError(f"that is not {server}: {error}", where=host, do="check the address") from None


def status_of(error: BaseException) -> int:
    """HTTP status of a client's exception; 0 where there was no answer."""
    return int(getattr(error, "status", 0) or 0)


def _refused(error: Any, server: str, host: str, doing: str) -> StageError:
    status, said = status_of(error), _said(error)
    if status == 0:
        ca = "--ca-file" if "Kubeflow" in server else "certificate-authority in the kubeconfig"
        do = f"http instead of https? a certificate of your own: {ca}"
        return StageError(f"no secure connection to {server}{said}", where=host, do=do)
    if status == 401 or status in (302, 303, 307):  # a login page is a redirect
        do = "the token is missing or has expired: --token-file, or KF_PIPELINES_TOKEN"
        return StageError(f"{server} does not know you, could not {doing}{said}", where=host, do=do)
    if status == 403:
        do = "ask for the role, or name the right --namespace"
        return StageError(f"{server} does not let you {doing}{said}", where=host, do=do)
    if status == 404:
        return MissingError(f"{server} does not have it, could not {doing}{said}", where=host)
    code = ExitCode.UNREACHABLE if status >= 500 or status == 429 else ExitCode.BAD_INPUT
    return StageError(f"{server} answered {status}, could not {doing}{said}", where=host, code=code)


def _said(error: Any) -> str:
    """`: its message`, from the JSON that both servers send, else from the text."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else (error.body or "")
    try:
        answer = json.loads(body)
        body = answer.get("message") or answer.get("error") or body
    except (ValueError, AttributeError):
        body = error.reason or ""  # a proxy's page
    words = " ".join(str(body).split())[:SAID_CHARS]
    return f": {words}" if words else ""


def _last_words(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).rpartition(": ")[2].split())[:SAID_CHARS]
