"""Reading from the Hub: a revision becomes a commit with its files, a file a stream of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import httpx2
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from bitbudget.app.core.errors import InvalidModelError, NotFoundError
from bitbudget.app.core.hub_id import HubId
from bitbudget.retrying import RetryPolicy
from bitbudget.workers.hub.failures import UNREACHABLE, hub_call

__all__ = ["Hub", "HubFile", "HubModel"]

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PARTIAL_CONTENT: Final = 206
_TIMEOUT_SECONDS: Final = 30.0
_RANGE_TOTAL: Final = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit: its size in bytes and the digest that its content must have.

    Large files are known by their SHA-256, small ones by the id git gives their content.
    """

    name: str
    nbytes: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository at one commit, with the files at its top level; `kind` is what it is for."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    kind: Literal["model", "dataset"] = "model"

    def file(self, name: str) -> HubFile:
        """Return the file called `name`; NotFoundError when the commit has none."""
        for file in self.files:
            if file.name == name:
                return file
        raise NotFoundError(what=f"file in {self.repository}@{self.commit[:12]}", name=name)

    def describe(self, name: str) -> str:
        """Return `org/name@commit: file` for messages."""
        return f"{self.repository}@{self.commit[:12]}: {name}"


class Hub:
    """A Hub and who asks; without arguments what HF_ENDPOINT and HF_TOKEN (or a login) say.

    The token goes to the endpoint alone, never along a redirect to another host.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        retries: RetryPolicy | None = None,
    ) -> None:
        self.retries = retries or RetryPolicy()
        self.api = HfApi(endpoint=endpoint, token=token, library_name="bitbudget")
        self._token = token

    def resolve(self, hub_id: HubId, kind: Literal["model", "dataset"] = "model") -> HubModel:
        """Return the commit that `hub_id` names now and the files at its top level.

        Raises NotFoundError, HubAccessError or HubUnavailableError.
        """
        info_of = self.api.model_info if kind == "model" else self.api.dataset_info

        def ask() -> ModelInfo | DatasetInfo:
            return info_of(
                hub_id.repository,
                revision=hub_id.revision,
                files_metadata=True,
                timeout=_TIMEOUT_SECONDS,
            )

        try:
            info = hub_call(self.retries, str(hub_id), ask, at_once=UNREACHABLE)
            commit = info.sha or ""
            files = tuple(_files(info))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _odd_answer(hub_id, repr(error)) from error
        if not _COMMIT.fullmatch(commit):
            raise _odd_answer(hub_id, f"commit {commit!r}"[:80])
        return HubModel(hub_id.repository, commit, files, kind)

    def read(self, model: HubModel, name: str, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of a file, by a range request."""
        file = model.file(name)
        stop = min(stop, file.nbytes)

        def ask() -> bytes:
            data = bytearray()
            with self.open(model, name, start, stop) as chunks:
                for chunk in chunks:
                    data += chunk
                    if len(data) >= stop - start:
                        break
            return bytes(data[: stop - start])

        return hub_call(self.retries, model.describe(name), ask)

    @contextmanager
    def open(
        self, model: HubModel, name: str, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """Stream bytes [start, stop) of a file, once and without retries.

        A server that ignores ranges is read from the beginning and the bytes before `start` are
        dropped. Raises huggingface_hub's and httpx2's errors, InvalidModelError for another size.
        """
        file = model.file(name)
        url = hf_hub_url(
            model.repository,
            name,
            repo_type=model.kind,
            revision=model.commit,
            endpoint=self.api.endpoint,
        )
        headers = build_hf_headers(token=self._token, library_name="bitbudget")
        headers["Accept-Encoding"] = "identity"
        if (start, stop) != (0, None):
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        timeout = httpx2.Timeout(_TIMEOUT_SECONDS)
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            _check_size(model, file, response)
            skip = 0 if response.status_code == _PARTIAL_CONTENT else start
            yield _skip(response.iter_bytes(), skip)


def _files(info: ModelInfo | DatasetInfo) -> Iterator[HubFile]:
    for sibling in info.siblings or []:
        if _PLAIN_NAME.fullmatch(sibling.rfilename):
            sha256 = None if sibling.lfs is None else sibling.lfs.sha256
            yield HubFile(sibling.rfilename, int(sibling.size or 0), sha256, sibling.blob_id or "")


def _odd_answer(hub_id: HubId, found: str) -> InvalidModelError:
    return InvalidModelError(
        where=str(hub_id),
        found=f"an answer about the model with {found}",
        expected="the Hub's model information",
        remedy="check that HF_ENDPOINT names a Hub",
    )


def _check_size(model: HubModel, file: HubFile, response: httpx2.Response) -> None:
    span = _RANGE_TOTAL.fullmatch(response.headers.get("Content-Range", ""))
    total = span[1] if span else response.headers.get("Content-Length")
    if total is not None and int(total) != file.nbytes:
        raise InvalidModelError(
            where=model.describe(file.name),
            found=f"{total} bytes on offer",
            expected=f"{file.nbytes}, as the Hub lists the file",
            remedy="try again; if it stays so, the mirror or proxy in between is at fault",
        )


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        if count < len(chunk):
            yield chunk[count:]
        count = max(0, count - len(chunk))
