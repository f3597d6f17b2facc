"""Downloads, from a server in this process."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nemo_speechlm.data.corpora import published
from nemo_speechlm.data.corpora.published import Published, fetch
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import partial_path
from tests.data.corpora import tiny
from tests.data.corpora.test_sources import packed, prepare  # noqa: F401  # a fixture
from tests.functional.commands import run_example

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``ranges``: whether it knows them; ``cuts``: after how many bytes connections end, in turn."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.cuts, self.asked = {}, True, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path)
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.files["/x.tar"] = CONTENT
        yield server
        server.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_with_a_part(server, tmp_path, ranges):
    server.ranges = ranges
    path = tmp_path / "x.tar"
    partial_path(path).write_bytes(CONTENT[:1000])
    fetch(f"{server.address}/x.tar", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    fetch(f"{server.address}/x.tar", path, DIGEST)  # is there
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_whole_or_longer(server, tmp_path, part):
    path = tmp_path / "x.tar"
    partial_path(path).write_bytes(part)
    fetch(f"{server.address}/x.tar", path, DIGEST)
    assert path.read_bytes() == CONTENT


def test_connections_that_break(server, tmp_path):
    path = tmp_path / "x.tar"
    server.cuts = [3000, 10, 20000]
    fetch(f"{server.address}/x.tar", path, DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-", "bytes=3010-"]
    path.unlink()
    server.cuts = [1, 1, 1]
    with pytest.raises(SpeechLMError, match="the connection ended after 3 of 10240 bytes; what came is kept"):
        fetch(f"{server.address}/x.tar", path, DIGEST)
    assert not path.exists()
    fetch(f"{server.address}/x.tar", path, DIGEST)
    assert server.asked[-1] == "bytes=3-"


def test_a_wrong_checksum(server, tmp_path):
    path = tmp_path / "x.tar"
    partial_path(path).write_bytes(b"something else")
    with pytest.raises(InputError, match=r"its sha256 is \w+, expected \w+: it is damaged"):
        fetch(f"{server.address}/x.tar", path, DIGEST)
    assert list(tmp_path.iterdir()) == []  # so that the next try begins anew
    fetch(f"{server.address}/x.tar", path, hashlib.md5(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT


def test_no_such_file_and_no_network(server, tmp_path):
    with pytest.raises(SpeechLMError, match=r"y\.tar: the server says 404 Not Found"):
        fetch(f"{server.address}/y.tar", tmp_path / "y.tar")
    server.shutdown()
    server.server_close()
    with pytest.raises(SpeechLMError, match=r"cannot download .*refused.* Without a network, fetch it elsewhere"):
        fetch(f"{server.address}/x.tar", tmp_path / "x.tar", tries=1)


def test_the_command_downloads(server, prepare, tmp_path, monkeypatch):  # noqa: F811
    archive = packed(tmp_path / "small.tar", tiny.libri_light(tmp_path / "made") / "small")
    server.files = {"/d/small.tar": archive.read_bytes()}
    known = {"small": Published("small.tar", "http://nowhere.invalid", hashlib.md5(archive.read_bytes()).hexdigest())}
    monkeypatch.setitem(published.PUBLISHED, "libri_light", {**known, "large": Published("large.tar", "", None)})
    arguments = ["corpus=libri_light", f"source={tmp_path / 'lay'}", "download=true", f"mirror={server.address}/d/"]
    _, printed = prepare(*arguments, status=1)
    assert "parts is not given; say which to download, of small, large" in printed
    _, printed = prepare(*arguments, "parts=[unlab]", status=1)
    assert "parts has 'unlab', expected of small, large" in printed
    records, _ = prepare(*arguments, "parts=[small]")
    assert [record["duration"] for record in records] == [8.6]
    assert (tmp_path / "lay" / "small.tar").read_bytes() == archive.read_bytes()


def test_corpora_that_cannot_be_downloaded(capfd, tmp_path):
    arguments = ["corpus=common_voice", f"source={tmp_path}", "download=true", f"output={tmp_path / 'm.json'}"]
    assert run_example("prepare_data.py", *arguments) == 1
    assert "corpus=common_voice cannot be downloaded from here, only librispeech, " in capfd.readouterr().err
