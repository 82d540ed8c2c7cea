"""Batch requests byte for byte, signed here rather than by an SDK, for what no SDK would send.

Built on `http.client`, which leaves the request target as it is given: the usual HTTP packages tidy up `..` and
percent-encoding before they send.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import parse_qs, quote, urlsplit

API_VERSION = "2024-02-01.19.0"

_SIGNED_HEADERS = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
]


def string_to_sign(account: str, method: str, target: str, headers: dict[str, str]) -> str:
    """The text under a SharedKey signature, for a request target as it goes over the wire."""
    lower = {name.lower(): value for name, value in headers.items()}
    path, _, query = target.partition("?")
    lines = [method, *(lower.get(name, "") for name in _SIGNED_HEADERS)]
    lines += [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("ocp-")]
    lines.append(f"/{account}{path}")
    parameters = parse_qs(query)
    lines += [f"{name}:{parameters[name][0]}" for name in sorted(parameters)]
    return "\n".join(lines)


def authorization(account: str, key: str, method: str, target: str, headers: dict[str, str]) -> str:
    text = string_to_sign(account, method, target, headers)
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {account}:{base64.b64encode(digest).decode()}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        content_type = self.headers.get("content-type", "")
        assert content_type.startswith("application/json"), f"a body of type {content_type!r}: {self.body[:300]!r}"
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error body, which is checked for its shape on the way."""
        body = self.json()
        assert set(body["message"]) >= {"lang", "value"}, f"not the shape of an error body: {body}"
        assert f"RequestId:{self.headers['request-id']}" in body["message"]["value"], body
        return body["code"]

    @property
    def message(self) -> str:
        return self.json()["message"]["value"]

    @property
    def values(self) -> dict[str, str]:
        return {item["key"]: item["value"] for item in self.json().get("values") or []}

    def expect(self, status: int, code: str | None = None) -> "Answer":
        assert self.status == status, f"expected {status} {code}, got {self.status}: {self.body[:600]!r}"
        if code is not None:
            assert self.code == code, f"expected {code}: {self.body[:600]!r}"
        return self


class RawBatch:
    """Sends one request per connection."""

    def __init__(self, endpoints):
        self.account = endpoints.batch_account
        self.key = endpoints.batch_key
        self.address = urlsplit(endpoints.batch_url)

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body=None,
        headers: dict[str, str] | None = None,
        *,
        api_version: str | None = API_VERSION,
        account: str | None = None,
        key: str | None = None,
        date: float | None = None,
        sign: bool = True,
    ) -> Answer:
        """`body` may be bytes, or anything that goes as JSON. `date` is seconds since 1970, now if absent."""
        parameters = dict(query or {})
        if api_version is not None:
            parameters["api-version"] = api_version
        target = path
        if parameters:
            encoded = "&".join(f"{quote(name, safe='$-')}={quote(value)}" for name, value in parameters.items())
            target = f"{path}?{encoded}"
        content = None
        sent = {"ocp-date": formatdate(date, usegmt=True)}
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = "application/json; odata=minimalmetadata; charset=utf-8"
        if content is not None or method not in ("GET", "HEAD"):
            sent["Content-Length"] = str(len(content or b""))
        sent.update(headers or {})
        if sign:
            account = account or self.account
            sent["Authorization"] = authorization(account, key or self.key, method, target, sent)
        return self.send_bytes(method, target, content, sent)

    def send_bytes(self, method: str, target: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        """Exactly this request line, these headers and this body."""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=30)
        try:
            connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            try:
                connection.endheaders(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a server may refuse a large body before it has read it all
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())
        finally:
            connection.close()
