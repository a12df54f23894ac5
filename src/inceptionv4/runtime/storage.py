"""Object storage by URIs, and the only file that knows the library for it.

    s3://BUCKET/KEY     Amazon's S3, and whatever speaks like it: AWS_* variables, AWS_ENDPOINT_URL among them
    obs://BUCKET/KEY    Huawei's OBS: OBS_ACCESS_KEY_ID, OBS_SECRET_ACCESS_KEY, OBS_ENDPOINT or OBS_REGION
    gs://BUCKET/KEY     Google's, with GOOGLE_* variables
    az://CONTAINER/KEY  Azure's, with AZURE_* variables
    file:///PATH        a path, nothing else

Requests are repeated by obstore, with longer and longer pauses, after a lost connection, a timeout and an answer of
500 and above. None of these functions waits longer than `INCEPTIONV4_STORAGE_SECONDS` (60) for
what it asks for, which is never more than `PART_BYTES` at once.

What was listed is read in the version that was listed, or not at all. The request says which one (`If-Match`), and the
answer's size and ETag are compared as well, since some servers ignore the header.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from inceptionv4.errors import ChangedError, StorageError, UsageError
from inceptionv4.runtime.credentials import has_credentials, hide_credentials

URI = re.compile(r"(s3|obs|gs|az)://([^/]*)/?(.*)", re.DOTALL)
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00")
"""A version that is a time of change, where the storage gives no ETag."""
BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
"""Names of buckets and containers of any of these; anything else would be another part of the address."""
PART_BYTES = 8 << 20
PARTS = 8
"""Parts of an object that are fetched or sent at once."""
VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    "obs": "OBS_ACCESS_KEY_ID, OBS_SECRET_ACCESS_KEY and OBS_ENDPOINT",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "obs": ("OBS_ENDPOINT",),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Variables with the address of a server; the first that is set counts."""

PathOrUri = Path | str
"""A path, or a URI."""


@dataclass(frozen=True)
class Object:
    """An object as a listing shows it; `version` changes whenever its content does."""

    uri: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.uri.rpartition("/")[2]

    @property
    def if_match(self) -> str | None:
        """The header that asks for this version and no other; None without a strong ETag (RFC 9110, 8.8.3)."""
        return None if self.version.startswith("W/") or TIME.fullmatch(self.version) else f'"{self.version}"'


def is_uri(place: PathOrUri) -> bool:
    """True if this names an object, and no path."""
    return isinstance(place, str) and URI.fullmatch(place) is not None


def plain(place: PathOrUri) -> PathOrUri:
    """The path that a `file://` URI stands for; anything else as it is."""
    if isinstance(place, str) and place.startswith("file://"):
        return unquote(urlsplit(place).path)
    return place


def absolute(place: PathOrUri) -> str:
    """The same place from whichever folder one looks."""
    return str(place).rstrip("/") if is_uri(place) else str(Path(plain(place)).absolute())


def join(place: PathOrUri, *names: str) -> PathOrUri:
    """What is called so in a place: a str if it is a URI, else a Path."""
    return "/".join([str(place).rstrip("/"), *names]) if is_uri(place) else Path(place, *names)


def find(uri: str) -> Object | None:
    """The object of this very name, or None.

    Raises:
        StorageError: the storage cannot be reached, or refuses.
    """
    store, key = _open(uri)
    with _named(uri):
        try:
            found = _obstore().head(store, key)
        except FileNotFoundError:
            return None
    return _as_object(uri, found)


def list_objects(uri: str) -> list[Object]:
    """All objects below `uri`, as in a folder, sorted by name; none if there is no such folder.

    Raises:
        StorageError: the storage cannot be reached, or refuses; there is no such bucket.
    """
    store, key = _open(uri)
    with _named(uri):
        found = [_as_object(uri, entry) for chunk in _obstore().list(store, key or None) for entry in chunk]
    return sorted(found, key=lambda found: found.uri)


def read(object: Object, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of an object, fewer where it ends.

    Raises:
        ChangedError: another version is there now.
        StorageError: it is not there, or the storage cannot be reached, or refuses.
    """
    end = min(offset + size, object.size)
    if offset >= end:
        return b""
    with _asked(object, range=(offset, end)) as answer:
        content: bytes = answer.bytes().to_bytes()
    if len(content) != end - offset:
        raise StorageError(f"{object.uri}: the server sent {len(content):,} of {end - offset:,} bytes; try again")
    return content


def read_all(place: Object | str) -> bytes:
    """The content of an object; of a URI, in whichever version is there.

    Raises:
        ChangedError: another version is there now.
        StorageError: it is not there, or the storage cannot be reached, or refuses.
    """
    if isinstance(place, Object):
        with _asked(place) as answer:
            return bytes(answer.bytes().to_bytes())
    store, key = _open(place)
    with _named(place):
        content: bytes = _obstore().get(store, key).bytes().to_bytes()
    return content


@contextmanager
def _asked(object: Object, **options: Any) -> Iterator[Any]:
    """The answer to a request for an object, or for a `range` of it, in the version that was listed."""
    store, key = _open(object.uri)
    obstore = _obstore()
    changed = ChangedError(
        f"{object.uri} was replaced while it was being read: what is there now is not what was listed; start again "
        "when nothing writes there"
    )
    if object.if_match is not None:
        options["if_match"] = object.if_match
    with _named(object.uri):
        try:
            answer = obstore.get(store, key, options=options)
            found = _as_object(object.uri, answer.meta)
            if (found.size, found.version) != (object.size, object.version):
                raise changed
            yield answer
        except obstore.exceptions.BaseError as error:
            # 412 may be the answer to a request for the rest, after a lost connection, which has no class of its own.
            # 416: it is shorter now, and the server ignores `If-Match`, or looks at the range first.
            if "412 Precondition Failed" in str(error) or "416 Range Not Satisfiable" in str(error):
                raise changed from None
            raise


def download(object: Object, file: int) -> None:
    """Write an object to a file descriptor, in parts that are fetched at the same time, all of the listed version.

    Raises:
        ChangedError: another version is there now.
        StorageError: it is not there, or the storage cannot be reached, or refuses.
        OSError: the file cannot be written.
    """

    def fetch(offset: int) -> None:
        _write(file, read(object, offset, PART_BYTES), offset)

    offsets = range(0, object.size, PART_BYTES)
    try:
        if offsets:
            fetch(offsets[0])
    except StorageError as error:
        if "non-partial" not in str(error):
            raise
        # Some gateways answer a range with the status of a whole object, which no client can trust.
        offset = 0
        with _asked(object) as answer:
            for chunk in answer.stream(min_chunk_size=PART_BYTES):
                offset += _write(file, chunk, offset)
    else:
        with ThreadPoolExecutor(PARTS) as pool:
            list(pool.map(fetch, offsets[1:]))


def _write(file: int, content: Any, offset: int) -> int:
    """Returns how many bytes that were."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
    return memoryview(content).nbytes


def write(uri: str, content: Path | bytes, *, new: bool = False) -> bool:
    """Make an object of a file or of bytes; it appears whole. Returns whether it did.

    With `new`, an object of that name is left as it is: the storage decides which of two writers came first, if it
    knows conditional writes, as S3 does.

    Raises:
        StorageError: the storage cannot be reached, or refuses.
        OSError: the file cannot be read.
    """
    store, key = _open(uri)
    obstore = _obstore()
    options: dict[str, Any] = {"mode": "create"} if new else {"chunk_size": PART_BYTES, "max_concurrency": PARTS}
    with _named(uri):
        try:
            obstore.put(store, key, content, **options)
        except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
            return False
    return True


def delete(uri: str) -> None:
    """Remove an object, if it is there.

    Raises:
        StorageError: the storage cannot be reached, or refuses.
    """
    store, key = _open(uri)
    with _named(uri):
        try:
            _obstore().delete(store, key)
        except FileNotFoundError:
            return


def _as_object(uri: str, entry: Any) -> Object:
    """An entry of a listing; its path counts from the bucket that `uri` is in."""
    bucket = "/".join(uri.split("/")[:3])
    # Without a tag, the time to the second, which is all that some answers have.
    version = (entry["e_tag"] or "").strip('"') or entry["last_modified"].replace(microsecond=0).isoformat()
    return Object(f"{bucket}/{entry['path']}", entry["size"], version)


def _obstore() -> Any:
    try:
        import obstore  # an extra
    except ImportError:
        raise UsageError("s3://, obs://, gs:// and az:// need obstore: pip install 'inceptionv4[cloud]'") from None
    return obstore


def _open(uri: str) -> tuple[Any, str]:
    """The store that holds an object, and the object's key in it.

    Raises:
        UsageError: the URI names no bucket, or no key that can be asked for.
    """
    match = URI.fullmatch(uri)
    if match is None:
        raise UsageError(f"{uri} is no URI of an object; expected s3://BUCKET/KEY, or obs://, gs://, az://")
    scheme, bucket, key = match.groups()
    if has_credentials(uri):
        raise UsageError(
            f"{hide_credentials(uri)} has a name or a password in it; leave them out, and set {VARIABLES[scheme]}"
        )
    if not BUCKET.fullmatch(bucket):
        named = f"{bucket!r} is no name of one" if bucket else "it is empty"
        raise UsageError(f"{uri} names no bucket: {named}; expected {scheme}://BUCKET/KEY")
    key = key.rstrip("/")
    if dots := {".", ".."} & set(key.split("/")):
        raise UsageError(f"{uri} has the part {max(dots)!r}, which names no folder in object storage; leave it out")
    if strange := next((letter for letter in key if unicodedata.category(letter) in ("Cc", "Cs")), None):
        raise UsageError(f"{uri} has the character U+{ord(strange):04X}, which no key that can be read has; rename it")
    return _store(scheme, bucket), key


@lru_cache
def _store(scheme: str, bucket: str) -> Any:
    """A store for one bucket; its connections are kept and shared by threads."""
    obstore = _obstore()
    from obstore import store

    seconds = patience()
    # In the worst case the last request starts when no more may, after one more pause, and takes all that it may:
    # 0.4 + 0.05 + 0.5 of the patience.
    retry = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=0.4 * seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=seconds / 600),
            "max_backoff": timedelta(seconds=seconds / 20),
            "base": 2,
        },
    }
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=seconds / 12),
        "read_timeout": timedelta(seconds=seconds / 4),
        "timeout": timedelta(seconds=seconds / 2),
    }
    options: dict[str, Any] = {"retry_config": retry, "client_options": client}
    try:
        endpoint = _endpoint(scheme)
        client["allow_http"] = (endpoint or "").lower().startswith("http://")
        if scheme == "gs":
            return store.GCSStore(bucket, **options)
        if scheme == "az":
            return store.AzureStore(bucket, **options)
        own = _obs(bucket) if scheme == "obs" else {}
        return store.S3Store(bucket, **own, **options)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise UsageError(f"cannot use {scheme}://{bucket}: {_first_line(error)}; set {VARIABLES[scheme]}") from None


def _endpoint(scheme: str) -> str | None:
    """The address of the server that the environment names, if it names one.

    Raises:
        UsageError: a variable has what is no such address, of which the library would make an address or a crash.
    """
    given = {name: os.environ[name] for name in ENDPOINTS[scheme] if name in os.environ}
    if scheme == "obs":  # which the library does not read by itself
        given = {name: value for name, value in given.items() if value}
    for name, value in given.items():
        text = value if scheme != "obs" or "://" in value else f"https://{value}"  # OBS's own are given as hosts
        try:
            address = urlsplit(text)
            sound = address.scheme.lower() in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:  # of a port or an address in brackets
            sound = False
        shown = re.sub(r".*@", "***@", value, flags=re.DOTALL)  # it may be no address that has a place for a password
        if not sound or not text.isascii() or re.search(r"[\s\0-\x1f\x7f<>\"{}|\\^`?#]", text):
            raise UsageError(
                f"{name} must be the address of a server, with http:// or https:// and a host, such as "
                f"https://storage.example.org:9000, got {shown!r}; correct it or unset it"
            )
        if address.username is not None or address.password is not None:
            raise UsageError(
                f"{name} holds a user or password, which is no part of the address; set {VARIABLES[scheme]}"
            )
    return next(iter(given.values()), None)


def _obs(bucket: str) -> dict[str, Any]:
    """What OBS needs of an S3 client: the bucket as a part of the host's name, in the endpoint too.

    Raises:
        UsageError: it is not said where OBS is.
    """
    endpoint, region = _endpoint("obs"), os.environ.get("OBS_REGION")
    if region and not BUCKET.fullmatch(region):
        raise UsageError(f"OBS_REGION must be a region such as cn-north-4, got {region!r}")
    if not endpoint and not region:
        raise UsageError(
            f"cannot use obs://{bucket}: set OBS_ENDPOINT, such as https://obs.cn-north-4.myhuaweicloud.com"
        )
    scheme, _, host = (endpoint or f"https://obs.{region}.myhuaweicloud.com").rstrip("/").rpartition("://")
    settings = {
        "endpoint": f"{scheme or 'https'}://{bucket}.{host}",
        "virtual_hosted_style_request": True,
        "region": region or "obs",
        "access_key_id": os.environ.get("OBS_ACCESS_KEY_ID"),
        "secret_access_key": os.environ.get("OBS_SECRET_ACCESS_KEY"),
        "session_token": os.environ.get("OBS_SECURITY_TOKEN"),
    }
    return {name: value for name, value in settings.items() if value is not None}


def patience() -> float:
    """Seconds after which a request that did not succeed is an error.

    Raises:
        UsageError: INCEPTIONV4_STORAGE_SECONDS is no positive number, or more than a day.
    """
    text = os.environ.get("INCEPTIONV4_STORAGE_SECONDS", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 86400:
        raise UsageError(
            f"INCEPTIONV4_STORAGE_SECONDS must be a number of seconds above 0, and at most a day's, got {text!r}"
        )
    return seconds


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Errors of the library as ours, which say the URI and how to mend."""
    exceptions = _obstore().exceptions
    try:
        yield
    except FileNotFoundError:
        raise StorageError(f"{uri} is not there; look with `aws s3 ls` or the like what is") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        variables = VARIABLES[uri.partition(":")[0]]
        raise StorageError(f"{uri} is refused: {_first_line(error)}; check {variables}") from None
    except (exceptions.BaseError, ValueError) as error:
        if "empty path segment" in str(error):
            raise StorageError(f"{uri} is, or holds, a key with an empty part, as in a//b; rename it") from None
        if not isinstance(error, exceptions.BaseError) or "invalid path" in str(error):
            raise StorageError(
                f"{uri} is, or holds, a key that cannot be read: {_first_line(error)}; rename it"
            ) from None
        variables = VARIABLES[uri.partition(":")[0]]
        if "NoSuchBucket" in str(error):
            raise StorageError(f"{uri} is not there: there is no such bucket; check its name and {variables}") from None
        raise StorageError(
            f"{uri} cannot be reached: {_first_line(error)}; {patience():g} s is the limit, check the network and "
            f"{variables}"
        ) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        # The library was written in Rust, and has given up on what it was told, such as a key with a line end.
        raise StorageError(
            f"{uri} cannot be asked for: {_first_line(error)}; look for blanks and line ends in "
            f"{VARIABLES[uri.partition(':')[0]]}"
        ) from None


def _first_line(error: BaseException) -> str:
    """What the library says, without its own innards and without the mark-up of the server's answer."""
    text = hide_credentials(str(error).partition("\n\nDebug source")[0])
    text = re.sub(r", max_retries: \d+, retry_timeout: [^ ]+", "", text)
    code, message = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Code", "Message"))
    said = " ".join(match[1] for match in (code, message) if match)
    return " ".join(f"{text.partition('<')[0].rstrip(': ')} {said}".split())[:400]
