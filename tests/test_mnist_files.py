import gzip
import http.server
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from rich.live import Live

from mnist_mlp import mnist_files
from mnist_mlp.errors import DataError
from mnist_mlp.mnist_files import read_mnist
from mnist_mlp.steps.data import Dataset, load_dataset
from tests.conftest import Outcome, program

FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def fetch_mnist(root: Path, mirrors: Sequence[str] = ()) -> dict[str, str]:
    return {name: file.origin for name, file in read_mnist(root, mirrors).items()}


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves a folder of archives in a way that the path's first part names."""

    archives: Path

    def do_GET(self) -> None:
        _, manner, name = self.path.split("/")
        content = (self.archives / name).read_bytes()
        if manner == "forbidden":
            self.send_error(403)
        elif manner == "html":
            self.answer(b"<html>Please log in</html>")
        elif manner == "wrong":
            self.answer(content[:-1] + bytes([content[-1] ^ 1]))
        elif manner == "truncated":
            self.answer(content[:-7], length=len(content))
        elif manner == "short":
            self.answer(content[:-7])
        elif manner == "silent":
            time.sleep(1.5)
        elif manner == "stalled":
            self.answer(content[:9], length=len(content), linger=1.5)
        elif manner == "slow":
            self.answer(b"", length=len(content))
            for start in range(0, len(content), 1 + len(content) // 5):
                self.wfile.write(content[start : start + 1 + len(content) // 5])
                time.sleep(0.1)
        elif manner == "inward":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.end_headers()
        else:
            self.answer(content)

    def answer(self, content: bytes, length: int | None = None, linger: float = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        time.sleep(linger)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up early is what some tests are about


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder of archives on localhost; returns the address above the manners."""
    servers = []

    def serve(archives: Path) -> str:
        handler = type("Handler", (Mirror,), {"archives": archives})
        server = Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


BAD_MANNERS = {
    "forbidden": "HTTP 403 Forbidden",
    "html": "not the official file",
    "wrong": "not the official file",
    "truncated": "not the official file",
    "short": "not the official file",
    "silent": "no byte for 0.5 s",
    "stalled": "no byte for 0.5 s",
}


@pytest.mark.parametrize("manner", ["good", "slow", "inward"])
def test_a_mirror_that_answers_gives_the_data(
    manner: str, small_mnist: Path, serve: Callable[[Path], str]
) -> None:
    origins = fetch_mnist(Path("root"), [f"{serve(small_mnist)}/{manner}/"])
    assert set(origins.values()) == {"downloaded"}
    dataset = load_dataset("mnist", "root")
    assert dataset.train.images.shape == (20, 784)
    assert dataset.test.labels.tolist() == list(range(10))
    assert set(fetch_mnist(Path("root")).values()) == {"present"}


@pytest.mark.parametrize(("manner", "reason"), BAD_MANNERS.items())
def test_a_bad_mirror_is_left_for_the_next_or_named(
    manner: str,
    reason: str,
    small_mnist: Path,
    serve: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mnist_files, "SILENCE_S", 0.5)
    Path("scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", "scratch")
    address = serve(small_mnist)
    with pytest.raises(DataError) as error:
        fetch_mnist(Path("root"), [f"{address}/{manner}"])
    what, way_out = str(error.value).splitlines()
    assert what.startswith("cannot download train-images-idx3-ubyte.gz, which is in none of root/M")
    assert f" root/raw, root: {address}/{manner}: " in what
    assert reason in what
    assert "--config digits" in way_out
    for name, md5 in mnist_files.ARCHIVE_MD5.items():
        assert f"{name} ({md5})" in way_out
    assert not Path("root").exists()
    assert list(Path("scratch").iterdir()) == []

    fetch_mnist(Path("root"), [f"{address}/{manner}", f"{address}/good"])
    assert load_dataset("mnist", "root").train.images.shape == (20, 784)


def test_a_dead_mirror_is_left_for_the_next(
    small_mnist: Path, serve: Callable[[Path], str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match="refused"):
            fetch_mnist(Path("root"), [dead])
        fetch_mnist(Path("root"), [dead, f"{serve(small_mnist)}/good"])


def test_plain_http_is_only_for_mirrors_of_the_config(
    small_mnist: Path, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an https address lead there: torchvision turns to http where https fails."""
    monkeypatch.delenv("https_proxy")
    http = serve(small_mnist)
    https = http.replace("http:", "https:")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [f"{http}/good/", f"{https}/good/"])
    with pytest.raises(DataError) as error:
        fetch_mnist(Path("root"))
    assert f": {https}/good/: " in str(error.value)
    assert "WRONG_VERSION_NUMBER" in str(error.value)
    assert f"{http}/good" not in str(error.value)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    with pytest.raises(DataError):
        fetch_mnist(Path("root"), [f"{https}/good"])
    fetch_mnist(Path("root"), [f"{http}/good"])


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    refused = pytest.raises(urllib.error.URLError, match=r"http://127\.0\.0\.1:9/ is not https")
    with mnist_files._guarded("https://mirror/file.gz"), refused:
        urllib.request.urlopen("http://127.0.0.1:9/")


@pytest.mark.parametrize("stderr", ["terminal", "file", "beside a live line"])
def test_progress_is_shown_on_a_terminal_only(
    stderr: str,
    small_mnist: Path,
    serve: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "mnist_mlp")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: stderr != "file")
    console = Console(stderr=True, force_terminal=True, highlight=False)
    with Live("loading", console=console) if "live" in stderr else nullcontext():
        fetch_mnist(Path("root"), [f"{serve(small_mnist)}/good"])
    assert ("100.0%" in capsys.readouterr().err) == (stderr == "terminal")


def unpacked(archives: Path, root: Path) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives.iterdir():
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
    return raw


def test_archives_are_unpacked_without_a_network(small_mnist: Path) -> None:
    shutil.copytree(small_mnist, "root/MNIST/raw")
    assert set(fetch_mnist(Path("root")).values()) == {"unpacked"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_download_leaves_nothing(
    sent: signal.Signals, small_mnist: Path, serve: Callable[[Path], str]
) -> None:
    Path("scratch").mkdir()
    Path("m.yaml").write_text(f"data: {{mirrors: ['{serve(small_mnist)}/stalled']}}")
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_mlp", "download", "--config", "m.yaml", "--root", "root"],
        env={**os.environ, "TMPDIR": "scratch"}, stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # a parent may ignore it
    )  # fmt: skip
    while not list(Path("scratch").glob("*/*.gz")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait() == 128 + sent
    process.communicate()
    assert list(Path("scratch").iterdir()) == []
    assert not Path("root").exists()


PLACES = {
    "root": "{name}",
    "root_packed": "{name}.gz",
    "dots": "{dots}",
    "dots_packed": "{dots}.gz",
    "raw": "raw/{name}",
    "beside": "MNIST/raw/{dots}",
    "folders": "{name}/{name}",
    "dotted_folders": "raw/{dots}/{dots}",
}


@pytest.mark.parametrize("place", PLACES)
def test_files_are_used_where_people_have_them(
    place: str, small_mnist: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mnist_mlp")
    for archive in small_mnist.iterdir():
        names = {"name": archive.stem, "dots": archive.stem.replace("-idx", ".idx")}
        path = Path("root", PLACES[place].format(**names))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = archive.read_bytes()
        path.write_bytes(content if path.suffix == ".gz" else gzip.decompress(content))
    before = sorted(Path("root").rglob("*"))
    assert mnist_files.has_mnist("root")
    same_as_torchvision(load_dataset("mnist", "root"), unpacked(small_mnist, Path("other")).parent)
    assert sorted(Path("root").rglob("*")) == before  # nothing is moved or unpacked
    common = PLACES[place].partition("{")[0].rstrip("/")
    said = [f"MNIST is read from {Path('root', common)}"]
    assert caplog.messages == (said if place != "beside" else [])


def same_as_torchvision(dataset: Dataset, folder: Path) -> None:
    for train, split in ((True, dataset.train), (False, dataset.test)):
        theirs = torchvision.datasets.MNIST(folder.parent, train=train)
        assert split.pixels.equal(theirs.data.flatten(1))
        assert split.labels.equal(theirs.targets)


@pytest.mark.mnist
def test_the_real_images_and_labels_are_torchvisions(mnist_root: Path) -> None:
    same_as_torchvision(load_dataset("mnist", mnist_root), mnist_root / "MNIST")


def test_a_file_of_that_name_elsewhere_is_left_alone(
    small_mnist: Path, serve: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Fashion-MNIST's files have MNIST's names."""
    Path("root/raw").mkdir(parents=True)
    for name in FILES:
        Path("root/raw", name).write_bytes(b"shoes")
    with pytest.raises(DataError, match="cannot download"):
        fetch_mnist(Path("root"))
    assert "root/raw/train-images-idx3-ubyte: not the official file; it is left" in caplog.text
    origins = fetch_mnist(Path("root"), [f"{serve(small_mnist)}/good"])
    assert set(origins.values()) == {"downloaded"}
    assert all(Path("root/raw", name).read_bytes() == b"shoes" for name in FILES)
    caplog.clear()
    fetch_mnist(Path("root"))
    assert caplog.text == ""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["flip", "truncate", "empty", "longer", "swap", "folder"])
@pytest.mark.parametrize("archive_beside", [False, True])
def test_an_altered_file_is_refused_and_left(
    name: str, fault: str, archive_beside: bool, small_mnist: Path
) -> None:
    raw = unpacked(small_mnist, Path("root"))
    if archive_beside:
        shutil.copy(small_mnist / f"{name}.gz", raw)
    path = raw / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if fault == "folder":
        path.mkdir()
    else:
        other = FILES[(FILES.index(name) + 1) % 4]
        faulty = {
            "flip": bytes(content),
            "truncate": bytes(content[:-1]),
            "empty": b"",
            "longer": bytes(content) + b"\0",
            "swap": (raw / other).read_bytes(),
        }[fault]
        path.write_bytes(faulty)
    with pytest.raises((DataError, IsADirectoryError), match=name):
        load_dataset("mnist", "root")
    assert path.exists()
    if fault != "folder":
        assert path.read_bytes() == faulty


@pytest.mark.parametrize("name", FILES)
def test_an_altered_archive_is_refused_beside_a_good_file(name: str, small_mnist: Path) -> None:
    raw = unpacked(small_mnist, Path("root"))
    (raw / f"{name}.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=rf"{name}\.gz"):
        load_dataset("mnist", "root")


def test_a_legacy_processed_file_is_never_read(small_mnist: Path, tmp_path: Path) -> None:
    unpacked(small_mnist, Path("root"))
    processed = Path("root/MNIST/processed")
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28), torch.zeros(3)), processed / name)
    assert len(load_dataset("mnist", "root").train.labels) == 20


def test_a_root_that_cannot_be_written_is_a_file_system_error(
    small_mnist: Path, serve: Callable[[Path], str]
) -> None:
    with pytest.raises(OSError, match="/proc/mnist"):
        fetch_mnist(Path("/proc/mnist"), [f"{serve(small_mnist)}/good"])


def test_a_home_folder_that_is_nobodys() -> None:
    with pytest.raises(DataError, match="~nobody-is-called-this/data: no such home folder"):
        load_dataset("mnist", "~nobody-is-called-this/data")


@pytest.fixture(scope="module")
def real_copy(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mnist")
    (root / "MNIST" / "raw").mkdir(parents=True)
    for name in FILES:
        shutil.copy(mnist_root / "MNIST" / "raw" / name, root / "MNIST" / "raw")
        (root / "MNIST" / "raw" / name).chmod(0o644)
    return root


def flipped(root: Path, name: str, chance: random.Random) -> Callable[[], None]:
    """Flip a bit of a file; returns what flips it back."""
    path = root / "MNIST" / "raw" / name
    position, bit = chance.randrange(path.stat().st_size), 1 << chance.randrange(8)

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ bit]))

    flip()
    return flip


@pytest.mark.mnist
@pytest.mark.parametrize("attempts", [40, pytest.param(200, marks=pytest.mark.long)])
def test_one_flipped_bit_of_the_real_files_is_refused(attempts: int, real_copy: Path) -> None:
    chance = random.Random(0)
    for attempt in range(attempts):
        name = FILES[attempt % 4]
        undo = flipped(real_copy, name, chance)
        with pytest.raises(DataError, match=name):
            load_dataset("mnist", real_copy)
        undo()
    load_dataset("mnist", real_copy)


@pytest.mark.mnist
@pytest.mark.parametrize("attempt", range(8))
def test_one_flipped_bit_through_the_program_is_exit_3(real_copy: Path, attempt: int) -> None:
    name = FILES[attempt % 4]
    undo = flipped(real_copy, name, random.Random(attempt))
    outcome = program("train", "--config", "mnist", "--root", real_copy, "--dry-run")
    undo()
    assert outcome.code == 3
    assert name in outcome.err
    assert "delete it" in outcome.err


@pytest.mark.mnist
@pytest.mark.parametrize(
    ("manners", "code"),
    [
        (["good"], 0),
        (["forbidden", "html", "truncated", "wrong", "good"], 0),
        (["forbidden", "short"], 3),
    ],
)
def test_the_program_downloads_the_real_files_from_mirrors(
    manners: list[str],
    code: int,
    mnist_root: Path,
    serve: Callable[[Path], str],
    run: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    address = serve(mnist_root / "MNIST" / "raw")
    mirrors = ", ".join(f"{address}/{manner}" for manner in manners)
    Path("m.yaml").write_text(f"data: {{mirrors: [{mirrors}], validation: 0}}")
    outcome = run("download", "--config", "m.yaml", "--root", "here")
    assert outcome.code == code, outcome
    if code:
        assert "HTTP 403" in outcome.err
        assert "not the official file" in outcome.err
    else:
        assert outcome.out.count("downloaded") == 4
        assert run("train", "--config", "m.yaml", "--root", "here", "--dry-run").code == 0
