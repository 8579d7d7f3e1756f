"""prepare: downloads that are cut off, archives, encodings, words and subwords."""

import base64
import hashlib
import http.server
import io
import json
import re
import threading
import urllib.parse
import zipfile
from functools import partial

import numpy as np
import pytest

from ct_rl.errors import UserError
from ct_rl.lm import corpus, prepare, text_files
from ct_rl.lm.download import Remote, download
from tests.lm.conftest import here


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; breaks the connection after the next of `cuts` bytes; notes every Range."""

    def __init__(self, shared, *rest):
        self.shared = shared
        super().__init__(*rest)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/storage/"):
            return self.send_list(urllib.parse.parse_qs(query))
        if path not in self.shared["files"]:
            return self.send_error(404)
        content = self.shared["files"][path]
        self.shared["ranges"].append(self.headers.get("Range"))
        start = 0
        if (asked := self.headers.get("Range")) and self.shared["ranged"]:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.shared["cuts"].pop(0) if self.shared["cuts"] else len(content)
        self.wfile.write(content[start : start + cut])
        return None

    def send_list(self, query):
        """One object a page."""
        prefix = query["prefix"][0]
        books = sorted(p for p in self.shared["files"] if p.startswith(f"/{BUCKET}/{prefix}"))
        at = int(query.get("pageToken", ["0"])[0])
        content = self.shared["files"][books[at]]
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        page = {"items": [{"name": books[at].removeprefix(f"/{BUCKET}/"), "size": len(content),
                           "md5Hash": digest}]}  # fmt: skip
        if at + 1 < len(books):
            page["nextPageToken"] = str(at + 1)
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


BUCKET = "deepmind-gutenberg"


@pytest.fixture
def server():
    shared = {"files": {}, "cuts": [], "ranges": [], "ranged": True}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, shared)) as httpd:
        shared["url"] = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield shared
        httpd.shutdown()


CONTENT = np.random.default_rng(0).bytes(300_000)
SUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def test_a_download_goes_on_where_it_was_cut_off(server, tmp_path):
    server["files"]["/x.bin"] = CONTENT
    server["cuts"] = [100_000, 50_000]
    seen = []
    path = download(
        Remote(server["url"] + "/x.bin", len(CONTENT), SUM),
        tmp_path,
        lambda have, total: seen.append((have, total)),
        patience=0.01,
    )
    assert path.read_bytes() == CONTENT
    assert server["ranges"] == [None, "bytes=100000-", "bytes=150000-"]
    assert seen[-1] == (300_000, 300_000) and [item.name for item in tmp_path.iterdir()] == [
        "x.bin"
    ]
    download(Remote(server["url"] + "/x.bin"), tmp_path)
    assert len(server["ranges"]) == 3


def test_a_download_given_up_keeps_what_it_has_for_the_next_call(server, tmp_path):
    server["files"]["/x.bin"] = CONTENT
    server["cuts"] = [1_000] * 5
    remote = Remote(server["url"] + "/x.bin", checksum=SUM)
    with pytest.raises(UserError, match="5,000 bytes are kept"):
        download(remote, tmp_path, patience=0.01)
    assert [item.name for item in tmp_path.iterdir()] == ["x.bin.part"]
    assert download(remote, tmp_path, patience=0.01).read_bytes() == CONTENT
    assert server["ranges"][-1] == "bytes=5000-"


def test_a_server_that_cannot_go_on_is_read_from_the_start(server, tmp_path):
    server["files"]["/x.bin"] = CONTENT
    server["cuts"], server["ranged"] = [70_000], False
    remote = Remote(server["url"] + "/x.bin", checksum=SUM)
    assert download(remote, tmp_path, patience=0.01).read_bytes() == CONTENT


def test_a_wrong_checksum_is_never_taken_for_whole(server, tmp_path):
    server["files"]["/x.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match="is not the file that it should be: its sha256 is"):
        download(Remote(server["url"] + "/x.bin", checksum=SUM), tmp_path, patience=0.01)
    assert not list(tmp_path.iterdir())
    theirs = tmp_path / "x.bin"  # from elsewhere: it is not ours to remove
    theirs.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=r"x.bin' is not the file .*; remove it, and it is fetched"):
        download(Remote(server["url"] + "/x.bin", checksum=SUM), tmp_path)
    assert theirs.exists()


def test_no_network_and_no_file_are_one_line_each(server, tmp_path):
    with pytest.raises(UserError, match="the server says 404"):
        download(Remote(server["url"] + "/absent"), tmp_path, patience=0.01)
    with pytest.raises(UserError, match="give the file with --from where there is no network"):
        download(Remote("http://127.0.0.1:9/x"), tmp_path, patience=0.001)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return buffer.getvalue()


def test_enwik8_is_fetched_checked_and_cut_at_90_5_and_5(server, tmp_path, monkeypatch, capsys):
    text = bytes(np.random.default_rng(0).integers(97, 120, 1_000).astype(np.uint8))
    archive = zipped(enwik8=text)
    server["files"]["/enwik8.zip"] = archive
    server["cuts"] = [len(archive) // 2]
    remote = Remote(
        server["url"] + "/enwik8.zip", len(archive), "sha256:" + hashlib.sha256(archive).hexdigest()
    )
    monkeypatch.setattr(prepare, "REMOTES", {"enwik8": remote})
    monkeypatch.setattr(prepare, "_ENDS", (900, 950, 1_000))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    out = tmp_path / "enwik8"
    assert here("prepare", "enwik8", "--out", out) == 0
    made = corpus.load(out)
    assert b"".join(made.tokens[split].tobytes() for split in corpus.SPLITS) == text
    assert [len(made.tokens[split]) for split in corpus.SPLITS] == [900, 50, 50]
    assert here("prepare", "enwik8", "--out", out) == 0
    assert "is prepared already" in capsys.readouterr().out
    (tmp_path / "enwik8_local").write_bytes(text[:-1])
    with pytest.raises(UserError, match=r"was prepared from the network, not .*enwik8_local"):
        here("prepare", "enwik8", "--from", tmp_path / "enwik8_local", "--out", out)
    with pytest.raises(UserError, match="has 999 bytes, not 1,000"):
        here("prepare", "enwik8", "--from", tmp_path / "enwik8_local", "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("size", [1, 7, 8, 30, 1_000])
def test_pages_of_a_dump_are_documents_however_it_is_cut(size):
    dump = b"<wiki>\n" + b"".join(b"  <page>\n text %d\n  </page>\n" % n for n in range(9))
    found = list(text_files.pages(iter([dump[at : at + size] for at in range(0, len(dump), size)])))
    assert b"".join(text for _, text in found) == dump
    at, starts = 0, []
    for begins, text in found:
        starts += [at] * begins
        at += len(text)
    assert starts == [match.start() for match in re.finditer(b"  <page>", dump)]


def test_wikitext_keeps_words_by_frequency_lines_and_articles(tmp_path, capsys):
    text = " = One = \n\n the cat <unk> \n = = Part = = \n the \n = Two = \n the end \n"
    archive = tmp_path / "w.zip"
    archive.write_bytes(
        zipped(
            **{f"wikitext-103__wiki_dot_{s}_dot_tokens": text for s in ("train", "valid", "test")}
        )
    )
    out = tmp_path / "wiki"
    assert here("prepare", "wikitext103", "--from", archive, "--out", out) == 0
    made = corpus.load(out)
    assert made.vocabulary.words[:2] == ["=", "<eos>"]
    decoded = made.vocabulary.decode(made.tokens["train"]).decode()
    assert decoded.split() == text.split() and decoded.count("\n") == text.count("\n")
    two = made.tokens["train"][made.documents["train"][1] :]
    assert made.vocabulary.decode(two).decode().startswith("= Two =")
    assert made.words["test"] == len(made.tokens["test"]) == len(text.split()) + 7
    assert made.vocabulary.counts == sorted(made.vocabulary.counts, reverse=True)


def test_broken_archives_encodings_and_missing_parts_are_one_line(tmp_path):
    good = zipped(enwik8=CONTENT)
    files = {
        "half.zip": good[: len(good) // 2],
        "flipped.zip": good[:1_000] + bytes(200) + good[1_200:],
        "other.zip": zipped(readme="x"),
        "latin.txt": ("caf\xe9 au lait\n" * 100).encode("latin-1"),
        "short.txt": b"one line",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    cases = [
        ("enwik8", "half.zip", "is a broken archive"),
        ("enwik8", "flipped.zip", "is a broken archive"),
        ("enwik8", "other.zip", "holds no enwik8"),
        ("wikitext103", "other.zip", "has no wiki.train.tokens"),
        ("wikitext103", "folder", "has no wiki.train.tokens"),
        ("words", "latin.txt", r"is not UTF-8 \(byte 3\): convert it first"),
        ("words", "short.txt", "too few lines"),
        ("words", "folder", "has no train.txt, valid.txt, test.txt"),
        ("words", "absent", "there is no"),
        ("enwik9", "half.zip", "did you mean 'enwik8'"),
    ]
    for name, source, words in cases:
        with pytest.raises(UserError, match=words) as error:
            here("prepare", name, "--from", tmp_path / source, "--out", tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="give it with --from"):
        here("prepare", "words", "--out", tmp_path / "out")


def test_another_text_than_the_one_prepared_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(f"words of {name}\n" * 100)
    assert here("prepare", "words", "--from", "one.txt") == 0
    capsys.readouterr()
    for source in ((), ("--from", "one.txt"), ("--from", tmp_path / "one.txt")):
        assert here("prepare", "words", *source) == 0
        assert capsys.readouterr().out == "data/words is prepared already\n"
    with pytest.raises(UserError, match=r"was prepared from .*one\.txt, not .*two\.txt: give anot"):
        here("prepare", "words", "--from", "two.txt")
    with pytest.raises(UserError, match="was prepared as words, not text8: give another --out"):
        here("prepare", "text8", "--out", "data/words")
    (tmp_path / "one.txt").rename(tmp_path / "moved.txt")
    for source in ("moved.txt", "one.txt"):
        assert here("prepare", "words", "--from", source) == 0
    (tmp_path / "one.txt").write_text("other words\n" * 100)
    with pytest.raises(UserError, match=r"was prepared from .*one\.txt, not as it is now: give an"):
        here("prepare", "words", "--from", "one.txt")
    # A corpus of before says nothing of where it is from.
    path = tmp_path / "data" / "words" / corpus.FILE
    meta = json.loads(path.read_text())
    del meta["origin"]
    path.write_text(json.dumps(meta))
    assert here("prepare", "words", "--from", "two.txt") == 0


def test_a_corpus_may_be_made_inside_the_folder_of_its_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split in corpus.SPLITS:
        (tmp_path / f"{split}.txt").write_text(f"words of {split}\n" * 9)
    for out in ("data/words", "other"):
        assert here("prepare", "words", "--from", ".", "--out", out) == 0
    assert here("prepare", "words", "--from", ".") == 0
    assert capsys.readouterr().out.endswith("data/words is prepared already\n")
    (tmp_path / "valid.txt").write_text("other words\n" * 9)
    with pytest.raises(UserError, match="not as it is now"):
        here("prepare", "words", "--from", ".")


def test_another_size_of_vocabulary_than_the_one_prepared_is_refused(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "t.txt").write_text("some words\n" * 100)
    flags = ("prepare", "subwords", "--from", tmp_path / "t.txt", "--out", tmp_path / "out")
    assert here(*flags, "--vocab", 300) == 0
    assert here(*flags, "--vocab", 300) == 0
    with pytest.raises(UserError, match="was prepared with --vocab 300, not 32000: give another"):
        here(*flags)


def test_subwords_say_which_package_they_need(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    (tmp_path / "t.txt").write_text("some words\n" * 100)
    with pytest.raises(UserError, match=r"pip install 'ct_rl\[tokenizers\]'"):
        here("prepare", "subwords", "--from", tmp_path / "t.txt", "--out", tmp_path / "out")


def test_pg19_is_fetched_book_by_book_and_counts_words(server, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tokenizers")
    books = {
        f"/{BUCKET}/{split}/{n}.txt": (f"book {n} of {split} " * 40).encode()
        for split in ("train", "validation", "test")
        for n in range(2)
    }
    server["files"] = dict(books)
    server["cuts"] = [100]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    out = tmp_path / "pg19"
    flags = ("prepare", "pg19", "--url", server["url"], "--out", out, "--vocab", 300)
    assert here(*flags) == 0
    made = corpus.load(out)
    assert made.vocabulary.size <= 300 and len(made.documents["train"]) == 2
    assert made.words == {split: 2 * 40 * 4 for split in corpus.SPLITS}
    text = made.vocabulary.decode(made.tokens["valid"]).decode()
    assert text == "".join(books[name].decode() for name in sorted(books) if "/validation/" in name)
    monkeypatch.setattr(prepare, "PG19_BOOKS", {"train": 2, "valid": 50, "test": 2})
    there = tmp_path / "downloads" / "pg19"
    assert here("prepare", "pg19", "--from", there, "--out", tmp_path / "b", "--vocab", 300) == 0
    assert corpus.load(tmp_path / "b").words == {
        "train": 1_973_136_207, "valid": 320, "test": 6_966_499
    }  # fmt: skip
