"""A local server that speaks as OpenAI and as Zhipu (chat without streaming, models, files, batches), and misbehaves.

    with fake_api.running(delay=0.1) as api:
        client = AsyncOpenAI(base_url=api.url, api_key="any")          # or ZhipuAI(base_url=api.zhipu_url, ...)
        api.script(rules=[{"match": {"nth": 3}, "do": "rate_limit", "retry_after": 1}])
        api.wait(answered=10); api.stats(); api.reset()

It is a process of its own: a client that is killed does not take the counts with it, and a benchmark does not measure
the server's CPU. It ends when its stdin closes, so it cannot outlive the tests, and it does not hear Ctrl-C.

OPTIONS, to `running` or `script` (only those named change; `reset` brings back those of `running`, and zeroes counts):
  delay   seconds before a chat reply                    reply  "echo" (a hash of the request), "judge" (it ends in
  keys    the accepted API keys; None: any                      [[A]], [[B]] or [[C]], by that hash), "first" (always
  models  {id: {"shutdown_date": ..}}, for /models only         [[A]]: a judge that prefers a place), or "text:..."
  usage   e.g. {"completion_tokens": 7}                  rules, batch: see below
RULES: the first rule that fits a request is applied: {"match": {..}, "do": name, "times": at most so often, ...}.
  Conditions of `match`, all of which must hold: contains (in the raw body), api ("openai"/"zhipu"), model, on ("chat",
  the default; stored, models, model, upload, content, delete, create, batches, batch, cancel; or "any"), first_per_key:
  n (the first n arrivals of a key). Among the requests that pass these: nth: n, every: n, or seeded_share: p with seed
  (drawn by key and arrival, so it does not matter in which order concurrent requests come; a retry draws again).
  Any rule may have delay (seconds) and headers. What it may do:
  errors in the form of the provider  ERRORS below, or a Zhipu code such as "1304"; with message, retry_after or
                          retry_after_ms (numbers), retry_after_date (seconds from now, sent as a date). "concurrency"
                          takes limit: 429 while more than so many requests of a model are in flight; "echo_key"
                          repeats the Authorization header.
  another reply           SHAPES below; any of content, finish_reason, refusal, model, usage may stand in the rule. For
                          Zhipu content_filter is the error 1301; its filter on output is finish_reason "sensitive".
  trouble on the wire     hang (never works, never answers), hang_after_work, drop (works, closes without a reply), cut
                          (works, half of the body), reset (the same with a TCP reset), invalid_json (half, as if all)
  slow                    nothing but its delay
BATCHES go one state on with each retrieve. batch = {"outcome": completed/expired/failed/cancelled, "hold": polls more
  in in_progress, "errors": {custom_id: status}, "missing": [custom_id], "undone": [custom_id] (not reached when it
  expired or was cancelled; by default the second half), "shapes": {custom_id: shape}}, for batches created afterwards.
  Output comes in reverse order. A file without lines is null.
COUNTS, in all and by key (sha256 of the canonical body without nulls, store and metadata: the same request has the same
  key from either SDK and in a batch): arrived (body read), paid (a reply was made, received or not), answered (a 200
  was written in full), batched. `k` is the metadata.k sent last. Who leaves while waiting has paid, and a stored answer
  is then in the list at once: no test has to wait for it. `hang` and errors are not paid.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial

from aiohttp import web

OPTIONS = {"delay": 0.0, "reply": "echo", "keys": None, "models": None, "usage": {}, "rules": [], "batch": {}}
MODELS = {"gpt-4o": {}, "gpt-4o-mini": {}, "glm-4-flash": {}}
ERRORS = {  # name: OpenAI's status, type, code; Zhipu's code
    "rate_limit": (429, "requests", "rate_limit_exceeded", "1302"),
    "concurrency": (429, "requests", "rate_limit_exceeded", "1302"),
    "quota": (429, "insufficient_quota", "insufficient_quota", "1113"),
    "overload": (503, "server_error", "overloaded", "1305"),
    "server_error": (500, "server_error", None, "500"),
    "unavailable": (503, "server_error", None, "503"),
    "bad_request": (400, "invalid_request_error", "unsupported_parameter", "1210"),
    "too_long": (400, "invalid_request_error", "context_length_exceeded", "1261"),
    "no_model": (404, "invalid_request_error", "model_not_found", "1211"),
    "not_found": (404, "invalid_request_error", None, "404"),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key", "1000"),
    "echo_key": (401, "invalid_request_error", "invalid_api_key", "1000"),
}
MESSAGES = {"bad_request": "Unsupported parameter: 'temperature' is not supported with this model."}
ZHIPU_STATUS = {"500": 500, "503": 503, "404": 404, "1234": 500, "1301": 400}  # else by the code's first digits
ZHIPU_MESSAGES = {
    "1000": "身份验证失败",
    "1113": "您的账户已欠费，请充值后重试",
    "1210": "API 调用参数有误，请检查文档",
    "1211": "模型不存在，请检查模型代码",
    "1261": "Prompt 超长",
    "1301": "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合",
    "1302": "您的账户已达到速率限制，请您控制请求频率",
    "1305": "该模型当前访问量过大，请您稍后再试",
}
SHAPES = {
    "reply": {},
    "empty": {"content": ""},
    "null": {"content": None},
    "length": {"finish_reason": "length"},
    "content_filter": {"content": None, "finish_reason": "content_filter"},
    "refusal": {"content": None, "refusal": "I'm sorry, I can't help with that."},
    "wrong_model": {"model": "another-model-2026"},
    "no_choices": {},
}
WIRE = {"hang", "hang_after_work", "drop", "cut", "reset", "invalid_json", "slow"}
ENDS = {"completed", "expired", "failed", "cancelled"}


class Refused(Exception):
    """An error reply: its status, body and headers."""


@dataclass
class Call:
    """A request that arrived."""

    web: web.Request
    on: str
    api: str
    body: dict
    raw: bytes
    key: str
    arrival: int = 0  # the how manyth of its key
    rule: dict = field(default_factory=dict)

    @property
    def bearer(self) -> str:
        return self.web.headers.get("Authorization", "")


class State:
    """All that the server remembers."""

    def __init__(self, defaults: dict):
        self.defaults = defaults
        self.changed = asyncio.Event()
        self.in_flight, self.busy = 0, Counter()
        self.reset()

    def reset(self) -> None:
        self.options = OPTIONS | self.defaults
        self.rules = prepared(self.options["rules"])
        self.totals, self.statuses, self.faults, self.endpoints = Counter(), Counter(), Counter(), Counter()
        self.by_key: dict[str, dict] = {}
        self.times, self.bodies, self.stored, self.peers = [], [], [], set()
        self.files: dict[str, dict] = {}
        self.batches: dict[str, dict] = {}
        self.max_in_flight, self.made = self.in_flight, 0

    def count(self, what: str, call: Call) -> None:
        self.totals[what] += 1
        tally = self.by_key.setdefault(call.key, dict.fromkeys(("arrived", "paid", "answered", "batched"), 0))
        tally[what] += 1
        self.pulse()

    def pulse(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def new_id(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made:08d}"

    def stats(self) -> dict:
        counted = {name: self.totals[name] for name in ("arrived", "paid", "answered", "batched")}
        return counted | {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "connections": len(self.peers),
            "stored": len(self.stored),
            "statuses": self.statuses,
            "faults": self.faults,
            "endpoints": self.endpoints,
            "by_key": self.by_key,
            "times": self.times,
            "bodies": self.bodies,
            "cpu_s": time.process_time(),
        }


def canonical_key(body: dict) -> str:
    kept = {name: value for name, value in body.items() if value is not None and name not in ("store", "metadata")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# Rules


def prepared(rules: list[dict]) -> list[dict]:
    """The rules with their counters. ValueError for a name that does not exist: a misspelt fault must not pass."""
    for rule in rules:
        do = rule["do"]
        if do not in {*ERRORS, *SHAPES, *WIRE} and not (do.isdigit() and len(do) == 4):
            raise ValueError(f"no such fault: {do!r}")
        known = {"contains", "api", "model", "on", "first_per_key", "nth", "every", "seeded_share", "seed"}
        if unknown := rule.get("match", {}).keys() - known:
            raise ValueError(f"no such condition: {unknown}")
    return [rule | {"seen": 0, "done": 0} for rule in rules]


def pick_rule(state: State, call: Call) -> dict:
    """The first rule that fits; every rule counts what it sees, whether or not an earlier one was applied."""
    picked: dict = {}
    for rule in state.rules:
        if fits(state, rule, call) and not picked and rule["done"] < (rule.get("times") or float("inf")):
            rule["done"] += 1
            state.faults[rule["do"]] += 1
            picked = rule
    return picked


def fits(state: State, rule: dict, call: Call) -> bool:
    match = rule.get("match", {})
    if match.get("on", "chat") not in (call.on, "any") or match.get("api", call.api) != call.api:
        return False
    if "contains" in match and match["contains"] not in call.raw.decode(errors="replace"):
        return False
    if match.get("model", call.body.get("model")) != call.body.get("model"):
        return False
    if call.arrival > match.get("first_per_key", call.arrival):
        return False
    if rule["do"] == "concurrency" and state.busy[call.body.get("model")] <= rule["limit"]:
        return False
    rule["seen"] += 1
    if "seeded_share" in match:
        draw = hashlib.sha256(f"{match.get('seed', 0)} {call.key} {call.arrival}".encode()).digest()
        return int.from_bytes(draw[:4], "big") < match["seeded_share"] * 2**32
    return rule["seen"] == match.get("nth", rule["seen"]) and rule["seen"] % match.get("every", 1) == 0


# Replies


def fail(call: Call, name: str, message: str = "") -> Refused:
    """The error `name` (of ERRORS, or a Zhipu code) in the form of the provider that was asked."""
    status, kind, code, zhipu_code = ERRORS.get(name, (400, None, None, name))
    rule = call.rule
    message = rule.get("message") or message or MESSAGES.get(name, "")
    if name == "concurrency":
        message = f"Rate limit reached: at most {rule['limit']} requests in flight"
    if name == "echo_key":
        message = f"Incorrect API key provided: {call.bearer}"
    if call.api == "openai" and name in ERRORS:
        param = "temperature" if name == "bad_request" else None
        error = {"message": message or name.replace("_", " "), "type": kind, "param": param, "code": code}
    else:
        status = ZHIPU_STATUS.get(zhipu_code) or {"10": 401, "11": 429, "13": 429}.get(zhipu_code[:2], 400)
        error = {"code": zhipu_code, "message": message or ZHIPU_MESSAGES.get(zhipu_code, "API 调用错误")}
    headers = {"Retry-After": rule.get("retry_after"), "retry-after-ms": rule.get("retry_after_ms")}
    if "retry_after_date" in rule:
        headers["Retry-After"] = formatdate(time.time() + rule["retry_after_date"], usegmt=True)
    return Refused(status, {"error": error}, {name: str(value) for name, value in headers.items() if value is not None})


def completion(state: State, api: str, body: dict, key: str, shape: dict) -> dict:
    """A reply to `body`; `shape` says what differs from an ordinary one."""
    mode = state.options["reply"]
    text = {
        "echo": f"reply to {key[:12]}",
        "judge": f"Both were read ({key[:6]}). [[{'ABC'[int(key[:8], 16) % 3]}]]",
        "first": "The first is better. [[A]]",
    }.get(mode, mode.removeprefix("text:"))
    message = {"role": "assistant", "content": shape.get("content", text)}
    if api == "openai":
        message["refusal"] = shape.get("refusal")
    prompt = sum(len(str(said.get("content"))) for said in body.get("messages", ())) // 4 + 3
    usage = {"prompt_tokens": prompt, "completion_tokens": len(message["content"] or "") // 4 + 1}
    usage |= state.options["usage"] | shape.get("usage", {})
    usage.setdefault("total_tokens", usage["prompt_tokens"] + usage["completion_tokens"])
    choice = {"index": 0, "message": message, "finish_reason": shape.get("finish_reason", "stop")}
    reply = {
        "id": state.new_id("chatcmpl-" if api == "openai" else "2026"),
        "created": int(time.time()),
        "model": shape.get("model", body.get("model")),
        "choices": [] if shape.get("do") == "no_choices" else [choice],
        "usage": usage,
    }
    if api == "openai":
        return reply | {"object": "chat.completion", "system_fingerprint": "fp_fake"}
    return reply | {"request_id": reply["id"]}


def chat(state: State, call: Call) -> dict:
    if not isinstance(call.body.get("messages"), list) or call.body.get("stream"):
        raise fail(call, "bad_request", "messages must be a list, and there is no streaming here")
    do = call.rule.get("do")
    if do == "content_filter" and call.api == "zhipu":
        raise fail(call, "1301")
    reply = completion(state, call.api, call.body, call.key, SHAPES.get(do, {}) | call.rule if do in SHAPES else {})
    if call.body.get("store") and call.api == "openai":
        state.stored.append(reply | {"metadata": call.body.get("metadata") or {}})
    return reply


def page(call: Call, items: list[dict], default: int = 20) -> dict:
    """The part of `items` that limit and after ask for."""
    query = call.web.query
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    part = items[start : start + int(query.get("limit", default))]
    ends = {"first_id": part[0]["id"], "last_id": part[-1]["id"]} if part else {"first_id": None, "last_id": None}
    return {"object": "list", "data": part, "has_more": start + len(part) < len(items)} | ends


def stored(state: State, call: Call) -> dict:
    query = call.web.query
    wanted = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
    found = [item for item in state.stored if wanted.items() <= item["metadata"].items()]
    found = [item for item in found if query.get("model", item["model"]) == item["model"]]
    return page(call, found[::-1] if query.get("order") == "desc" else found)


def model_list(state: State) -> dict[str, dict]:
    models = MODELS if state.options["models"] is None else state.options["models"]
    return {
        name: {"id": name, "object": "model", "created": 1700000000, "owned_by": "fake"} | more
        for name, more in models.items()
    }


def models(state: State, call: Call) -> dict:
    return {"object": "list", "data": list(model_list(state).values())}


def model(state: State, call: Call) -> dict:
    name = call.web.match_info["id"]
    if name not in (known := model_list(state)):
        raise fail(call, "no_model", f"The model '{name}' does not exist")
    return known[name]


# Files and batches


def add_file(state: State, api: str, purpose: str, name: str, content: bytes) -> dict:
    made = {"id": state.new_id("file-"), "object": "file", "bytes": len(content), "created_at": int(time.time())}
    made |= {"filename": name, "purpose": purpose, "status": "processed"}
    state.files[made["id"]] = {"api": api, "view": made, "content": content}
    return made


def upload(state: State, call: Call) -> dict:
    if call.body.get("purpose") != "batch" or not call.body.get("filename"):
        raise fail(call, "bad_request", f"purpose must be batch and a file be there, got {call.body}")
    return add_file(state, call.api, "batch", call.body["filename"], call.raw)


def find(state: State, call: Call, where: str) -> dict:
    name = call.web.match_info["id"]
    found = getattr(state, where).get(name)
    if found is None or found["api"] != call.api:
        raise fail(call, "not_found", f"no such object: {name}")
    return found


def content(state: State, call: Call) -> bytes:
    return find(state, call, "files")["content"]


def delete(state: State, call: Call) -> dict:
    gone = find(state, call, "files")["view"]["id"]
    del state.files[gone]
    return {"id": gone, "object": "file", "deleted": True}


def problems(lines: list[dict], endpoint: str) -> list[dict]:
    """What OpenAI's validation finds in an input file."""
    found, ids = [], set()
    for number, line in enumerate(lines, 1):
        wrong = ["duplicate_custom_id"] if line.get("custom_id") in ids else []
        wrong += ["invalid_url"] if line.get("url") != endpoint or line.get("method") != "POST" else []
        wrong += ["mismatched_model"] if line["body"].get("model") != lines[0]["body"].get("model") else []
        found += [{"code": code, "line": number, "message": code, "param": None} for code in wrong]
        ids.add(line.get("custom_id"))
    return found or ([] if lines else [{"code": "empty_file", "line": None, "message": "empty", "param": None}])


def create(state: State, call: Call) -> dict:
    body, source = call.body, state.files.get(call.body.get("input_file_id"))
    endpoint = "/v1/chat/completions" if call.api == "openai" else "/v4/chat/completions"
    if source is None or source["api"] != call.api:
        raise fail(call, "not_found", f"no such file: {body.get('input_file_id')}")
    lines = [json.loads(line) for line in source["content"].splitlines() if line.strip()]
    if body.get("endpoint") != endpoint or (call.api == "openai" and body.get("completion_window") != "24h"):
        raise fail(call, "bad_request", f"endpoint must be {endpoint}, completion_window 24h")
    wrong = problems(lines, endpoint)
    if wrong and call.api == "zhipu":  # it says so at once; OpenAI takes the batch, and lets it fail
        raise fail(call, "bad_request", f"{wrong[0]}")
    view = {"id": state.new_id("batch_"), "object": "batch", "status": "validating", "created_at": int(time.time())}
    view |= {name: body.get(name) for name in ("endpoint", "input_file_id", "metadata")}
    view |= {"completion_window": body.get("completion_window") or "24h", "output_file_id": None, "error_file_id": None}
    view |= {"errors": None, "request_counts": {"total": 0, "completed": 0, "failed": 0}}
    kept = {"api": call.api, "view": view, "lines": lines, "wrong": wrong, "plan": dict(state.options["batch"])}
    state.batches[view["id"]] = kept | {"delete_input": body.get("auto_delete_input_file", False)}
    return view


def batches(state: State, call: Call) -> dict:
    return page(call, [job["view"] for job in reversed(state.batches.values()) if job["api"] == call.api])


def batch(state: State, call: Call) -> dict:
    """One state on; what a client sees is where it came to."""
    job = find(state, call, "batches")
    view, plan, outcome = job["view"], job["plan"], job["plan"].get("outcome", "completed")
    status = view["status"]
    if status == "validating":
        status = "failed" if job["wrong"] or outcome == "failed" else "in_progress"
    elif status == "in_progress":
        plan["hold"] = plan.get("hold", 0) - 1
        status = "finalizing" if plan["hold"] < 0 else status
    elif status == "finalizing":
        status = outcome
    elif status == "cancelling":
        status = "cancelled"
    if status != view["status"]:
        view |= {"status": status, f"{status}_at": int(time.time())}
        if status == "failed":
            wrong = job["wrong"] or [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
            view["errors"] = {"object": "list", "data": wrong}
        elif status in ENDS:
            finish(state, job, status)
    return view


def finish(state: State, job: dict, status: str) -> None:
    """Write the output file and the error file, each only if there is a line for it."""
    view, plan, api = job["view"], job["plan"], job["api"]
    ids = [line["custom_id"] for line in job["lines"]]
    reached = len(ids) if status == "completed" else len(ids) // 2 if "in_progress_at" in view else 0
    undone = plan.get("undone", ids[reached:]) if status != "completed" else []
    out, wrong, used = [], [], Counter()
    for line in reversed(job["lines"]):
        name, errors = line["custom_id"], plan.get("errors", {})
        record = {"id": state.new_id("batch_req_"), "custom_id": name, "response": None, "error": None}
        if name in plan.get("missing", ()):
            continue
        if name in undone:
            wrong.append(record | {"error": {"code": f"batch_{status}", "message": "This request was not executed."}})
            continue
        key = canonical_key(line["body"])
        reply = completion(state, api, line["body"], key, plan.get("shapes", {}).get(name, {}))
        if code := errors.get(name):
            error = {"message": "scripted", "type": "error", "param": None, "code": None}
            reply = {"error": error if api == "openai" else {"code": "1234", "message": "scripted"}}
        else:
            used.update(reply["usage"])
            state.count("batched", Call(None, "line", api, line["body"], b"", key))
        record["response"] = {"status_code": code or 200, "request_id": record["id"], "body": reply}
        (wrong if code else out).append(record)
    for name, records in (("output_file_id", out), ("error_file_id", wrong)):
        if records:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            view[name] = add_file(state, api, "batch_output", f"{view['id']}_{name}.jsonl", text.encode())["id"]
    view["request_counts"] = {"total": len(ids), "completed": len(out), "failed": len(wrong)}
    view["usage"] = {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
    view["usage"] |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    view["usage"]["total_tokens"] = used["total_tokens"]
    if job["delete_input"]:
        state.files.pop(view["input_file_id"], None)


def cancel(state: State, call: Call) -> dict:
    view = find(state, call, "batches")["view"]
    if view["status"] in ENDS:
        raise fail(call, "bad_request", f"a {view['status']} batch cannot be cancelled")
    view |= {"status": "cancelling", "cancelling_at": int(time.time())}
    return view


# The server


async def receive(state: State, on: str, request: web.Request) -> Call:
    """Read a request and count it: from here on it has arrived."""
    body: dict = {}
    raw = b""
    if request.content_type.startswith("multipart/"):
        async for part in await request.multipart():
            if part.name == "file":
                raw, body["filename"] = bytes(await part.read()), part.filename
            else:
                body[part.name] = await part.text()
    elif raw := await request.read():
        body = json.loads(raw)
    api = "zhipu" if request.path.startswith("/api/") else "openai"
    key = canonical_key(body) if on == "chat" else f"{request.method} {request.path}"
    call = Call(request, on, api, body, raw, key)
    state.endpoints[on] += 1
    if peer := request.get_extra_info("peername"):  # none if it has left already
        state.peers.add(peer)
    if on == "chat":
        state.times.append(time.monotonic())
        state.count("arrived", call)
        tally = state.by_key[key]
        call.arrival = tally["arrived"]
        if (body.get("metadata") or {}).get("k"):
            tally["k"] = body["metadata"]["k"]
        if len(state.bodies) < 50:
            state.bodies.append(body)
    return call


def welcome(bearer: str, keys: list[str] | None) -> bool:
    return bearer.startswith("Bearer ") and (keys is None or bearer[7:] in keys)


async def serve(state: State, on: str, work: Callable, request: web.Request) -> web.StreamResponse:
    """Count the request, choose what goes wrong, do the work and reply."""
    call = await receive(state, on, request)
    state.in_flight += 1
    model, left = call.body.get("model"), False
    state.busy[model] += 1
    state.max_in_flight = max(state.max_in_flight, state.in_flight)
    try:
        rule = call.rule = pick_rule(state, call)
        do, wait = rule.get("do", ""), rule.get("delay", 0)
        try:
            if not welcome(call.bearer, state.options["keys"]):
                raise fail(call, "unauthorized")
            if do == "hang":
                await asyncio.Future()
            if do in ERRORS or do.isdigit():
                await asyncio.sleep(wait)
                raise fail(call, do)
            reply = await worked(state, call, work, wait)
            state.busy[model], left = state.busy[model] - 1, True  # as servers do: before the reply can be heard of
            return await deliver(state, call, 200, reply, rule.get("headers", {}), do)
        except Refused as refused:
            status, body, headers = refused.args
            return await deliver(state, call, status, body, headers | rule.get("headers", {}), "")
    finally:
        state.in_flight -= 1
        state.busy[model] -= not left
        state.pulse()


async def worked(state: State, call: Call, work: Callable, wait: float) -> dict | bytes:
    """What `work` gives after the delay. Whoever leaves before (aiohttp cancels us) has paid for it all the same."""
    try:
        if wait := wait + (state.options["delay"] if call.on == "chat" else 0):
            await asyncio.sleep(wait)
    finally:
        reply = work(state, call)
        if call.on == "chat":
            state.count("paid", call)
    return reply


async def deliver(state: State, call: Call, status: int, reply: dict | bytes, headers: dict, do: str):
    """Write the reply, or what the fault leaves of it."""
    if do == "hang_after_work":
        await asyncio.Future()
    request = call.web
    body = reply if isinstance(reply, bytes) else json.dumps(reply, ensure_ascii=False).encode()
    kind = "application/octet-stream" if isinstance(reply, bytes) else "application/json"
    headers = {"Content-Type": kind, "x-request-id": state.new_id("req_")} | headers
    if call.api == "openai":
        left = max(0, 10_000 - state.totals["arrived"])
        headers |= {"x-ratelimit-limit-requests": "10000", "x-ratelimit-remaining-requests": str(left)}
        headers |= {"x-ratelimit-limit-tokens": "2000000", "x-ratelimit-remaining-tokens": str(left * 200)}
    if do in ("drop", "cut", "reset"):
        stream = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
        if do != "drop":
            await stream.prepare(request)
            await stream.write(body[: len(body) // 2])
        if do == "reset":  # linger for 0 seconds: the kernel closes with RST and not with FIN
            request.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        request.transport.abort()
        return stream
    if do == "invalid_json":
        body = body[: len(body) // 2]
    response = web.Response(status=status, body=body, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    state.statuses[str(status)] += 1
    if call.on == "chat" and status == 200 and do != "invalid_json":
        state.count("answered", call)
    return response


async def control(state: State, request: web.Request) -> web.Response:
    """/_control/stats, script, reset, wait: what the handle asks."""
    what, sent = request.match_info["what"], await request.json()
    if what == "reset":
        state.reset()
    elif what == "script":
        try:
            if unknown := sent.keys() - OPTIONS.keys():
                raise ValueError(f"no such option: {unknown}")
            rules = prepared(sent["rules"]) if "rules" in sent else state.rules
        except (ValueError, KeyError) as error:
            return web.json_response({"error": repr(error)})
        state.options, state.rules = state.options | sent, rules
    elif what == "wait":
        limit = sent.pop("in_flight", float("inf"))
        try:
            async with asyncio.timeout(sent.pop("timeout")):
                while state.in_flight > limit or any(state.totals[name] < least for name, least in sent.items()):
                    await state.changed.wait()
        except TimeoutError:
            return web.json_response({"error": f"waited in vain for {sent}, in_flight <= {limit}: {state.stats()}"})
    return web.json_response(state.stats() if what == "stats" else {})


def application(state: State) -> web.Application:
    app = web.Application(client_max_size=2**28)
    app.router.add_post("/_control/{what}", partial(control, state))
    for root in ("/v1", "/api/paas/v4"):
        for method, path, work in (
            ("POST", "/chat/completions", chat),
            ("GET", "/chat/completions", stored),
            ("GET", "/models", models),
            ("GET", "/models/{id}", model),
            ("POST", "/files", upload),
            ("GET", "/files/{id}/content", content),
            ("DELETE", "/files/{id}", delete),
            ("POST", "/batches", create),
            ("GET", "/batches", batches),
            ("GET", "/batches/{id}", batch),
            ("POST", "/batches/{id}/cancel", cancel),
        ):
            app.router.add_route(method, root + path, partial(serve, state, work.__name__, work))
    return app


async def main(defaults: dict) -> None:
    state = State(defaults)
    runner = web.AppRunner(application(state), access_log=None, handler_cancellation=True)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    await web.SockSite(runner, listening).start()
    print(json.dumps({"root": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
    await asyncio.Future()


def end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


# The handle


class FakeApi:
    """Where a running server is, and how to command it."""

    def __init__(self, root: str):
        self.url, self.zhipu_url, self._root = f"{root}/v1", f"{root}/api/paas/v4", root
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says

    def _control(self, what: str, **sent: object) -> dict:
        request = urllib.request.Request(f"{self._root}/_control/{what}", json.dumps(sent).encode())
        with self._opener.open(request, timeout=60) as response:
            got = json.load(response)
        if "error" in got:
            raise (TimeoutError if what == "wait" else ValueError)(got["error"])
        return got

    def stats(self) -> dict:
        return self._control("stats")

    def script(self, **options: object) -> None:
        """Set the options named. ValueError if one, or a fault, does not exist."""
        self._control("script", **options)

    def reset(self) -> None:
        """Counts, files, batches and stored answers gone; options as `running` was given them."""
        self._control("reset")

    def wait(self, timeout: float = 20.0, **counts: int) -> None:
        """Until arrived, paid, answered, batched are at least, and in_flight at most, the numbers given."""
        self._control("wait", timeout=timeout, **counts)


@contextlib.contextmanager
def running(**options: object) -> Iterator[FakeApi]:
    """A server in a process of its own, for as long as the block lasts."""
    command = [sys.executable, os.path.abspath(__file__), json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            if not (line := process.stdout.readline()):
                raise ValueError(f"the server did not start with {options}; its stderr says why")
            yield FakeApi(json.loads(line)["root"])
        finally:
            process.stdin.close()  # the server's sign to end; Popen waits for it


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("options", nargs="?", default="{}", type=json.loads, help="JSON; see the top of the file")
    parser.add_argument("--delay", type=float, help="seconds before a chat reply")
    arguments = parser.parse_args()
    given = arguments.options if arguments.delay is None else arguments.options | {"delay": arguments.delay}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a test is for the program under test
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(main(given))
