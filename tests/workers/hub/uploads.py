"""The test Hub's side of an upload: preupload, LFS batch, objects, verification, commit."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.workers.hub.repositories import LARGE_SUFFIXES, StoredFile


class Uploads:
    """Objects sent so far; a commit may only name large files whose bytes arrived intact."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.verified: list[str] = []

    def preupload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Say which files go through LFS."""
        files = [
            {
                "path": entry["path"],
                "uploadMode": "lfs" if entry["path"].endswith(LARGE_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for entry in wanted["files"]
        ]
        return {"files": files}

    def batch(self, wanted: dict[str, Any], cdn: str, endpoint: str) -> dict[str, Any]:
        """Say where each object is put; an object that is here needs no action."""
        objects = []
        for entry in wanted["objects"]:
            plan = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.objects:
                plan["actions"] = {
                    "upload": {"href": f"{cdn}/upload/{entry['oid']}", "header": {}},
                    "verify": {"href": f"{endpoint}/lfs/verify"},
                }
            objects.append(plan)
        return {"transfer": "basic", "objects": objects}

    def store(self, sha256: str, content: bytes) -> tuple[int, bytes]:
        """Keep an object whose bytes have the digest it is put under."""
        if hashlib.sha256(content).hexdigest() != sha256:
            return 400, b"the bytes do not have this digest"
        self.objects[sha256] = content
        return 200, b""

    def verify(self, wanted: dict[str, Any]) -> tuple[int, bytes]:
        """Confirm that an object arrived."""
        if len(self.objects.get(wanted["oid"], b"")) != wanted["size"]:
            return 404, b"no such object"
        self.verified.append(wanted["oid"])
        return 200, b""

    def read_commit(self, body: bytes) -> tuple[str, dict[str, StoredFile]]:
        """Read the lines of a commit: its summary and its files."""
        summary = ""
        files: dict[str, StoredFile] = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                summary = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), large=False)
            else:
                files[value["path"]] = StoredFile(self.objects[value["oid"]], large=True)
        return summary, files
