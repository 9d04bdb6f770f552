"""A folder to the Hugging Face Hub, or to what HF_ENDPOINT names; the token comes from HF_TOKEN alone."""

from __future__ import annotations

import os
import re
from typing import Any, Literal

from diffadapt.core.errors import ResourceError, StoreError
from diffadapt.core.redact import redact, told

Kind = Literal["model", "dataset"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(repo: str) -> str:
    """The token to push to ``repo`` with. StoreError for a name that is none, ResourceError without a token
    or where the Hub is switched off: before anything is written."""
    from huggingface_hub import constants

    if not _NAME.fullmatch(repo) or ".." in repo or "--" in repo:
        raise StoreError(
            f"--push {redact(repo)!r} is no name on the Hub: give <user or organisation>/<name>, of"
            " letters, digits, ., _ and -."
        )
    if constants.HF_HUB_OFFLINE:
        raise ResourceError("HF_HUB_OFFLINE is set, so nothing is pushed: unset it, or leave --push out.")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise ResourceError(
            "--push needs a token of the Hub with write access in the environment variable HF_TOKEN, and it"
            " is not set."
        )
    return token


def push(folder: str, repo: str, kind: Kind, private: bool, message: str) -> str:
    """Upload ``folder`` as one commit to ``repo``, which is made where it is not there; returns its address.

    With ``private`` a new one is private, and one that is public is refused. Raises what :func:`check_push`
    does, and ResourceError for whatever the Hub answers instead.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token = check_push(repo)
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    api: Any = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, repo_type=kind, private=True if private else None, exist_ok=True)
        if private and not api.repo_info(repo, repo_type=kind).private:
            raise ResourceError(
                f"{repo} is there and public, so --private cannot be kept: give another name, or make it"
                " private on the Hub."
            )
        api.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind, commit_message=message)
    except HfHubHTTPError as error:
        raise ResourceError(_refused(repo, error.response.status_code, api.endpoint)) from None
    except ResourceError:
        raise
    except Exception as error:  # the client's transport has errors of its own
        said = told(error, "").replace(token, "***").rstrip(".")
        raise ResourceError(
            f"{redact(api.endpoint)} could not be reached to push {repo} ({type(error).__name__}:"
            f" {said[:200]}): the same command tries again."
        ) from None
    return f"{redact(api.endpoint)}/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _refused(repo: str, status: int, endpoint: str) -> str:
    where = redact(endpoint)
    if status == 401:
        return (
            f"{where} does not know the token in HF_TOKEN (status 401): give a valid one, with write access."
        )
    if status == 403:
        return (
            f"The token in HF_TOKEN may not write to {repo} (status 403): give one with write access there."
        )
    if status == 404:
        return (
            f"{where} knows no {repo.partition('/')[0]} where {repo} could be (status 404): check the name."
        )
    return f"{where} refuses {repo} (status {status}): the same command tries again."
