"""The page in a real browser: a file, the microphone, an error. Skipped where there is no chromium with its driver."""

import base64
import re
import shutil
import threading

import numpy as np
import pytest
import uvicorn

from nemo_speechlm.serving.app import make_app
from nemo_speechlm.serving.run import open_socket
from tests.serving.conftest import make_listener

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver (apt-get install chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def listener(models):
    return make_listener(f"model={models / 'pretrained.nemo'}", "max_duration=5")


@pytest.fixture(scope="module")
def address(listener):
    with open_socket("127.0.0.1", 0) as bound:
        app = make_app(listener, max_megabytes=1, time_limit=60, waiting=1, hosts=["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        bound.listen()  # a connection waits until the server takes it
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser(recording, tmp_path_factory):
    """Headless; its microphone hears the recording again and again."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1000,900",
        "autoplay-policy=no-user-gesture-required", "use-fake-ui-for-media-stream", "use-fake-device-for-media-stream",
        f"use-file-for-fake-audio-capture={recording}", f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address):
    browser.get(address)
    wait(browser, lambda: browser.find_element(By.TAG_NAME, "body").get_attribute("data-ready"))
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def wait(browser, until):
    return WebDriverWait(browser, 60).until(lambda _: until())


def shown(browser, name):
    return browser.find_element(By.ID, name).is_displayed()


def test_a_file_is_shown_with_its_words_over_the_spectrogram_and_its_units(page, listener, recording):
    assert page.find_element(By.ID, "model").text == "pretrained.nemo"
    assert page.find_element(By.ID, "about").text == "SpeechLMModel: recognizes speech, with 12 phoneme units"
    assert not shown(page, "result")
    page.find_element(By.ID, "file").send_keys(str(recording))
    wait(page, lambda: shown(page, "result"))
    expected = listener.listen(recording)
    assert page.find_element(By.ID, "text").text == expected["text"]
    drawn = page.execute_script("""
        const boxes = (selector) => [...document.querySelectorAll(selector)].map((e) => {
          const box = e.getBoundingClientRect(), strip = document.getElementById("strip").getBoundingClientRect();
          return [e.textContent, e.dataset.unit ?? "", (box.left - strip.left) / strip.width, box.width / strip.width];
        });
        const canvas = document.getElementById("spectrogram");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const grey = (x, y) => pixels[4 * (y * canvas.width + x)] + pixels[4 * (y * canvas.width + x) + 1];
        return {words: boxes("#words button"), units: boxes("#units span"), size: [canvas.width, canvas.height],
                rows: [...Array(canvas.height).keys()].map((y) => [...Array(canvas.width).keys()]
                  .reduce((sum, x) => sum + grey(x, y), 0)),
                scripts: performance.getEntriesByType("resource").map((e) => e.name)};
    """)
    words = [word for segment in expected["segments"] for word in segment["words"]]
    assert [word[0] for word in drawn["words"]] == [word["word"] for word in words]
    for (_, _, left, width), word in zip(drawn["words"], words, strict=True):
        assert left == pytest.approx(word["start"] / expected["duration"], abs=0.004)
        assert left + width == pytest.approx(word["end"] / expected["duration"], abs=0.006)
    assert [unit[1] for unit in drawn["units"]] == [unit["symbol"] for unit in expected["units"]]
    assert drawn["units"][-1][2] == pytest.approx(expected["units"][-1]["start"] / expected["duration"], abs=0.004)
    assert drawn["size"] == [expected["spectrogram"]["columns"], 80]
    levels = np.frombuffer(base64.b64decode(expected["spectrogram"]["levels"]), np.uint8).reshape(80, -1)
    assert np.corrcoef(drawn["rows"][::-1], levels.sum(axis=1))[0, 1] > 0.95  # the lowest band is at the bottom
    assert all(name.startswith(page.current_url.rstrip("/")) for name in drawn["scripts"])


def test_what_the_microphone_hears(page):
    button = page.find_element(By.ID, "record")
    button.click()
    wait(page, lambda: re.fullmatch(r"Stop \((0\.[5-9]|[1-9].*) s\)", button.text))
    button.click()
    wait(page, lambda: shown(page, "result") or shown(page, "error"))
    assert not shown(page, "error")
    assert button.text == "Record"
    facts = re.match(r"recording: ([\d.]+) s, recognized", page.find_element(By.ID, "facts").text)
    assert 0.4 < float(facts[1]) < 5.5
    assert page.find_elements(By.CSS_SELECTOR, "#units span")
    rate = page.execute_script("return document.getElementById('player').duration")
    assert rate == pytest.approx(float(facts[1]), abs=0.06)


DROP = """
    const drop = (file) => {
      const data = new DataTransfer();
      data.items.add(file);
      document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    };
"""


def test_a_file_is_dropped(page, listener, recording):
    content = base64.b64encode(recording.read_bytes()).decode()
    page.execute_script(
        DROP + 'drop(new File([Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0))], "dropped.wav"))', content
    )
    wait(page, lambda: shown(page, "result"))
    assert page.find_element(By.ID, "text").text == listener.listen(recording)["text"]
    assert page.find_element(By.ID, "facts").text.startswith("dropped.wav: ")


def test_formats_that_only_the_browser_knows_are_decoded_there(page):
    """WebM, as browsers record it and libsndfile does not read it: a second of a tone."""
    page.execute_async_script(
        DROP
        + """
        const done = arguments[0], context = new AudioContext(), tone = context.createOscillator();
        const target = context.createMediaStreamDestination(), recorder = new MediaRecorder(target.stream), parts = [];
        tone.connect(target);
        recorder.ondataavailable = ({data}) => parts.push(data);
        recorder.onstop = () => { drop(new File(parts, "tone.webm")); done(); };
        tone.start();
        recorder.start();
        setTimeout(() => recorder.stop(), 1000);
    """
    )
    wait(page, lambda: shown(page, "result") or shown(page, "error"))
    assert page.find_element(By.ID, "error").text == ""
    facts = re.match(r"tone\.webm: ([\d.]+) s, recognized", page.find_element(By.ID, "facts").text)
    assert 0.5 < float(facts[1]) < 2
    page.get_log("browser")  # the status 422 of the first try


def test_errors_are_shown_and_the_page_goes_on(page, recording, tmp_path):
    (tmp_path / "notes.wav").write_text("<b>not audio</b>\n" * 50)
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.wav"))
    wait(page, lambda: shown(page, "error"))
    assert "notes.wav: not audio that can be read" in page.find_element(By.ID, "error").text
    (tmp_path / "large.wav").write_bytes(bytes(1_000_001))
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "large.wav"))
    wait(page, lambda: "larger than 1 MB" in page.find_element(By.ID, "error").text)
    assert not shown(page, "result")
    page.find_element(By.ID, "file").send_keys(str(recording))
    wait(page, lambda: shown(page, "result"))
    assert not shown(page, "error")
    page.get_log("browser")  # the browser itself reports the status 422
