"""A real headless Chromium, driven by selenium."""

from __future__ import annotations

import shutil
from pathlib import Path

from selenium import webdriver

CHROMIUM, DRIVER = "chromium", "chromedriver"

# In a container there is no sandbox, no GPU and a small /dev/shm; and the browser has nothing to fetch for itself.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)


def start_browser(profile: Path) -> webdriver.Chrome:
    """Chromium with an empty `profile` folder; both programs are named, so that selenium downloads neither."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(CHROMIUM) or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(
        executable_path=shutil.which(DRIVER), log_output=str(profile / "chromedriver.log")
    )
    return webdriver.Chrome(options=options, service=service)
