"""The explorer page in Firefox and WebKitGTK, briefly; Chromium has the full tests.

Both browsers take WebDriver's commands: WebKitGTK over HTTP from WebKitWebDriver, on a virtual X
display; Firefox through its Marionette socket, as geckodriver does, which Debian does not package.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mnist_mlp.steps.data import Dataset

WAIT_S = 60

FIREFOX = "firefox-esr" if shutil.which("firefox-esr") else "firefox"


class Firefox:
    """A message is `length:[0, id, command, parameters]`; a reply, `[1, id, error, result]`."""

    programs = (FIREFOX,)

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (folder / "user.js").write_text('user_pref("marionette.port", 0);\n')
        command = [FIREFOX, "--headless", "--marionette", "--profile", str(folder)]
        start(command, stack, env=os.environ | {"HOME": str(folder)})
        port_file = folder / "MarionetteActivePort"
        until(lambda: port_file.exists() and port_file.read_text())
        connection = socket.create_connection(("127.0.0.1", int(port_file.read_text())), WAIT_S)
        self.stream = stack.enter_context(stack.enter_context(connection).makefile("rwb"))
        self._read()  # its greeting
        self._command("WebDriver:NewSession")
        self._command("WebDriver:SetWindowRect", width=1280, height=900)

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            byte = self.stream.read(1)
            assert byte, "Firefox closed the connection"
            length += byte
        return json.loads(self.stream.read(int(length[:-1])))

    def _command(self, name: str, **parameters: Any) -> Any:
        message = json.dumps([0, 1, name, parameters]).encode()
        self.stream.write(b"%d:%b" % (len(message), message))
        self.stream.flush()
        _, _, error, result = self._read()
        assert error is None, error
        return result

    def open(self, url: str) -> None:
        self._command("WebDriver:Navigate", url="about:blank")  # else only the fragment changes
        self._command("WebDriver:Navigate", url=url)

    def run(self, script: str) -> Any:
        """Run the body of a function in the page and return its value."""
        return self._command("WebDriver:ExecuteScript", script=script, args=[])["value"]

    def act(self, actions: list[dict[str, Any]]) -> None:
        self._command("WebDriver:PerformActions", actions=actions)


class WebKit:
    programs = ("WebKitWebDriver", "Xvfb")

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        read_end, write_end = os.pipe()
        screen = ["-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        start(["Xvfb", "-displayfd", str(write_end), *screen], stack, pass_fds=[write_end])
        os.close(write_end)
        with os.fdopen(read_end) as file:
            display = file.readline().strip()  # waits until the display is ready
        assert display, "Xvfb did not start"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {"DISPLAY": f":{display}", "HOME": str(folder)}
        start(["WebKitWebDriver", f"--port={port}"], stack, env=environment)
        self.url = f"http://127.0.0.1:{port}"
        until(self._is_ready)
        session = self._command("POST", "/session", capabilities={"alwaysMatch": {}})
        self.url += f"/session/{session['sessionId']}"
        stack.callback(self._command, "DELETE", "")  # closes the browser

    def _is_ready(self) -> bool:
        try:
            return bool(self._command("GET", "/status")["ready"])
        except urllib.error.URLError:
            return False

    def _command(self, method: str, path: str, **parameters: Any) -> Any:
        data = json.dumps(parameters).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            return json.load(reply)["value"]

    def open(self, url: str) -> None:
        self._command("POST", "/url", url="about:blank")
        self._command("POST", "/url", url=url)

    def run(self, script: str) -> Any:
        return self._command("POST", "/execute/sync", script=script, args=[])

    def act(self, actions: list[dict[str, Any]]) -> None:
        self._command("POST", "/actions", actions=actions)


Driver = Firefox | WebKit


def start(command: list[str], stack: ExitStack, **options: Any) -> None:
    """Start a program that is ended with the stack."""
    quiet = subprocess.DEVNULL
    process = stack.enter_context(subprocess.Popen(command, stdout=quiet, stderr=quiet, **options))
    stack.callback(process.terminate)


def until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module", params=[Firefox, WebKit])
def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    kind = request.param
    missing = [program for program in kind.programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"{kind.__name__}: no {' and no '.join(missing)} on this machine")
    with ExitStack() as stack:
        yield kind(tmp_path_factory.mktemp(kind.__name__), stack)


def open_page(driver: Driver, html: Path, fragment: str = "") -> None:
    driver.open(html.as_uri() + fragment)
    until(lambda: driver.run("return 'state' in document.getElementById('badge').dataset"))


def test_the_badge_is_green(driver: Driver, html: Path) -> None:
    open_page(driver, html)
    assert driver.run("return document.getElementById('badge').dataset.state") == "good"
    details = driver.run("return document.getElementById('badge-details').textContent")
    assert details.count("✓") == 3


def test_draw_a_seven(driver: Driver, html: Path, explorer_data: Dataset) -> None:
    open_page(driver, html)
    left, top, side = driver.run(
        """const pad = document.getElementById("pad");
        pad.scrollIntoView({ block: "center", behavior: "instant" });
        const { x, y, width } = pad.getBoundingClientRect();
        return [x, y, width];"""
    )
    points = [(0.25, 0.2), (0.5, 0.2), (0.75, 0.2), (0.6, 0.4), (0.5, 0.6), (0.43, 0.8)]
    moves = [
        {"type": "pointerMove", "x": round(left + x * side), "y": round(top + y * side)}
        | {"duration": 50, "origin": "viewport"}
        for x, y in points
    ]
    press, release = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
    mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
    driver.act([mouse | {"actions": [moves[0], press, *moves[1:], release]}])
    verdict = "return document.getElementById('now-text').textContent"
    until(lambda: driver.run(verdict).startswith("your drawing: predicted"))
    if explorer_data.name == "mnist":  # the digits data set is too small to learn such a seven
        until(lambda: driver.run(verdict).startswith("your drawing: predicted 7"))


def test_the_address_restores_the_state(driver: Driver, html: Path) -> None:
    open_page(driver, html)
    index = driver.run("return explorer.data.indexes[42]")
    fragment = f"#step=backward&image={index}&label=2&neuron=2.17&input=5&rate=0.5&broken=zero2"
    open_page(driver, html, fragment)
    until(lambda: driver.run("return explorer.state.step === 'backward'"))
    state = driver.run(
        """const { label, layer, neuron, input, broken } = explorer.state;
        const rate = document.getElementById("rate-text").textContent;
        return [explorer.shown().index, label, layer, neuron, input, rate, ...broken];"""
    )
    assert state == [index, 2, 1, 17, 5, "0.5", "zero2"]
    assert driver.run("return document.getElementById('link-notice').hidden")
