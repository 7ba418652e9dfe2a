"""What the failures of object servers mean, said without a secret.

Stands between obstore and `storage.objects`.  Invariant: no message, log line or cause of an
error holds a credential or a URL's query.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from iopipe.errors import NotFoundError, StorageError

_STATUS = re.compile(r"status code: (\d{3})\b")
_TOO_OFTEN = re.compile(
    r"SlowDown|TooManyRequests|ServerBusy|OperationAborted|Throttl", re.IGNORECASE
)
_PASSING = re.compile(
    r"error sending|body error|timed? ?out|connection|kind: (Interrupted|Timeout|Connect)|"
    r"UnexpectedEof|InternalError|RequestTimeout",
    re.IGNORECASE,
)
_UNSORTED = ("GenericError", "BaseError")
"""What obstore calls everything that has no class of its own (404, 401, 403, 412, ...)."""
_CAUSE = re.compile(r'message: "([^"]+)"')
"""What the operating system said, among the details of obstore's errors."""
_TOO_MANY_FILES = re.compile(r"code: 24\b|os error 24\b")
_URL = re.compile(r"https?://\S+")
_METADATA = re.compile(
    r"169\.254\.\d+\.\d+|metadata\.google|latest/(api/token|meta-data)|metadata/identity|"
    r"computeMetadata|AssumeRoleWithWebIdentity|oauth2|login\.microsoftonline",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"(\?|%3F)\S*|(?i:(authorization|x-amz-[a-z-]+|signature|sig|token|key|secret|password)"
    r"[\"']?\s*[:=]\s*)\S+"
)
_CHAINS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "s3": (
        "keys",
        (
            *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
            *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        ),
        "; ~/.aws is not read, and public buckets want skip_signature=True",
    ),
    "gs": (
        "a service account",
        ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"),
        "; public buckets want skip_signature=True",
    ),
    "az": (
        "a key, a SAS token or a client secret",
        (
            *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
            *("AZURE_STORAGE_SAS_KEY", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
        ),
        "; public containers want skip_signature=True",
    ),
}
_CHAINS |= {"s3a": _CHAINS["s3"], "abfs": _CHAINS["az"], "abfss": _CHAINS["az"]}


class Incomplete(Exception):
    """An answer that is shorter than it said."""


class Changed(Exception):
    """An answer out of another version of the object."""


def is_too_often(error: Exception) -> bool:
    """Whether the server wants to be asked less."""
    text = _text(error)
    return _status(text) in (429, 503) or _TOO_OFTEN.search(text) is not None


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed if it is made again."""
    if isinstance(error, Incomplete | TimeoutError | ConnectionError):
        return True
    text = _text(error)
    status = _status(text)
    if _TOO_MANY_FILES.search(text):
        return False
    return status in (408, 500, 502, 504) or (
        status is None and type(error).__name__ == "GenericError" and bool(_PASSING.search(text))
    )


def _text(error: Exception) -> str:
    """All that was said but for names: an object may be called '503' or 'connection'."""
    return "" if type(error).__name__ not in _UNSORTED else _URL.sub("", str(error))


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def is_of_credentials(error: Exception) -> bool:
    """Whether it was not the object that failed but the search for credentials."""
    return type(error).__name__ in _UNSORTED and _METADATA.search(str(error)) is not None


def mapped(error: Exception, what: str, *, scheme: str, options: Iterable[str]) -> StorageError:
    """The error for the user; `what` could not be done."""
    kind = type(error).__name__
    if kind == "NotFoundError" or isinstance(error, FileNotFoundError):
        return NotFoundError(f"{what}: there is no such object")
    if isinstance(error, Changed) or kind == "PreconditionError":
        return StorageError(f"{what}: it changed since it was opened; open the dataset again")
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return StorageError(f"{what}: the server refuses it; {chain(scheme, options)}")
    if _TOO_MANY_FILES.search(_text(error)):
        return StorageError(f"{what}: too many open files; raise `ulimit -n`")
    if is_of_credentials(error):
        return StorageError(f"{what}: no credentials were found; {chain(scheme, options)}")
    return StorageError(f"{what}: {kind}: {said(error)}")


def chain(scheme: str, options: Iterable[str]) -> str:
    """Where credentials were looked for, in this order; names only."""
    given = ", ".join(sorted(options)) or "none"
    if scheme not in _CHAINS:
        return f"the options given ({given}) were used and nothing else was looked for"
    kind, names, more = _CHAINS[scheme]
    found = ", ".join(name if name in os.environ else f"no {name}" for name in names)
    return (
        f"{kind} were looked for in the options given ({given}), "
        f"then the environment ({found}), then the machine's metadata service{more}"
    )


def said(error: BaseException) -> str:
    """The message without what may be secret."""
    text, _, details = str(error).partition("\n\nDebug source")
    causes = [cause for cause in _CAUSE.findall(details) if cause not in text]
    return _SECRETS.sub("[left out]", ": ".join([text, *causes]))[:500]


def cleaned(error: Exception) -> Exception:
    """The cause that a traceback shows must be as clean as the message."""
    return RuntimeError(f"{type(error).__name__}: {said(error)}")


def shown(path: str) -> str:
    """A path in a message: without a query, where presigned URLs have their signature."""
    return repr(path.partition("?")[0])


def comparable(tag: str | None) -> str | None:
    """A strong entity tag.  A weak one names no bytes, and servers refuse to compare by it."""
    return tag if tag and not tag.startswith("W/") else None
