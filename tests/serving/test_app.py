"""The application over HTTP, in this process: the page, answers, and what it refuses."""

import re
import socket
import threading

import pytest
from starlette.testclient import TestClient

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.serving.app import CONTENT_TYPE, PAGE, make_app
from nemo_speechlm.serving.run import LOCAL, open_socket
from tests.serving.conftest import config, make_listener

HEADERS = {"Content-Type": CONTENT_TYPE}


class Fake:
    """Stands in for a listener; does what a test says."""

    def __init__(self, listen=lambda path, check: {"text": path.read_bytes().decode()}):
        self.listen = listen

    def about(self):
        return {"name": "a fake"}


def client(listener, **options):
    limits = {"max_megabytes": 1, "time_limit": 20, "waiting": 1, "hosts": ["127.0.0.1", "localhost"], **options}
    return TestClient(make_app(listener, **limits), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def ask(app, content=b"abc", name="a.wav", **headers):
    return app.post(f"/recognize?name={name}", content=content, headers={**HEADERS, **headers})


def test_a_recording_and_what_the_page_shows_of_it(models, recording):
    listener = make_listener(f"model={models / 'pretrained.nemo'}")
    with client(listener) as app:
        reply = ask(app, recording.read_bytes(), name="my%20voice.wav")
        about = app.get("/about").json()
    assert reply.status_code == 200
    found, expected = reply.json(), listener.listen(recording)
    assert found.pop("name") == "my voice.wav"
    del found["seconds"], expected["seconds"]
    assert found == expected
    assert found["text"]
    assert about == {**listener.about(), "max_bytes": 1_000_000}
    assert len(about["units"]["symbols"]) == 12


def test_the_page_is_whole_and_asks_nobody_else():
    with client(Fake()) as app:
        page = app.get("/")
        assert page.headers["content-type"].startswith("text/html")
        asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert set(asked) == {path.name for path in PAGE.iterdir()} - {"index.html", "recorder.js"}
        kinds = {"css": "text/css", "js": "javascript", "svg": "image/svg+xml"}
        for path in PAGE.iterdir():
            reply = app.get("/" if path.name == "index.html" else f"/{path.name}")
            assert reply.content == path.read_bytes()
            assert kinds.get(path.suffix[1:], "html") in reply.headers["content-type"]
            assert "default-src 'self'" in reply.headers["content-security-policy"]
            outside = set(re.findall(r"https?://[^\s'\"]+", path.read_text())) - {"http://www.w3.org/2000/svg"}
            assert not outside
        for path in ("/app.py", "/../app.py", "/%2e%2e/app.py", "/page/index.html", "/index.html"):
            assert app.get(path).status_code == 404


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "audio with no samples: the file is empty"),
        (b"not audio\n" * 100, "not audio that can be read"),
        (bytes(range(256)) * 50, "not audio that can be read"),
    ],
)
def test_bad_files_are_named_in_a_line(models, content, message):
    with client(make_listener(f"model={models / 'ctc.nemo'}")) as app:
        reply = ask(app, content)
    assert reply.status_code == 422
    assert reply.json()["error"].startswith(message)
    assert "/tmp" not in reply.text


def test_large_files_are_refused_with_and_without_their_length():
    with client(Fake(), max_megabytes=0.001) as app:
        assert ask(app, b"x" * 1000).json() == {"name": "a.wav", "text": "x" * 1000}
        for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 401])):
            reply = ask(app, content)
            assert reply.status_code == 413
            assert reply.json()["error"] == "the file is larger than 0.001 MB (max_megabytes)"


def test_other_pages_in_the_browser_cannot_use_it():
    asked = []
    with client(Fake(lambda path, check: asked.append(path))) as app:
        for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
            assert ask(app, **{"Content-Type": kind}).status_code == 415
        assert ask(app, Host="evil.example").status_code == 400  # a name that was made to mean this machine
        assert app.get("/about", headers={"Host": "evil.example"}).status_code == 400
        preflight = app.options("/recognize", headers={"Origin": "http://evil.example"})
        assert "access-control-allow-origin" not in preflight.headers
        assert app.get("/recognize").status_code == 405
    assert not asked


def test_hosts_of_an_address_of_ipv6():
    with client(Fake(), hosts=[*LOCAL, "[::1]"]) as app:
        assert app.get("/about", headers={"Host": "[::1]:8000"}).status_code == 200


def test_the_queue_and_the_time_limit_are_told():
    go, inside = threading.Event(), threading.Event()

    def wait(path, check):
        inside.set()
        go.wait(20)
        return {"text": "at last"}

    with client(Fake(wait), waiting=0) as app:
        replies = []
        first = threading.Thread(target=lambda: replies.append(ask(app)))
        first.start()
        assert inside.wait(20)
        second = ask(app)
        go.set()
        first.join()
    assert second.status_code == 503
    assert "1 recordings are before this one" in second.json()["error"]
    assert replies[0].json()["text"] == "at last"

    go.clear()
    with client(Fake(wait), time_limit=0.05) as app:
        reply = ask(app)
        go.set()
    assert reply.status_code == 503
    assert "not done within 0.05 s (time_limit)" in reply.json()["error"]


def test_a_model_that_fails_does_not_end_the_server(capsys):
    def fail(path, check):
        if path.read_bytes() == b"bad":
            raise RuntimeError("out of memory")
        return {"text": "fine"}

    with client(Fake(fail)) as app:
        reply = ask(app, b"bad")
        assert (reply.status_code, reply.json()["error"]) == (
            500, "the model failed on this recording: RuntimeError: out of memory",
        )  # fmt: skip
        assert ask(app, b"good").json()["text"] == "fine"
    assert "error: the model failed on this recording: RuntimeError: out of memory" in capsys.readouterr().err


def test_nothing_of_a_recording_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with client(Fake(lambda path, check: {"text": str(path)})) as app:
        assert ask(app).json()["text"].startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_taken():
    with open_socket("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(SpeechLMError, match=rf"cannot listen at host=127\.0\.0\.1 port={port}: Address already"):
            open_socket("127.0.0.1", port)


def test_only_this_machine_reaches_it_unless_told_otherwise():
    cfg = config("model=a.nemo")
    assert cfg.host in LOCAL
    with open_socket(cfg.host, 0) as bound:
        assert bound.family is socket.AF_INET
        assert bound.getsockname()[0] == "127.0.0.1"
