"""Write the ladder's corpus: Debian's kernel source and documentation to train on, two held-out test sets.

    python benchmarks/ladder/corpus.py OUT

Bytes are the tokens. Every document (a file) is held out of training or not by the hash of its name, the documents are
shuffled, joined by a zero byte and cut into windows of context + 1 bytes, so that a run reads each window once.

    train.npy   [windows, context + 1]   the training mix: kernel source (C, headers, assembly, build files) and docs
    mix.npy     [windows, context + 1]   the same mix, other documents
    prose.npy   [windows, context + 1]   another kind of text: the English Debian Administrator's Handbook, tags removed
    corpus.json                          packages, versions, hashes, counts
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

PACKAGES = {"linux-source-6.1": "6.1.176-1", "debian-handbook": "11.20220922"}
CODE = {".c", ".h", ".S", ".rs", ".py", ".sh", ".pl", ".dts", ".dtsi", ".yaml"}
TEXT = {".rst", ".txt"}
CONTEXT = 64
TRAIN_BYTES = 120_000_000
TEST_WINDOWS = 4096
HELD_OUT = 64  # one document in so many


class Prose(HTMLParser):
    """The text of a page, without its listings."""

    SKIPPED = {"pre", "script", "style", "title"}

    def __init__(self):
        super().__init__()
        self.skipping, self.pieces = 0, []

    def handle_starttag(self, tag, attrs):
        self.skipping += tag in self.SKIPPED

    def handle_endtag(self, tag):
        self.skipping -= tag in self.SKIPPED
        if tag in ("p", "div", "li", "h2", "h3"):
            self.pieces.append("\n")

    def handle_data(self, data):
        if not self.skipping and data.strip():
            self.pieces.append(" ".join(data.split()) + " ")

    def text(self):
        return "\n".join(line.strip() for line in "".join(self.pieces).splitlines() if line.strip())


def fetch(package, version, folder):
    """The unpacked package, and the hash of the archive."""
    subprocess.run(["apt-get", "-qq", "download", f"{package}={version}"], cwd=folder, check=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
    return folder / package, hashlib.sha256(archive.read_bytes()).hexdigest()


def kernel_documents(root):
    """(name, bytes) of the kernel's code and documentation."""
    with tarfile.open(root / "usr/src/linux-source-6.1.tar.xz") as archive:
        for member in archive:
            if member.isfile() and 200 < member.size < 200_000 and Path(member.name).suffix in CODE | TEXT:
                yield member.name, archive.extractfile(member).read()


def handbook_documents(root):
    for path in sorted((root / "usr/share/doc/debian-handbook/html/en-US").glob("*.html")):
        parser = Prose()
        parser.feed(path.read_text())
        yield path.name, parser.text().encode()


def held_out(name):
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def windows(documents, order, most_bytes):
    """The documents in this order, joined by a zero byte, as rows of context + 1 bytes."""
    joined, size = [], 0
    for index in order:
        if size >= most_bytes:
            break
        joined.append(documents[index] + b"\0")
        size += len(joined[-1])
    data = np.frombuffer(b"".join(joined), np.uint8)
    return data[: len(data) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        kernel, kernel_hash = fetch("linux-source-6.1", PACKAGES["linux-source-6.1"], folder)
        handbook, handbook_hash = fetch("debian-handbook", PACKAGES["debian-handbook"], folder)
        named = sorted(kernel_documents(kernel))
        prose = [text for _, text in handbook_documents(handbook)]
    train = [text for name, text in named if not held_out(name)]
    mix = [text for name, text in named if held_out(name)]
    tables = {
        "train": windows(train, rng.permutation(len(train)), TRAIN_BYTES),
        # windows spread over all held-out documents, not the first few
        "mix": rng.permutation(windows(mix, rng.permutation(len(mix)), TRAIN_BYTES))[:TEST_WINDOWS],
        "prose": rng.permutation(windows(prose, range(len(prose)), TRAIN_BYTES))[:TEST_WINDOWS],
    }
    for name, table in tables.items():
        np.save(out / f"{name}.npy", table)
    words = {name: sum(len(text) for key, text in named if Path(key).suffix in suffixes)
             for name, suffixes in (("code", CODE), ("documentation", TEXT))}
    card = {
        "packages": {"linux-source-6.1": [PACKAGES["linux-source-6.1"], kernel_hash],
                     "debian-handbook": [PACKAGES["debian-handbook"], handbook_hash]},
        "kernel documents": len(named), "bytes by kind": words, "held out": f"one document in {HELD_OUT}",
        "windows": {name: list(table.shape) for name, table in tables.items()},
        "sha256": {name: hashlib.sha256(table.tobytes()).hexdigest() for name, table in tables.items()},
    }
    (out / "corpus.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
