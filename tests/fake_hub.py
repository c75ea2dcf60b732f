"""A small local Hub: repositories that are created, asked how to upload, and committed to, as huggingface_hub 2 does.

    with fake_hub.running(token="hf_secret") as hub:
        HfApi(endpoint=hub.url, token="hf_secret").upload_folder(...)
        hub.repos["owner/name"].files["model.safetensors"]       # the bytes that arrived and were committed
        hub.requests, hub.parts             # (method, path, Authorization header) of each; which part of the API it was

It keeps only what a client proves: the sha256 of a large file must be that of its bytes, and a commit that names a
large file that never arrived is refused. Large files come by Git LFS (batch, PUT, verify) or by Xet (a token, xorbs,
shards), whichever the client speaks; small ones stand in the commit itself. Xet's formats: huggingface.co/docs/xet,
pages upload-protocol, xorb, shard and api; compressed chunks are not read, so send bytes that do not compress.
`hub.refusals` = {"create": 403} answers that part of the API with this status and the Hub's words for it.
`hub.datasets` = {(name, commit, path): bytes} is what can be downloaded; names in `hub.gated` are refused, as the Hub
does where nobody accepted the terms. `in_its_place(monkeypatch, hub, cache)` makes huggingface_hub ask this server.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".model", ".bin", ".pt")  # what a new repository's .gitattributes gives to LFS
XET_TOKEN = "xet-write-token"
WORDS = {
    401: "Invalid credentials in Authorization header",
    403: "You don't have the rights to create a model under the namespace",
}
FILE_BLOCK, LAST = 48, b"\xff" * 32  # of a shard
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30


@dataclass
class Repo:
    """A repository as the server has it."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class Hub(http.server.ThreadingHTTPServer):
    """All that the server remembers."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.url = token, f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}  # large files by their sha256
        self.xorbs: dict[str, list[bytes]] = {}  # chunks by the hash of their xorb
        self.requests: list[tuple[str, str, str]] = []
        self.parts: list[str] = []
        self.refusals: dict[str, int] = {}
        self.datasets: dict[tuple[str, str, str], bytes] = {}
        self.gated: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request. What is not in ROUTES does not exist."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.server.requests.append((self.command, self.path, sent))
        self.body = self.read_body()
        for part, pattern, needs in ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {self.path.partition('?')[0]}")
            if not found:
                continue
            self.server.parts.append(part)
            wanted = {"hub": f"Bearer {self.server.token}", "xet": f"Bearer {XET_TOKEN}", "": sent}[needs]
            status = self.server.refusals.get(part) or (200 if sent == wanted else 401)
            if status != 200:
                return self.answer(status, {"error": WORDS.get(status, "no")}, {"X-Error-Message": WORDS.get(status)})
            return getattr(self, part)(*found.groups())
        self.answer(404, {"error": "Not found"})

    do_POST = do_PUT = do_HEAD = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, value: object, headers: dict[str, str | None] | None = None) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }.items():
            if text:
                self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def dataset(self, name: str, commit: str, path: str) -> None:
        raw = self.server.datasets.get((name, commit, path))
        if name in self.server.gated:
            return self.answer(401, {"error": f"Access to dataset {name} is restricted"}, {"X-Error-Code": "GatedRepo"})
        if raw is None:
            return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("ETag", f'"{hashlib.sha256(raw).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.server.repos
        if not known:
            self.server.repos[name] = Repo(private=asked.get("visibility") == "private")
        self.answer(409 if known else 200, {"url": f"{self.server.url}/{name}", "error": "You already created this"})

    def info(self, name: str) -> None:
        repo = self.server.repos.get(name)
        if repo is None:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.answer(
            200, {"id": name, "sha": f"{len(repo.commits):040x}", "siblings": [], "private": repo.private}
        )

    def validate(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str) -> None:
        modes = []
        for file in json.loads(self.body)["files"]:
            before = self.server.repos[name].files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid(before, mode)})
        self.answer(200, {"files": modes})

    def batch(self, name: str) -> None:
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.stored:
                upload = {"href": f"{self.server.url}/storage/{item['oid']}", "header": {}}
                item["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/{name}/verify"}}
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, sha256: str) -> None:
        right = hashlib.sha256(self.body).hexdigest() == sha256
        if right:
            self.server.stored[sha256] = self.body
        self.answer(200 if right else 400, {})

    def verify(self, name: str) -> None:
        item = json.loads(self.body)
        right = len(self.server.stored.get(item["oid"], b"")) == item["size"]
        self.answer(200 if right else 404, {})

    def xet_token(self, name: str) -> None:
        known = {"accessToken": XET_TOKEN, "exp": int(time.time()) + 3600, "casUrl": self.server.url}
        self.answer(200, known)

    def chunk(self, _: str) -> None:
        self.answer(404, {})  # no chunk is known already

    def xorb(self, name: str) -> None:
        self.server.xorbs[name] = list(chunks(self.body))
        self.answer(200, {"was_inserted": True})

    def shard(self) -> None:
        for sha256, parts in shard_files(self.body):
            raw = b"".join(part for name, first, end in parts for part in self.server.xorbs[name][first:end])
            if hashlib.sha256(raw).hexdigest() != sha256:
                return self.answer(400, {"error": "these chunks are another file"})
            self.server.stored[sha256] = raw
        return self.answer(200, {"result": 1})

    def commit(self, name: str) -> None:
        header, *operations = map(json.loads, self.body.splitlines())
        new = {}
        for operation in operations:
            value = operation["value"]
            large = operation["key"] == "lfsFile"
            raw = self.server.stored.get(value["oid"]) if large else base64.b64decode(value["content"])
            if raw is None:
                return self.answer(400, {"error": f"{value['path']} was never uploaded"})
            new[value["path"]] = raw
        repo = self.server.repos[name]
        repo.files |= new
        repo.commits.append(header["value"]["summary"])
        made = f"{len(repo.commits):040x}"
        return self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{made}", "commitOid": made})

    def log_message(self, *_: object) -> None:
        pass


NAME = "([^/]+/[^/]+)"
ROUTES = (  # what it is called, method and path, whose token it wants
    ("create", "POST /api/repos/create", "hub"),
    ("validate", "POST /api/validate-yaml", "hub"),
    ("info", f"GET /api/models/{NAME}(?:/revision/main)?", "hub"),
    ("preupload", f"POST /api/models/{NAME}/preupload/main", "hub"),
    ("commit", f"POST /api/models/{NAME}/commit/main", "hub"),
    ("batch", f"POST /{NAME}[.]git/info/lfs/objects/batch", "hub"),
    ("dataset", f"(?:GET|HEAD) /datasets/{NAME}/resolve/([^/]+)/(.+)", ""),
    ("put", "PUT /storage/([0-9a-f]{64})", ""),  # a signed address of another server, as the real one's
    ("verify", f"POST /{NAME}/verify", "hub"),
    ("xet_token", f"GET /api/models/{NAME}/xet-write-token/main", "hub"),
    ("chunk", "GET /v1/chunks/[^/]+/([0-9a-f]{64})", "xet"),
    ("xorb", "POST /v1/xorbs/default/([0-9a-f]{64})", "xet"),
    ("shard", "POST /v1/shards", "xet"),
)


def oid(raw: bytes | None, mode: str) -> str | None:
    """What the Hub calls a file's content: git's hash of small ones, sha256 of large ones."""
    if raw is None:
        return None
    return hashlib.sha256(raw).hexdigest() if mode == "lfs" else hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


def chunks(xorb: bytes) -> Iterator[bytes]:
    """The chunks of a xorb: 8 bytes of header (version, size in 3, compression, size unpacked in 3), then the bytes."""
    place = 0
    while place < len(xorb):
        size, kind = int.from_bytes(xorb[place + 1 : place + 4], "little"), xorb[place + 4]
        if kind:
            raise ValueError("this server does not unpack chunks; send bytes that do not compress")
        yield xorb[place + 8 : place + 8 + size]
        place += 8 + size


def shard_files(shard: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """(sha256, [(xorb, first chunk, end), ...]) of each file in a shard: blocks of 48 bytes after a header of 48."""
    blocks = iter(shard[place : place + FILE_BLOCK] for place in range(FILE_BLOCK, len(shard), FILE_BLOCK))
    for head in blocks:
        if head[:32] == LAST:
            return
        flags, count = struct.unpack_from("<II", head, 32)
        entries = [next(blocks) for _ in range(count)]
        for _ in range(count if flags & VERIFIED else 0):
            next(blocks)
        sha256 = hexed(next(blocks)) if flags & WITH_SHA256 else ""
        yield sha256, [(hexed(entry), *struct.unpack_from("<II", entry, 40)) for entry in entries]


def hexed(raw: bytes) -> str:
    """Xet's spelling of a hash: four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", raw))


@contextlib.contextmanager
def running(token: str) -> Iterator[Hub]:
    """The server, in a thread of this process, accepting one token."""
    hub = Hub(token)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def in_its_place(monkeypatch: Any, hub: Hub, cache: Path) -> None:
    """Let huggingface_hub in this process ask `hub`, with a cache of its own and no token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the server is on this machine
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
