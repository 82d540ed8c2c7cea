"""What BitTorrent needs and aria2 does not bring: a torrent file, and a tracker that names every peer to every other."""

import hashlib
import http.server
import socket
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PIECE = 1024 * 1024


def encode(value) -> bytes:
    """Bencoding."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%s" % (len(value), value)
        case dict():
            return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    raise TypeError(type(value))


def write_torrent(file: Path, torrent: Path, tracker: str) -> None:
    with open(file, "rb") as data:
        pieces = b"".join(hashlib.sha1(piece).digest() for piece in iter(lambda: data.read(PIECE), b""))
    info = {b"length": file.stat().st_size, b"name": file.name.encode(), b"piece length": PIECE, b"pieces": pieces}
    torrent.write_bytes(encode({b"announce": tracker.encode(), b"info": info}))


class Tracker(http.server.BaseHTTPRequestHandler):
    peers: dict[str, bytes] = {}

    def do_GET(self):
        (port,) = parse_qs(urlsplit(self.path).query)["port"]
        address = self.client_address[0]
        others = b"".join(peer for host, peer in self.peers.items() if host != address)
        self.peers[address] = socket.inet_aton(address) + int(port).to_bytes(2, "big")
        body = encode({b"interval": 1, b"min interval": 1, b"peers": others})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer((sys.argv[1], 6969), Tracker).serve_forever()
