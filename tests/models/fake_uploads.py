"""What the Hub does for an upload: repositories, large files, commits; and its ways to refuse."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


@dataclass
class Answer:
    """Status, headers and JSON of one answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repository:
    """Files by branch and name, and who may see them."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)


@dataclass
class Uploads:
    """The writing half of a Hub.

    Attributes:
        token: The one that is known.
        owner: Whose repositories that token may write to.
        address: Of the hub, for the places it sends large files to.
        fails: Statuses by ending of a path: those requests are refused so.
        message: What a refusal says in its header.
        stored: Large files by their SHA-256.
        bodies: Everything that was sent, for a test to search.
    """

    token: str
    owner: str = "somebody"
    address: str = ""
    fails: dict[str, int] = field(default_factory=dict)
    message: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[repo_id].branches[branch]

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> Answer:
        """Answer one request as the Hub does."""
        self.bodies.append(body)
        for ending, status in self.fails.items():
            if path.endswith(ending):
                return Answer(status, headers={"X-Error-Message": self.message})
        if method == "PUT" and path.startswith("/stored/"):
            return self._store(path.removeprefix("/stored/"), body)
        if authorization != f"Bearer {self.token}":
            return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if path == "/api/validate-yaml":
            return Answer(body={"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._of_repository(method, path.removeprefix("/api/models/"), body)

    def _of_repository(self, method: str, path: str, body: bytes) -> Answer:
        owner, name, *rest = path.split("/", 3)
        repository = self.repositories.get(f"{owner}/{name}")
        if repository is None:
            return Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if not rest:
            return Answer(body={"id": f"{owner}/{name}", "sha": COMMIT, "private": repository.private, "siblings": []})
        action, branch = rest
        if method != "POST" or owner != self.owner:
            return Answer(403, headers={"X-Error-Message": f"no rights for {owner}"})
        if action == "branch":
            repository.branches.setdefault(branch, {})
            return Answer(body={})
        if branch not in repository.branches:
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return _upload_modes(json.loads(body)) if action == "preupload" else self._commit(f"{owner}/{name}", branch, body)

    def _create(self, asked: dict[str, Any]) -> Answer:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != self.owner:
            return Answer(403, headers={"X-Error-Message": f"no rights for {asked['organization']}"})
        if repo_id in self.repositories:
            return Answer(409, {"error": "You already created this model repo"})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))  # older clients ask by the second name
        self.repositories[repo_id] = Repository(private)
        return Answer(body={"url": f"{self.address}/{repo_id}", "name": repo_id})

    def _batch(self, asked: dict[str, Any]) -> Answer:
        objects: list[dict[str, Any]] = []
        for entry in asked["objects"]:
            place = {"upload": {"href": f"{self.address}/stored/{entry['oid']}"}}
            objects.append({**entry} if entry["oid"] in self.stored else {**entry, "actions": place})
        return Answer(body={"transfer": "basic", "objects": objects})

    def _store(self, digest: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != digest:
            return Answer(400)
        self.stored[digest] = body
        return Answer()

    def _commit(self, repo_id: str, branch: str, body: bytes) -> Answer:
        repository = self.repositories[repo_id]
        header, *operations = (json.loads(line) for line in body.splitlines())
        for operation in operations:
            value = operation["value"]
            is_large = operation["key"] == "lfsFile"
            content = self.stored[value["oid"]] if is_large else base64.b64decode(value["content"])
            repository.branches[branch][value["path"]] = content
        repository.commits.append(header["value"]["summary"])
        return Answer(body={"commitUrl": f"{self.address}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})


def _upload_modes(asked: dict[str, Any]) -> Answer:
    names = [str(file["path"]) for file in asked["files"]]
    modes = {name: "lfs" if name.endswith((".safetensors", ".gguf")) else "regular" for name in names}
    return Answer(body={"files": [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]})
