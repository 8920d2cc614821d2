"""Tests of clock_server, in the order of the module.

    python -m unittest                     all of them
    python test_clock_server.py GrammarTest.test_rejected

They use real sockets, real processes and nothing but the standard library. Where time
matters, the limits of the module are made short; nothing depends on how fast it runs.
"""
import base64
import contextlib
import hashlib
import html.parser
import http.client
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections import namedtuple
from datetime import datetime, timezone
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import clock_server  # noqa: E402  beside this file, wherever the tests are run from
from clock_server import ClockHandler, ClockServer, QuietHandler, render_page  # noqa: E402

GIVE_UP = 20  # seconds after which something that should have happened has not
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Answer = namedtuple("Answer", "status fields body head")


class WatchedServer(ClockServer):
    """Remembers what it would have reported as an error, and how many it served at once."""

    most = 0

    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.most = max(self.most, len(self.deadlines))

    def handle_error(self, request, client_address):
        self.errors.append(sys.exc_info()[1])


@contextlib.contextmanager
def running_server(handler=QuietHandler, errors=(), **limits):
    """Serve on a free port with these limits; at the end nothing may be left over.

    `errors` are the types of the exceptions that handlers are expected to raise.
    """
    with mock.patch.multiple(clock_server, **limits) if limits else contextlib.suppress():
        with WatchedServer(("127.0.0.1", 0), handler) as server:
            server.errors = []
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
        assert not server.threads and not server.deadlines, (server.threads, server.deadlines)
        assert [type(error) for error in server.errors] == list(errors), server.errors


def connect(server):
    """Return a new connection to the server."""
    connection = socket.create_connection(server.server_address[:2], GIVE_UP)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_to_end(connection):
    """Return all bytes that come before the end; a reset counts as one."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while True:
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
    return received


def parse_answers(received, methods=()):
    """Return the answers in these bytes, checked as strictly as a client could."""
    answers, methods = [], list(methods)
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        assert end, received
        lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]+", lines[0])
        assert match, lines[0]
        fields = {}
        for line in lines[1:]:
            name, value = re.fullmatch(r"([A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)", line).groups()
            assert name not in fields, line
            fields[name] = value
        status = int(match[1])
        method = methods.pop(0) if methods else ""
        length = 0 if method == "HEAD" or status == 204 else int(fields["Content-Length"])
        assert len(rest) >= length, (fields, rest)
        answers.append(Answer(status, fields, rest[:length], head))
        received = rest[length:]
    return answers


def exchange(server, *pieces, methods=()):
    """Send the pieces on one connection, then the end; return the answers."""
    with connect(server) as connection:
        with contextlib.suppress(OSError):  # the server had enough before we were done
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        return parse_answers(read_to_end(connection), methods)


def wait_until(condition):
    """Return as soon as the condition holds; fail when it does not come to hold."""
    deadline = time.monotonic() + GIVE_UP
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


# --- The page ----------------------------------------------------------------------

class PageParser(html.parser.HTMLParser):
    """Collects what the tests want to know of a page."""

    VOID = {"meta", "link", "br", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], {}, []
        self.feed(page.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag,) + attr for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open:
            tag = self.open[-1]
            self.texts[tag] = self.texts.get(tag, "") + data


class PageTest(unittest.TestCase):

    ZONES = [  # label, TZ, offset of standard time
        ("UTC", "UTC0", "+00:00"),
        ("half an hour east", "IST-5:30", "+05:30"),
        ("half an hour west", "NST3:30", "-03:30"),
        ("quarter of an hour", "NPT-5:45", "+05:45"),
        ("before the date line", "AAA-14", "+14:00"),
        ("less than an hour west", "BBB0:30", "-00:30"),
    ]
    MOMENTS = [  # label, seconds since 1970
        ("the epoch", 0.0),
        ("before the epoch", -0.5),
        ("long before the epoch", -1e9 + 0.25),
        ("a day of one digit", 1162512000.0),
        ("just before a second", 1700000000.9999998),
        ("just after a second", 1700000000.0000002),
        ("today", time.time()),
        ("after 32 bits of seconds", 2 ** 32 + 0.5),
    ]

    def tearDown(self):
        if hasattr(time, "tzset"):
            time.tzset()

    @unittest.skipUnless(hasattr(time, "tzset"), "this system cannot change its zone")
    def test_shows_ctime_and_names_the_same_moment(self):
        for zone_label, zone, offset in self.ZONES:
            with mock.patch.dict(os.environ, TZ=zone):
                time.tzset()
                for label, now in self.MOMENTS:
                    with self.subTest(zone=zone_label, moment=label):
                        page = PageParser(render_page(now))
                        self.assertEqual(page.texts["time"], time.ctime(now))
                        stamp = dict(row[1:] for row in page.attributes)["datetime"]
                        self.assertRegex(stamp, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
                        self.assertEqual(stamp[-6:], offset)
                        moment = datetime.strptime(stamp[:-3] + stamp[-2:], "%Y-%m-%dT%H:%M:%S.%f%z")
                        since = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()
                        self.assertTrue(0 <= now - since < 0.0011, (now, since))
                        self.assertEqual(page.texts["time"].split()[3], stamp[11:19])

    @unittest.skipUnless(hasattr(time, "tzset"), "this system cannot change its zone")
    def test_follows_summer_time(self):
        with mock.patch.dict(os.environ, TZ="CET-1CEST,M3.5.0,M10.5.0/3"):
            time.tzset()
            for label, now, stamp in [
                    ("winter", 1616893199, "2021-03-28T01:59:59.000+01:00"),
                    ("summer", 1616893200, "2021-03-28T03:00:00.000+02:00"),
                    ("the hour that comes twice", 1635641999, "2021-10-31T02:59:59.000+02:00"),
                    ("its second time", 1635642000, "2021-10-31T02:00:00.000+01:00")]:
                with self.subTest(label):
                    self.assertIn(b'<time datetime="%s">' % stamp.encode(), render_page(now))

    def test_is_whole_and_asks_for_nothing(self):
        for label, script in [("with its script", clock_server.SCRIPT), ("without", "")]:
            with self.subTest(label), mock.patch.object(clock_server, "SCRIPT", script):
                page = render_page(0)
                self.assertTrue(page.startswith(b"<!DOCTYPE html>\n"))
                parsed = PageParser(page)
                self.assertEqual(parsed.open, [])
                self.assertTrue(parsed.texts["title"].strip())
                self.assertIn(("html", "lang", "en"), parsed.attributes)
                self.assertIn(("meta", "charset", "utf-8"), parsed.attributes)
                self.assertIn(("meta", "name", "viewport"), parsed.attributes)
                self.assertIn(("meta", "name", "description"), parsed.attributes)
                self.assertIn(b"<main><h1><time", page)
                names = {name for _, name, _ in parsed.attributes}
                self.assertFalse(names & {"src", "href", "http-equiv", "style", "aria-live"})
                self.assertNotRegex(page, rb"url\(|@import|fetch\(|XMLHttpRequest")


# --- The answers -------------------------------------------------------------------

class AnswersTest(unittest.TestCase):

    SAFE = {"Server": "clock_server", "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

    def test_every_path_is_the_page(self):
        with running_server() as server:
            for target in [b"/", b"/index.html", b"/a/b?c=d", b"//", b"/%00", b"/..", b"/favicon.ico"]:
                with self.subTest(target):
                    answer, = exchange(server, GET.replace(b"/", target, 1))
                    self.assertEqual(answer.status, 200)
                    self.assertIn(b"<main><h1><time ", answer.body)

    def test_page_carries_these_fields_and_no_other(self):
        with running_server() as server:
            before = time.time()
            answer, = exchange(server, GET)
        fields = dict(answer.fields)
        date = datetime.strptime(fields.pop("Date"), "%a, %d %b %Y %H:%M:%S GMT")
        self.assertLessEqual(abs(date.replace(tzinfo=timezone.utc).timestamp() - before), GIVE_UP)
        self.assertEqual(fields.pop("Content-Length"), str(len(answer.body)))
        self.assertEqual(fields.pop("Content-Type"), "text/html; charset=utf-8")
        policy = fields.pop("Content-Security-Policy")
        self.assertEqual(fields, self.SAFE)

        def inline(tag):
            text = re.search(b"<%s>(.*)</%s>" % (tag, tag), answer.body, re.S)[1]
            return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text).digest()).decode()
        self.assertEqual(policy.split("; "), [
            "default-src 'none'", "style-src " + inline(b"style"), "script-src " + inline(b"script"),
            "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])

    def test_page_is_made_for_each_request(self):
        with running_server() as server:
            with mock.patch("clock_server.time.time", side_effect=range(0, 10 ** 9, 1000)):
                bodies = {answer.body for answer in exchange(server, GET * 3)}
        self.assertEqual(len(bodies), 3)

    def test_head_is_get_without_the_page(self):
        with running_server() as server, mock.patch("clock_server.time.time", return_value=1e9):
            get, = exchange(server, GET)
            head, after = exchange(server, b"HEAD" + GET[3:] + GET, methods=["HEAD"])
        self.assertEqual((head.head, head.body), (get.head, b""))
        self.assertEqual(after, get)

    def test_options_lists_the_methods(self):
        with running_server() as server:
            for target in [b"/", b"*"]:
                with self.subTest(target):
                    answer, = exchange(server, b"OPTIONS %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
                    self.assertEqual((answer.status, answer.fields["Allow"], answer.body),
                                     (204, "GET, HEAD, OPTIONS", b""))
                    self.assertNotIn("Content-Length", answer.fields)

    def test_other_methods_are_refused(self):
        rows = [(method, b"/", 405) for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE")]
        rows += [(b"CONNECT", b"x:80", 405), (b"get", b"/", 501), (b"BREW", b"/", 501),
                 (b"command", b"/", 501), (b"__init__", b"/", 501), (b"GET_", b"/", 501)]
        with running_server() as server:
            for method, target, status in rows:
                with self.subTest(method):
                    answer, = exchange(server, b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target))
                    self.assertEqual(answer.status, status)
                    self.assertEqual(answer.fields.get("Allow"),
                                     "GET, HEAD, OPTIONS" if status == 405 else None)

    def test_refusal_is_a_whole_answer(self):
        with running_server() as server:
            answer, = exchange(server, b"GET / HTTP/1.1\r\n\r\n" + GET)
        self.assertEqual(answer.status, 400)
        self.assertEqual(answer.body, b"400 Bad Request: not one valid Host (RFC 9112 section 3.2)\n")
        self.assertEqual({name: answer.fields.get(name) for name in self.SAFE}, self.SAFE)
        self.assertEqual(answer.fields["Connection"], "close")
        self.assertEqual(answer.fields["Content-Type"], "text/plain; charset=utf-8")
        self.assertLessEqual({"Date", "Content-Length", "Content-Security-Policy"}, set(answer.fields))

    def test_refused_head_has_no_body_either(self):
        with running_server() as server:
            answer, = exchange(server, b"HEAD / HTTP/1.1\r\n\r\n", methods=["HEAD"])
        self.assertEqual((answer.status, answer.body), (400, b""))

    def test_http_client_understands_every_answer(self):
        with running_server() as server:
            for method, status in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405),
                                   ("GET", 200)]:
                connection = http.client.HTTPConnection(*server.server_address, timeout=GIVE_UP)
                with self.subTest(method), contextlib.closing(connection):
                    for _ in range(2):
                        connection.request(method, "/")
                        response = connection.getresponse()
                        response.read()
                        self.assertEqual(response.status, status)

    def test_subclass_is_a_site_of_its_own(self):
        class Hello(QuietHandler):
            def do_GET(self):
                self.send_page(b"Hello " + self.headers["x-name"].encode("latin-1"), "text/plain")

        class Stock(QuietHandler):
            def do_GET(self):
                self.send_response(404, "Not Here")
                self.send_header("Content-Length", "4")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"gone")
        named = b"%s / HTTP/1.1\r\nHost: x\r\nX-Name: \xe9 \t\r\n\r\n"
        with running_server(Hello) as server:
            get, head = exchange(server, named % b"GET" + named % b"HEAD", methods=["GET", "HEAD"])
            self.assertEqual((get.body, head.body), (b"Hello \xe9", b""))
            self.assertEqual(get.head, head.head)
            self.assertEqual(get.fields["Content-Type"], "text/plain")
        with running_server(Stock) as server:
            answer, = exchange(server, GET * 2)
            self.assertEqual((answer.head[:21], answer.body), (b"HTTP/1.1 404 Not Here", b"gone"))

    def test_failing_handler_gives_a_500(self):
        errors = [FileNotFoundError("a file of the handler's, no client gone"), *[SystemExit(1)] * 5]
        left = errors[:]

        class Broken(QuietHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("X-Half", "done")
                raise left.pop(0)
        with running_server(Broken, errors=map(type, errors)) as server:
            for error in errors:
                answer, = exchange(server, GET * 2)
                self.assertEqual((answer.status, answer.fields["Connection"]), (500, "close"), error)
                self.assertNotIn("X-Half", answer.fields)

    def test_log_has_a_line_for_each_request(self):
        rows = [  # label, request, what is logged behind the date
            ("page", GET, '"GET / HTTP/1.1" 200 -'),
            ("refusal", b"GET / HTTP/1.1\r\n\r\n", '"GET / HTTP/1.1" 400 -'),
            ("method", b"POST" + GET[3:], '"POST / HTTP/1.1" 405 -'),
            ("escape", b"GET /\x1b[2J HTTP/1.1\r\n\r\n", r'"GET /\x1b[2J HTTP/1.1" 400 -'),
            ("backslash", rb"GET /\x1b HTTP/1.1" + GET[14:], r'"GET /\\x1b HTTP/1.1" 200 -'),
            ("line end", b"GET / HTTP/1.1\nFORGED\n", r'"GET / HTTP/1.1\n" 400 -'),
            ("bare CR", b"GET /\rFORGED HTTP/1.1\r\n\r\n", r'"GET /\rFORGED HTTP/1.1" 400 -'),
            ("DEL and C1", b"GET /\x7f\x9b HTTP/1.1\r\n\r\n", r'"GET /\x7f\x9b HTTP/1.1" 400 -'),
            ("quote", b'GET /"_200_" HTTP/1.1' + GET[14:], '"GET /%22_200_%22 HTTP/1.1" 200 -'),
            ("percent", b"GET /%s%d HTTP/1.1" + GET[14:], '"GET /%s%d HTTP/1.1" 200 -'),
        ]
        with running_server(ClockHandler) as server:
            for label, request, logged in rows:
                with self.subTest(label), mock.patch("sys.stderr") as stderr:
                    exchange(server, request)
                    line, = [call[0][0] for call in stderr.write.call_args_list]
                    self.assertRegex(line, r"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] ")
                    self.assertEqual(line.partition("] ")[2], logged + "\n")

    def test_a_log_that_is_lost_stops_nobody(self):
        with running_server(ClockHandler) as server:
            for label, stderr in [("none", None), ("full", mock.Mock(write=mock.Mock(side_effect=OSError))),
                                  ("closed", mock.Mock(write=mock.Mock(side_effect=ValueError)))]:
                with self.subTest(label), mock.patch("sys.stderr", stderr):
                    self.assertEqual([answer.status for answer in exchange(server, GET)], [200])


# --- The grammar -------------------------------------------------------------------

def request(line, *fields, host=b"Host: x", body=b""):
    """Return a request of these lines; each gets its CRLF here."""
    return b"".join(part + b"\r\n" for part in (line, *filter(None, (host,)), *fields, b"")) + body


def get(*fields, **others):
    """Return a GET request with these fields besides Host."""
    return request(b"GET / HTTP/1.1", *fields, **others)


LONG = b"a" * 7980
CHUNKS = b"1b\r\n" + GET + b"\r\n0\r\n\r\n"
ACCEPTED = [  # section of the RFC, label, request, status, whether the connection persists
    ("9112 2.2", "empty lines first", b"\r\n\r\n\r\n" + GET, 200, True),
    ("9112 2.2", "60 KB of them, then a long head",
     b"\r\n" * 30000 + get(b"X: " + LONG, b"Content-Length: 27", body=GET), 200, False),
    ("9112 3", "plain", GET, 200, True),
    ("9112 3", "8,000 bytes", request(b"GET /" + LONG + b"abcdef HTTP/1.1"), 200, True),
    ("9112 3.2.1", "any path and query", request(b"GET //..?%zz HTTP/1.1"), 200, True),
    ("9112 3.2.1", "all that is visible",
     request(b'GET /!"$%&\'()*+,-./:;<=>?@[\\]^_`{|}~ HTTP/1.1'), 200, True),
    ("9112 3.2.2", "absolute", request(b"GET http://x/y HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, in capitals, no path", request(b"GET HTTP://x HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, port and query", request(b"GET http://[::1]:80?y HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, another Host", request(b"GET http://y/ HTTP/1.1"), 200, True),
    ("9112 3.2.4", "asterisk", request(b"OPTIONS * HTTP/1.1"), 204, True),
    ("9110 2.5", "HTTP/1.2", request(b"GET / HTTP/1.2"), 200, True),
    ("9110 2.5", "HTTP/1.9", request(b"GET / HTTP/1.9"), 200, True),
    ("9110 5.1", "name in any case", get(host=b"hOST: x"), 200, True),
    ("9110 5.6.2", "name of every token character", get(b"!#$%&'*+-.^_`|~09AZaz: y"), 200, True),
    ("9112 5", "no space after the colon", get(host=b"Host:x"), 200, True),
    ("9112 5", "blanks and tabs round the value", get(host=b"Host: \t x\t "), 200, True),
    ("9110 5.5", "empty value", get(b"X:"), 200, True),
    ("9110 5.5", "tab in a value", get(b"X: a\tb"), 200, True),
    ("9110 5.5", "bytes from 0x80", get(b"X:" + bytes(range(128, 256))), 200, True),
    ("9110 5.4", "line of 8,000 bytes", get(b"X: " + LONG), 200, True),
    ("9110 5.4", "100 fields", get(*[b"X: y"] * 99), 200, True),
    ("9110 5.4", "56 KB of fields", get(*[b"X: " + LONG] * 7), 200, True),
    ("9112 6.2", "Content-Length: 0", get(b"Content-Length: 0"), 200, True),
    ("9112 6.2", "Content-Length: 000", get(b"Content-Length: 000"), 200, True),
    ("9112 6.2", "body by length", get(b"Content-Length: 27", body=GET), 200, False),
    ("9112 6.1", "body in chunks", get(b"Transfer-Encoding: chunked", body=CHUNKS), 200, False),
    ("9112 7", "coding in capitals", get(b"Transfer-Encoding: CHUNKED", body=CHUNKS), 200, False),
    ("9112 9.3", "HTTP/1.0", request(b"GET / HTTP/1.0", host=b""), 200, False),
    ("9112 9.3", "HTTP/1.0 with Host", request(b"GET / HTTP/1.0"), 200, False),
    ("9112 9.3", "HTTP/1.0 keep-alive", request(b"GET / HTTP/1.0", b"Connection: Keep-Alive"), 200, True),
    ("9112 9.3", "both", request(b"GET / HTTP/1.0", b"Connection: keep-alive, close"), 200, False),
    ("9112 9.6", "close", get(b"Connection: close"), 200, False),
    ("9112 9.6", "close in a list, in capitals", get(b"Connection: x ,\tCLOSE,"), 200, False),
    ("9112 9.6", "close on a second line", get(b"Connection: x", b"connection: close"), 200, False),
    ("9112 9.6", "closer is not close", get(b"Connection: closer, not-close"), 200, True),
    ("9112 9.6", "close in another field", get(b"X-Connection: close"), 200, True),
    ("9110 10.1.1", "100-continue", get(b"Expect: 100-Continue"), 200, True),
    ("9110 7.8", "upgrade", get(b"Upgrade: websocket", b"Connection: Upgrade"), 200, True),
    ("9110 14.2", "range", get(b"Range: bytes=0-9"), 200, True),
    ("9110 13.1", "conditions", get(b"If-None-Match: *", b"If-Modified-Since: x"), 200, True),
    ("9110 12.5", "nothing acceptable", get(b"Accept: x/y", b"Accept-Encoding: *;q=0"), 200, True),
]
ACCEPTED += [("9110 7.2", "Host " + host.decode(), get(host=b"Host: " + host), 200, True) for host in [
    b"localhost:8880", b"127.0.0.1", b"[::1]", b"[::1]:80", b"[::ffff:1.2.3.4]", b"a-b_c.example.",
    b"x:", b"%7Ex", b"xn--bcher-kva.example"]]

REJECTED = [  # section of the RFC, label, request, status
    ("9112 2.2", "bare LF ends the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    ("9112 2.2", "bare LF everywhere", b"GET / HTTP/1.1\nHost: x\n\n", 400),
    ("9112 2.2", "bare LF first", b"\n" + GET, 400),
    ("9112 2.2", "bare LF ends a field line", b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    ("9112 2.2", "bare LF ends the head", b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    ("9112 2.2", "bare CR ends the request line", b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    ("9112 2.2", "two CR", b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", 400),
    ("9112 2.2", "space before the first field", get(host=b" Host: x"), 400),
    ("9112 2.2", "line of blanks", request(b"GET / HTTP/1.1", b"  "), 400),
    ("9112 2.2", "empty lines without end", b"\r\n" * 40000, 400),
    ("9112 2.2", "TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", 400),
    ("9112 3", "two spaces", request(b"GET  / HTTP/1.1"), 400),
    ("9112 3", "tab for a space", request(b"GET\t/ HTTP/1.1"), 400),
    ("9112 3", "space first", request(b" GET / HTTP/1.1"), 400),
    ("9112 3", "space last", request(b"GET / HTTP/1.1 "), 400),
    ("9112 3", "four words", request(b"GET / x HTTP/1.1"), 400),
    ("9112 3", "no version", request(b"GET /"), 400),
    ("9112 3", "no version and nothing else", b"GET /\r\n", 400),
    ("9112 3", "no target", request(b"GET HTTP/1.1"), 400),
    ("9112 3", "no method", request(b"/ HTTP/1.1"), 400),
    ("9112 3", "one word", request(b"GET"), 400),
    ("9112 3", "too long", request(b"GET /" + LONG * 2 + b" HTTP/1.1"), 414),
    ("9112 3", "too long, and without an end", b"G" * 9000, 414),
    ("9112 3.1", "method that is no token", request(b"G(T / HTTP/1.1"), 400),
    ("9112 3.2", "relative", request(b"GET x HTTP/1.1"), 400),
    ("9112 3.2", "fragment", request(b"GET /#x HTTP/1.1"), 400),
    ("9112 3.2", "NUL", request(b"GET /\0 HTTP/1.1"), 400),
    ("9112 3.2", "DEL", request(b"GET /\x7f HTTP/1.1"), 400),
    ("9112 3.2", "byte from 0x80", request(b"GET /\xe9 HTTP/1.1"), 400),
    ("9112 3.2.2", "absolute without host", request(b"GET http:///x HTTP/1.1"), 400),
    ("9110 4.2.4", "absolute with user", request(b"GET http://u@x/ HTTP/1.1"), 400),
    ("9110 7.4", "absolute with another scheme", request(b"GET https://x/ HTTP/1.1"), 400),
    ("9112 3.2.3", "authority but not CONNECT", request(b"GET x:80 HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT without authority", request(b"CONNECT / HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT without port", request(b"CONNECT x HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT with an empty port", request(b"CONNECT x1: HTTP/1.1"), 400),
    ("9112 3.2.4", "asterisk but not OPTIONS", request(b"GET * HTTP/1.1"), 400),
    ("9112 2.3", "HTTP/1", request(b"GET / HTTP/1"), 400),
    ("9112 2.3", "HTTP/1.10", request(b"GET / HTTP/1.10"), 400),
    ("9112 2.3", "HTTP/01.1", request(b"GET / HTTP/01.1"), 400),
    ("9112 2.3", "http/1.1", request(b"GET / http/1.1"), 400),
    ("9112 2.3", "digit that is not ASCII", request(b"GET / HTTP/1.\xb9"), 400),
    ("9110 15.6.6", "HTTP/0.9", request(b"GET / HTTP/0.9"), 505),
    ("9110 15.6.6", "HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("9110 15.6.6", "HTTP/3.1", request(b"GET / HTTP/3.1"), 505),
    ("9112 5", "no colon", get(b"X"), 400),
    ("9112 5", "no name", get(b": y"), 400),
    ("9112 5", "name that is no token", get(b"X[: y"), 400),
    ("9112 5", "name with a byte from 0x80", get(b"X\xe9: y"), 400),
    ("9112 5.1", "space before the colon", get(b"X : y"), 400),
    ("9112 5.2", "folded line", get(b"X: y", b" z"), 400),
    ("9110 5.4", "long line", get(b"X: " + LONG * 2), 431),
    ("9110 5.4", "long line without an end", b"GET / HTTP/1.1\r\n" + b"X" * 9000, 431),
    ("9110 5.4", "101 fields", get(*[b"X: y"] * 100), 431),
    ("9110 5.4", "72 KB of fields", get(*[b"X: " + LONG] * 9), 431),
    ("9112 3.2", "no Host", get(host=b""), 400),
    ("9112 3.2", "two Hosts", get(b"Host: x"), 400),
    ("9112 3.2", "two Hosts in HTTP/1.0", request(b"GET / HTTP/1.0", b"Host: x"), 400),
    ("9112 3.2", "bad Host in HTTP/1.0", request(b"GET / HTTP/1.0", host=b"Host: x/y"), 400),
    ("9112 6.3", "two lengths", get(b"Content-Length: 5", b"Content-Length: 5"), 400),
    ("9112 6.1", "length and coding", get(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "HTTP/1.0", request(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "twice", get(b"Transfer-Encoding: x", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.3", "framing before the method", request(b"BREW / HTTP/1.1", b"Content-Length: x"), 400),
    ("9110 10.1.1", "another expectation", get(b"Expect: 200-ok"), 417),
    ("9110 10.1.1", "two expectations", get(b"Expect: 100-continue, x"), 417),
]
REJECTED += [("9110 5.5", "byte 0x%02x" % byte, get(b"X: a" + bytes([byte]) + b"b"), 400)
             for byte in [*range(9), *range(11, 32), 127]]
REJECTED += [("9110 7.2", "Host %r" % host, get(host=b"Host: " + host), 400) for host in [
    b"", b"x y", b"x,y", b"x/", b"u@x", b"x:y", b"x:1:2", b"::1", b"[::1", b"[]", b"[x]", b"[1:2]",
    b"[::1]x", b"x?", b"x#", b"http://x", b"x\\y", b"%zz", b"\xe9"]]
REJECTED += [("9110 8.6", "length %r" % length, get(b"Content-Length: " + length), 400) for length in [
    b"", b"+5", b"-1", b"5,5", b"5, 5", b"5 5", b"1_0", b"0x5", b"5.0", b"five", b"\xb2", b"9" * 19,
    b"9" * 5000]]
REJECTED += [("9112 6.3", "coding %r" % coding, get(b"Transfer-Encoding: " + coding), 400) for coding in [
    b"", b"\x0bchunked", b"chunked, gzip", b"chunked, chunked", b"gzip, identity", b"chunked,"]]
REJECTED += [("9112 6.1", "coding %r" % coding, get(b"Transfer-Encoding: " + coding), 501) for coding in [
    b"gzip", b"identity", b"xchunked", b"gzip, chunked", b"chunked;q=1", b'"chunked"']]


class GrammarTest(unittest.TestCase):

    def each_way(self, server, section, label, data):
        """Yield how the request was sent, and the answers: nothing may depend on the pieces."""
        ways = [("whole", [data]), ("in two", [data[:len(data) // 2], data[len(data) // 2:]])]
        if len(data) < 200:
            ways.append(("byte by byte", [data[i:i + 1] for i in range(len(data))]))
        for way, pieces in ways:
            with self.subTest(label, section=section, way=way):
                yield exchange(server, *pieces)

    def test_accepted(self):
        with running_server() as server:
            for section, label, data, status, persists in ACCEPTED:
                for answers in self.each_way(server, section, label, data + LAST):
                    self.assertEqual([answer.status for answer in answers], [status, 200][:1 + persists])
                    connection = answers[0].fields.get("Connection")
                    self.assertEqual(connection == "close", not persists)
                    self.assertEqual(connection == "keep-alive", persists and b"HTTP/1.0" in data)

    def test_rejected(self):
        with running_server() as server:
            for section, label, data, status in REJECTED:
                for answers in self.each_way(server, section, label, data + GET):
                    self.assertEqual([answer.status for answer in answers], [status])
                    self.assertEqual(answers[0].fields["Connection"], "close")

    def test_rejected_at_once(self):
        """What no further byte can mend is refused before any comes."""
        with running_server() as server:
            for data in [b"GET /\r\n", b"GET / HTTP/1.1\n", b"\x16\x03\x01\n", b"G" * 9000,
                         b"GET / HTTP/1.1\r\nHost: x\n", b"GET / HTTP/1.1\r\n" + b"X" * 9000,
                         b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200,
                         b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 10]:
                with self.subTest(data[:30]), connect(server) as connection:
                    connection.sendall(data)
                    self.assertIn(parse_answers(read_to_end(connection))[0].status, (400, 414, 431))

    def test_unfinished_request_gets_no_answer(self):
        with running_server() as server:
            for end in range(1, len(GET)):
                with self.subTest(GET[:end]):
                    self.assertEqual(exchange(server, GET + GET[:end])[1:], [])

    def test_patterns_are_linear(self):
        """Worst lines for every place; a pattern that is not linear takes hours over one."""
        fills = [b" ", b"\t", b" \t", b",", b", ", b"a", b"a,", b":", b"%", b"%4", b"%41", b".", b"-",
                 b"/", b"[", b":[", b"=", b"0", b"\xff"]
        names = [b"X", b"Host", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect"]
        for fill in fills:
            run = (fill * 8000)[:8000]
            for end in (b"", b"\0", b"!", b"]"):
                rows = [run + end + b" / HTTP/1.1\r\n", b"GET " + run + end + b" HTTP/1.1\r\n",
                        b"GET /" + run + end + b" HTTP/1.1\r\n",
                        b"GET http://" + run + end + b" HTTP/1.1\r\n",
                        b"GET / HTTP/1.1\r\n" + run + end + b": y\r\n"]
                rows += [b"GET / HTTP/1.1\r\n" + name + b": " + run + end + b"\r\n" for name in names]
                for row in rows:
                    with contextlib.suppress(clock_server.Refused):
                        clock_server.parse_head(row)

    def test_body_is_never_taken_for_a_request(self):
        for label, field, body in [
                ("length", b"Content-Length: %d" % len(GET), GET),
                ("chunks", b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET))]:
            for method in (b"GET", b"HEAD", b"OPTIONS", b"POST", b"BREW"):
                with self.subTest(label, method=method), running_server() as server:
                    data = request(method + b" / HTTP/1.1", field, body=body)
                    self.assertEqual(len(exchange(server, data, GET, methods=[method.decode()])), 1)


# --- Persistent connections --------------------------------------------------------

class PersistentTest(unittest.TestCase):

    def test_all_accepted_on_one_connection(self):
        rows = [(data, status) for _, _, data, status, persists in ACCEPTED if persists]
        with running_server() as server:
            answers = exchange(server, *[data for data, _ in rows], LAST)
        self.assertEqual([answer.status for answer in answers], [status for _, status in rows] + [200])

    def test_rejected_after_accepted(self):
        with running_server() as server:
            for section, label, data, status in REJECTED:
                with self.subTest(label, section=section):
                    answers = exchange(server, GET + data + GET)
                    self.assertEqual([answer.status for answer in answers], [200, status])

    def test_pipelined_requests_are_answered_in_order(self):
        class Echo(QuietHandler):
            def do_GET(self):
                self.send_page(self.path.encode(), "text/plain")
        targets = [b"/%d" % number for number in range(1000)]
        with running_server(Echo) as server:
            answers = exchange(server, b"".join(GET.replace(b"/", target, 1) for target in targets))
        self.assertEqual([answer.body for answer in answers], targets)

    def test_last_request_of_a_connection(self):
        with running_server(MAX_REQUESTS=3) as server:
            answers = exchange(server, GET * 10)
        self.assertEqual([answer.fields.get("Connection") for answer in answers], [None, None, "close"])

    def test_answer_leaves_in_one_send(self):
        sent = []

        class Wire:
            def sendall(self, data):
                sent.append(data)

            def __getattr__(self, name):
                return getattr(self.connection, name)

        class Tapped(QuietHandler):
            def setup(self):
                super().setup()
                wire = Wire()
                wire.connection, self.connection = self.connection, wire

        with running_server(Tapped) as server:
            exchange(server, GET * 2 + b"BREW / HTTP/1.1\r\n\r\n")
        self.assertEqual([len(parse_answers(data)) for data in sent], [1, 1, 1])


# --- The server --------------------------------------------------------------------

class ServerTest(unittest.TestCase):

    def drip(self, connection, data):
        """Send a byte now and then until the server has had enough."""
        with contextlib.suppress(ConnectionError):
            for _ in range(GIVE_UP * 50):
                connection.sendall(data)
                time.sleep(0.02)
            raise AssertionError("the server holds on to this client")

    def test_deadline_holds_whatever_the_client_does(self):
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        with running_server(REQUEST_SECONDS=0.2) as server:
            with self.subTest("idle"), connect(server) as connection:
                self.assertEqual(read_to_end(connection), b"")
            with self.subTest("idle after a request"), connect(server) as connection:
                connection.sendall(GET)
                self.assertEqual(len(parse_answers(read_to_end(connection))), 1)
            with self.subTest("dripping empty lines"), connect(server) as connection:
                self.drip(connection, b"\r\n")
            with self.subTest("dripping head"), connect(server) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
                self.drip(connection, b"y")
            with self.subTest("dripping body"), connect(server) as connection:
                connection.sendall(post)
                self.drip(connection, b"y")
            with self.subTest("never reading"), connect(server) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self.drip(connection, GET * 1000)
            with self.subTest("never closing"), connect(server) as connection:
                connection.sendall(b"BREW / HTTP/1.1\r\n\r\n")
                wait_until(lambda: not server.deadlines)

    def test_request_renews_the_deadline(self):
        with running_server(REQUEST_SECONDS=0.5, MAX_REQUESTS=10 ** 9) as server, \
                connect(server) as connection:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                connection.sendall(GET)
                self.assertTrue(connection.recv(65536))

    def test_wall_clock_may_jump(self):
        with running_server() as server, connect(server) as connection:
            for now in (1e9, 2e9, 0):
                with mock.patch("clock_server.time.time", return_value=now):
                    connection.sendall(GET)
                    self.assertIn(time.ctime(now).encode(), connection.recv(65536))

    def test_full_house_cuts_off_who_waited_longest(self):
        with running_server(MAX_CONNECTIONS=3, GRACE_SECONDS=0) as server:
            with contextlib.ExitStack() as stack:
                first, second, third = [stack.enter_context(connect(server)) for _ in range(3)]
                wait_until(lambda: len(server.deadlines) == 3)
                for connection in (second, third, first):
                    connection.sendall(GET)  # one alone: while a deadline is renewed, it is away
                    self.assertTrue(connection.recv(65536))
                    wait_until(lambda: [*server.deadlines][-1].getpeername() == connection.getsockname())
                self.assertEqual([answer.status for answer in exchange(server, LAST)], [200])
                self.assertEqual(read_to_end(second), b"")
                for connection in (first, third):
                    connection.sendall(LAST)
                    self.assertEqual([a.status for a in parse_answers(read_to_end(connection))][-1:], [200])

    def test_burst_of_newcomers_loses_none(self):
        with running_server(MAX_CONNECTIONS=4) as server, contextlib.ExitStack() as stack:
            connections = [stack.enter_context(connect(server)) for _ in range(40)]
            for connection in connections:
                connection.sendall(LAST)
            self.assertEqual([len(parse_answers(read_to_end(connection))) for connection in connections],
                             [1] * 40)
            self.assertLessEqual(server.most, 4)

    def test_threads_are_kept_and_bounded(self):
        limits = {"MAX_CONNECTIONS": 8, "GRACE_SECONDS": 0, "SPARE_THREADS": 2}
        with running_server(**limits) as server, contextlib.ExitStack() as stack:
            for _ in range(50):
                exchange(server, LAST)
            self.assertLessEqual(len(server.threads), 3)
            for _ in range(50):
                connection = stack.enter_context(connect(server))
                connection.sendall(GET)
                self.assertTrue(connection.recv(65536))
            self.assertIn(len(server.threads), [8, 9, 10])
            stack.close()
            wait_until(lambda: len(server.threads) <= 2)

    def test_serves_with_as_many_threads_as_it_gets(self):
        start, enough, asked = threading.Thread.start, threading.Event(), []

        def grudging_start(thread):
            asked.append(thread)
            if len(asked) > 3:
                enough.wait()
                raise RuntimeError("can't start new thread")
            start(thread)
        with running_server(GRACE_SECONDS=0, REQUEST_SECONDS=1000) as server:
            with mock.patch("threading.Thread.start", grudging_start), contextlib.ExitStack() as stack:
                for _ in range(20):
                    stack.enter_context(connect(server)).sendall(b"GET")
                visitor = stack.enter_context(connect(server))
                visitor.sendall(LAST)
                wait_until(lambda: len(server.deadlines) == 21)
                enough.set()
                self.assertEqual(len(parse_answers(read_to_end(visitor))), 1)
            with contextlib.ExitStack() as stack:  # later there are more of them again
                for _ in range(20):
                    stack.enter_context(connect(server)).sendall(b"GET")
                wait_until(lambda: server.max_connections == clock_server.MAX_CONNECTIONS)

    def test_needs_one_thread_at_least(self):
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            with self.assertRaises(RuntimeError):
                ClockServer(("127.0.0.1", 0))

    def test_clients_that_vanish_leave_no_trace(self):
        reset = struct.pack("ii", 1, 0)
        with running_server(REQUEST_SECONDS=1000) as server:
            for data in [b"", b"GET", GET, GET * 50, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"] * 10:
                with connect(server) as connection:
                    connection.sendall(data)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            wait_until(lambda: not server.deadlines)

    def test_answer_arrives_while_the_client_is_sending(self):
        body = b"b" * (10 << 20)
        with running_server() as server:
            for label, data, status in [
                    ("body", request(b"POST / HTTP/1.1", b"Content-Length: %d" % len(body), body=body), 405),
                    ("refused", request(b"GET / HTTP/9.9", body=body), 505),
                    ("long line", b"GET /" + body, 414)]:
                with self.subTest(label), connect(server) as connection:
                    connection.sendall(data)  # all of it, and only then listen
                    connection.shutdown(socket.SHUT_WR)
                    received = b"".join(iter(lambda: connection.recv(65536), b""))  # a reset would raise
                    self.assertEqual([answer.status for answer in parse_answers(received)], [status])

    def test_closing_ends_every_connection(self):
        with contextlib.ExitStack() as stack:
            with running_server() as server:
                connections = [stack.enter_context(connect(server)) for _ in range(10)]
                for connection in connections[:8]:
                    connection.sendall(GET[:-2])
                wait_until(lambda: len(server.deadlines) == 10)
            self.assertEqual([read_to_end(connection) for connection in connections], [b""] * 10)

    def test_connections_inherit_their_options(self):
        with running_server() as server, connect(server):
            wait_until(lambda: server.deadlines)
            connection, = server.deadlines
            self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertLessEqual(connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
                                 2 * clock_server.SEND_BYTES)  # Linux doubles it

    def test_port_is_free_again_and_refused_while_in_use(self):
        with running_server() as server:
            address = server.server_address
            with self.assertRaises(OSError):
                ClockServer(address, QuietHandler)
            with connect(server) as connection:
                connection.sendall(LAST)  # the server closes first, and so keeps the port waiting
                read_to_end(connection)
        with ClockServer(address, QuietHandler):
            pass

    def test_addresses(self):
        for label, host, family in [
                ("all", "", None), ("IPv4", "127.0.0.1", socket.AF_INET), ("name", "localhost", None),
                ("IPv6", "::1", socket.AF_INET6), ("all of IPv4", "0.0.0.0", socket.AF_INET)]:
            with self.subTest(label):
                try:
                    with ClockServer((host, 0)) as server:
                        if family:
                            self.assertEqual(server.socket.family, family)
                        self.assertEqual(server.server_port, server.socket.getsockname()[1])
                except OSError:
                    if family != socket.AF_INET6:
                        raise
                    self.skipTest("no IPv6 here")

    def test_all_interfaces_without_ipv6(self):
        real = socket.socket

        def ipv4_only(family=socket.AF_INET, *args, **kwargs):
            if family == socket.AF_INET6:
                raise OSError("Address family not supported by protocol")
            return real(family, *args, **kwargs)
        with mock.patch("socket.socket", ipv4_only):
            self.assertEqual(clock_server.any_address(), "0.0.0.0")

    def test_starts_without_looking_up_a_name(self):
        with mock.patch("socket.getfqdn", side_effect=AssertionError("a look-up")):
            with ClockServer(("127.0.0.1", 0)) as server:
                self.assertEqual(server.server_name, "127.0.0.1")

    def test_log_shows_ipv4_as_such(self):
        handler = ClockHandler.__new__(ClockHandler)
        for address, shown in [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"),
                               ("2001:db8::ffff:1", "2001:db8::ffff:1"), ("::1", "::1")]:
            handler.client_address = (address, 1)
            self.assertEqual(handler.address_string(), shown)


# --- The command -------------------------------------------------------------------

@contextlib.contextmanager
def running_command(*arguments, code=None):
    """Run the command, or this code, on a free port; yield the process, its start line and port."""
    command = ["-c", code] if code else [os.path.join(HERE, "clock_server.py"), *arguments, "0"]
    process = subprocess.Popen([sys.executable, "-W", "error", *command], cwd=HERE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    with process:
        try:
            line = process.stdout.readline()
            match = re.search(r":(\d+)/", line)
            assert match, (line, process.stderr.read())
            yield process, line, int(match[1])
        finally:
            process.kill()


def run_command(*arguments):
    """Run the command to its end; return the exit status and what it said."""
    return subprocess.run([sys.executable, "-W", "error", os.path.join(HERE, "clock_server.py"), *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=GIVE_UP, cwd=tempfile.gettempdir())


def visit(port, host="127.0.0.1"):
    """Return the status of a GET."""
    connection = http.client.HTTPConnection(host, port, timeout=GIVE_UP)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        return response.status


class CommandTest(unittest.TestCase):

    def test_start_line(self):
        for label, arguments, host, line in [
                ("everybody", [], "127.0.0.1",
                 "Serving the time at http://localhost:%d/ to the whole network; stop with Ctrl-C.\n"),
                ("IPv4", ["-b", "127.0.0.1"], "127.0.0.1",
                 "Serving the time at http://127.0.0.1:%d/ to this computer; stop with Ctrl-C.\n"),
                ("IPv6", ["--bind", "::1"], "::1",
                 "Serving the time at http://[::1]:%d/ to this computer; stop with Ctrl-C.\n")]:
            with self.subTest(label), contextlib.ExitStack() as stack:
                try:
                    ClockServer((host, 0), QuietHandler).server_close()
                except OSError:
                    self.skipTest("no IPv6 here")
                _, said, port = stack.enter_context(running_command(*arguments))
                self.assertEqual(said, line % port)
                self.assertEqual(visit(port, host), 200)
        self.assertEqual(clock_server.start_line("192.0.2.1", 80),
                         "Serving the time at http://192.0.2.1:80/ to the whole network; stop with Ctrl-C.")

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_signals_stop_it(self):
        for label, number in [("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM)]:
            with self.subTest(label), running_command() as (process, _, port):
                with socket.create_connection(("127.0.0.1", port)) as idle, \
                        socket.create_connection(("127.0.0.1", port)) as dripping:
                    dripping.sendall(b"GET")
                    self.assertEqual(visit(port), 200)
                    process.send_signal(number)
                    out, err = process.communicate(timeout=GIVE_UP)
                    self.assertEqual((process.returncode, out), (0, "Stopped.\n"))
                    self.assertEqual(len(err.splitlines()), 1, err)
                    self.assertEqual(idle.recv(1), b"")

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_signal_while_it_stops_changes_nothing(self):
        code = ("import signal, sys, clock_server\n"
                "def say(text):\n"
                "    print(text, flush=True)\n"
                "    if text == 'Stopped.':\n"
                "        for number in signal.SIGINT, signal.SIGTERM:\n"
                "            signal.getsignal(number)(number, None)\n"
                "clock_server.say = say\n"
                "sys.exit(clock_server.main(['0']))")
        with running_command(code=code) as (process, _, port):
            process.terminate()
            self.assertEqual(process.communicate(timeout=GIVE_UP), ("Stopped.\n", ""))
            self.assertEqual(process.returncode, 0)

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_sigint_counts_when_it_came_ignored(self):
        ignored = ("import signal, sys, clock_server\n"
                   "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                   "sys.exit(clock_server.main(['0']))")
        with running_command(code=ignored) as (process, _, port):
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(GIVE_UP), 0)

    def test_log(self):
        with running_command() as (process, _, port):
            visit(port)
            process.terminate()
            _, err = process.communicate(timeout=GIVE_UP)
            self.assertRegex(err, r'^127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 -\n$')

    def test_quiet(self):
        with running_command("--quiet") as (process, _, port):
            visit(port)
            process.terminate()
            self.assertEqual(process.communicate(timeout=GIVE_UP)[1], "")

    def test_nobody_has_to_read_what_it_says(self):
        with running_command() as (process, _, port):
            process.stdout.close()
            process.stderr.close()
            self.assertEqual([visit(port), visit(port)], [200, 200])
            process.terminate()
            self.assertEqual(process.wait(GIVE_UP), 0)

    def test_port_in_use(self):
        with running_server() as server:
            port = server.server_port
            result = run_command("-b", "127.0.0.1", str(port))
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(
            result.stderr, r"^clock_server: cannot serve on port %d of 127\.0\.0\.1: [^\n]+\n$" % port)

    def test_addresses_that_cannot_be_served(self):
        for label, address in [("foreign", "203.0.113.1"), ("no name", "a" * 64), ("an empty label", "a..b")]:
            with self.subTest(label):
                result = run_command("--bind", address, "0")
                self.assertEqual((result.returncode, result.stdout), (1, ""))
                self.assertRegex(
                    result.stderr, r"^clock_server: cannot serve on port 0 of %s: [^\n]+\n$" % address)

    def test_arguments_that_are_none(self):
        for argument in ["abc", "65536", "99999", "-1", "", " 80", "8_0", "+80", "0x50", "1e3",
                         "\u0668\u0660", "--nonsense"]:
            with self.subTest(argument):
                result = run_command(argument)
                self.assertEqual((result.returncode, result.stdout), (2, ""))
                self.assertRegex(result.stderr, r"^usage: clock_server .*\nclock_server: error: ")
                self.assertNotIn("Traceback", result.stderr)

    def test_version_and_help(self):
        self.assertEqual(run_command("--version").stdout, "clock_server %s\n" % clock_server.__version__)
        usage = "usage: clock_server [-h] [--version] [-b ADDRESS] [-q] [port]\n"
        self.assertEqual(run_command("-h").stdout[:len(usage)], usage)

    def test_import_has_no_effects(self):
        code = "import threading; import clock_server; assert threading.active_count() == 1"
        result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=HERE, timeout=GIVE_UP,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((result.returncode, result.stdout), (0, b""))

    @unittest.skipIf(os.name == "nt", "Windows has no such limit")
    def test_survives_without_file_descriptors(self):
        few = ("import resource, sys, clock_server\n"
               "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
               "clock_server.REQUEST_SECONDS = 1000\n"
               "sys.exit(clock_server.main(['-q', '0']))")
        with running_command(code=few) as (process, _, port), contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            self.assertEqual(visit(port), 200)
            process.terminate()
            self.assertEqual(process.communicate(timeout=GIVE_UP), ("Stopped.\n", ""))


# --- The README --------------------------------------------------------------------

README = os.path.join(HERE, "README.md")


@unittest.skipUnless(os.path.exists(README), "only the module and its tests are here")
class ReadmeTest(unittest.TestCase):

    def setUp(self):
        with open(README, encoding="utf-8") as file:
            self.text = file.read()

    def test_limits_are_those_of_the_module(self):
        said = {name: float(value.replace(",", ""))
                for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([0-9.,]+) \|", self.text, re.M)}
        limits = {name: value for name, value in vars(clock_server).items()
                  if name.isupper() and isinstance(value, (int, float))}
        self.assertEqual(said, limits)

    def test_example_is_a_server(self):
        example = re.search(r"```python\n(.*?)\nwith ", self.text, re.S)[1]
        names = {}
        exec(example, names)
        with mock.patch("sys.stderr"), running_server(names["Hello"]) as server:
            answer, = exchange(server, GET)
        self.assertEqual(answer.body, b"Hello, /")


# --- The browser -------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@unittest.skipUnless(CHROMIUM, "no Chromium here")
class BrowserTest(unittest.TestCase):

    def dump(self, url, zone, milliseconds):
        """Return the text of the clock after some time of its own, as a browser in that zone has it."""
        with tempfile.TemporaryDirectory() as profile:
            result = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--no-first-run", "--user-data-dir=" + profile, "--dump-dom",
                 "--virtual-time-budget=%d" % milliseconds, url],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120, env=dict(os.environ, TZ=zone))
        return re.search(rb'<time datetime="([^"]*)">([^<]*)</time>', result.stdout).groups()

    def test_clock_ticks_in_the_time_of_the_server(self):
        class Past(QuietHandler):
            def do_GET(self):
                self.requests.append(self.path)
                self.send_page(render_page(1162511990.25))  # Nov  2 or 3, 2006

            requests = []
        with running_server(Past) as server:
            stamp, text = self.dump("http://127.0.0.1:%d/" % server.server_port, "Asia/Kathmandu", 15000)
        start = datetime.strptime(stamp[:19].decode(), "%Y-%m-%dT%H:%M:%S")
        shown = datetime.strptime(text.decode(), "%a %b %d %H:%M:%S %Y")
        self.assertEqual(text.decode(), shown.ctime())  # padded as ctime does
        self.assertTrue(10 <= (shown - start).total_seconds() <= 25, (stamp, text))
        self.assertEqual(Past.requests, ["/"])  # no icon, nothing else


if __name__ == "__main__":
    unittest.main()
