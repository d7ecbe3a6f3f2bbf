"""The page of an export in Chromium, for tests of several packages."""

import contextlib
import functools
import http.server
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from ..test_space import CHROMIUM

FLAGS = ["--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FLAGS += ["--ignore-gpu-blocklist", "--window-size=1440,900"]


# Ways to send something, of a page and of a worker: each ends with "refused", an error or nothing.
SENDING = """
    const send = async (to) => {
        const ways = {
            fetch: () => fetch(to + "fetch"),
            xhr: () => new Promise((good, bad) => {
                const request = new XMLHttpRequest();
                [request.onload, request.onerror] = [good, bad];
                request.open("POST", to + "xhr");
                request.send("scan");
            }),
            socket: () => new Promise((good, bad) => {
                const socket = new WebSocket(to.replace("http", "ws") + "socket");
                [socket.onopen, socket.onerror] = [good, bad];
            }),
            events: () => new Promise((good, bad) => {
                const source = new EventSource(to + "events");
                [source.onopen, source.onerror] = [good, bad];
            }),
            module: () => import(to + "core.js?module"),
            nested: () => new Promise((good, bad) => {
                const worker = new Worker(to + "core.js?nested");
                [worker.onmessage, worker.onerror] = [good, bad];
            }),
        };
        if (self.importScripts) ways.scripts = () => importScripts(to + "core.js?scripts");
        if (self.document) {
            const add = (name, field) => () => new Promise((good, bad) => {
                const one = document.createElement(name);
                [one.onload, one.onerror] = [good, bad];
                Object.assign(one, {rel: "stylesheet", [field]: to + name});
                document.head.append(one);
            });
            ways.beacon = async () => { navigator.sendBeacon(to + "beacon", "scan"); throw Error("says nothing"); };
            ways.image = () => new Promise((good, bad) => {
                const image = new Image();
                [image.onload, image.onerror] = [good, bad];
                image.src = to + "image";
            });
            Object.assign(ways, {style: add("link", "href"), script: add("script", "src")});
        }
        const outcome = {}, late = () => new Promise((_, bad) => setTimeout(() => bad(), 3000));
        for (const [name, way] of Object.entries(ways)) {
            const attempt = Promise.race([Promise.resolve().then(way), late()]);
            outcome[name] = await attempt.then(() => "sent", () => "refused");
        }
        return outcome;
    };
"""
# Added to the worker's script: what is asked through the channel is tried in the worker that reads scans.
_PROBE = (
    SENDING
    + """
    const probe = new BroadcastChannel("probe");
    probe.onmessage = async ({data}) => data.to && probe.postMessage({outcome: await send(data.to)});
"""
)


_ASKED: list[str] = []  # what the server was asked for


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        _ASKED.append(self.path)

    def do_GET(self):
        if self.path != "/worker.js":
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes() + _PROBE.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serve(directory):
    """A file server on loopback; yields its address."""
    _ASKED.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def open_chromium(profile):
    """A headless browser, or the test is skipped."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed: pip install -e '.[browser]'")
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))


class Page:
    """The page in a browser: what it says, and what is done with it."""

    def __init__(self, browser, downloads):
        self.browser, self.downloads = browser, downloads
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})

    def open(self, address):
        """Load the page until it is ready; what it requested is `loaded`."""
        self.browser.get("about:blank")
        self.browser.get_log("performance")
        self.browser.get(address)
        self.until("Ready")
        self.loaded = self.requests()
        self.asked = _ASKED
        return self

    def text(self, place="status"):
        return self.browser.execute_script("return document.getElementById(arguments[0]).textContent", place)

    def until(self, word, place="status", seconds=90):
        end = time.time() + seconds
        while word not in self.text(place):
            assert time.time() < end, (word, self.text("status"), self.text("error"))
            assert place == "error" or not self.text("error"), self.text("error")
            time.sleep(0.1)
        return self.text(place)

    def give(self, *paths, field="files"):
        self.browser.find_element("id", field).send_keys("\n".join(map(str, paths)))

    def click(self, name):
        self.browser.find_element("id", name).click()

    def segment(self, *paths, field="files"):
        self.give(*paths, field=field)
        self.until("to segment")
        self.click("segment")
        self.until("Done in")
        return self

    def save(self):
        for file in self.downloads.glob("*_labels.*"):
            file.unlink()
        self.browser.execute_script("document.getElementById('status').textContent = ''")
        self.click("save")
        self.until("in the downloads")
        end = time.time() + 20
        while time.time() < end:
            found = [path for path in self.downloads.glob("*_labels.*") if path.suffix in (".gz", ".png")]
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError("nothing was downloaded")

    def stroke(self, *places, kind="mouse"):
        """Press at the first place of the planes, given in shares of their width and height, and go to the others."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        box = """const planes = document.getElementById("planes"); planes.scrollIntoView({block: "center"});
            const {x, y, width, height} = planes.getBoundingClientRect(); return [x, y, width, height];"""
        left, top, width, height = self.browser.execute_script(box)
        actions = ActionBuilder(self.browser, mouse=PointerInput(kind, kind), duration=20)
        for number, (x, y) in enumerate(places):
            actions.pointer_action.move_to_location(round(left + x * width), round(top + y * height))
            if not number:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
        actions.perform()

    def set(self, **values):
        """Set fields of the form by their ids, as a reader does."""
        script = """const field = document.getElementById(arguments[0]); field.value = arguments[1];
            field.dispatchEvent(new Event("input")); field.dispatchEvent(new Event("change"));"""
        for name, value in values.items():
            self.browser.execute_script(script, name, value)

    def choose(self, tool):
        self.browser.find_element("css selector", f'[name=tool][value="{tool}"]').click()

    def requests(self):
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("blob:", "data:"))]
