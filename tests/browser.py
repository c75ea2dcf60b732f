"""A real browser for the tests of the pages: Debian's chromium, headless, driven by its own chromedriver."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# nothing but the page under test shall use the network; a container has no sandbox of its own to offer
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync disable-component-update"


@contextmanager
def chromium(folder: Path) -> Iterator[webdriver.Chrome]:
    """The browser with a fresh profile below `folder`, downloads into folder/downloads. Skips where it is missing."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium or no chromedriver; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), "disable-background-networking", f"user-data-dir={folder / 'profile'}"]:
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # with both paths given selenium looks for nothing and downloads nothing
    browser = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    try:
        yield browser
    finally:
        browser.quit()


def told(browser: webdriver.Chrome) -> list[str]:
    """What the console has been told since the last call: errors of the page, and what its policy refused."""
    return [entry["message"] for entry in browser.get_log("browser")]
