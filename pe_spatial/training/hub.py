"""The Hugging Face hub: shared models are fetched from it (`hf://OWNER/NAME`) and sent to it.

Of a repository the files of `pe_spatial.training.published` are fetched and no others. The hub's client caches them, so
that they are found without a network later.
"""

import re
from os import PathLike, fspath
from pathlib import Path

from pe_spatial.common.errors import CheckpointError
from pe_spatial.common.files import is_full_disk
from pe_spatial.training.published import NEEDED, WEIGHTS

_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^@]*)(@(?P<revision>.+))?")  # pathlib makes one slash of two
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


class HubError(CheckpointError):
    """The hub refuses, cannot be reached, or has something else than a model of ours."""


def is_address(source: str | PathLike[str]) -> bool:
    """Whether a text, or the path that it was made to, names a repository of the hub."""
    return fspath(source).startswith("hf:/")


def checked_name(text: str) -> str:
    """The name of a repository, OWNER/NAME.

    Raises:
        HubError: It is none.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    rule = "it needs an owner and a name"
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        rule = " ".join(str(error).split())
    else:
        if "/" in text:
            return text
    raise HubError(f"{text!r} is not a name on the hub: {rule}; write OWNER/NAME, such as my-login/street-signs")


def fetch(address: str | PathLike[str]) -> Path:
    """The weights file of a shared model, with the other files beside it, from the cache or from the hub.

    Args:
        address: `hf://OWNER/NAME`, or with `@` and a branch, a tag or a commit behind it.

    Raises:
        HubError: No address; no such repository; it is not here and cannot be fetched; or it holds no model of ours.
        OSError: The disk is full.
    """
    from huggingface_hub import snapshot_download

    match = _ADDRESS.fullmatch(fspath(address))
    if match is None:
        raise HubError(f"{fspath(address)!r} is not an address; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    name, revision = checked_name(match["name"]), match["revision"]
    try:
        folder = Path(snapshot_download(repo_id=name, revision=revision, allow_patterns=[*NEEDED]))
    # the client's transport decides what is raised (its own errors, httpx, requests, OSError)
    except Exception as error:
        if isinstance(error, OSError) and is_full_disk(error):
            raise
        raise HubError(f"hf://{name}: {_why_not_fetched(error, name, revision)}") from error
    if missing := [file for file in NEEDED if not (folder / file).is_file()]:
        raise HubError(
            f"hf://{name}: has no model of pe_spatial ({', '.join(missing)} missing); share one with `pe-spatial push`"
        )
    return folder / WEIGHTS


def send(folder: Path, name: str, private: bool, message: str) -> str:
    """Make a repository, if there is none of the name, and send the files of a folder to it in one commit.

    Args:
        folder: With the files of a shared model.
        name: Of the repository, OWNER/NAME.
        private: Whether none but its owners may see it.
        message: Of the commit.

    Returns:
        Its address.

    Raises:
        HubError: Not logged in, no right to write there, a repository that others can see though it should be
            private, or no network. Nothing is visible then, but an empty repository may have been made.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi()
    try:
        api.create_repo(repo_id=name, repo_type="model", private=private or None, exist_ok=True)
        is_open = private and not api.repo_info(repo_id=name, repo_type="model").private
        if not is_open:
            api.upload_folder(repo_id=name, repo_type="model", folder_path=str(folder), commit_message=message)
    except Exception as error:  # as in `fetch`
        raise HubError(f"{name}: {_why_not_sent(error)}") from error
    if is_open:
        raise HubError(f"{name}: exists and is public, so nothing was sent; remove --private, or use another name")
    return f"{constants.ENDPOINT}/{name}"


def _why_not_fetched(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"its owner asks for consent first: open https://huggingface.co/{name} and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one; check the name, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision}; leave out @{revision} for the newest"
    return f"is not in the cache and cannot be fetched ({_first_line(error)}); try again where there is a network"


def _why_not_sent(error: Exception) -> str:
    from huggingface_hub import errors, get_token

    status = getattr(getattr(error, "response", None), "status_code", None)
    if get_token() is None or isinstance(error, errors.LocalTokenNotFoundError):
        return f"not sent, because you are not logged in; {_LOG_IN} ({_first_line(error)})"
    if status == 401:
        return f"the hub does not accept your token; {_LOG_IN}"
    if status in (403, 404):
        return "your token may not write there; check the owner's name, or use a token with write access"
    if status is not None:
        return f"the hub refuses ({_first_line(error)}); another name may do"
    return f"the hub cannot be reached ({_first_line(error)}); check the network and give the same command again"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
