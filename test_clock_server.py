"""Tests of clock_server, in the order of the module.

    python3 -m unittest                    run all of them
    python3 test_clock_server.py GrammarTest.test_rejected

They use real sockets, real processes and nothing but the standard library. Where time matters,
the module's limits are shortened; no test depends on how fast the machine is.
"""
import base64
import contextlib
import errno
import hashlib
import html.parser
import http
import http.client
import http.server
import io
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
import clock_server  # noqa: E402  the one beside this file, wherever the tests are started
from clock_server import ClockHandler, ClockServer, QuietHandler, render_page  # noqa: E402

GIVE_UP = 20  # seconds after which something that should have happened has not
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Response = namedtuple("Response", "status fields body head")


class WatchedServer(ClockServer):
    """Records the errors it would have reported, and the most connections it served at once."""

    most = 0

    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.most = max(self.most, len(self.connections))

    def handle_error(self, request, client_address):
        self.errors.append(sys.exc_info()[1])


@contextlib.contextmanager
def running_server(handler=QuietHandler, errors=(), host="127.0.0.1", **limits):
    """Serve on a free port with these limits; check that nothing is left over.

    `errors` are the types of the exceptions that handlers are expected to raise.
    """
    before = set(threading.enumerate())
    with mock.patch.multiple(clock_server, **limits) if limits else contextlib.suppress():
        with WatchedServer((host, 0), handler) as server:
            server.errors = []
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
        assert not server.connections, server.connections
        assert set(threading.enumerate()) <= before, threading.enumerate()
        assert [type(error) for error in server.errors] == list(errors), server.errors


def connect(server):
    """Return a new connection to the server."""
    connection = socket.create_connection(server.server_address[:2], GIVE_UP)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_to_end(connection):
    """Return all bytes up to the end of the stream; a reset counts as an end."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while True:
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
    return received


def read_without_reset(connection):
    """Return all bytes up to the end of the stream. Raises ConnectionResetError at a reset."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def parse_responses(received, methods=()):
    """Return the responses in these bytes, checked as strictly as a client could."""
    responses, methods = [], list(methods)
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
        bodiless = method == "HEAD" or status in (204, 304)
        length = 0 if bodiless else int(fields["Content-Length"])
        assert len(rest) >= length, (fields, rest)
        responses.append(Response(status, fields, rest[:length], head))
        received = rest[length:]
    return responses


def exchange(server, *pieces, methods=()):
    """Send the pieces on one connection, then the end; return the responses."""
    with connect(server) as connection:
        with contextlib.suppress(OSError):  # the server hung up before we had sent everything
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        return parse_responses(read_to_end(connection), methods)


def ask(connection, request=GET):
    """Send a request and return its response, on a connection that may stay open."""
    connection.sendall(request)
    received = b""
    while not received.endswith(b"</html>\n"):
        piece = connection.recv(65536)
        assert piece, "closed instead of answered"
        received += piece
    response, = parse_responses(received)
    return response


def statuses(responses):
    """Return the status of each response."""
    return [response.status for response in responses]


def wait_until(condition):
    """Wait until the condition holds; fail if it never does."""
    deadline = time.monotonic() + GIVE_UP
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


# --- The page ------------------------------------------------------------------------------------

class PageParser(html.parser.HTMLParser):
    """Collects what the tests need to know about a page."""

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
                        self.assertEqual(page.texts["p"] + page.texts["span"],
                                         "Time on this server, UTC" + offset)
                        self.assertRegex(stamp, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
                        self.assertEqual(stamp[-6:], offset)
                        moment = datetime.strptime(stamp[:-3] + stamp[-2:], "%Y-%m-%dT%H:%M:%S.%f%z")
                        since = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()
                        self.assertTrue(0 <= now - since < 0.0011, (now, since))
                        self.assertEqual(page.texts["time"].split()[3], stamp[11:19])
                        self.assertEqual(page.texts["title"], "The current time on this server")

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

    def test_is_complete_and_loads_nothing(self):
        for label, script in [("with its script", clock_server.SCRIPT), ("without", "")]:
            with self.subTest(label), mock.patch.object(clock_server, "SCRIPT", script):
                page = render_page(0)
                self.assertTrue(page.startswith(b"<!DOCTYPE html>\n"))
                parsed = PageParser(page)
                self.assertEqual(parsed.open, [])
                self.assertIn(("html", "lang", "en"), parsed.attributes)
                self.assertIn(("meta", "charset", "utf-8"), parsed.attributes)
                self.assertIn(("meta", "name", "viewport"), parsed.attributes)
                self.assertIn(("meta", "name", "description"), parsed.attributes)
                self.assertRegex(page, rb"<main>\n<h1><time ")
                names = {name for _, name, _ in parsed.attributes}
                self.assertFalse(names & {"src", "href", "http-equiv", "style", "aria-live"})
                self.assertNotRegex(page, rb"url\(|@import|XMLHttpRequest")


# --- The responses -------------------------------------------------------------------------------

class ResponsesTest(unittest.TestCase):

    SAFE = {"Server": "clock_server", "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

    def test_every_path_is_the_page(self):
        with running_server() as server:
            for target in [b"/", b"/index.html", b"/a/b?c=d", b"//", b"/%00", b"/..", b"/favicon.ico"]:
                with self.subTest(target):
                    response, = exchange(server, GET.replace(b"/", target, 1))
                    self.assertEqual(response.status, 200)
                    self.assertIn(b"<h1><time ", response.body)

    def test_page_has_these_fields_and_no_others(self):
        with running_server() as server:
            before = time.time()
            response, = exchange(server, GET)
        self.assertTrue(response.head.startswith(b"HTTP/1.1 200 OK\r\n"), response.head)
        fields = dict(response.fields)
        date = datetime.strptime(fields.pop("Date"), "%a, %d %b %Y %H:%M:%S GMT")
        self.assertLessEqual(abs(date.replace(tzinfo=timezone.utc).timestamp() - before), GIVE_UP)
        self.assertEqual(fields.pop("Content-Length"), str(len(response.body)))
        self.assertEqual(fields.pop("Content-Type"), "text/html; charset=utf-8")
        policy = fields.pop("Content-Security-Policy")
        self.assertEqual(fields, self.SAFE)

        def inline(tag):
            text = re.search(b"<%s>(.*)</%s>" % (tag, tag), response.body, re.S)[1]
            return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text).digest()).decode()
        self.assertEqual(policy.split("; "), [
            "default-src 'none'", "style-src " + inline(b"style"), "script-src " + inline(b"script"),
            "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])

    def test_page_and_date_are_of_each_request(self):
        with running_server() as server:
            with mock.patch("clock_server.time.time", side_effect=range(0, 10 ** 9, 1000)):
                responses = exchange(server, GET * 3)
        self.assertEqual(len({response.body for response in responses}), 3)
        self.assertEqual(len({response.fields["Date"] for response in responses}), 3)

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
                    response, = exchange(server, b"OPTIONS %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
                    self.assertEqual((response.status, response.fields["Allow"], response.body),
                                     (204, "GET, HEAD, OPTIONS", b""))
                    self.assertNotIn("Content-Length", response.fields)

    def test_other_methods_are_refused(self):
        rows = [(method, b"/", 405) for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE")]
        rows += [(b"CONNECT", b"x:80", 405), (b"get", b"/", 501), (b"BREW", b"/", 501),
                 (b"command", b"/", 501), (b"__init__", b"/", 501), (b"GET_", b"/", 501)]
        with running_server() as server:
            for method, target, status in rows:
                with self.subTest(method):
                    response, = exchange(server, b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target))
                    self.assertEqual(response.status, status)
                    self.assertEqual(response.fields.get("Allow"),
                                     "GET, HEAD, OPTIONS" if status == 405 else None)

    def test_every_405_lists_the_methods_once(self):
        class Strict(QuietHandler):
            def do_GET(self):
                self.send_error(405)

            def do_POST(self):
                self.send_response(405)
                self.send_header("Allow", "PATCH")
                self.end_headers()
        with running_server(Strict) as server:
            for method, allowed in (b"GET", "GET, HEAD, OPTIONS"), (b"POST", "PATCH"):
                with self.subTest(method):
                    response, = exchange(server, method + LAST[3:])
                    self.assertEqual((response.status, response.fields["Allow"]), (405, allowed))
                    self.assertEqual(response.head.count(b"\r\nAllow:"), 1)

    def test_refusal_is_a_complete_response(self):
        with running_server() as server:
            response, = exchange(server, b"GET / HTTP/1.1\r\n\r\n" + GET)
        self.assertEqual(response.status, 400)
        self.assertEqual(response.body, b"400 Bad Request: Host missing, repeated or invalid"
                                        b" (RFC 9112 section 3.2)\n")
        self.assertEqual({name: response.fields.get(name) for name in self.SAFE}, self.SAFE)
        self.assertEqual(response.fields["Connection"], "close")
        self.assertEqual(response.fields["Content-Type"], "text/plain; charset=utf-8")
        self.assertLessEqual({"Date", "Content-Length", "Content-Security-Policy"}, set(response.fields))

    def test_refused_head_has_no_body_either(self):
        with running_server() as server:
            response, = exchange(server, b"HEAD / HTTP/1.1\r\n\r\n", methods=["HEAD"])
        self.assertEqual((response.status, response.body), (400, b""))

    def test_http_client_understands_every_response(self):
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

    def test_subclass_with_its_own_pages(self):
        class Hello(QuietHandler):
            common_fields = dict(QuietHandler.common_fields, Server="hello")
            del common_fields["Referrer-Policy"]

            def do_GET(self):
                self.send_page(b"Hello " + self.headers["x-name"].encode("latin-1"), "text/plain")
                assert self.headers.get_all("X-Two") == ["1", "2"] and "X-None" not in self.headers

        class Gone(QuietHandler):
            def do_GET(self):
                self.send_response(http.HTTPStatus.NOT_FOUND, "Not Here")
                self.send_header("Content-Length", "4")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"gone")
        named = b"%s / HTTP/1.1\r\nX-Two: 1\r\nHost: x\r\nX-Name: \xe9\r\nX-Two: 2\r\n\r\n"
        with running_server(Hello) as server:
            get, head = exchange(server, named % b"GET" + named % b"HEAD", methods=["GET", "HEAD"])
            self.assertEqual((get.body, head.body), (b"Hello \xe9", b""))
            self.assertEqual(get.head, head.head)
            self.assertEqual((get.fields["Content-Type"], get.fields["Server"]), ("text/plain", "hello"))
            self.assertNotIn("Referrer-Policy", get.fields)
        with running_server(Gone) as server:
            response, = exchange(server, GET * 2)
            self.assertEqual((response.head[:21], response.body), (b"HTTP/1.1 404 Not Here", b"gone"))

    def test_missing_fields_are_added_and_needless_bodies_left_out(self):
        rows = [  # label, status, fields, body, the Content-Length and the body that are sent
            ("redirect", 302, {"Location": "/x"}, b"", "0", b""),
            ("page", 200, {}, b"page", "4", b"page"),
            ("its own length", 200, {"content-length": "3"}, b"abc", "3", b"abc"),
            ("chunks", 200, {"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", None, b"0\r\n\r\n"),
            ("a length in another value", 200, {"X": "Content-Length: 9"}, b"a", "1", b"a"),
            ("unknown status", 299, {}, b"", "0", b""),
            ("204", 204, {}, b"needless", None, b""),
            ("304", 304, {}, b"needless", None, b"")]

        class Table(QuietHandler):
            def do_GET(self):
                _, status, fields, body, _, _ = rows[int(self.path[1:])]
                self.send_response(status)
                for field in fields.items():
                    self.send_header(*field)
                self.end_headers()
                self.wfile.write(body)

            def do_HEAD(self):
                self.send_response(200)
                self.end_headers()
        with running_server(Table) as server:
            for number, (label, status, _, _, length, body) in enumerate(rows):
                with self.subTest(label), connect(server) as connection:
                    connection.sendall(LAST.replace(b"/last", b"/%d" % number))
                    head, _, received = read_to_end(connection).partition(b"\r\n\r\n")
                    sent = re.findall(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
                    self.assertEqual(sent, [length.encode()] if length else [])
                    self.assertEqual((int(head[9:12]), received), (status, body))
            with self.subTest("HEAD of its own"):  # the length of what GET would send is unknown
                head, = exchange(server, b"HEAD" + GET[3:], methods=["HEAD"])
                self.assertNotIn("Content-Length", head.fields)

    def test_request_body_can_be_read(self):
        class Echo(QuietHandler):
            def do_POST(self):
                self.send_page(self.rfile.read(int(self.headers["Content-Length"])), "text/plain")

        with running_server(Echo) as server:
            for label, body in [("short", GET), ("long", b"body" * 100000)]:
                post = request(b"POST / HTTP/1.1", b"Content-Length: %d" % len(body), body=body)
                for first in 10, post.index(b"\r\n\r\n") + 4, len(post) - 1, len(post):
                    with self.subTest(label, first=first):
                        responses = exchange(server, post[:first], post[first:])
                        self.assertEqual([response.body for response in responses], [body])

    def test_failing_handler_gives_a_500(self):
        failures = [FileNotFoundError("a file of the handler's, no client gone"),
                    ConnectionRefusedError("by another server"), *[SystemExit(1)] * 5]
        left = failures[:]

        class Broken(QuietHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("X-Half", "done")
                self.end_headers()
                self.wfile.write(b"half")
                raise left.pop(0)
        with running_server(Broken, errors=map(type, failures)) as server:
            for failure in failures:
                response, = exchange(server, GET * 2)
                self.assertEqual((response.status, response.fields["Connection"]), (500, "close"), failure)
                self.assertNotIn("X-Half", response.fields)
                self.assertEqual(response.body, b"500 Internal Server Error\n")

    def test_handler_that_sends_nothing_gives_a_500(self):
        class Mute(QuietHandler):
            def do_GET(self):
                pass
        with running_server(Mute) as server:
            response, = exchange(server, GET * 2)
            self.assertEqual((response.status, response.body),
                             (500, b"500 Internal Server Error: the method sent no response\n"))

    def test_send_error_with_any_status_at_any_time(self):
        class Erring(QuietHandler):
            def do_GET(self):
                self.send_page(b"half a page")
                self.send_error(int(self.path[1:]), "a reason")
        with running_server(Erring) as server:
            for status, body in [(404, b"404 Not Found: a reason\n"), (304, b""),
                                 (599, b"599 Unknown: a reason\n")]:
                with self.subTest(status):
                    response, = exchange(server, GET.replace(b"/", b"/%d" % status, 1))
                    self.assertEqual((response.status, response.body), (status, body))

    def test_log_has_a_line_for_each_request(self):
        long = b"GET /" + b"a" * 5000 + GET[5:]
        garbage = b"\x16\x03\x01" * 3000 + b"\n"
        rows = [  # label, request, what is logged after the date
            ("page", GET, '"GET / HTTP/1.1" 200 -'),
            ("refusal", b"GET / HTTP/1.1\r\n\r\n", '"GET / HTTP/1.1" 400 -'),
            ("method", b"POST" + GET[3:], '"POST / HTTP/1.1" 405 -'),
            ("escape", b"GET /\x1b[2J HTTP/1.1\r\n\r\n", r'"GET /\x1b[2J HTTP/1.1" 400 -'),
            ("backslash", rb"GET /\x1b HTTP/1.1" + GET[14:], r'"GET /\\x1b HTTP/1.1" 200 -'),
            ("line end", b"GET / HTTP/1.1\nFORGED\n", r'"GET / HTTP/1.1" 400 -'),
            ("bare CR", b"GET /\rFORGED HTTP/1.1\r\n\r\n", r'"GET /\rFORGED HTTP/1.1" 400 -'),
            ("DEL and C1", b"GET /\x7f\x9b HTTP/1.1\r\n\r\n", r'"GET /\x7f\x9b HTTP/1.1" 400 -'),
            ("quote", b'GET /"_200_" HTTP/1.1' + GET[14:], '"GET /%22_200_%22 HTTP/1.1" 200 -'),
            ("percent", b"GET /%s%d HTTP/1.1" + GET[14:], '"GET /%s%d HTTP/1.1" 200 -'),
            ("just short enough", b"GET /" + b"a" * 178 + GET[5:], '"GET /' + "a" * 178 + ' HTTP/1.1" 200 -'),
            ("long", long, '"GET /' + "a" * 194 + '..." 200 -'),
            ("long garbage", garbage, ('"' + r"\x16\x03\x01" * 17)[:200] + '..." 400 -'),
        ]
        with running_server(ClockHandler) as server:
            for label, request, logged in rows:
                with self.subTest(label), mock.patch("sys.stderr") as stderr:
                    exchange(server, request)
                    line, = [call[0][0] for call in stderr.write.call_args_list]
                    self.assertRegex(line, r"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] ")
                    self.assertEqual(line.partition("] ")[2], logged + "\n")

    def test_broken_log_stops_nobody(self):
        with running_server(ClockHandler) as server:
            for label, stderr in [("none", None), ("full", mock.Mock(write=mock.Mock(side_effect=OSError))),
                                  ("closed", mock.Mock(write=mock.Mock(side_effect=ValueError)))]:
                with self.subTest(label), mock.patch("sys.stderr", stderr):
                    self.assertEqual(statuses(exchange(server, GET)), [200])

    @unittest.skipUnless(socket.has_dualstack_ipv6(), "no IPv6 here")
    def test_log_shows_ipv4_as_such(self):
        """An IPv4 client has its usual address in the log, although the socket is one of IPv6."""
        with running_server(ClockHandler, host="") as server, mock.patch("sys.stderr") as stderr:
            with socket.create_connection(("127.0.0.1", server.server_port), GIVE_UP) as connection:
                ask(connection)
        self.assertTrue(stderr.write.call_args[0][0].startswith("127.0.0.1 - - "))

    def test_plain_address(self):
        for address, shown in [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"),
                               ("2001:db8::ffff:1", "2001:db8::ffff:1"), ("::1", "::1")]:
            self.assertEqual(clock_server.plain_address(address), shown)


# --- The grammar ---------------------------------------------------------------------------------

def request(line, *fields, host=b"Host: x", body=b""):
    """Return a request of these lines; each gets its CRLF here."""
    return b"".join(part + b"\r\n" for part in (line, *filter(None, (host,)), *fields, b"")) + body


def get(*fields, **others):
    """Return a GET request with these fields besides Host."""
    return request(b"GET / HTTP/1.1", *fields, **others)


LONG = b"a" * 7980
CHUNKS = b"1b\r\n" + GET + b"\r\n0\r\n\r\n"
ACCEPTED = [  # section of the RFC, label, request, status, whether the connection persists
    ("9112 2.2", "an empty line first", b"\r\n" + GET, 200, True),
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
    ("9110 5.4", "1,000 fields", get(*[b"X: y"] * 999), 200, True),
    ("9110 5.4", "64 KiB of fields", get(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1628), 200, True),
    ("9112 6.2", "Content-Length: 0", get(b"Content-Length: 0"), 200, True),
    ("9112 6.2", "Content-Length: 000", get(b"Content-Length: 000"), 200, True),
    ("9112 6.2", "body by length", get(b"Content-Length: 27", body=GET), 200, False),
    ("9112 6.1", "body in chunks", get(b"Transfer-Encoding: chunked", body=CHUNKS), 200, False),
    ("9110 5.6.1.2", "empty members", get(b"Transfer-Encoding: , chunked,,", b"Connection: ,,", b"Expect: ,",
                                          body=CHUNKS), 200, False),
    ("9110 5.6.1.2", "empty members in two lines", get(b"Transfer-Encoding:", b"Transfer-Encoding: chunked",
                                                       body=CHUNKS), 200, False),
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
    ("9112 2.2", "two empty lines first", b"\r\n\r\n" + GET, 400),
    ("9112 2.2", "SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
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
    ("9112 3", "too long", request(b"GET /" + LONG * 9 + b" HTTP/1.1"), 414),
    ("9112 3", "too long, and without an end", b"G" * 70000, 414),
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
    ("9112 3.2.3", "CONNECT with user", request(b"CONNECT u@x:80 HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT without port", request(b"CONNECT x HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT with an empty port", request(b"CONNECT x1: HTTP/1.1"), 400),
    ("9112 3.2.4", "OPTIONS but no asterisk", request(b"OPTIONS x HTTP/1.1"), 400),
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
    ("9110 5.4", "long line", get(b"X: " + LONG * 9), 431),
    ("9110 5.4", "long line without an end", b"GET / HTTP/1.1\r\n" + b"X" * 70000, 431),
    ("9110 5.4", "many short fields", get(*[b"X: y"] * 20000), 431),
    ("9110 5.4", "64 KiB of fields and a byte", get(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1629), 431),
    ("9112 3.2", "no Host", get(host=b""), 400),
    ("9112 3.2", "two Hosts", get(b"Host: x"), 400),
    ("9112 3.2", "two Hosts in HTTP/1.0", request(b"GET / HTTP/1.0", b"Host: x"), 400),
    ("9112 3.2", "bad Host in HTTP/1.0", request(b"GET / HTTP/1.0", host=b"Host: x/y"), 400),
    ("9112 6.3", "two lengths", get(b"Content-Length: 5", b"Content-Length: 5"), 400),
    ("9112 6.1", "length and coding", get(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "HTTP/1.0", request(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "length and no coding", get(b"Content-Length: 0", b"Transfer-Encoding:"), 400),
    ("9112 6.3", "chunked in two lines", get(*[b"Transfer-Encoding: chunked"] * 2), 400),
    ("9112 6.1", "two codings in two lines",
     get(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), 501),
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
    b"", b"\x0bchunked", b"chunked, gzip", b"chunked, chunked", b"gzip, identity", b", ,"]]
REJECTED += [("9112 6.1", "coding %r" % coding, get(b"Transfer-Encoding: " + coding), 501) for coding in [
    b"gzip", b"identity", b"xchunked", b"gzip, chunked", b"chunked;q=1", b'"chunked"']]


class GrammarTest(unittest.TestCase):

    def each_way(self, server, section, label, data):
        """Send the request in each way and yield the responses; none may depend on how it is cut up."""
        ways = [("whole", [data]), ("in two", [data[:len(data) // 2], data[len(data) // 2:]])]
        if len(data) < 200:
            ways.append(("byte by byte", [data[i:i + 1] for i in range(len(data))]))
        for way, pieces in ways:
            with self.subTest(label, section=section, way=way):
                yield exchange(server, *pieces)

    def test_accepted(self):
        with running_server() as server:
            for section, label, data, status, persists in ACCEPTED:
                for responses in self.each_way(server, section, label, data + LAST):
                    self.assertEqual(statuses(responses), [status, 200][:1 + persists])
                    connection = responses[0].fields.get("Connection")
                    self.assertEqual(connection == "close", not persists)
                    self.assertEqual(connection == "keep-alive", persists and b"HTTP/1.0" in data)

    def test_rejected(self):
        with running_server() as server:
            for section, label, data, status in REJECTED:
                for responses in self.each_way(server, section, label, data + GET):
                    self.assertEqual(statuses(responses), [status])
                    self.assertEqual(responses[0].fields["Connection"], "close")

    def test_rejected_at_once(self):
        """A request that no further byte could make valid is refused at once."""
        tls = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"r" * 32 + b"\0\x0a\0\x0a"
        with running_server() as server:
            for data in [b"GET /\r\n", b"GET / HTTP/1.1\n", tls, b"SSH-2.0-x\r\n", b"G" * 70000,
                         b"GET / HTTP/1.1\r\nHost: x\n", b"GET / HTTP/1.1\r\n" + b"X" * 70000,
                         b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000, b"\n", b"\r\n\r\n",
                         b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 10]:
                with self.subTest(data[:30]), connect(server) as connection:
                    connection.sendall(data)
                    self.assertIn(parse_responses(read_to_end(connection))[0].status, (400, 414, 431))

    def test_incomplete_request_gets_no_response(self):
        with running_server() as server:
            for end in range(1, len(GET)):
                with self.subTest(GET[:end]):
                    self.assertEqual(exchange(server, GET + GET[:end])[1:], [])

    def test_patterns_are_linear(self):
        """The worst line for every place; a pattern that is not linear would take hours."""
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
                        clock_server.parse_head(row[:-2])

    def test_body_is_never_taken_for_a_request(self):
        for label, field, body in [
                ("length", b"Content-Length: %d" % len(GET), GET),
                ("chunks", b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET))]:
            for method in (b"GET", b"HEAD", b"OPTIONS", b"POST", b"BREW"):
                with self.subTest(label, method=method), running_server() as server:
                    data = request(method + b" / HTTP/1.1", field, body=body)
                    self.assertEqual(len(exchange(server, data, GET, methods=[method.decode()])), 1)


# --- Persistent connections ----------------------------------------------------------------------

class PersistentTest(unittest.TestCase):

    def test_all_accepted_on_one_connection(self):
        rows = [(data, status) for _, _, data, status, persists in ACCEPTED if persists]
        with running_server() as server:
            responses = exchange(server, *[data for data, _ in rows], LAST)
        self.assertEqual(statuses(responses), [status for _, status in rows] + [200])

    def test_rejected_after_accepted(self):
        with running_server() as server:
            for section, label, data, status in REJECTED:
                with self.subTest(label, section=section):
                    self.assertEqual(statuses(exchange(server, GET + data + GET)), [200, status])

    def test_pipelined_requests_are_answered_in_order(self):
        class Echo(QuietHandler):
            def do_GET(self):
                self.send_page(self.path.encode(), "text/plain")
        targets = [b"/%d" % number for number in range(1000)]
        with running_server(Echo) as server:
            responses = exchange(server, b"".join(GET.replace(b"/", target, 1) for target in targets))
        self.assertEqual([response.body for response in responses], targets)

    def test_response_leaves_in_one_send(self):
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

        with running_server(Tapped) as server, \
                mock.patch.object(server, "renew_deadline"):
            exchange(server, GET * 2 + b"BREW / HTTP/1.1\r\n\r\n")
        self.assertEqual([len(parse_responses(data)) for data in sent], [1, 1, 1])


# --- The server ----------------------------------------------------------------------------------

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
                self.assertEqual(len(parse_responses(read_to_end(connection))), 1)
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
                wait_until(lambda: not server.connections)

    def test_complete_request_renews_the_deadline(self):
        """The response to a request has the full time, too, however late the request came."""
        class Slow(QuietHandler):
            def do_GET(self):
                waited.append(time.monotonic() - self.server.connections[self.connection])
                self.send_page(b"</html>\n")

        waited = []
        with running_server(Slow) as server, connect(server) as connection:
            wait_until(lambda: server.connections)
            for _ in range(3):
                with server.lock:
                    for one in server.connections:
                        server.connections[one] -= clock_server.REQUEST_SECONDS * 0.9
                ask(connection)
        self.assertLess(max(waited), clock_server.REQUEST_SECONDS * 0.9)

    def test_wall_clock_may_jump(self):
        with running_server() as server, connect(server) as connection:
            for now in (1e9, 2e9, 0):
                with mock.patch("clock_server.time.time", return_value=now):
                    self.assertIn(time.ctime(now).encode(), ask(connection).body)

    def test_full_server_evicts_the_connection_that_waited_longest(self):
        with running_server(MAX_CONNECTIONS=3, GRACE_SECONDS=0) as server:
            with contextlib.ExitStack() as stack:
                first, second, third = [stack.enter_context(connect(server)) for _ in range(3)]
                wait_until(lambda: len(server.connections) == 3)
                for connection in (second, third, first):
                    ask(connection)
                self.assertEqual(statuses(exchange(server, LAST)), [200])
                self.assertEqual(read_to_end(second), b"")
                for connection in (first, third):
                    ask(connection, LAST)

    def test_full_server_lets_busy_clients_take_turns(self):
        """No client waits longer than the grace, so none may be evicted."""
        with running_server(MAX_CONNECTIONS=4, GRACE_SECONDS=1000, REQUEST_SECONDS=1000) as server:
            with contextlib.ExitStack() as stack:
                busy = [stack.enter_context(connect(server)) for _ in range(4)]
                for connection in busy:
                    self.assertNotIn("Connection", ask(connection).fields)
                visitor = stack.enter_context(connect(server))
                visitor.sendall(GET)
                wait_until(lambda: server.crowded)
                self.assertEqual(ask(busy[0]).fields["Connection"], "close")
                self.assertEqual(busy[0].recv(1), b"")
                busy[0].close()
                self.assertTrue(visitor.recv(65536).startswith(b"HTTP/1.1 200 "))
                wait_until(lambda: not server.crowded)
                self.assertNotIn("Connection", ask(busy[1]).fields)  # connections persist again

    def test_burst_larger_than_the_server_is_served(self):
        with running_server(MAX_CONNECTIONS=4) as server, contextlib.ExitStack() as stack:
            connections = [stack.enter_context(connect(server)) for _ in range(40)]
            for connection in connections:
                connection.sendall(LAST)
            self.assertEqual([len(parse_responses(read_to_end(connection))) for connection in connections],
                             [1] * 40)
            self.assertLessEqual(server.most, 4)

    def test_no_more_connections_than_allowed_while_all_are_busy(self):
        with running_server(MAX_CONNECTIONS=4, GRACE_SECONDS=0) as server:
            stop = time.monotonic() + 0.5

            def hurry():
                while time.monotonic() < stop:
                    with contextlib.suppress(OSError, AssertionError), connect(server) as connection:
                        for _ in range(20):
                            ask(connection)
            clients = [threading.Thread(target=hurry) for _ in range(12)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            self.assertLessEqual(server.most, 4)

    def test_threads_are_reused_and_bounded(self):
        with running_server(MAX_CONNECTIONS=8, GRACE_SECONDS=0) as server:
            with contextlib.ExitStack() as stack:
                for _ in range(50):
                    exchange(server, LAST)
                self.assertLessEqual(len(server.threads), 3)
                for _ in range(50):
                    ask(stack.enter_context(connect(server)))
                self.assertLessEqual(len(server.threads), 2 * 8)

    def test_slow_handlers_do_not_stop_the_others(self):
        """The others are served even if a handler takes longer than the deadline."""
        class Slow(QuietHandler):
            def do_GET(self):
                if self.path == "/slow":
                    arrived.release()
                    go_on.wait(GIVE_UP)
                self.send_page(b"</html>\n")

        go_on, arrived = threading.Event(), threading.Semaphore(0)
        with running_server(Slow, REQUEST_SECONDS=0.1, MAX_CONNECTIONS=4) as server, \
                contextlib.ExitStack() as stack:
            stack.callback(go_on.set)
            for _ in range(8):
                stack.enter_context(connect(server)).sendall(GET.replace(b"/", b"/slow", 1))
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
                self.assertEqual(statuses(exchange(server, LAST)), [200])
            wait_until(lambda: not server.connections)
            self.assertEqual(statuses(exchange(server, LAST)), [200])

    def test_eviction_does_not_depend_on_shutdown(self):
        """On Windows, shutdown() wakes no thread that is blocked in recv()."""
        class Stuck(socket.socket):
            def shutdown(self, how):
                pass

        with running_server(MAX_CONNECTIONS=3, GRACE_SECONDS=0) as server:
            with mock.patch("socket.socket", Stuck), contextlib.ExitStack() as stack:
                for _ in range(10):
                    stack.enter_context(connect(server))
                self.assertEqual(statuses(exchange(server, LAST)), [200])

    def test_timeout_ends_what_shutdown_does_not_wake(self):
        with mock.patch("os.name", "nt"):
            with running_server(REQUEST_SECONDS=0.1) as server, connect(server) as connection:
                with mock.patch.object(socket.socket, "shutdown"):
                    self.assertEqual(connection.recv(1), b"")

    def test_serves_with_as_many_threads_as_it_gets(self):
        start, asked, refused = threading.Thread.start, [], []

        def grudging_start(thread):
            asked.append(thread)
            if len(asked) > 3:
                refused.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)
        with running_server(GRACE_SECONDS=0, REQUEST_SECONDS=1000) as server:
            with mock.patch("threading.Thread.start", grudging_start), contextlib.ExitStack() as stack:
                for _ in range(20):
                    stack.enter_context(connect(server)).sendall(b"GET")
                visitor = stack.enter_context(connect(server))
                visitor.sendall(LAST)
                self.assertEqual(len(parse_responses(read_to_end(visitor))), 1)
            self.assertTrue(refused)
            with contextlib.ExitStack() as stack:  # later there are more of them again
                for _ in range(20):
                    stack.enter_context(connect(server)).sendall(b"GET")
                wait_until(lambda: len(server.connections) == 20)

    def test_thread_that_dies_is_replaced(self):
        broken = [ZeroDivisionError] * 3

        class Fragile(WatchedServer):
            def shutdown_request(self, request):
                super().shutdown_request(request)
                if broken:
                    raise broken.pop()
        with mock.patch(__name__ + ".WatchedServer", Fragile), \
                mock.patch("threading.excepthook", lambda args: None), running_server() as server:
            for _ in range(5):
                self.assertEqual(statuses(exchange(server, LAST)), [200])
        self.assertEqual(broken, [])

    def test_vanished_clients_leave_nothing_behind(self):
        reset = struct.pack("ii", 1, 0)
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        for handler in QuietHandler, StockHandler:
            with self.subTest(handler), running_server(handler, REQUEST_SECONDS=1000) as server:
                for data in [b"", b"GET", GET, GET * 50, post] * 10:
                    with connect(server) as connection:
                        connection.sendall(data)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                wait_until(lambda: not server.connections)

    def test_response_arrives_while_the_client_is_sending(self):
        body = b"b" * (10 << 20)
        length = b"Content-Length: %d" % len(body)
        with running_server() as server:
            for label, data, status in [
                    ("body", request(b"POST / HTTP/1.1", length, body=body), 405),
                    ("body, then the close",
                     request(b"POST / HTTP/1.1", length, b"Connection: close", body=body), 405),
                    ("refused", request(b"GET / HTTP/9.9", body=body), 505),
                    ("long line", b"GET /" + body, 414)]:
                with self.subTest(label), connect(server) as connection:
                    connection.sendall(data)  # all of it, and only then listen
                    connection.shutdown(socket.SHUT_WR)
                    received = read_without_reset(connection)
                    self.assertEqual(statuses(parse_responses(received)), [status])

    def test_response_arrives_if_it_is_the_last_because_of_others(self):
        with running_server(REQUEST_SECONDS=1000) as server, connect(server) as connection:
            ask(connection)
            server.crowded = True
            connection.sendall(GET + b"X" * (10 << 20))
            connection.shutdown(socket.SHUT_WR)
            received = read_without_reset(connection)
            response, = parse_responses(received)
            self.assertEqual((response.status, response.fields["Connection"]), (200, "close"))

    def test_evicted_connection_is_not_counted_again(self):
        with running_server() as server, connect(server):
            wait_until(lambda: server.connections)
            evicted, = server.connections
            self.assertTrue(server.evict(0))
            server.renew_deadline(evicted)
            self.assertEqual(len(server.connections), 0)

    def test_clients_that_verify_request_rejects_keep_nobody_waiting(self):
        """The thread that accepts connections does not linger for them, even if they stay."""
        rejected = [True, True]

        def verify_request(request, client_address):
            return not (rejected and rejected.pop())
        with running_server(REQUEST_SECONDS=1000) as server:
            with mock.patch.object(server, "verify_request", verify_request):
                with connect(server) as first, connect(server) as second:
                    self.assertEqual(statuses(exchange(server, LAST)), [200])
                    self.assertEqual((first.recv(1), second.recv(1)), (b"", b""))

    def test_closing_ends_every_connection(self):
        with contextlib.ExitStack() as stack:
            with running_server() as server:
                connections = [stack.enter_context(connect(server)) for _ in range(10)]
                for connection in connections[:8]:
                    connection.sendall(GET[:-2])
                wait_until(lambda: len(server.connections) == 10)
            self.assertEqual([read_to_end(connection) for connection in connections], [b""] * 10)

    def test_connections_inherit_the_options(self):
        with running_server() as server, connect(server):
            wait_until(lambda: server.connections)
            connection, = server.connections
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

    @unittest.skipUnless(socket.has_dualstack_ipv6(), "no IPv6 here")
    def test_all_interfaces_of_both_families(self):
        with running_server(host="") as server:
            for host in "127.0.0.1", "::1":
                with self.subTest(host):
                    self.assertEqual(visit(server.server_port, host), 200)

    def test_name_of_both_families_means_ipv4(self):
        addresses = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
                     (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        with mock.patch("socket.getaddrinfo", return_value=addresses), ClockServer(("both", 0)) as server:
            self.assertEqual(server.server_name, "127.0.0.1")

    def test_all_interfaces_without_ipv6(self):
        with mock.patch("socket.has_dualstack_ipv6", return_value=False), ClockServer(("", 0)) as server:
            self.assertEqual(server.server_name, "0.0.0.0")

    def test_starts_without_looking_up_a_name(self):
        with mock.patch("socket.getfqdn", side_effect=AssertionError("a look-up")):
            with ClockServer(("127.0.0.1", 0)) as server:
                self.assertEqual(server.server_name, "127.0.0.1")


class StockHandler(http.server.SimpleHTTPRequestHandler):
    """A handler of the standard library, without its log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass


class StockHandlerTest(unittest.TestCase):
    """A handler that knows nothing of ClockServer works, within its limits."""

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "page.txt"), "wb") as file:
                file.write(b"text" * 100000)

            def handler(*args):
                StockHandler(*args, directory=folder)
            with running_server(handler) as server:
                for path, status, size in [("/page.txt", 200, 400000), ("/none", 404, None)]:
                    connection = http.client.HTTPConnection(*server.server_address, timeout=GIVE_UP)
                    with self.subTest(path), contextlib.closing(connection):
                        connection.request("GET", path)
                        response = connection.getresponse()
                        body = response.read()
                        self.assertEqual((response.status, len(body)), (status, size or len(body)))

    def test_deadline_and_eviction(self):
        with running_server(StockHandler, REQUEST_SECONDS=0.1) as server, connect(server) as connection:
            self.assertEqual(read_to_end(connection), b"")
        with running_server(StockHandler, MAX_CONNECTIONS=2, GRACE_SECONDS=0) as server:
            with connect(server) as first, connect(server), connect(server):
                self.assertEqual(read_to_end(first), b"")

    def test_errors_are_reported(self):
        class Broken(StockHandler):
            def do_GET(self):
                raise FileNotFoundError("a file of the handler's, no client gone")
        with running_server(Broken, errors=[FileNotFoundError]) as server, connect(server) as connection:
            connection.sendall(GET)
            self.assertEqual(read_to_end(connection), b"")

    def test_lingering_close(self):
        with running_server(StockHandler) as server, connect(server) as connection:
            connection.sendall(request(b"POST / HTTP/1.1", b"Connection: close", body=b"b" * (10 << 20)))
            received = read_without_reset(connection)
            self.assertTrue(received.startswith(b"HTTP/1.1 501 "))


# --- The command ---------------------------------------------------------------------------------

@contextlib.contextmanager
def running_command(*arguments, code=None, **environment):
    """Run the command, or this code, on a free port; yield the process, its first line and port."""
    command = ["-c", code] if code else [os.path.join(HERE, "clock_server.py"), *arguments, "0"]
    process = subprocess.Popen([sys.executable, "-W", "error", *command], cwd=HERE,
                               env=dict(os.environ, **environment), universal_newlines=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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

    def test_start_text(self):
        for label, arguments, host, line in [
                ("everybody", [], "127.0.0.1", "Serving the time on http://localhost:%d/\n"),
                ("IPv4", ["-b", "127.0.0.1"], "127.0.0.1",
                 "Serving the time on http://127.0.0.1:%d/ to this computer only\n"),
                ("IPv6", ["--bind", "[::1]"], "::1",
                 "Serving the time on http://[::1]:%d/ to this computer only\n")]:
            with self.subTest(label), contextlib.ExitStack() as stack:
                try:
                    ClockServer((host, 0), QuietHandler).server_close()
                except OSError:
                    self.skipTest("no IPv6 here")
                process, said, port = stack.enter_context(running_command(*arguments))
                self.assertEqual(said, line % port)
                self.assertEqual(visit(port, host), 200)
                process.terminate()
                rest = process.stdout.read()
                self.assertTrue(rest.endswith("Press Ctrl-C to stop.\nStopped.\n"), rest)

    def test_start_text_names_an_address_for_others(self):
        other = "\nFrom other computers: "
        for label, host, outside, text in [
                ("all interfaces", "::", "192.0.2.7", "localhost:80/" + other + "http://192.0.2.7:80/"),
                ("no network", "0.0.0.0", "", "localhost:80/"),
                ("one address", "192.0.2.1", "192.0.2.7", "192.0.2.1:80/"),
                ("one IPv6 address", "2001:db8::7", "192.0.2.7", "[2001:db8::7]:80/"),
                ("IPv4 on IPv6", "::ffff:127.0.0.1", "192.0.2.7", "127.0.0.1:80/ to this computer only")]:
            with self.subTest(label), mock.patch("clock_server.outside_address", return_value=outside):
                self.assertEqual(clock_server.start_text(host, 80), "Serving the time on http://" + text
                                 + "\nPress Ctrl-C to stop.")
        with mock.patch("clock_server.outside_address", return_value="255.255.255.255"):
            for host in "::", ":".join(["ffff"] * 8), "127.255.255.255":
                for line in clock_server.start_text(host, 65535).splitlines():
                    self.assertLess(len(line), 80)

    def test_outside_address(self):
        address = clock_server.outside_address()
        if address:  # there is a network
            self.assertNotEqual(address, "0.0.0.0")
            with ClockServer((address, 0)):
                pass
        connect = socket.socket.connect
        with mock.patch("socket.socket.connect", lambda probe, _: connect(probe, ("127.0.0.1", 9))):
            self.assertEqual(clock_server.outside_address(), "127.0.0.1")
        with mock.patch("socket.socket", side_effect=OSError("no network")):
            self.assertEqual(clock_server.outside_address(), "")

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
                    self.assertEqual((process.returncode, out.splitlines()[-1]), (0, "Stopped."))
                    self.assertEqual(len(err.splitlines()), 1, err)
                    self.assertEqual(idle.recv(1), b"")

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_signal_while_it_starts(self):
        """A signal ends the command quietly as soon as the first signal handler is installed."""
        code = ("import os, signal, sys, clock_server\n"
                "print('http://x:1/', flush=True)\n"
                "install = signal.signal\n"
                "def early(number, handler):\n"
                "    install(number, handler)\n"
                "    if handler is clock_server.stop:\n"
                "        os.kill(os.getpid(), number)\n"
                "signal.signal = early\n"
                "sys.exit(clock_server.main(['0']))")
        with running_command(code=code) as (process, _, _):
            self.assertEqual(process.communicate(timeout=GIVE_UP), ("Stopped.\n", ""))
            self.assertEqual(process.returncode, 0)

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
            out, err = process.communicate(timeout=GIVE_UP)
            self.assertEqual((out.splitlines()[-1], err, process.returncode), ("Stopped.", "", 0))

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_sigint_stops_it_even_if_inherited_as_ignored(self):
        ignored = ("import signal, sys, clock_server\n"
                   "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                   "sys.exit(clock_server.main(['0']))")
        with running_command(code=ignored) as (process, _, port):
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(GIVE_UP), 0)

    @unittest.skipIf(os.name == "nt", "Windows has other signals")
    def test_stops_although_a_handler_hangs(self):
        hanging = ("import sys, threading, clock_server\n"
                   "clock_server.STOP_SECONDS = 0.01\n"
                   "clock_server.QuietHandler.do_GET = lambda self: threading.Event().wait()\n"
                   "sys.exit(clock_server.main(['-q', '0']))")
        with running_command(code=hanging) as (process, _, port):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(GET)
                process.terminate()
                self.assertEqual(process.wait(GIVE_UP), 0)

    def cores_of_servers(self, count, *preparations):
        """Return the cores of so many servers, which other programs do not keep off any core."""
        code = "\n".join([
            "import os, sys, clock_server", "clock_server.CORE_PORT = %d" % self.free_udp_port(),
            *preparations, "sys.exit(clock_server.main(['-q', '0']))"])
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(running_command(code=code)) for _ in range(count)]
            for _, _, port in servers:
                self.assertEqual(visit(port), 200)
            return [os.sched_getaffinity(process.pid) for process, _, _ in servers]

    @staticmethod
    def free_udp_port():
        """Return a port from which on some are free."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            return min(probe.getsockname()[1], 60000)

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    @unittest.skipIf(hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled(), "no lock here")
    def test_each_server_has_a_core_of_its_own(self):
        cores = os.sched_getaffinity(0)
        taken = self.cores_of_servers(min(len(cores), 4))
        self.assertEqual([len(one) for one in taken], [1] * len(taken))
        self.assertEqual(len(set.union(*taken)), len(taken))
        self.assertLessEqual(set.union(*taken), cores)

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_all_cores_if_threads_run_side_by_side_or_it_is_not_allowed(self):
        for label, preparation in [
                ("no lock", "sys._is_gil_enabled = lambda: False"),
                ("no such call", "del os.sched_setaffinity"),
                ("denied", "def deny(*_): raise PermissionError\nos.sched_setaffinity = deny")]:
            with self.subTest(label):
                self.assertEqual(self.cores_of_servers(1, preparation), [os.sched_getaffinity(0)])

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_cores_chosen_from_outside_are_respected(self):
        for core in os.sched_getaffinity(0):
            code = ("import os, sys, clock_server\n"
                    "os.sched_setaffinity(0, {%d})\n"
                    "sys.exit(clock_server.main(['-q', '0']))") % core
            with running_command(code=code) as (process, _, _):
                self.assertEqual(os.sched_getaffinity(process.pid), {core})

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_importing_chooses_no_core(self):
        with mock.patch("os.sched_setaffinity", side_effect=AssertionError("not asked for")):
            with running_server() as server:
                self.assertEqual(statuses(exchange(server, LAST)), [200])

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

    def test_output_may_be_closed(self):
        with running_command() as (process, _, port):
            process.stdout.close()
            process.stderr.close()
            self.assertEqual([visit(port), visit(port)], [200, 200])
            process.terminate()
            self.assertEqual(process.wait(GIVE_UP), 0)

    @unittest.skipUnless(hasattr(time, "tzset"), "this system cannot change its zone")
    def test_time_zone_is_that_of_the_environment(self):
        with running_command("-q", TZ="NPT-5:45") as (_, _, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GIVE_UP)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                self.assertIn(b"UTC<span>+05:45</span>", connection.getresponse().read())

    def test_port_in_use(self):
        with running_server() as server:
            port = server.server_port
            result = run_command("-b", "127.0.0.1", str(port))
        self.assertEqual((result.returncode, result.stdout, result.stderr), (
            1, "", "clock_server: port %d is in use; try another one: "
            "python3 clock_server.py --bind 127.0.0.1 %d\n" % (port, port + 1 if port < 65535 else 8880)))

    def test_addresses_that_cannot_be_served(self):
        result = run_command("--bind", "203.0.113.1", "0")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (
            1, "", "clock_server: cannot listen on port 0 of 203.0.113.1: %s\n"
            % os.strerror(errno.EADDRNOTAVAIL)))

    def test_advice(self):
        denied, in_use = PermissionError(errno.EACCES, "Denied"), OSError(errno.EADDRINUSE, "Taken")
        for label, error, host, port, said in [
                ("no right", denied, "eth0", 1023,
                 "port 1023 needs the right to use ports below 1024; try one above 1023"),
                ("another right", denied, "", 1024,
                 "cannot listen on port 1024 of all interfaces: " + os.strerror(errno.EACCES)),
                ("unknown name", socket.gaierror(-2, "Name or service not known"), "eth0", 80,
                 "not an address or host name: 'eth0' (Name or service not known)"),
                ("in use", in_use, "", 8880,
                 "port 8880 is in use; try another one: python3 clock_server.py 8881"),
                ("last one in use", in_use, "::1", 65535,
                 "port 65535 is in use; try another one: python3 clock_server.py --bind ::1 8880"),
                ("another error", OSError(errno.ENOBUFS, "long-winded"), "eth0", 80,
                 "cannot listen on port 80 of eth0: " + os.strerror(errno.ENOBUFS))]:
            with self.subTest(label):
                self.assertEqual(clock_server.advice(error, host, port), said)

    def test_invalid_arguments(self):
        rows = [([port], "invalid int value") for port in ["abc", "", "0x50", "1e3", "80.0"]]
        rows += [([port], "not a port number from 0 to 65535") for port in ["65536", "99999"]]
        rows += [(["-b", host], "not an address or host name") for host in [
            "", "[]", "127.0.0.1:8080", "localhost:80", "*", "a..b", ".a", "x y", "a" * 64, "\xfc.\xfc",
            "a/b"]]
        rows += [(["-1"], ""), (["--nonsense"], "")]
        for arguments, reason in rows:
            with self.subTest(arguments), mock.patch("sys.stderr", io.StringIO()) as err:
                with self.assertRaises(SystemExit) as exit:
                    clock_server.parse_arguments(arguments)
                self.assertEqual(exit.exception.code, 2)
                self.assertRegex(err.getvalue(),
                                 r"^usage: clock_server .*\nclock_server: error: .*" + reason)
        result = run_command("--bind", "*")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertNotIn("Traceback", result.stderr)

    def test_valid_addresses(self):
        self.assertEqual(clock_server.parse_arguments([]).bind, "")
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1%eth0", "localhost", "eth0",
                     "a-b_c.example.", "3com.example", "a" * 63]:
            self.assertEqual(clock_server.parse_arguments(["-b", host]).bind, host)
        self.assertEqual(clock_server.parse_arguments(["-b", "[::1]"]).bind, "::1")

    def test_invalid_addresses_ask_no_name_server(self):
        ask_system = socket.getaddrinfo

        def numeric_only(*args, **options):
            self.assertEqual(options.get("flags"), socket.AI_NUMERICHOST)
            return ask_system(*args, **options)
        with mock.patch("socket.getaddrinfo", numeric_only):
            for host in ["300.1.1.1", "1.2.3.4.5", "1:2:3"]:
                with self.subTest(host):
                    self.assertRegex(clock_server.main(["-b", host, "0"]),
                                     "^clock_server: not an address or host name: '%s' " % host)

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
            out, err = process.communicate(timeout=GIVE_UP)
            self.assertEqual((out.splitlines()[-1], err), ("Stopped.", ""))


# --- The README ----------------------------------------------------------------------------------

README = os.path.join(HERE, "README.md")


@unittest.skipUnless(os.path.exists(README), "only the module and its tests are here")
class ReadmeTest(unittest.TestCase):

    def test_example_is_a_server(self):
        with open(README, encoding="utf-8") as file:
            example = re.search(r"```python\n(.*?)\nwith ", file.read(), re.S)[1]
        names = {}
        exec(example, names)
        with mock.patch("sys.stderr"), running_server(names["Hello"]) as server:
            response, = exchange(server, GET.replace(b"/", b"/<b>", 1))
        self.assertIn(b"Hello, /&lt;b&gt;", response.body)
        style = re.search(b"<style>(.*)</style>", response.body, re.S)[1].decode()
        self.assertIn(clock_server.csp_hash(style), response.fields["Content-Security-Policy"])


# --- The browser ---------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@unittest.skipUnless(CHROMIUM, "no Chromium here")
class BrowserTest(unittest.TestCase):

    def dump(self, url, zone, seconds):
        """Return the clock's datetime, its text and the offset after so many virtual seconds, in a
        browser in that zone."""
        with tempfile.TemporaryDirectory() as profile:
            result = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--no-first-run", "--user-data-dir=" + profile, "--dump-dom",
                 "--virtual-time-budget=%d" % (seconds * 1000), url],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120, env=dict(os.environ, TZ=zone))
        clock = re.search(rb'<time datetime="([^"]*)">([^<]*)</time>', result.stdout)
        offset = re.search(rb"<span>(.*?)</span>", result.stdout)
        return [text.decode() for text in (clock[1], clock[2], offset[1])]

    def test_clock_ticks_in_the_time_of_the_server(self):
        class Past(QuietHandler):
            def do_GET(self):
                self.requests.append(self.path)
                self.send_page(render_page(1162511990.25))  # Nov  2 or 3, 2006

            requests = []
        with running_server(Past) as server:
            stamp, text, offset = self.dump("http://127.0.0.1:%d/" % server.server_port, "Asia/Kathmandu", 15)
        shown = datetime.strptime(text, "%a %b %d %H:%M:%S %Y")
        self.assertEqual(text, shown.ctime())  # padded as ctime does
        self.assertEqual((stamp[:19], stamp[-6:]), (shown.isoformat(), offset))
        start = datetime(*time.localtime(1162511990)[:6])
        self.assertTrue(10 <= (shown - start).total_seconds() <= 25, (stamp, text))
        self.assertEqual(Past.requests, ["/"])  # no icon, nothing else

    @unittest.skipUnless(hasattr(time, "tzset"), "this system cannot change its zone")
    def test_clock_follows_a_change_of_zone_within_an_hour(self):
        class Moving(QuietHandler):
            def do_GET(self):
                self.send_page(render_page(1162511990.25))
                os.environ["TZ"] = "CEST-2"
                time.tzset()

        with mock.patch.dict(os.environ, TZ="CET-1"):
            time.tzset()
            with running_server(Moving) as server:
                stamp, text, offset = self.dump("http://127.0.0.1:%d/" % server.server_port, "UTC", 3700)
        time.tzset()
        self.assertEqual((offset, stamp[-6:]), ("+02:00", "+02:00"))
        self.assertEqual(text.split()[3], stamp[11:19])


if __name__ == "__main__":
    unittest.main()
