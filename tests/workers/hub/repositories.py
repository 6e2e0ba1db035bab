"""What the test Hub stores: repositories of files under commits, and their git and LFS names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

LARGE_SUFFIXES = (".safetensors", ".bin", "tokenizer.json")


def git_blob_id(content: bytes) -> str:
    """The object id git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's own


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit; `large` ones live in LFS and are served from another origin."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.pointer_id

    @property
    def pointer_id(self) -> str:
        return git_blob_id(b"pointer " + self.sha256.encode() if self.large else self.content)

    def describe(self, path: str, *, key: str) -> dict[str, object]:
        """The entry of a model-info (`key` rfilename) or tree listing (`key` path)."""
        lfs = {"sha256": self.sha256, "oid": self.sha256, "size": len(self.content)}
        entry: dict[str, object] = {
            key: path,
            "type": "file",
            "size": len(self.content),
            "oid": self.pointer_id,
            "blobId": self.pointer_id,
        }
        return entry | ({"lfs": lfs | {"pointerSize": 134}} if self.large else {})


@dataclass
class Repository:
    """A model repository with a single branch; `token` guards a private one."""

    name: str
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, StoredFile], branch: str = "main") -> str:
        """Add `files` to the branch; returns the commit's id, which depends on its content."""
        parent = self.branches.get(branch, "")
        tree = dict(self.commits.get(parent, {})) | files
        names = repr(sorted((path, stored.etag) for path, stored in tree.items()))
        commit = hashlib.sha1((self.name + parent + names).encode()).hexdigest()  # noqa: S324
        self.commits[commit] = tree
        self.branches[branch] = commit
        return commit

    def add(self, branch: str = "main", /, **files: bytes) -> str:
        """Commit contents under plain names (`config__json` stands for `config.json`)."""
        return self.put({name.replace("__", "."): data for name, data in files.items()}, branch)

    def put(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit contents by path."""
        stored = {
            path: StoredFile(data, path.endswith(LARGE_SUFFIXES)) for path, data in files.items()
        }
        return self.commit(stored, branch)

    def put_folder(self, folder: Path) -> str:
        """Commit the files of a local folder."""
        return self.put({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch or commit id."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None
