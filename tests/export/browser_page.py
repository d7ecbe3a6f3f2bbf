"""The page of an export in Chromium, for tests of several packages."""

import contextlib
import functools
import http.server
import json
import shutil
import threading
import time

import pytest

from ..test_space import CHROMIUM

FLAGS = ["--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FLAGS += ["--ignore-gpu-blocklist", "--window-size=1440,900"]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(directory):
    """A file server on loopback; yields its address."""
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
        self.click("save")
        self.until("in the downloads")
        end = time.time() + 20
        while time.time() < end:
            found = [
                path for path in self.downloads.iterdir() if "_labels." in path.name and path.suffix in (".gz", ".png")
            ]
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError("nothing was downloaded")

    def requests(self):
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("blob:", "data:"))]
