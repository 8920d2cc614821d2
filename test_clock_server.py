"""Tests of clock_server, in the order of the module and under its headings.

    python3 -m unittest                    run all of them
    python3 test_clock_server.py GrammarTest.test_rejected

They use real sockets, real processes and nothing but the standard library. Where time matters, the
limits of the module are shortened. No test measures how fast the machine is.

To add a test:

    with running_server() as server:
        response, = exchange(server, GET)
        self.assertEqual(response.status, 200)

- exchange() sends all it is given on a connection of its own, ends its side, and returns all
  responses. It is what most tests need.
- ask() sends one request on a connection from connect(), which stays open, and returns the response.
- connect() and read_to_end() are for whatever is no ordinary response: nothing at all, or a reset.
- GET leaves the connection open for the next request. After LAST the server closes it.

To add a request that must be accepted or refused, add a row to ACCEPTED or REJECTED.
"""
import ast
import base64
import contextlib
import doctest
import errno
import hashlib
import html.parser
import http
import http.client
import http.server
import io
import os
import random
import re
import shlex
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
import urllib.parse
import xml.etree.ElementTree
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import clock_server  # noqa: E402  the one beside this file, wherever the tests are started
from clock_server import ClockHandler, ClockPage, ClockServer, render_page  # noqa: E402


# --- Helpers -------------------------------------------------------------------------------------

GIVE_UP = 30  # seconds after which something that should have happened has not
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close() resets the connection
HAS_TZSET = hasattr(time, "tzset")
HAS_IPV6 = socket.has_dualstack_ipv6()
Response = namedtuple("Response", "status fields body head")


class QuietHandler(ClockHandler):
    """The handler of the module, without its lines for requests in the log."""

    def log_request(self, code="-", size="-"):
        """Do nothing."""


class StockHandler(http.server.SimpleHTTPRequestHandler):
    """A handler of the standard library, without its log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        """Do nothing."""


class WatchedServer(ClockServer):
    """Records the errors it would have reported, and the most connections it served at once."""

    most = 0

    def process_request(self, request, client_address):
        """Count the connections."""
        super().process_request(request, client_address)
        self.most = max(self.most, len(self.connections))

    def handle_error(self, request, client_address):
        """Keep the error instead of printing it."""
        self.errors.append(sys.exc_info()[1])


@contextlib.contextmanager
def running_server(handler=QuietHandler, errors=(), host="127.0.0.1", server_class=WatchedServer, **limits):
    """Serve on a free port with these limits; check that nothing is left over at the end.

    `errors` are the types of the errors that the server is expected to report, in their order.
    """
    before = set(threading.enumerate())
    limits.setdefault("LOOK_SECONDS", 0.01)
    # A busy machine may need more than STOP_SECONDS to end the threads.
    with mock.patch.object(clock_server, "STOP_SECONDS", GIVE_UP), \
            server_class((host, 0), handler) as server, mock.patch.multiple(clock_server, **limits):
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
    """Return the responses in these bytes, checked as strictly as a client could.

    `methods` are those of the requests, where it matters that one is HEAD.
    """
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
            assert name.lower() not in map(str.lower, fields), line
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


def ask(connection, data=GET):
    """Send a request and return its response, on a connection that may stay open."""
    connection.sendall(data)
    received = b""
    while True:
        piece = connection.recv(65536)
        assert piece, "closed instead of answered"
        received += piece
        length = re.search(rb"\r\nContent-Length: (\d+)\r\n", received)
        if length and len(received.partition(b"\r\n\r\n")[2]) >= int(length[1]):
            response, = parse_responses(received)
            return response


def statuses(responses):
    """Return the status of each response."""
    return [response.status for response in responses]


def request_of(line, *fields, host=b"Host: x", body=b""):
    """Return a request of these lines; each gets its CRLF here."""
    return b"".join(part + b"\r\n" for part in (line, *filter(None, (host,)), *fields, b"")) + body


def get_with(*fields, **others):
    """Return a GET request with these fields besides Host."""
    return request_of(b"GET / HTTP/1.1", *fields, **others)


def post_of(body):
    """Return a POST request with this body."""
    return request_of(b"POST / HTTP/1.1", b"Content-Length: %d" % len(body), body=body)


def wait_until(condition):
    """Wait until the condition holds; fail if it never does."""
    deadline = time.monotonic() + GIVE_UP
    while not condition():
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.001)


def moment(seconds, microseconds=0):
    """Return the time so long after the start of 1970, in the zone of this process."""
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (epoch + timedelta(seconds=seconds, microseconds=microseconds)).astimezone()


@contextlib.contextmanager
def zone_of(name):
    """Set the time zone of this process."""
    with mock.patch.dict(os.environ, TZ=name):
        time.tzset()
        clock_server.split_page.cache_clear()
        try:
            yield
        finally:
            clock_server.split_page.cache_clear()
    time.tzset()


class Program:
    """A program in a process of its own, which is killed at the end of the with block.

    Its standard error goes to a file, which never fills up as a pipe does.
    """

    def __init__(self, *command, **options):
        environment = dict(os.environ, **options.pop("environment", {}))
        self.log = tempfile.TemporaryFile()
        options = dict(dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log), **options)
        self.process = subprocess.Popen(command, cwd=HERE, env=environment, start_new_session=True, **options)
        self.timer = threading.Timer(3 * GIVE_UP, self.kill)  # so that nothing waits for it forever
        self.timer.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.timer.cancel()
        self.timer.join()
        self.kill()
        self.process.wait()
        for file in self.log, self.process.stdin, self.process.stdout:
            if file:
                file.close()

    def kill(self):
        """Kill the program and the programs that it has started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def errors(self):
        """Return what it has written to its standard error until now."""
        self.log.seek(0)
        return self.log.read().decode().replace("\r\n", "\n")

    def finish(self, *signals):
        """Send these signals and wait for the end; return status, rest of the output, and errors."""
        for number in signals:
            self.process.send_signal(number)
        output = self.process.stdout.read().decode().replace("\r\n", "\n") if self.process.stdout else ""
        return self.process.wait(GIVE_UP), output, self.errors()


class Command(Program):
    """The command clock_server.py in a process of its own, by default on a free port.

    `setup` is code that the process runs before main, to change a limit, for example; `call` is code
    that it runs instead of main.
    """

    def __init__(self, *arguments, setup="", call="", port=0, **options):
        program = [os.path.join(HERE, "clock_server.py")]
        if setup or call:
            imports = "import os, signal, socket, sys, threading, clock_server"
            program = ["-c", "\n".join([imports, setup, call or "clock_server.main(sys.argv[1:])"])]
        super().__init__(sys.executable, "-W", "error", *program, *arguments, str(port), **options)
        self.line, self.port = "", port
        if not port:
            self.line = self.process.stdout.readline().decode()
            match = re.search(r":(\d+)/", self.line)
            if not match:
                error = AssertionError(self.line, *self.finish())
                self.__exit__()
                raise error
            self.port = int(match[1])


def run_command(*arguments):
    """Run the command to its end; return the exit status and what it said."""
    return subprocess.run([sys.executable, "-W", "error", os.path.join(HERE, "clock_server.py"), *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=GIVE_UP, cwd=tempfile.gettempdir())


def visit(port, host="127.0.0.1", path="/", timeout=GIVE_UP):
    """Return the response to a GET at this port, as http.client reads it."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read(), None)


def free_port():
    """Return a port that is free, and that the system does not give to connections of its own."""
    while True:
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("", random.randrange(10000, 30000)))
                return probe.getsockname()[1]


def is_listening(port):
    """Return whether a connection to this port is accepted."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), GIVE_UP):
        return True
    return False


def source_of_module():
    """Return the text of clock_server.py."""
    with open(os.path.join(HERE, "clock_server.py"), encoding="utf-8") as file:
        return file.read()


class PageParser(html.parser.HTMLParser):
    """Collects what the tests need to know about a page."""

    VOID = {"meta", "link", "br", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], {}, []
        self.feed(page.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note the tag and its attributes."""
        self.tags.append(tag)
        self.attributes += [(tag,) + attr for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Check that this is the tag to be closed."""
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        """Add the text to that of the innermost tag."""
        if self.open:
            tag = self.open[-1]
            self.texts[tag] = self.texts.get(tag, "") + data


# --- The clock -----------------------------------------------------------------------------------

class PageTest(unittest.TestCase):

    ZONES = [  # label, TZ, offset of standard time
        ("UTC", "UTC0", "+00:00"),
        ("half an hour east", "IST-5:30", "+05:30"),
        ("half an hour west", "NST3:30", "-03:30"),
        ("quarter of an hour", "NPT-5:45", "+05:45"),
        ("before the date line", "AAA-14", "+14:00"),
        ("less than an hour west", "BBB0:30", "-00:30"),
    ]
    MOMENTS = [  # label, seconds since 1970, microseconds
        ("the epoch", 0, 0),
        ("before the epoch", -1, 500000),
        ("long before the epoch", -10 ** 9, 250000),
        ("a day of one digit", 1162512000, 0),
        ("just before a second", 1700000000, 999999),
        ("just after a second", 1700000000, 1),
        ("today", int(time.time()), 123456),
        ("after 32 bits of seconds", 2 ** 32, 500000),
    ]

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_shows_ctime_and_names_the_same_moment(self):
        for zone_label, zone, offset in self.ZONES:
            with zone_of(zone):
                for label, seconds, microseconds in self.MOMENTS:
                    with self.subTest(zone=zone_label, moment=label):
                        page = PageParser(render_page(moment(seconds, microseconds)))
                        self.assertEqual(page.texts["time"], time.ctime(seconds))
                        stamp = dict(row[1:] for row in page.attributes)["datetime"]
                        self.assertEqual(page.texts["p"] + page.texts["span"],
                                         "Time on this server, UTC" + offset)
                        self.assertRegex(stamp, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
                        self.assertEqual(stamp[-6:], offset)
                        named = datetime.strptime(stamp[:-3] + stamp[-2:], "%Y-%m-%dT%H:%M:%S.%f%z")
                        behind = moment(seconds, microseconds) - named
                        self.assertTrue(timedelta(0) <= behind < timedelta(milliseconds=1), behind)
                        self.assertEqual(page.texts["time"].split()[3], stamp[11:19])
                        self.assertEqual(page.texts["title"], "The current time on this server")

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_handler_of_the_module_sends_the_same_page(self):
        for zone_label, zone, _ in self.ZONES:
            with zone_of(zone), running_server() as server:
                for label, seconds, microseconds in self.MOMENTS:
                    with self.subTest(zone=zone_label, moment=label):
                        with mock.patch("time.time", return_value=seconds + microseconds / 1e6):
                            response, = exchange(server, LAST)
                        self.assertEqual(response.body, render_page(moment(seconds, microseconds)))

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_follows_daylight_saving_time(self):
        with zone_of("CET-1CEST,M3.5.0,M10.5.0/3"):
            for label, seconds, stamp in [
                    ("winter", 1616893199, "2021-03-28T01:59:59.000+01:00"),
                    ("summer", 1616893200, "2021-03-28T03:00:00.000+02:00"),
                    ("the hour that comes twice", 1635641999, "2021-10-31T02:59:59.000+02:00"),
                    ("its second time", 1635642000, "2021-10-31T02:00:00.000+01:00")]:
                with self.subTest(label):
                    self.assertIn(b'<time datetime="%s">' % stamp.encode(), render_page(moment(seconds)))


class ClockPageTest(unittest.TestCase):
    """The small server, which consists of the chapter and the standard library."""

    @contextlib.contextmanager
    def serving(self, handler):
        """Run this handler on the server of the standard library."""
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                with mock.patch("sys.stderr"):
                    yield server
            finally:
                server.shutdown()
                thread.join()
                wait_until(lambda: threading.active_count() == self.threads)

    def setUp(self):
        self.threads = threading.active_count()

    def test_serves_the_page_to_every_get(self):
        with self.serving(ClockPage) as server:
            before = time.time()
            responses = exchange(server, GET, b"GET /any/path?query HTTP/1.1\r\nHost: x\r\n\r\n", LAST)
            after = time.time()
        self.assertEqual(statuses(responses), [200] * 3)
        for response in responses:
            self.assertEqual(response.fields["Content-Type"], "text/html; charset=utf-8")
            self.assertEqual(response.fields["Content-Length"], str(len(response.body)))
            stamp = re.search(rb'<time datetime="(.*?)">', response.body)[1].decode()
            shown = datetime.strptime(stamp[:-3] + stamp[-2:], "%Y-%m-%dT%H:%M:%S.%f%z")
            self.assertTrue(before - 0.001 <= shown.timestamp() <= after, (before, shown, after))

    def test_chapter_needs_nothing_but_its_strings(self):
        head, _, rest = source_of_module().partition("# --- The clock ---")
        chapter = rest.partition("\n# --- ")[0]
        names = {"__name__": "chapter", "STYLE": "", "SCRIPT": "", "ICON": "data:,"}
        exec(compile(head + "# " + chapter, "chapter", "exec"), names)
        with self.serving(names["ClockPage"]) as server:
            response, = exchange(server, LAST)
        self.assertEqual(response.status, 200)
        self.assertIn(b"<h1><time ", response.body)

    def test_uses_only_inherited_methods(self):
        own = {name for name in vars(ClockPage) if not name.startswith("__")}
        self.assertEqual(own, {"do_GET", "protocol_version"})
        inherited = [*dir(http.server.BaseHTTPRequestHandler), "wfile"]
        handler = mock.Mock(spec=inherited)  # raises an AttributeError for anything else
        ClockPage.do_GET(handler)
        self.assertTrue(handler.wfile.write.call_args[0][0].startswith(b"<!DOCTYPE html>\n"))


# --- What strangers do to it ---------------------------------------------------------------------

# nc as OpenBSD has it: after the end of its input it stays until the server closes the connection.
NC = """
import os, socket, sys, threading
connection = socket.create_connection(sys.argv[1:3])
def send():
    try:
        for data in iter(lambda: os.read(0, 65536), b""):
            connection.sendall(data)
    except OSError:
        pass
threading.Thread(target=send, daemon=True).start()
try:
    for data in iter(lambda: connection.recv(65536), b""):
        os.write(1, data)
except OSError:
    pass
"""


def attack_ended(server, attack):
    """Wait until the attack ends by itself."""
    attack.process.wait(GIVE_UP)


def attack_and_server_ended(server, attack):
    """Wait until the attack ends, then stop the server, which has then reported all it ever will."""
    attack.process.wait(GIVE_UP)
    server.finish(signal.SIGTERM)


def house_is_full(server, attack):
    """Wait until the first connection, which has waited longest, had to make room for another one."""
    assert server.first.recv(1) == b""


def log_lies(server, attack):
    """Return whether a program that reads up to the second quotation mark finds a 200."""
    return bool(re.search(r'\] "[^"]*" 200 ', server.errors()))


def server_prints_traceback(server, attack):
    """Return whether the log of the server has a traceback."""
    return "Traceback" in server.errors()


def attack_still_runs(server, attack):
    """Return whether the attack has not come to its end."""
    return attack.process.poll() is None


def smuggled_request_is_answered(server, attack):
    """Return whether the server has answered the request inside the body."""
    return "GET /smuggled" in server.errors()


def visitor_is_not_answered(server, attack):
    """Return whether a visitor gets no response."""
    try:
        return visit(server.port, timeout=server.patience).status != 200
    except OSError:
        return True


def response_is_lost(server, attack):
    """Return whether the attack has ended without having read the response of the server."""
    return attack.process.poll() is not None and "HTTP Error" not in attack.errors()


def start_or_stop_prints_traceback(server, attack):
    """Return whether the second server at a port, or Ctrl-C in the first one, prints a traceback."""
    attack.process.wait(GIVE_UP)
    server.finish(signal.SIGINT)
    return "Traceback" in attack.errors() + server.errors()


# Where another server wants the same port, the other one is of the same kind as the first.
SECOND_SERVER = "python3 clock_server.py 8880"
ATTACKS = [  # label, settings of ClockServer, when the attack on it is over, what is the harm
    ("a lie in the log", "", attack_ended, log_lies),
    ("a client that leaves", "", attack_and_server_ended, server_prints_traceback),
    ("half a request", "clock_server.REQUEST_SECONDS, clock_server.LOOK_SECONDS = 0.3, 0.01",
     attack_ended, attack_still_runs),
    ("a smuggled request", "", attack_ended, smuggled_request_is_answered),
    ("a full house", "clock_server.REQUEST_SECONDS = 1000", house_is_full, visitor_is_not_answered),
    ("more than anybody reads", "", attack_ended, response_is_lost),
    ("the same port", "", attack_ended, start_or_stop_prints_traceback),
]


@unittest.skipUnless(os.name == "posix" and shutil.which("bash"), "the commands need a shell of Unix")
class AttacksTest(unittest.TestCase):
    """Every attack in the file does its harm to the small server, and none to ClockServer."""

    FILES = 64  # that a server may open, as the file says; fewer than the clients of the full house
    LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d))\n" % (FILES, FILES)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        with open(os.path.join(folder.name, "nc.py"), "w") as file:
            file.write(NC)
        python = shlex.quote(sys.executable)
        for name, command in [("python3", python),
                              ("nc", python + " " + shlex.quote(os.path.join(folder.name, "nc.py")))]:
            path = os.path.join(folder.name, name)
            with open(path, "w") as file:
                file.write('#!/bin/sh\nexec %s "$@"\n' % command)
            os.chmod(path, 0o755)
        self.environment = {"PATH": folder.name + os.pathsep + os.environ["PATH"]}
        interrupt = signal.getsignal(signal.SIGINT)
        if interrupt == signal.SIG_IGN:  # a test run in the background; its children would inherit it
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.addCleanup(signal.signal, signal.SIGINT, interrupt)

    def attacks(self):
        """Return the attacks of the file: comments that begin with "$ ", and go on with "> "."""
        text = source_of_module().partition("# --- What strangers do to it")[2]
        found = re.findall(r"^ *#     \$ (.*(?:\n *#     > .*)*)", text, re.M)
        return [re.sub(r"\n *#     > ", "\n", command) for command in found]

    @contextlib.contextmanager
    def small_server(self):
        """Start the small server by the line of the file that starts it."""
        chapter = source_of_module().partition("# --- The clock ---")[2].partition("\n# --- ")[0]
        command = re.search(r"^#     (?:\$ )?(python3 -c .*(?:\n#     (?:> )?.*)*)", chapter, re.M)[1]
        command = re.sub(r"\n#     (?:> )?", "\n", command)
        self.assertIn("8880", command)
        for _ in range(5):  # somebody else may take the port in the meantime
            port = free_port()
            script = "ulimit -n %d; exec %s" % (self.FILES, command.replace("8880", str(port)))
            # Before Python 3.9, standard error is buffered if it is a file.
            environment = dict(self.environment, PYTHONUNBUFFERED="1")
            with Program("bash", "-c", script, environment=environment) as server:
                wait_until(lambda: is_listening(port) or server.process.poll() is not None)
                if server.process.poll() is None:
                    server.port, server.patience = port, 1
                    yield server
                    return
        self.fail("the small server does not start")

    @contextlib.contextmanager
    def clock_server(self, settings):
        """Start the command with these settings; its first connection is server.first."""
        with Command(setup=self.LIMIT + settings) as server:
            with socket.create_connection(("127.0.0.1", server.port), GIVE_UP) as server.first:
                server.patience = GIVE_UP
                yield server

    def attack(self, command, server):
        """Start the command of an attack on this server."""
        return Program("bash", "-c", command.replace("8880", str(server.port)), environment=self.environment,
                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def test_every_attack_has_a_row(self):
        self.assertEqual(len(self.attacks()), len(ATTACKS))

    def test_attacks_harm_the_small_server_and_not_this_one(self):
        for command, (label, settings, over, harm) in zip(self.attacks(), ATTACKS):
            with self.subTest(label), self.small_server() as small, self.clock_server(settings) as clock, \
                    contextlib.ExitStack() as stack:
                is_second = harm is start_or_stop_prints_traceback
                on_small = stack.enter_context(self.attack(command, small))
                on_clock = stack.enter_context(self.attack(SECOND_SERVER if is_second else command, clock))
                over(clock, on_clock)
                self.assertFalse(harm(clock, on_clock), clock.errors() + on_clock.errors())
                wait_until(lambda: harm(small, on_small))
                self.assertNotIn("Traceback", clock.errors())
                if is_second:
                    wait_until(lambda: "Traceback" in small.errors() and "Traceback" in on_small.errors())
                    self.assertEqual(len(on_clock.errors().splitlines()), 1)
                if clock.process.poll() is None:
                    self.assertEqual(visit(clock.port).status, 200)


# --- The looks -----------------------------------------------------------------------------------

class LooksTest(unittest.TestCase):

    def test_page_is_complete_and_loads_nothing(self):
        for label, script in [("with its script", clock_server.SCRIPT), ("without", "")]:
            with self.subTest(label), mock.patch.object(clock_server, "SCRIPT", script):
                page = render_page(moment(0))
                self.assertTrue(page.startswith(b"<!DOCTYPE html>\n"))
                parsed = PageParser(page)
                self.assertEqual(parsed.open, [])
                self.assertIn(("html", "lang", "en"), parsed.attributes)
                self.assertIn(("meta", "charset", "utf-8"), parsed.attributes)
                self.assertIn(("meta", "name", "viewport"), parsed.attributes)
                self.assertIn(("meta", "name", "description"), parsed.attributes)
                self.assertRegex(page, rb"<main>\n<h1><time ")
                names = {name for _, name, _ in parsed.attributes}
                self.assertFalse(names & {"src", "http-equiv", "style", "aria-live"})
                links = [(tag, value[:5]) for tag, name, value in parsed.attributes if name == "href"]
                self.assertEqual(links, [("link", "data:")])  # the icon, without a request
                self.assertNotRegex(page, rb"url\(|@import|XMLHttpRequest")

    def test_icon_is_an_image(self):
        kind, _, image = clock_server.ICON.partition(",")
        self.assertEqual(kind, "data:image/svg+xml")
        root = xml.etree.ElementTree.fromstring(urllib.parse.unquote(image))
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")

    def test_hash_is_that_of_the_text(self):
        digest = hashlib.sha256("h\xe9".encode("utf-8")).digest()
        self.assertEqual(clock_server.csp_hash("h\xe9"), "'sha256-%s'" % base64.b64encode(digest).decode())


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
            "default-src 'none'", "img-src data:", "style-src " + inline(b"style"),
            "script-src " + inline(b"script"), "connect-src 'self'", "base-uri 'none'",
            "form-action 'none'", "frame-ancestors 'none'"])

    def test_page_and_date_are_of_each_request(self):
        with running_server() as server:
            with mock.patch("time.time", side_effect=range(0, 10 ** 9, 1000)):
                responses = exchange(server, GET * 3)
        self.assertEqual(len({response.body for response in responses}), 3)
        self.assertEqual(len({response.fields["Date"] for response in responses}), 3)

    def test_head_is_get_without_the_page(self):
        with running_server() as server, mock.patch("time.time", return_value=1e9):
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
            for method, allowed in (b"GET", "GET, HEAD, OPTIONS, POST"), (b"POST", "PATCH"):
                with self.subTest(method):
                    response, = exchange(server, method + LAST[3:])
                    self.assertEqual((response.status, response.fields["Allow"]), (405, allowed))

    def test_allow_follows_the_class(self):
        class WithPost(QuietHandler):
            def do_POST(self):
                self.send_page(b"posted", "text/plain")

        class WithoutPage(QuietHandler):
            do_GET = do_HEAD = ClockHandler.refuse

        class WithoutPatch(QuietHandler):
            do_PATCH = None
        for handler, allowed in [(WithPost, "GET, HEAD, OPTIONS, POST"), (WithoutPage, "OPTIONS"),
                                 (WithoutPatch, "GET, HEAD, OPTIONS")]:
            with running_server(handler) as server:
                for method in b"OPTIONS", b"DELETE":
                    with self.subTest(handler=handler.__name__, method=method):
                        response, = exchange(server, method + LAST[3:])
                        self.assertEqual(response.fields["Allow"], allowed)

    def test_allow_lists_no_head_without_a_get(self):
        class WithoutGet(QuietHandler):
            do_GET = ClockHandler.refuse
        with running_server(WithoutGet) as server:
            response, = exchange(server, b"HEAD" + LAST[3:], methods=["HEAD"])
            self.assertEqual((response.status, response.fields["Allow"]), (405, "OPTIONS"))

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


class SubclassTest(unittest.TestCase):
    """What a method of a subclass may rely on when it sends a response."""

    def answer(self, do_GET, data=LAST, errors=(), **attributes):
        """Return all that a handler with this do_GET sends."""
        handler = type("Handler", (QuietHandler,), dict(attributes, do_GET=do_GET))
        with running_server(handler, errors) as server, connect(server) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)

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
            ("its own length as a number", 200, {"Content-Length": 3}, b"abc", "3", b"abc"),
            ("chunks", 200, {"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", None, b"0\r\n\r\n"),
            ("a length in another value", 200, {"X": "Content-Length: 9"}, b"a", "1", b"a"),
            ("unknown status", 299, {}, b"", "0", b""),
            ("204", 204, {}, b"needless", None, b""),
            ("204 with a length", 204, {"Content-Length": "8"}, b"needless", None, b""),
            ("205", 205, {}, b"needless", "0", b""),
            ("304", 304, {}, b"needless", None, b""),
            ("304 with the length of a 200", 304, {"Content-Length": "8"}, b"", "8", b"")]

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

    def test_fields_that_a_method_sends_replace_the_common_ones(self):
        rows = [(name, "mine") for name in [*ClockHandler.common_fields, "Date"]]
        rows += [(name.lower(), value) for name, value in rows]
        for name, value in rows:
            def page(handler):
                handler.send_response(200)
                handler.send_header(name, value)
                handler.end_headers()
            with self.subTest(name):
                response, = parse_responses(self.answer(page))
                self.assertEqual(response.fields[name], value)

    def test_fields_that_a_method_sends_twice_stay_two(self):
        def page(handler):
            handler.send_response(200)
            handler.send_header("Set-Cookie", "a=1")
            handler.send_header("X", "y")
            handler.send_header("set-cookie", "b=2")
            handler.end_headers()
        self.assertEqual(re.findall(rb"(?i)\nset-cookie: (.*)\r", self.answer(page)), [b"a=1", b"b=2"])

    def test_fields_of_an_error_are_not_those_of_the_half_response(self):
        def page(handler):
            handler.send_response(200)
            handler.send_header("X-Half", "done")
            handler.wfile.write(b"half")
            handler.send_error(http.HTTPStatus.NOT_FOUND)
        response, = parse_responses(self.answer(page))
        self.assertEqual((response.status, response.body), (404, b"404 Not Found\n"))
        self.assertNotIn("X-Half", response.fields)

    def test_end_headers_can_add_a_field(self):
        def end_headers(handler):
            handler.send_header("X-Mine", "yes")
            super(type(handler), handler).end_headers()
        for label, data, status in [("page", LAST, 200), ("refused", b"GET / HTTP/1.1\r\n\r\n", 400),
                                    ("unknown method", b"BREW" + LAST[3:], 501)]:
            with self.subTest(label):
                page = ClockHandler.do_GET
                response, = parse_responses(self.answer(page, data, end_headers=end_headers))
                self.assertEqual((response.status, response.fields["X-Mine"]), (status, "yes"))

    def test_method_can_close_the_connection(self):
        def by_field(handler):
            handler.send_response(200)
            handler.send_header("connection", "Close")
            handler.end_headers()

        def by_attribute(handler):
            handler.close_connection = True
            handler.send_page(b"page")
        for page in by_field, by_attribute:
            with self.subTest(page.__name__):
                received = self.answer(page, GET * 2)
                self.assertEqual(statuses(parse_responses(received)), [200])
                self.assertRegex(received, rb"\r\n[Cc]onnection: [Cc]lose\r\n")

    def test_subclass_may_speak_http_1_0(self):
        received = self.answer(ClockHandler.do_GET, GET * 2, protocol_version="HTTP/1.0")
        self.assertTrue(received.startswith(b"HTTP/1.0 200 OK\r\n"), received)
        self.assertEqual((received.count(b"HTTP/1.0"), received.count(b"\r\nConnection: close\r\n")), (1, 1))

    def test_send_error_with_any_status_at_any_time(self):
        class Erring(QuietHandler):
            def do_GET(self):
                self.send_page(b"half a page")
                self.send_error(kind(int(self.path[1:])), "a reason")
        with running_server(Erring) as server:
            for status, kind, body in [(404, int, b"404 Not Found: a reason\n"), (304, int, b""),
                                       (404, http.HTTPStatus, b"404 Not Found: a reason\n"),
                                       (599, int, b"599 Unknown: a reason\n")]:
                with self.subTest(status, kind=kind):
                    response, = exchange(server, GET.replace(b"/", b"/%d" % status, 1))
                    self.assertEqual((response.status, response.body), (status, body))

    MISUSES = [  # label, what do_GET does with the handler, the type of the error, what the client reads
        ("CR LF in a value",
         lambda handler: (handler.send_response(200), handler.send_header("X", "a\r\nY: b")),
         clock_server.Misuse, r"malformed field: b'X: a\r\nY: b'"),
        ("no response", lambda handler: None, clock_server.Misuse, "the method sent no response"),
        ("two responses", lambda handler: (handler.send_page(b"1"), handler.send_page(b"2")),
         clock_server.Misuse, "a second response to one request"),
        ("a response after an error", lambda handler: (handler.send_error(404), handler.send_page(b"2")),
         clock_server.Misuse, "a second response to one request"),
        ("the status line as the status", lambda handler: handler.send_response("200 OK"), ValueError, None),
        ("closed wfile", lambda handler: (handler.send_page(b"x"), handler.wfile.close()), ValueError, None),
        ("a page that is a str", lambda handler: handler.send_page("page"), TypeError, None),
        ("a value beyond Latin-1",
         lambda handler: (handler.send_response(200), handler.send_header("X", "\u20ac")),
         UnicodeError, None),
        ("a reason beyond Latin-1", lambda handler: handler.send_response(200, "\u20ac"), UnicodeError, None),
        ("a name that is a number", lambda handler: (handler.send_response(200), handler.send_header(1, "x")),
         AttributeError, None),
        ("FileNotFoundError", lambda handler: (handler.send_page(b"half"), open("/nowhere/x")),
         FileNotFoundError, None),
        ("SystemExit", lambda handler: (handler.send_page(b"half"), sys.exit("over")), SystemExit, None),
    ]
    MISUSES += [("%r in a value" % bad, lambda handler, bad=bad: (
        handler.send_response(200), handler.send_header("X", "a%sb" % bad)),
        clock_server.Misuse, "malformed field") for bad in "\r\n\0\x7f"]
    MISUSES += [("the name %r" % bad, lambda handler, bad=bad: (
        handler.send_response(200), handler.send_header(bad, "x")),
        clock_server.Misuse, "malformed field") for bad in [
            "", "X ", "X:", "X: y", "X\r\nY", "X\n", "\0", "X\xe9", "(X)"]]
    MISUSES += [("%r in the reason" % bad, lambda handler, bad=bad: handler.send_response(200, "a%sb" % bad),
                 clock_server.Misuse, "malformed status line") for bad in ["\r", "\n", "\r\nX: y", "\0"]]
    MISUSES += [("status %d" % bad, lambda handler, bad=bad: handler.send_response(bad),
                 clock_server.Misuse, "malformed status line") for bad in [100, 42, 999, 199, 600, -200]]
    MISUSES += [("send_error(%d)" % bad, lambda handler, bad=bad: handler.send_error(bad),
                 clock_server.Misuse, "malformed status line") for bad in [100, 42, 999]]

    def test_misuse_gives_a_500_and_a_report(self):
        class Table(QuietHandler):
            def do_GET(self):
                action(self)

            def do_HEAD(self):
                action(self)
        for label, action, error, message in self.MISUSES:
            with self.subTest(label), running_server(Table, errors=[mock.ANY] * 2) as server:
                response, = exchange(server, GET * 2)
                self.assertEqual((response.status, response.fields["Connection"]), (500, "close"))
                text = response.body.decode()
                self.assertTrue(text.startswith("500 Internal Server Error"), text)
                self.assertEqual(text.count("\n"), 1)
                if message:
                    self.assertIn(": " + message, text)
                else:
                    self.assertEqual(text, "500 Internal Server Error\n")
                head, = exchange(server, b"HEAD" + GET[3:], methods=["HEAD"])
                self.assertEqual(head.status, 500)
                for reported in server.errors:
                    self.assertIsInstance(reported, error)

    def test_failing_handler_gives_a_500(self):
        failures = [FileNotFoundError("a file of the handler's, no client gone"),
                    ConnectionRefusedError("by another server"), TimeoutError("of another server"),
                    *[SystemExit(1)] * 5]
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

    def test_wrong_content_length_is_corrected_and_reported(self):
        for sent in ["3", "5", "four", "", "-4", "4, 4", "04"]:
            def page(handler):
                handler.send_response(200)
                handler.send_header("Content-Length", sent)
                handler.end_headers()
                handler.wfile.write(b"\xc3\xa9\xc3\xa9")
            with self.subTest(sent), mock.patch("sys.stderr") as stderr:
                response, = parse_responses(self.answer(page, GET * 2))
                self.assertEqual((response.status, response.body), (200, b"\xc3\xa9\xc3\xa9"))
                self.assertEqual(response.fields["Connection"], "close")
                line, = [call[0][0] for call in stderr.write.call_args_list]
                self.assertIn("wrong Content-Length", line)
                self.assertIn("4 bytes", line)

    def test_path_cannot_become_another_host(self):
        """A redirection to path + "/" must lead to this server: python/cpython#87389."""
        def page(handler):
            handler.send_page(handler.path.encode(), "text/plain")
        for target, path in [(b"//host/x", b"/host/x"), (b"///x", b"/x"), (b"//", b"/"), (b"/a//b", b"/a//b"),
                             (b"/?//", b"/?//")]:
            with self.subTest(target):
                response, = parse_responses(self.answer(page, LAST.replace(b"/last", target)))
                self.assertEqual(response.body, path)


class LogTest(unittest.TestCase):

    def test_log_has_a_line_for_each_request(self):
        long = b"GET /" + b"a" * 5000 + GET[5:]
        garbage = b"\x16\x03\x01" * 3000 + b"\n"
        rows = [  # label, request, what is logged after the date
            ("page", GET, '"GET / HTTP/1.1" 200 -'),
            ("empty line first", b"\r\n" + GET, '"GET / HTTP/1.1" 200 -'),
            ("refusal", b"GET / HTTP/1.1\r\n\r\n", '"GET / HTTP/1.1" 400 -'),
            ("method", b"POST" + GET[3:], '"POST / HTTP/1.1" 405 -'),
            ("escape", b"GET /\x1b[2J HTTP/1.1\r\n\r\n", r'"GET /\x1b[2J HTTP/1.1" 400 -'),
            ("backslash", rb"GET /\x1b HTTP/1.1" + GET[14:], r'"GET /\\x1b HTTP/1.1" 200 -'),
            ("line end", b"GET / HTTP/1.1\nFORGED\n", r'"GET / HTTP/1.1" 400 -'),
            ("bare CR", b"GET /\rFORGED HTTP/1.1\r\n\r\n", r'"GET /\rFORGED HTTP/1.1" 400 -'),
            ("DEL and C1", b"GET /\x7f\x9b HTTP/1.1\r\n\r\n", r'"GET /\x7f\x9b HTTP/1.1" 400 -'),
            ("quote", b'GET /"_200_" HTTP/1.1' + GET[14:], '"GET /%22_200_%22 HTTP/1.1" 200 -'),
            ("percent", b"GET /%s%d HTTP/1.1" + GET[14:], '"GET /%s%d HTTP/1.1" 200 -'),
            ("two slashes", b"GET //x HTTP/1.1" + GET[14:], '"GET //x HTTP/1.1" 200 -'),
            ("just short enough", b"GET /" + b"a" * 178 + GET[5:], '"GET /' + "a" * 178 + ' HTTP/1.1" 200 -'),
            ("long", long, '"GET /' + "a" * 194 + '..." 200 -'),
            ("long garbage", garbage, ('"' + r"\x16\x03\x01" * 17)[:200] + '..." 400 -'),
        ]
        with running_server(ClockHandler) as server:
            for label, data, logged in rows:
                with self.subTest(label), mock.patch("sys.stderr") as stderr:
                    exchange(server, data)
                    line, = [call[0][0] for call in stderr.write.call_args_list]
                    self.assertRegex(line, r"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] ")
                    self.assertEqual(line.partition("] ")[2], logged + "\n")

    def test_response_is_logged_after_it_was_sent(self):
        """A log that hangs keeps no response back, and a client that has left has got none."""
        events = []

        class Noting(ClockHandler):
            def setup(self):
                super().setup()
                self.connection = mock.Mock(wraps=self.connection, sendall=lambda data: events.append("sent"))

            def log_request(self, code="-", size="-"):
                events.append("logged %d" % code)
        with running_server(Noting) as server:
            exchange(server, GET + b"BREW" + LAST[3:])
        self.assertEqual(events, ["sent", "logged 200", "sent", "logged 501"])

    def test_response_that_could_not_be_sent_is_not_logged(self):
        class Unplugged(ClockHandler):
            def setup(self):
                super().setup()
                self.connection = mock.Mock(wraps=self.connection, sendall=sendall)
        sendall = mock.Mock(side_effect=ConnectionResetError)
        with running_server(Unplugged) as server, mock.patch("sys.stderr") as stderr:
            self.assertEqual(exchange(server, GET), [])
            sendall.assert_called_once()
        stderr.write.assert_not_called()

    def test_broken_log_stops_nobody(self):
        with running_server(ClockHandler) as server:
            for label, stderr in [("none", None), ("full", mock.Mock(write=mock.Mock(side_effect=OSError))),
                                  ("closed", mock.Mock(write=mock.Mock(side_effect=ValueError)))]:
                with self.subTest(label), mock.patch("sys.stderr", stderr):
                    self.assertEqual(statuses(exchange(server, GET)), [200])

    def test_log_that_nobody_reads_holds_one_thread_only(self):
        """The other threads drop their lines and go on."""
        read, waiting = threading.Event(), threading.Event()

        def write(line):
            waiting.set()
            read.wait(GIVE_UP)
        with running_server(ClockHandler, REQUEST_SECONDS=1000, LOG_SECONDS=0.01) as server, \
                mock.patch("sys.stderr") as stderr, contextlib.ExitStack() as stack:
            stderr.write.side_effect = write
            stack.callback(read.set)
            ask(stack.enter_context(connect(server)), LAST)
            self.assertTrue(waiting.wait(GIVE_UP))
            for _ in range(5):
                self.assertEqual(statuses(exchange(server, LAST)), [200])
            wait_until(lambda: len(server.connections) == 1)
            self.assertEqual(stderr.write.call_count, 1)

    @unittest.skipUnless(HAS_IPV6, "no IPv6 here")
    def test_log_shows_ipv4_as_such(self):
        """An IPv4 client has its usual address in the log, although the socket is one of IPv6."""
        with running_server(ClockHandler, host="") as server, mock.patch("sys.stderr") as stderr:
            with socket.create_connection(("127.0.0.1", server.server_port), GIVE_UP) as connection:
                ask(connection, LAST)
                self.assertEqual(read_to_end(connection), b"")
        self.assertTrue(stderr.write.call_args[0][0].startswith("127.0.0.1 - - "))


# --- The connections -----------------------------------------------------------------------------

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

        class Tapped(QuietHandler):
            def setup(self):
                super().setup()
                self.connection = mock.Mock(wraps=self.connection, sendall=sent.append)
        with running_server(Tapped) as server:
            exchange(server, GET * 2 + b"BREW / HTTP/1.1\r\n\r\n")
        self.assertEqual([len(parse_responses(data)) for data in sent], [1, 1, 1])

    def test_headers_are_parsed_once_for_each_request(self):
        seen = []

        class Keeping(QuietHandler):
            def do_GET(self):
                seen.append((self.headers, self.headers))
                self.send_page(b"page")
        with running_server(Keeping) as server:
            exchange(server, GET * 2 + get_with(b"X: 1"))
        self.assertEqual([first is again for first, again in seen], [True] * 3)
        self.assertEqual(len({id(first) for first, _ in seen}), 3)
        self.assertEqual([first.items() for first, _ in seen],
                         [[("Host", "x")], [("Host", "x")], [("Host", "x"), ("X", "1")]])
        self.assertIsInstance(seen[0][0], http.client.HTTPMessage)

    def test_headers_are_parsed_only_if_they_are_used(self):
        with running_server() as server, mock.patch("email.message_from_string", side_effect=AssertionError):
            self.assertEqual(statuses(exchange(server, GET * 2)), [200, 200])


class BodyTest(unittest.TestCase):
    """A method that reads the body of a request with rfile."""

    class Echo(QuietHandler):
        """Sends back all that rfile.read() returns."""

        def do_POST(self):
            body = self.rfile.read()
            after = self.rfile.read(), self.rfile.read(9), self.rfile.readline(), self.rfile.read1(9)
            assert after == (b"", b"", b"", b""), after
            self.send_page(body, "text/plain")

        do_GET = do_POST

    def test_body_can_be_read_by_its_length(self):
        class ByLength(QuietHandler):
            def do_POST(self):
                self.send_page(self.rfile.read(int(self.headers["Content-Length"])), "text/plain")
        self.check_bodies(ByLength)

    def test_body_can_be_read_to_its_end(self):
        self.check_bodies(self.Echo)

    def check_bodies(self, handler):
        """Send bodies cut in several ways; each is followed by a request that is no part of it."""
        with running_server(handler) as server:
            for label, body in [("empty", b""), ("ten bytes", b"0123456789"), ("like a request", GET),
                                ("200,000 bytes", b"body." * 40000), ("400,000 bytes", b"body" * 100000)]:
                post = post_of(body)
                for first in 10, post.index(b"\r\n\r\n") + 4, len(post) - 1, len(post):
                    with self.subTest(label, first=first):
                        responses = exchange(server, post[:first], post[first:] + GET)
                        self.assertEqual(responses[0].body, body)
                        self.assertEqual(len(responses), 1 if body else 2)

    def test_body_can_come_after_the_method_has_begun(self):
        class Waiting(self.Echo):
            def do_POST(self):
                begun.set()
                super().do_POST()
        with running_server(Waiting) as server:
            for label, pieces in [("at once", [b"0123456789"]), ("byte by byte", [b"0", b"1", b"2"]),
                                  ("in large pieces", [b"x" * 100000, b"y" * 100000])]:
                begun = threading.Event()
                body = b"".join(pieces)
                with self.subTest(label), connect(server) as connection:
                    connection.sendall(post_of(body)[:-len(body)])
                    self.assertTrue(begun.wait(GIVE_UP))
                    for piece in pieces:
                        connection.sendall(piece)
                    self.assertEqual(parse_responses(read_to_end(connection))[0].body, body)

    def test_request_without_body_has_nothing_to_read(self):
        with running_server(self.Echo) as server:
            responses = exchange(server, GET * 2 + request_of(b"POST / HTTP/1.1") + LAST)
            self.assertEqual([response.body for response in responses], [b""] * 4)

    def test_body_can_be_read_in_every_way(self):
        class Reader(QuietHandler):
            def do_POST(self):
                results[:] = [self.rfile.readline(), self.rfile.read1(2), self.rfile.peek(1)[:1]]
                buffer = bytearray(4)
                results.append((self.rfile.readinto(buffer), bytes(buffer)))
                results.extend([self.rfile.readline(2), list(self.rfile), self.rfile.readinto(buffer)])
                self.send_page(b"read")
        results = []
        with running_server(Reader) as server:
            responses = exchange(server, post_of(b"one\ntwo three\nfour\nfive") + GET)
            self.assertEqual(statuses(responses), [200])
        self.assertEqual(results, [
            b"one\n", b"tw", b"o", (4, b"o th"), b"re", [b"e\n", b"four\n", b"five"], 0])

    def test_chunked_body_is_not_decoded(self):
        with running_server(self.Echo) as server:
            post = request_of(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=CHUNKS)
            response, = exchange(server, post[:-9], post[-9:])
            self.assertEqual(response.body, CHUNKS)

    def test_client_may_leave_in_the_middle_of_its_body(self):
        class Reading(self.Echo):
            def do_POST(self):
                begun.set()
                try:
                    super().do_POST()
                except ConnectionError as error:
                    left.append(error)
                    raise
        for label, field in [("length", b"Content-Length: 100"), ("chunks", b"Transfer-Encoding: chunked")]:
            for way in "reset", "end":
                left, begun = [], threading.Event()
                with self.subTest(label, way=way), running_server(Reading, REQUEST_SECONDS=1000) as server:
                    with connect(server) as connection:
                        connection.sendall(request_of(b"POST / HTTP/1.1", field, body=b"half"))
                        self.assertTrue(begun.wait(GIVE_UP))
                        if way == "reset":
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    wait_until(lambda: not server.connections)
                    self.assertEqual(len(left), 0 if (label, way) == ("chunks", "end") else 1)

    def test_network_that_goes_away_is_no_error(self):
        """On old Pythons some of these are no ConnectionError, and no TimeoutError either."""
        numbers = [(name, getattr(errno, name)) for name in [
            "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ETIMEDOUT", "ECONNRESET", "EPIPE"]
            if hasattr(errno, name)]
        numbers += [("ENOSPC, which is one", errno.ENOSPC)]
        for label, number in numbers:
            error = mock.Mock(side_effect=OSError(number, label))
            for place, data in [("peek", b""), ("read1", post_of(b"body")), ("sendall", GET)]:
                class Unplugged(self.Echo):
                    def setup(self):
                        super().setup()
                        if place == "sendall":
                            self.connection = mock.Mock(wraps=self.connection, sendall=error)
                        else:
                            self.rfile = mock.Mock(wraps=self.rfile, **{place: error})
                is_error = number == errno.ENOSPC and place != "read1"
                with self.subTest(label, place=place):
                    with running_server(Unplugged, errors=[OSError] if is_error else []) as server:
                        self.assertEqual(exchange(server, data), [])
                        wait_until(lambda: not server.connections)
        with mock.patch.object(StockHandler, "handle", side_effect=OSError(errno.EHOSTUNREACH, "gone")):
            with running_server(StockHandler) as server:
                self.assertEqual(exchange(server, GET), [])


# --- The limits ----------------------------------------------------------------------------------

class LimitsTest(unittest.TestCase):

    def drip(self, connection, data):
        """Send a byte now and then until the server has had enough."""
        with contextlib.suppress(ConnectionError):
            for _ in range(GIVE_UP * 50):
                connection.sendall(data)
                time.sleep(0.02)
            raise AssertionError("the server holds on to this client")

    def test_deadline_holds_whatever_the_client_does(self):
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        with running_server(REQUEST_SECONDS=0.1) as server:
            with self.subTest("idle"), connect(server) as connection:
                self.assertEqual(read_to_end(connection), b"")
            with self.subTest("idle after a request"):
                with mock.patch.object(clock_server, "REQUEST_SECONDS", 1000):
                    connection = connect(server)
                    ask(connection)
                with connection:
                    self.assertEqual(read_to_end(connection), b"")
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

    def test_deadline_holds_for_a_method_that_reads_the_body(self):
        with running_server(BodyTest.Echo, REQUEST_SECONDS=0.1) as server, connect(server) as connection:
            connection.sendall(request_of(b"POST / HTTP/1.1", b"Content-Length: 1000000"))
            self.drip(connection, b"y")

    def test_complete_request_renews_the_deadline(self):
        """The response to a request has the full time, too, however late the request came."""
        class Slow(QuietHandler):
            def do_GET(self):
                waited.append(time.monotonic() - self.server.connections[self.connection][0])
                self.send_page(b"page")

        waited = []
        with running_server(Slow, REQUEST_SECONDS=1000) as server, connect(server) as connection:
            wait_until(lambda: server.connections)
            for _ in range(3):
                for times in server.connections.values():
                    times[0] -= 900
                ask(connection)
        self.assertLess(max(waited), 900)

    def test_no_limit_is_a_usual_period(self):
        """Programs often ask every 5, 10, 15, 20, 30 or 60 seconds, on a connection that persists."""
        for name, value in vars(clock_server).items():
            if name.endswith("_SECONDS"):
                with self.subTest(name):
                    self.assertNotIn(value, [5, 10, 15, 20, 30, 60])

    @unittest.skipUnless(hasattr(socket, "TCP_USER_TIMEOUT"), "this system does not know the option")
    def test_deadline_may_be_a_fraction(self):
        with mock.patch.object(clock_server, "REQUEST_SECONDS", 8.5), ClockServer(("127.0.0.1", 0)) as server:
            self.assertEqual(server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 8500)


# --- The grammar ---------------------------------------------------------------------------------

LONG = b"a" * 7980
CHUNKS = b"1b\r\n" + GET + b"\r\n0\r\n\r\n"
ACCEPTED = [  # section of the RFC, label, request, status, whether the connection persists
    ("9112 2.2", "an empty line first", b"\r\n" + GET, 200, True),
    ("9112 3", "plain", GET, 200, True),
    ("9112 3", "8,000 bytes", request_of(b"GET /" + LONG + b"abcdef HTTP/1.1"), 200, True),
    ("9112 3.2.1", "any path and query", request_of(b"GET //..?%zz HTTP/1.1"), 200, True),
    ("9112 3.2.1", "all that is visible",
     request_of(b'GET /!"$%&\'()*+,-./:;<=>?@[\\]^_`{|}~ HTTP/1.1'), 200, True),
    ("9112 3.2.2", "absolute", request_of(b"GET http://x/y HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, in capitals, no path", request_of(b"GET HTTP://x HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, port and query", request_of(b"GET http://[::1]:80?y HTTP/1.1"), 200, True),
    ("9112 3.2.2", "absolute, another Host", request_of(b"GET http://y/ HTTP/1.1"), 200, True),
    ("9112 3.2.4", "asterisk", request_of(b"OPTIONS * HTTP/1.1"), 204, True),
    ("9110 2.5", "HTTP/1.2", request_of(b"GET / HTTP/1.2"), 200, True),
    ("9110 2.5", "HTTP/1.9", request_of(b"GET / HTTP/1.9"), 200, True),
    ("9110 5.1", "name in any case", get_with(host=b"hOST: x"), 200, True),
    ("9110 5.6.2", "name of every token character", get_with(b"!#$%&'*+-.^_`|~09AZaz: y"), 200, True),
    ("9112 5", "no space after the colon", get_with(host=b"Host:x"), 200, True),
    ("9112 5", "blanks and tabs round the value", get_with(host=b"Host: \t x\t "), 200, True),
    ("9110 5.5", "empty value", get_with(b"X:"), 200, True),
    ("9110 5.5", "tab in a value", get_with(b"X: a\tb"), 200, True),
    ("9110 5.5", "bytes from 0x80", get_with(b"X:" + bytes(range(128, 256))), 200, True),
    ("9110 5.4", "line of 8,000 bytes", get_with(b"X: " + LONG), 200, True),
    ("9110 5.4", "100 fields", get_with(*[b"X: y"] * 99), 200, True),
    ("9110 5.4", "64 KiB", get_with(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1624), 200, True),
    ("9110 5.6.1", "list of 101 members", get_with(b"Connection: x" + b",x" * 100), 200, True),
    ("9112 6.2", "Content-Length: 0", get_with(b"Content-Length: 0"), 200, True),
    ("9112 6.2", "Content-Length: 000", get_with(b"Content-Length: 000"), 200, True),
    ("9112 6.2", "body by length", get_with(b"Content-Length: 27", body=GET), 200, False),
    ("9112 6.1", "body in chunks", get_with(b"Transfer-Encoding: chunked", body=CHUNKS), 200, False),
    ("9110 5.6.1.2", "empty members",
     get_with(b"Transfer-Encoding: , chunked,,", b"Connection: ,,", b"Expect: ,", body=CHUNKS), 200, False),
    ("9110 5.6.1.2", "empty members in two lines",
     get_with(b"Transfer-Encoding:", b"Transfer-Encoding: chunked", body=CHUNKS), 200, False),
    ("9112 7", "coding in capitals", get_with(b"Transfer-Encoding: CHUNKED", body=CHUNKS), 200, False),
    ("9112 9.3", "HTTP/1.0", request_of(b"GET / HTTP/1.0", host=b""), 200, False),
    ("9112 9.3", "HTTP/1.0 with Host", request_of(b"GET / HTTP/1.0"), 200, False),
    ("9112 9.3", "HTTP/1.0 keep-alive", request_of(b"GET / HTTP/1.0", b"Connection: Keep-Alive"), 200, True),
    ("9112 9.3", "both", request_of(b"GET / HTTP/1.0", b"Connection: keep-alive, close"), 200, False),
    ("9112 9.6", "close", get_with(b"Connection: close"), 200, False),
    ("9112 9.6", "close in a list, in capitals", get_with(b"Connection: x ,\tCLOSE,"), 200, False),
    ("9112 9.6", "close on a second line", get_with(b"Connection: x", b"connection: close"), 200, False),
    ("9112 9.6", "closer is not close", get_with(b"Connection: closer, not-close"), 200, True),
    ("9112 9.6", "close in another field", get_with(b"X-Connection: close"), 200, True),
    ("9110 10.1.1", "100-continue", get_with(b"Expect: 100-Continue"), 200, True),
    ("9110 7.8", "upgrade", get_with(b"Upgrade: websocket", b"Connection: Upgrade"), 200, True),
    ("9110 14.2", "range", get_with(b"Range: bytes=0-9"), 200, True),
    ("9110 13.1", "conditions", get_with(b"If-None-Match: *", b"If-Modified-Since: x"), 200, True),
    ("9110 12.5", "nothing acceptable", get_with(b"Accept: x/y", b"Accept-Encoding: *;q=0"), 200, True),
]
ACCEPTED += [("9110 7.2", "Host " + host.decode(), get_with(host=b"Host: " + host), 200, True) for host in [
    b"localhost:8880", b"127.0.0.1", b"[::1]", b"[::1]:80", b"[::ffff:1.2.3.4]", b"a-b_c.example.",
    b"x:", b"%7Ex", b"xn--bcher-kva.example"]]

REJECTED = [  # section of the RFC, label, request, status
    ("9112 2.2", "bare LF ends the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    ("9112 2.2", "bare LF everywhere", b"GET / HTTP/1.1\nHost: x\n\n", 400),
    ("9112 2.2", "bare LF first", b"\n" + GET, 400),
    ("9112 2.2", "bare LF ends a field line", b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    ("9112 2.2", "bare LF after a whole field line", b"GET / HTTP/1.1\r\nHost: x\r\nX: y\nX: y\r\n\r\n", 400),
    ("9112 2.2", "bare LF after two", b"GET / HTTP/1.1\r\nHost: x\r\nX: y\r\nX: y\nX: y\r\n\r\n", 400),
    ("9112 2.2", "bare LF in HTTP/1.0", b"GET / HTTP/1.0\r\nX: y\n\r\n", 400),
    ("9112 2.2", "bare LF ends the head", b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
    ("9112 2.2", "bare CR ends the request line", b"GET / HTTP/1.1\rHost: x\r\n\r\n", 400),
    ("9112 2.2", "two CR", b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", 400),
    ("9112 2.2", "space before the first field", get_with(host=b" Host: x"), 400),
    ("9112 2.2", "line of blanks", request_of(b"GET / HTTP/1.1", b"  "), 400),
    ("9112 2.2", "two empty lines first", b"\r\n\r\n" + GET, 400),
    ("9112 2.2", "SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
    ("9112 2.2", "TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", 400),
    ("9112 3", "two spaces", request_of(b"GET  / HTTP/1.1"), 400),
    ("9112 3", "tab for a space", request_of(b"GET\t/ HTTP/1.1"), 400),
    ("9112 3", "space first", request_of(b" GET / HTTP/1.1"), 400),
    ("9112 3", "space last", request_of(b"GET / HTTP/1.1 "), 400),
    ("9112 3", "four words", request_of(b"GET / x HTTP/1.1"), 400),
    ("9112 3", "no version", request_of(b"GET /"), 400),
    ("9112 3", "no version and nothing else", b"GET /\r\n", 400),
    ("9112 3", "no target", request_of(b"GET HTTP/1.1"), 400),
    ("9112 3", "no method", request_of(b"/ HTTP/1.1"), 400),
    ("9112 3", "one word", request_of(b"GET"), 400),
    ("9112 3", "too long", request_of(b"GET /" + LONG * 9 + b" HTTP/1.1"), 414),
    ("9112 3", "too long, and without an end", b"G" * 70000, 414),
    ("9112 3.1", "method that is no token", request_of(b"G(T / HTTP/1.1"), 400),
    ("9112 3.2", "relative", request_of(b"GET x HTTP/1.1"), 400),
    ("9112 3.2", "fragment", request_of(b"GET /#x HTTP/1.1"), 400),
    ("9112 3.2", "NUL", request_of(b"GET /\0 HTTP/1.1"), 400),
    ("9112 3.2", "DEL", request_of(b"GET /\x7f HTTP/1.1"), 400),
    ("9112 3.2", "byte from 0x80", request_of(b"GET /\xe9 HTTP/1.1"), 400),
    ("9112 3.2.2", "absolute without host", request_of(b"GET http:///x HTTP/1.1"), 400),
    ("9110 4.2.4", "absolute with user", request_of(b"GET http://u@x/ HTTP/1.1"), 400),
    ("9110 7.4", "absolute with another scheme", request_of(b"GET https://x/ HTTP/1.1"), 400),
    ("9112 3.2.3", "authority but not CONNECT", request_of(b"GET x:80 HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT without authority", request_of(b"CONNECT / HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT with user", request_of(b"CONNECT u@x:80 HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT without port", request_of(b"CONNECT x HTTP/1.1"), 400),
    ("9112 3.2.3", "CONNECT with an empty port", request_of(b"CONNECT x1: HTTP/1.1"), 400),
    ("9112 3.2.4", "OPTIONS but no asterisk", request_of(b"OPTIONS x HTTP/1.1"), 400),
    ("9112 3.2.4", "asterisk but not OPTIONS", request_of(b"GET * HTTP/1.1"), 400),
    ("9112 2.3", "HTTP/1", request_of(b"GET / HTTP/1"), 400),
    ("9112 2.3", "HTTP/1.10", request_of(b"GET / HTTP/1.10"), 400),
    ("9112 2.3", "HTTP/01.1", request_of(b"GET / HTTP/01.1"), 400),
    ("9112 2.3", "http/1.1", request_of(b"GET / http/1.1"), 400),
    ("9112 2.3", "digit that is not ASCII", request_of(b"GET / HTTP/1.\xb9"), 400),
    ("9110 15.6.6", "HTTP/0.9", request_of(b"GET / HTTP/0.9"), 505),
    ("9110 15.6.6", "HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("9110 15.6.6", "HTTP/3.1", request_of(b"GET / HTTP/3.1"), 505),
    ("9112 5", "no colon", get_with(b"X"), 400),
    ("9112 5", "no name", get_with(b": y"), 400),
    ("9112 5", "name that is no token", get_with(b"X[: y"), 400),
    ("9112 5", "name with a byte from 0x80", get_with(b"X\xe9: y"), 400),
    ("9112 5.1", "space before the colon", get_with(b"X : y"), 400),
    ("9112 5.2", "folded line", get_with(b"X: y", b" z"), 400),
    ("9110 5.4", "long line", get_with(b"X: " + LONG * 9), 431),
    ("9110 5.4", "long line without an end", b"GET / HTTP/1.1\r\n" + b"X" * 70000, 431),
    ("9110 5.4", "101 fields", get_with(*[b"X: y"] * 100), 431),
    ("9110 5.4", "many short fields", get_with(*[b"X: y"] * 20000), 431),
    ("9110 5.4", "64 KiB and a byte", get_with(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1625), 431),
    ("9112 3.2", "no Host", get_with(host=b""), 400),
    ("9112 3.2", "two Hosts", get_with(b"Host: x"), 400),
    ("9112 3.2", "two Hosts in HTTP/1.0", request_of(b"GET / HTTP/1.0", b"Host: x"), 400),
    ("9112 3.2", "bad Host in HTTP/1.0", request_of(b"GET / HTTP/1.0", host=b"Host: x/y"), 400),
    ("9112 6.3", "two lengths", get_with(b"Content-Length: 5", b"Content-Length: 5"), 400),
    ("9112 6.1", "length and coding", get_with(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "HTTP/1.0", request_of(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.1", "length and no coding", get_with(b"Content-Length: 0", b"Transfer-Encoding:"), 400),
    ("9112 6.3", "chunked in two lines", get_with(*[b"Transfer-Encoding: chunked"] * 2), 400),
    ("9112 6.1", "two codings in two lines",
     get_with(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), 501),
    ("9112 6.3", "framing before the method", request_of(b"BREW / HTTP/1.1", b"Content-Length: x"), 400),
    ("9110 10.1.1", "another expectation", get_with(b"Expect: 200-ok"), 417),
    ("9110 10.1.1", "two expectations", get_with(b"Expect: 100-continue, x"), 417),
    ("9110 5.6.1", "list of 102 members", get_with(b"Connection: x" + b",x" * 101), 431),
    ("9110 5.6.1", "list of 102 empty members", get_with(b"Connection:" + b"," * 101), 431),
    ("9110 5.6.1", "list of 102 members in two lines",
     get_with(b"Connection: x" + b",x" * 50, b"Connection: x" + b",x" * 50), 431),
    ("9110 5.6.1", "102 expectations", get_with(b"Expect: x" + b",x" * 101), 431),
    ("9110 5.6.1", "102 codings", get_with(b"Transfer-Encoding: x" + b",x" * 101), 431),
]
REJECTED += [("9110 5.5", "byte 0x%02x" % byte, get_with(b"X: a" + bytes([byte]) + b"b"), 400)
             for byte in [*range(9), *range(11, 32), 127]]
REJECTED += [("9110 7.2", "Host %r" % host, get_with(host=b"Host: " + host), 400) for host in [
    b"", b"x y", b"x,y", b"x/", b"u@x", b"x:y", b"x:1:2", b"::1", b"[::1", b"[]", b"[x]", b"[1:2]",
    b"[::1]x", b"x?", b"x#", b"http://x", b"x\\y", b"%zz", b"\xe9"]]
REJECTED += [("9110 8.6", "length %r" % length, get_with(b"Content-Length: " + length), 400) for length in [
    b"", b"+5", b"-1", b"5,5", b"5, 5", b"5 5", b"1_0", b"0x5", b"5.0", b"five", b"\xb2", b"9" * 19,
    b"9" * 5000]]
REJECTED += [("9112 6.3", "coding %r" % coding, get_with(b"Transfer-Encoding: " + coding), 400)
             for coding in [
    b"", b"\x0bchunked", b"chunked, gzip", b"chunked, chunked", b"gzip, identity", b", ,"]]
REJECTED += [("9112 6.1", "coding %r" % coding, get_with(b"Transfer-Encoding: " + coding), 501)
             for coding in [
    b"gzip", b"identity", b"xchunked", b"gzip, chunked", b"chunked;q=1", b'"chunked"']]


class GrammarTest(unittest.TestCase):

    def ways(self, data):
        """Return a label and the pieces for each way to send a request; none may make a difference."""
        ways = [("whole", [data]), ("in two", [data[:len(data) // 2], data[len(data) // 2:]])]
        if len(data) < 200:
            ways.append(("byte by byte", [data[i:i + 1] for i in range(len(data))]))
        return ways

    def test_accepted(self):
        with running_server() as server:
            for section, label, data, status, persists in ACCEPTED:
                for way, pieces in self.ways(data + LAST):
                    with self.subTest(label, section=section, way=way):
                        responses = exchange(server, *pieces)
                        self.assertEqual(statuses(responses), [status, 200] if persists else [status])
                        connection = responses[0].fields.get("Connection")
                        self.assertEqual(connection == "close", not persists)
                        self.assertEqual(connection == "keep-alive", persists and b"HTTP/1.0" in data)

    def test_rejected(self):
        with running_server() as server:
            for section, label, data, status in REJECTED:
                for way, pieces in self.ways(data + GET):
                    with self.subTest(label, section=section, way=way):
                        responses = exchange(server, *pieces)
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

    def verdict(self, pieces):
        """Return what read_head and parse_head make of a request that comes in these pieces."""
        received = bytearray()
        for piece in pieces:
            known = len(received)
            received += piece
            length = clock_server.length_of_head(received, known)
            if length:
                try:
                    return length, clock_server.parse_head(bytes(received[:length]))
                except clock_server.Refused as refused:
                    return int(refused.args[0])
        return None

    def check_cuts(self, label, data):
        """Check that the verdict is the same wherever the request is cut in two, and byte by byte."""
        whole = self.verdict([data])
        self.assertIsNotNone(whole)
        places = range(1, len(data)) if len(data) < 300 else [
            1, 2, 15, 16, 17, 30, 4096, len(data) // 2, len(data) - 3, len(data) - 2, len(data) - 1]
        for place in places:
            with self.subTest(label, cut=place):
                self.assertEqual(self.verdict([data[:place], data[place:]]), whole)
        if len(data) < 10000:
            with self.subTest(label, cut="everywhere"):
                self.assertEqual(self.verdict([data[i:i + 1] for i in range(len(data))]), whole)

    def test_verdict_does_not_depend_on_the_cuts(self):
        for _, label, data, _, _ in ACCEPTED:
            self.check_cuts(label, data)
        for _, label, data, _ in REJECTED:
            self.check_cuts(label, data)

    def test_bare_line_feed_is_refused_although_the_rest_is_missing(self):
        for data in [b"GET / HTTP/1.1\r\nHost: x\r\nX: y\r\nX: y\n", b"GET / HTTP/1.0\r\nX: y\n",
                     b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\n"]:
            with self.subTest(data):
                self.assertEqual(self.verdict([data]), 400)

    def looked_at(self, data):
        """Return how many bytes length_of_head looks at if a head comes byte by byte."""
        class Spy(bytearray):
            def find(self, data, start=0, end=None):
                end = len(self) if end is None else end
                found = super().find(data, start, end)
                looks.append(max((end if found < 0 else found + 1) - start, 0))
                return found

            def rfind(self, data, start, end):
                found = super().rfind(data, start, end)
                looks.append(max(end - max(found, start), 0))
                return found

            def __getitem__(self, key):
                looks.append(len(range(len(self))[key]) if isinstance(key, slice) else 1)
                return super().__getitem__(key)

        class SpyingPattern:
            def search(self, received, start):
                looks.append(len(received) - start)
                return pattern.search(received, start)
        looks, received, pattern = [], Spy(), clock_server.BARE_LINE_FEED
        with mock.patch.object(clock_server, "BARE_LINE_FEED", SpyingPattern()):
            for position in range(len(data)):
                received += data[position:position + 1]
                length = clock_server.length_of_head(received, position)
                self.assertEqual(length, len(data) if position == len(data) - 1 else 0)
        return sum(looks)

    def test_known_bytes_are_not_looked_at_again(self):
        for label, data in [
                ("one long line", get_with(b"X: " + b"y" * 65000)),
                ("100 fields", get_with(*[b"X: " + b"y" * 600] * 99)),
                ("too many fields", get_with(*[b"a:"] * 16000)),
                ("long request line", request_of(b"GET /" + b"a" * 65000 + b" HTTP/1.1"))]:
            with self.subTest(label):
                self.assertLess(self.looked_at(data), 20 * len(data))

    def test_request_line_is_not_looked_at_again_for_each_field(self):
        data = request_of(b"GET /" + b"a" * 60000 + b" HTTP/1.1", *[b"a:"] * 1000)
        self.assertLess(self.looked_at(data), 20 * len(data))

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
                        clock_server.parse_head(row + b"\r\n")

    def test_body_is_never_taken_for_a_request(self):
        for label, field, body in [
                ("length", b"Content-Length: %d" % len(GET), GET),
                ("chunks", b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET))]:
            for method in (b"GET", b"HEAD", b"OPTIONS", b"POST", b"BREW"):
                with self.subTest(label, method=method), running_server() as server:
                    data = request_of(method + b" / HTTP/1.1", field, body=body)
                    self.assertEqual(len(exchange(server, data, GET, methods=[method.decode()])), 1)

    def test_example_of_parse_head_is_true(self):
        text = clock_server.parse_head.__doc__
        example = doctest.DocTestParser().get_doctest(text, vars(clock_server).copy(), "parse_head", None, 0)
        result = doctest.DocTestRunner(verbose=False).run(example, out=sys.stdout.write)
        self.assertEqual((result.failed, result.attempted), (0, 1))


# --- The server ----------------------------------------------------------------------------------

class ServerTest(unittest.TestCase):

    def test_wall_clock_may_jump(self):
        with running_server() as server, connect(server) as connection:
            for now in (1e9, 2e9, 0):
                with mock.patch("time.time", return_value=now):
                    self.assertIn(time.ctime(now).encode(), ask(connection).body)

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_changed_zone_is_followed(self):
        with running_server() as server, zone_of("UTC0"), connect(server) as connection:
            self.assertIn(b"UTC<span>+00:00</span>", ask(connection).body)
            os.environ["TZ"] = "NPT-5:45"
            wait_until(lambda: b"UTC<span>+05:45</span>" in ask(connection).body)

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
        limits = {"MAX_CONNECTIONS": 4, "GRACE_SECONDS": 1000, "REQUEST_SECONDS": 1000}
        with running_server(**limits) as server, contextlib.ExitStack() as stack:
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

    def test_waits_only_if_nothing_could_be_evicted(self):
        for label, grace in [("some wait long", 0), ("all are busy", 1000)]:
            with self.subTest(label), running_server(MAX_CONNECTIONS=2, GRACE_SECONDS=grace) as server, \
                    mock.patch.object(clock_server, "time", mock.Mock(wraps=time)) as watched, \
                    contextlib.ExitStack() as stack:
                crowd = [stack.enter_context(connect(server)) for _ in range(10)]
                if grace:
                    wait_until(lambda: watched.sleep.called)
                else:
                    self.assertEqual([read_to_end(connection) for connection in crowd[:8]], [b""] * 8)
                    watched.sleep.assert_not_called()

    def test_evicted_connection_is_not_counted_again(self):
        with running_server() as server, connect(server):
            wait_until(lambda: server.connections)
            evicted, = server.connections
            self.assertTrue(server.evict(0))
            server.renew_deadline(evicted)
            self.assertEqual(len(server.connections), 0)

    def test_connection_that_is_evicted_during_its_method_is_not_counted_again(self):
        class Evicted(QuietHandler):
            def do_GET(self):
                self.server.evict(0)
                self.server.renew_deadline(self.connection)
                counts.append(len(self.server.connections))
                self.send_page(b"page")
        counts = []
        with running_server(Evicted) as server:
            self.assertEqual(exchange(server, GET), [])
        self.assertEqual(counts, [0])

    def test_only_connections_that_waited_long_enough_are_evicted(self):
        with running_server() as server:
            self.assertFalse(server.evict(0))  # there is none
            with connect(server) as connection:
                wait_until(lambda: server.connections)
                self.assertFalse(server.evict(1000))
                self.assertTrue(server.evict(0))
                self.assertEqual(connection.recv(1), b"")

    def test_threads_are_reused_and_bounded(self):
        with running_server(MAX_CONNECTIONS=8, GRACE_SECONDS=0) as server:
            with contextlib.ExitStack() as stack:
                for _ in range(50):
                    exchange(server, LAST)
                self.assertLessEqual(len(server.threads), 3)
                for _ in range(50):
                    ask(stack.enter_context(connect(server)))
                self.assertLessEqual(len(server.threads), 2 * 8)

    class Hanging(QuietHandler):
        """Hangs in /hang until the test goes on."""

        def do_GET(self):
            if self.path == "/hang":
                self.arrived.release()
                self.go_on.wait(GIVE_UP)
            self.send_page(b"page")

    def hanging(self):
        """Return a handler that hangs in /hang; the event that lets it go on; and its arrivals."""
        go_on, arrived = threading.Event(), threading.Semaphore(0)
        return type("Hanging", (self.Hanging,), {"go_on": go_on, "arrived": arrived}), go_on, arrived

    def test_slow_handlers_do_not_stop_the_others(self):
        """The others are served even if a handler takes longer than the deadline."""
        handler, go_on, arrived = self.hanging()
        with running_server(handler, REQUEST_SECONDS=1000, MAX_CONNECTIONS=4) as server, \
                contextlib.ExitStack() as stack:
            stack.callback(go_on.set)
            for _ in range(8):
                stack.enter_context(connect(server)).sendall(GET.replace(b"/", b"/hang", 1))
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
                self.assertEqual(statuses(exchange(server, LAST)), [200])
            with mock.patch.object(clock_server, "REQUEST_SECONDS", 0.01):
                wait_until(lambda: not server.connections)
            self.assertEqual(statuses(exchange(server, LAST)), [200])

    def test_threads_are_bounded_even_if_handlers_hang(self):
        """Evicted connections keep their threads. Clients for whom there is none wait."""
        handler, go_on, arrived = self.hanging()
        with running_server(handler, MAX_THREADS=4, MAX_CONNECTIONS=8, GRACE_SECONDS=1000) as server, \
                contextlib.ExitStack() as stack:
            stack.callback(go_on.set)
            hanging = [stack.enter_context(connect(server)) for _ in range(3)]
            for connection in hanging:
                connection.sendall(GET.replace(b"/", b"/hang", 1))
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
            persistent = stack.enter_context(connect(server))
            ask(persistent)
            for _ in range(3):
                self.assertTrue(server.evict(0))  # those that hang
            waiting = [stack.enter_context(connect(server)) for _ in range(10)]
            for connection in waiting:
                connection.sendall(LAST)
            wait_until(lambda: server.crowded)
            self.assertEqual(len(server.threads), 4)
            self.assertEqual(ask(persistent).status, 200)
            persistent.close()  # its thread serves those that wait, one after another
            for connection in waiting:
                self.assertEqual(statuses(parse_responses(read_to_end(connection))), [200])
            self.assertEqual(len(server.threads), 4)

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
            self.assertLessEqual(len(server.threads), 3)
            with contextlib.ExitStack() as stack:  # later there are more of them again
                for _ in range(20):
                    stack.enter_context(connect(server)).sendall(b"GET")
                wait_until(lambda: len(server.connections) == 20)

    def test_client_waits_while_there_is_no_memory_for_its_thread(self):
        limits = {"REQUEST_SECONDS": 1000, "GRACE_SECONDS": 1000}
        with running_server(**limits) as server, connect(server) as connection:
            ask(connection)
            with mock.patch("mmap.mmap", side_effect=OSError(errno.ENOMEM, "no memory")):
                with connect(server) as second:
                    wait_until(lambda: server.crowded)
                    ask(connection, LAST)
                    self.assertEqual(read_to_end(connection), b"")  # now its thread serves the second one
                    self.assertEqual(ask(second).status, 200)

    def test_thread_that_dies_is_replaced(self):
        broken = [ZeroDivisionError] * 3

        class Fragile(WatchedServer):
            def shutdown_request(self, request):
                super().shutdown_request(request)
                if broken:
                    raise broken.pop()
        with mock.patch("threading.excepthook", lambda args: None), \
                running_server(server_class=Fragile) as server:
            for _ in range(5):
                self.assertEqual(statuses(exchange(server, LAST)), [200])
        self.assertEqual(broken, [])

    def test_vanished_clients_leave_nothing_behind(self):
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        for handler in QuietHandler, StockHandler, BodyTest.Echo:
            with self.subTest(handler), running_server(handler, REQUEST_SECONDS=1000) as server:
                for data in [b"", b"GET", GET, GET * 50, post] * 10:
                    with connect(server) as connection:
                        connection.sendall(data)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                wait_until(lambda: not server.connections)

    def test_response_arrives_while_the_client_is_sending(self):
        body = b"b" * (10 << 20)
        length = b"Content-Length: %d" % len(body)
        with running_server(REQUEST_SECONDS=1000) as server:
            for label, data, status in [
                    ("body", request_of(b"POST / HTTP/1.1", length, body=body), 405),
                    ("body, then the close",
                     request_of(b"POST / HTTP/1.1", length, b"Connection: close", body=body), 405),
                    ("refused", request_of(b"GET / HTTP/9.9", body=body), 505),
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

    def test_thread_that_hangs_does_not_hold_up_the_end(self):
        handler, go_on, arrived = self.hanging()
        with mock.patch.object(clock_server, "STOP_SECONDS", 0.01):
            with ClockServer(("127.0.0.1", 0), handler) as server, connect(server) as connection:
                thread = threading.Thread(target=server.serve_forever, args=(0.01,))
                thread.start()
                connection.sendall(GET.replace(b"/", b"/hang", 1))
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
                server.shutdown()
                thread.join()
                server.server_close()
                self.assertEqual(len(server.threads), 1)
                go_on.set()
                wait_until(lambda: not server.threads)

    def test_traceback_goes_to_a_log_that_may_be_broken(self):
        with ClockServer(("127.0.0.1", 0)) as server:
            log = io.StringIO()
            for label, stderr in [("none", None), ("full", mock.Mock(write=mock.Mock(side_effect=OSError))),
                                  ("closed", mock.Mock(write=mock.Mock(side_effect=ValueError))),
                                  ("right", log)]:
                with self.subTest(label), mock.patch("sys.stderr", stderr), mock.patch("sys.stdout"):
                    try:
                        raise ZeroDivisionError("on purpose")
                    except ZeroDivisionError:
                        server.handle_error(None, ("127.0.0.1", 1))
            self.assertIn("ZeroDivisionError: on purpose", log.getvalue())

    def test_connections_inherit_the_options(self):
        with running_server() as server, connect(server):
            wait_until(lambda: server.connections)
            connection, = server.connections
            self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertLessEqual(connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
                                 2 * clock_server.SEND_BYTES)  # Linux doubles it
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                self.assertEqual(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                                 1000 * clock_server.REQUEST_SECONDS)

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

    def test_port_beyond_16_bits_is_an_error(self):
        for host in "", "127.0.0.1":
            for port in 70000, -1:
                with self.subTest(host=host, port=port), self.assertRaises(OverflowError):
                    ClockServer((host, port))

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

    @unittest.skipUnless(HAS_IPV6, "no IPv6 here")
    def test_all_interfaces_of_both_families(self):
        with running_server(host="") as server:
            for host in "127.0.0.1", "::1":
                with self.subTest(host):
                    self.assertEqual(visit(server.server_port, host).status, 200)

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

    def test_plain_address(self):
        for address, shown in [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"),
                               ("2001:db8::ffff:1", "2001:db8::ffff:1"), ("::1", "::1")]:
            self.assertEqual(clock_server.plain_address(address), shown)


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
                    with self.subTest(path):
                        response = visit(server.server_port, path=path)
                        self.assertEqual((response.status, len(response.body)),
                                         (status, size or len(response.body)))

    def test_small_page_of_the_module(self):
        with mock.patch("sys.stderr"), running_server(ClockPage) as server:
            self.assertEqual(statuses(exchange(server, GET * 2 + LAST)), [200] * 3)

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

    def test_system_exit_ends_only_its_connection(self):
        class Leaving(StockHandler):
            def do_GET(self):
                sys.exit("over")
        with running_server(Leaving) as server:
            for _ in range(5):
                self.assertEqual(exchange(server, GET), [])
            wait_until(lambda: not server.connections)
            self.assertLessEqual(len(server.threads), 2)

    def test_lingering_close(self):
        with running_server(StockHandler, REQUEST_SECONDS=1000) as server, connect(server) as connection:
            connection.sendall(request_of(b"POST / HTTP/1.1", b"Connection: close", body=b"b" * (10 << 20)))
            connection.shutdown(socket.SHUT_WR)
            received = read_without_reset(connection)
            self.assertTrue(received.startswith(b"HTTP/1.1 501 "))


# --- The command ---------------------------------------------------------------------------------

IS_ROOT_ON_LINUX = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("unshare") is not None
POSIX_ONLY = unittest.skipUnless(os.name == "posix", "Windows has other signals and files")


class StartTest(unittest.TestCase):

    def test_start_text(self):
        for label, arguments, host, line in [
                ("everybody", [], "127.0.0.1", "Serving the time on http://localhost:%d/\n"),
                ("IPv4", ["-b", "127.0.0.1"], "127.0.0.1",
                 "Serving the time on http://127.0.0.1:%d/ to this computer only\n"),
                ("IPv6", ["--bind", "[::1]"], "::1",
                 "Serving the time on http://[::1]:%d/ to this computer only\n")]:
            with self.subTest(label):
                try:
                    ClockServer((host, 0), QuietHandler).server_close()
                except OSError:
                    self.skipTest("no IPv6 here")
                with Command(*arguments, environment={"TZ": "NPT-5:45"}) as command:
                    self.assertEqual(command.line, line % command.port)
                    self.assertEqual(visit(command.port, host).status, 200)
                    if os.name == "posix":
                        _, rest, _ = command.finish(signal.SIGTERM)
                        self.assertRegex(rest, r"\A(From other computers: .*\n)?Time zone: UTC\+05:45\n"
                                               r"Press Ctrl-C to stop\.\nStopped\.\n\Z")

    def test_start_text_names_an_address_for_others(self):
        other = "\nFrom other computers: "
        for label, host, outside, text in [
                ("all interfaces", "::", "192.0.2.7", "localhost:80/" + other + "http://192.0.2.7:80/"),
                ("IPv6 only", "::", "2001:db8::7", "localhost:80/" + other + "http://[2001:db8::7]:80/"),
                ("no network", "0.0.0.0", "", "localhost:80/"),
                ("one address", "192.0.2.1", "192.0.2.7", "192.0.2.1:80/"),
                ("one IPv6 address", "2001:db8::7", "192.0.2.7", "[2001:db8::7]:80/"),
                ("IPv4 on IPv6", "::ffff:127.0.0.1", "192.0.2.7", "127.0.0.1:80/ to this computer only")]:
            with self.subTest(label), mock.patch("clock_server.outside_address", return_value=outside):
                offset = datetime.now().astimezone().isoformat()[-6:]
                self.assertEqual(clock_server.start_text(host, 80), "Serving the time on http://" + text
                                 + "\nTime zone: UTC" + offset + "\nPress Ctrl-C to stop.")
        with mock.patch("clock_server.outside_address", return_value=":".join(["ffff"] * 8)):
            for host in "::", ":".join(["ffff"] * 8), "127.255.255.255":
                for line in clock_server.start_text(host, 65535).splitlines():
                    self.assertLess(len(line), 80)

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_start_text_names_the_zone(self):
        with mock.patch("clock_server.outside_address", return_value=""):
            for zone, offset in [("UTC0", "+00:00"), ("NST3:30", "-03:30"), ("Europe/Belrin", "+00:00")]:
                with self.subTest(zone), zone_of(zone):
                    self.assertIn("\nTime zone: UTC%s\n" % offset, clock_server.start_text("::", 80))

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_time_zone_is_that_of_the_environment(self):
        with Command("-q", environment={"TZ": "NPT-5:45"}) as command:
            self.assertIn(b"UTC<span>+05:45</span>", visit(command.port).body)

    @unittest.skipUnless(IS_ROOT_ON_LINUX, "only root can change the zone of a namespace of its own")
    def test_changed_zone_of_the_machine_is_followed(self):
        def zone_file(offset):
            counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
            return b"TZif" + bytes(16) + counts + struct.pack(">lbb", offset, 0, 0) + b"XXX\0"
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "localtime")
            with open(path, "wb") as file:
                file.write(zone_file(3600))
            port = free_port()
            script = ("mount --bind %s /etc/localtime || exit; unset TZ; exec %s clock_server.py %d"
                      % (shlex.quote(path), shlex.quote(sys.executable), port))
            with Program("unshare", "-m", "sh", "-c", script) as program:
                wait_until(lambda: is_listening(port) or program.process.poll() is not None)
                if program.process.poll() is not None:
                    self.skipTest("no namespaces here: " + program.errors())
                self.assertIn(b"UTC<span>+01:00</span>", visit(port).body)
                with open(path, "wb") as file:
                    file.write(zone_file(20700))
                os.utime(path, (1, 1))  # the system sees a change by its full second
                wait_until(lambda: b"UTC<span>+05:45</span>" in visit(port).body)

    def test_outside_address_can_be_used(self):
        for with_ipv6 in False, HAS_IPV6:
            address = clock_server.outside_address(with_ipv6)
            if address:  # there is a network
                self.assertNotIn(address, ["0.0.0.0", "::", "127.0.0.1", "::1"])
                with ClockServer((address, 0)):
                    pass

    def test_outside_address_is_empty_without_a_network(self):
        with mock.patch("socket.socket", side_effect=OSError("no network")):
            self.assertEqual(clock_server.outside_address(True), "")

    ROUTES = [  # label, from which address each target is reached, what is found with IPv6 and without
        ("both", {"192.0.2.1": "198.51.100.7", "2001:db8::1": "2001:db8:7::7"},
         "198.51.100.7", "198.51.100.7"),
        ("IPv6 only", {"2001:db8::1": "2001:db8:7::7"}, "2001:db8:7::7", ""),
        ("IPv4 without a default route", {"224.0.0.1": "198.51.100.7"}, "198.51.100.7", "198.51.100.7"),
        ("IPv6 without a default route", {"ff0e::1": "2001:db8:7::7"}, "2001:db8:7::7", ""),
        ("loopback only", {"224.0.0.1": "127.0.0.1", "ff0e::1": "::1"}, "", ""),
        ("link-local only", {"ff0e::1": "fe80::1"}, "", ""),
        ("link-local first", {"2001:db8::1": "fe80::1", "224.0.0.1": "198.51.100.7"},
         "198.51.100.7", "198.51.100.7"),
        ("nothing", {}, "", ""),
    ]

    def test_outside_address_finds_every_kind_of_network(self):
        class Probe:
            def __init__(self, *args):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *exc_info):
                pass

            def setsockopt(self, *args):
                pass

            def connect(self, address):
                if address[0] not in routes:
                    raise OSError(errno.ENETUNREACH, "no route")
                self.name = routes[address[0]], 1

            def getsockname(self):
                return self.name
        for label, routes, with_ipv6, without in self.ROUTES:
            with self.subTest(label), mock.patch("socket.socket", Probe), \
                    mock.patch("socket.if_nameindex", return_value=[(1, "lo"), (2, "eth0")], create=True):
                self.assertEqual(clock_server.outside_address(True), with_ipv6)
                self.assertEqual(clock_server.outside_address(False), without)

    @unittest.skipUnless(IS_ROOT_ON_LINUX and shutil.which("ip"), "only root can have a network of its own")
    def test_outside_address_in_networks_of_its_own(self):
        device = ("ip link add d0 type veth peer name d1; ip link set lo up; "
                  "ip link set d0 up; ip link set d1 up; ")
        for label, commands, address in [
                ("loopback only", "ip link set lo up", ""),
                ("IPv4 without a default route", device + "ip addr add 198.51.100.7/24 dev d0",
                 "198.51.100.7"),
                ("IPv4", device + "ip addr add 198.51.100.7/24 dev d0; ip route add default dev d0",
                 "198.51.100.7"),
                ("IPv6 only", device + "ip addr add 2001:db8:7::7/64 dev d0 nodad; "
                 "ip -6 route add default dev d0", "2001:db8:7::7"),
                ("IPv6 without a default route", device + "ip addr add 2001:db8:7::7/64 dev d0 nodad",
                 "2001:db8:7::7")]:
            with self.subTest(label):
                if "without" in label and not hasattr(socket, "if_nameindex"):
                    self.skipTest("this Python cannot list the interfaces")
                code = "import clock_server; print(clock_server.outside_address(True))"
                script = "(%s) >&2 || exit; exec %s -c %s" % (
                    commands, shlex.quote(sys.executable), shlex.quote(code))
                with Program("unshare", "-n", "sh", "-c", script) as program:
                    _, output, errors = program.finish()
                if errors:
                    self.skipTest("no such networks here: " + errors)
                self.assertEqual(output, address + "\n")

    def test_starts_in_a_sandbox(self):
        rows = [
            ("no UDP sockets", "create = socket.socket.__init__\n"
             "def init(self, family=-1, type=-1, *rest, **options):\n"
             "    if type == socket.SOCK_DGRAM: raise PermissionError(1, 'no UDP')\n"
             "    create(self, family, type, *rest, **options)\n"
             "socket.socket.__init__ = init"),
            ("a list of interfaces denied", "def deny(*_): raise PermissionError(1, 'no list')\n"
             "socket.if_nameindex = deny"),
            ("no list of interfaces", "if hasattr(socket, 'if_nameindex'): del socket.if_nameindex"),
            ("no sched_getaffinity", "if hasattr(os, 'sched_getaffinity'): del os.sched_getaffinity"),
            ("no sched_setaffinity", "if hasattr(os, 'sched_setaffinity'): del os.sched_setaffinity"),
            ("sched_getaffinity denied",
             "def deny(*_): raise PermissionError(1, 'no cores')\nos.sched_getaffinity = deny"),
            ("no select", "import select\ndef deny(*_): raise OSError('no select')\nselect.select = deny")]
        for label, setup in rows:
            with self.subTest(label), Command("-q", setup=setup) as command:
                self.assertEqual(visit(command.port).status, 200)

    @unittest.skipUnless(HAS_IPV6, "no IPv6 here")
    def test_starts_without_ipv4(self):
        setup = "\n".join([
            "create = socket.socket.__init__",
            "def init(self, family=-1, *rest, **options):",
            "    if family in (-1, socket.AF_INET): raise OSError(97, 'no IPv4')",
            "    create(self, family, *rest, **options)",
            "socket.socket.__init__ = init"])
        for arguments in [], ["-b", "::1"]:
            with self.subTest(arguments), Command(*arguments, setup=setup) as command:
                self.assertEqual(visit(command.port, "::1").status, 200)

    def test_options_that_the_system_does_not_know_do_not_stop_it(self):
        with mock.patch("socket.socket.setsockopt", side_effect=OSError(errno.ENOPROTOOPT, "unknown")):
            with mock.patch.object(ClockServer, "allow_reuse_address", False), ClockServer(("127.0.0.1", 0)):
                pass

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    @unittest.skipIf(hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled(), "no lock here")
    def test_server_stays_on_one_of_the_cores_allowed(self):
        for core in os.sched_getaffinity(0):
            with self.subTest(core), Command("-q", setup="os.sched_setaffinity(0, {%d})" % core) as command:
                self.assertEqual(os.sched_getaffinity(command.process.pid), {core})
        with Command("-q") as command:
            self.assertEqual(visit(command.port).status, 200)
            taken = os.sched_getaffinity(command.process.pid)
            self.assertEqual(len(taken), 1)
            self.assertLessEqual(taken, os.sched_getaffinity(0))

    def test_core_is_chosen_at_random(self):
        for cores in {0}, {0, 1}, {3, 5, 9}, set(range(64)):
            chosen = set()
            for byte in range(64):
                with mock.patch("sys.platform", "linux"), \
                        mock.patch("sys._is_gil_enabled", return_value=True, create=True), \
                        mock.patch("os.urandom", return_value=bytes([byte])), \
                        mock.patch("os.sched_getaffinity", return_value=cores, create=True), \
                        mock.patch("os.sched_setaffinity", create=True) as choose:
                    clock_server.stay_on_one_core()
                (process, choice), _ = choose.call_args
                self.assertEqual((process, len(choice)), (0, 1))
                chosen |= choice
            self.assertEqual(chosen, cores)

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_all_cores_if_threads_run_side_by_side_or_it_is_not_allowed(self):
        for label, setup in [
                ("no lock", "sys._is_gil_enabled = lambda: False"),
                ("another system", "sys.platform = 'freebsd14'"),
                ("no such call", "del os.sched_setaffinity"),
                ("denied", "def deny(*_): raise PermissionError\nos.sched_setaffinity = deny")]:
            with self.subTest(label), Command("-q", setup=setup) as command:
                self.assertEqual(os.sched_getaffinity(command.process.pid), os.sched_getaffinity(0))

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_server_without_the_command_chooses_no_core(self):
        with mock.patch("os.sched_setaffinity", side_effect=AssertionError("not asked for")):
            with running_server() as server:
                self.assertEqual(statuses(exchange(server, LAST)), [200])

    def test_import_has_no_effects(self):
        code = "import threading; import clock_server; assert threading.active_count() == 1"
        with Program(sys.executable, "-W", "error", "-c", code) as program:
            self.assertEqual(program.finish(), (0, "", ""))


class ArgumentsTest(unittest.TestCase):

    def test_port_in_use(self):
        with running_server() as server:
            port = server.server_port
            result = run_command("-b", "127.0.0.1", str(port))
        self.assertEqual((result.returncode, result.stdout, result.stderr), (
            1, "", "clock_server: port %d is in use; try another one: "
            "python3 clock_server.py --bind 127.0.0.1 %d\n" % (port, port + 1 if port < 65535 else 8880)))

    def test_error_ends_a_program_that_calls_main(self):
        with running_server() as server:
            code = "import clock_server; clock_server.main(['-b', '127.0.0.1', '%d'])" % server.server_port
            with Program(sys.executable, "-W", "error", "-c", code) as program:
                status, output, errors = program.finish()
        self.assertEqual((status, output, errors.count("\n")), (1, "", 1))
        self.assertTrue(errors.startswith("clock_server: port "), errors)

    def test_addresses_that_cannot_be_served(self):
        result = run_command("--bind", "203.0.113.1", "0")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (
            1, "", "clock_server: cannot listen on port 0 of 203.0.113.1: %s\n"
            % os.strerror(errno.EADDRNOTAVAIL)))

    def test_reasons_why_it_cannot_listen(self):
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
                self.assertEqual(clock_server.listen_error(error, host, port), said)

    def test_invalid_arguments(self):
        rows = [([port], "invalid int value") for port in ["abc", "", "0x50", "1e3", "80.0"]]
        rows += [([port], "not a port number from 0 to 65535") for port in ["65536", "99999"]]
        rows += [(["-b", host], "not an address or host name") for host in [
            "", "[]", "127.0.0.1:8080", "localhost:80", "*", "a..b", ".a", "x y", "a" * 64, "\xfc.\xfc",
            "a/b"]]
        rows += [(["-1"], ""), (["--nonsense"], "")]
        for arguments, reason in rows:
            with self.subTest(arguments), mock.patch("sys.stderr", io.StringIO()) as stderr:
                with self.assertRaises(SystemExit) as exit:
                    clock_server.parse_arguments(arguments)
                self.assertEqual(exit.exception.code, 2)
                self.assertRegex(stderr.getvalue(),
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
                with self.subTest(host), self.assertRaises(SystemExit) as exit:
                    clock_server.listen(host, 0, QuietHandler)
                self.assertRegex(exit.exception.code,
                                 "^clock_server: not an address or host name: '%s' " % host)

    def test_version_and_help(self):
        self.assertEqual(run_command("--version").stdout, "clock_server %s\n" % clock_server.__version__)
        usage = "usage: clock_server [-h] [--version] [-b ADDRESS] [-q] [port]\n"
        self.assertEqual(run_command("-h").stdout[:len(usage)], usage)


@POSIX_ONLY
class OwnHandlerTest(unittest.TestCase):
    """The command with a handler of somebody else's."""

    HELLO = ("class Hello(clock_server.ClockHandler):\n"
             "    def do_GET(self):\n"
             "        self.send_page(b'Hello', 'text/plain')\n")

    def test_main_serves_any_handler(self):
        for label, setup, handler, answer in [
                ("a subclass", self.HELLO, "Hello", b"Hello"),
                ("the small page", "", "clock_server.ClockPage", b"<!DOCTYPE html>"),
                ("one of the standard library", "import http.server",
                 "http.server.SimpleHTTPRequestHandler", b"<!DOCTYPE")]:
            call = "clock_server.main(sys.argv[1:], handler=%s)" % handler
            for options, lines in ([], 1), (["--quiet"], 0):
                with self.subTest(label, options=options), \
                        Command(*options, setup=setup, call=call) as command:
                    response = visit(command.port)
                    self.assertEqual((response.status, response.body[:len(answer)]), (200, answer))
                    status, output, errors = command.finish(signal.SIGTERM)
                    self.assertEqual((status, output.splitlines()[-1]), (0, "Stopped."))
                    self.assertEqual(len(errors.splitlines()), lines, errors)

    def test_quiet_suppresses_requests_but_not_errors(self):
        broken = "class Broken(clock_server.ClockHandler):\n    def do_GET(self): self.send_page('a str')\n"
        call = "clock_server.main(sys.argv[1:], Broken)"
        with Command("--quiet", setup=broken, call=call) as command:
            self.assertEqual(visit(command.port).status, 500)
            status, _, errors = command.finish(signal.SIGTERM)
            self.assertEqual((status, errors.count("Traceback"), errors.count("GET /")), (0, 1, 0))


@POSIX_ONLY
class SignalsTest(unittest.TestCase):
    """A signal stops the command with status 0 and without a word, whenever it comes."""

    BOTH = [("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM)]

    def check_stopped(self, command, *signals):
        """Send the signals; check that the command stops as it should, with an empty log."""
        status, output, errors = command.finish(*signals)
        self.assertEqual((status, output.splitlines()[-1:], errors), (0, ["Stopped."], ""))

    def test_signals_stop_it(self):
        for label, number in self.BOTH:
            with self.subTest(label), Command() as command:
                with socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as idle, \
                        socket.create_connection(("127.0.0.1", command.port)) as dripping:
                    dripping.sendall(b"GET")
                    self.assertEqual(visit(command.port).status, 200)
                    status, output, errors = command.finish(number)
                    self.assertEqual((status, output.splitlines()[-1]), (0, "Stopped."))
                    self.assertEqual(len(errors.splitlines()), 1, errors)
                    self.assertEqual(idle.recv(1), b"")

    def test_signal_while_it_starts(self):
        """From main's first line on, a signal ends it as soon as the start is complete."""
        early = "\n".join([
            "install = signal.signal",
            "def early(number, handler):",
            "    install(number, handler)",
            "    os.kill(os.getpid(), number)",
            "signal.signal = early"])
        steps = ["parse_arguments", "listen", "stay_on_one_core", "start_text", "say"]
        before_step = "\n".join([
            "step = clock_server.%s",
            "def early(*args):",
            "    os.kill(os.getpid(), signal.%s)",
            "    return step(*args)",
            "clock_server.%s = early"])
        rows = [("its handler is installed", early)]
        rows += [(step, before_step % (step, number, step))
                 for step, number in zip(steps, ["SIGINT", "SIGTERM", "SIGINT", "SIGTERM", "SIGINT"])]
        for label, setup in rows:
            with self.subTest(label), Command(setup=setup) as command:
                self.check_stopped(command)

    def test_signal_while_it_stops_changes_nothing(self):
        setup = "\n".join([
            "say = clock_server.say",
            "def say_and_kill(text):",
            "    say(text)",
            "    if text == 'Stopped.':",
            "        for number in [signal.SIGINT, signal.SIGTERM] * 2:",
            "            os.kill(os.getpid(), number)",
            "clock_server.say = say_and_kill"])
        with Command(setup=setup) as command:
            self.check_stopped(command, signal.SIGTERM)
        late = "\n".join([  # Python deletes the object after it has removed our handlers of signals
            "class Late:",
            "    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):",
            "        kill(process, number)",
            "late = Late()"])
        with Command(setup=late) as command:
            self.check_stopped(command, signal.SIGTERM)
        with Command() as command:
            self.check_stopped(command, signal.SIGINT, signal.SIGINT, signal.SIGTERM)

    def test_sigint_stops_it_even_if_inherited_as_ignored(self):
        with Command(setup="signal.signal(signal.SIGINT, signal.SIG_IGN)") as command:
            self.check_stopped(command, signal.SIGINT)

    def test_signal_while_it_is_crowded(self):
        setup = "clock_server.MAX_CONNECTIONS, clock_server.GRACE_SECONDS = 2, 1000"
        with Command("-q", setup=setup) as command, contextlib.ExitStack() as stack:
            for _ in range(10):
                connection = socket.create_connection(("127.0.0.1", command.port), GIVE_UP)
                stack.enter_context(connection).sendall(GET)
            self.check_stopped(command, signal.SIGTERM)

    def test_signal_while_no_thread_can_be_started(self):
        setup = ("def start(thread): raise RuntimeError(\"can't start new thread\")\n"
                 "threading.Thread.start = start")
        with Command("-q", setup=setup) as command, \
                socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as connection:
            connection.sendall(GET)
            self.check_stopped(command, signal.SIGTERM)

    def test_signal_during_a_burst(self):
        with Command("-q") as command:
            def hurry():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    while True:
                        visit(command.port)
                        served.set()
            served = threading.Event()
            clients = [threading.Thread(target=hurry) for _ in range(4)]
            for client in clients:
                client.start()
            self.assertTrue(served.wait(GIVE_UP))
            self.check_stopped(command, signal.SIGINT)
            for client in clients:
                client.join()

    def test_stops_although_a_handler_hangs(self):
        setup = ("clock_server.STOP_SECONDS = 0.01\n"
                 "clock_server.ClockHandler.do_GET = lambda self: threading.Event().wait()")
        with Command(setup=setup) as command:
            with socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as connection:
                connection.sendall(GET)
                self.check_stopped(command, signal.SIGTERM)

    def test_main_can_run_in_another_thread(self):
        call = ("threading.Thread(target=clock_server.main, args=(sys.argv[1:],), daemon=True).start()\n"
                "sys.stdin.read()")
        with Command(call=call, stdin=subprocess.PIPE) as command:
            self.assertEqual(visit(command.port).status, 200)

    def test_survives_without_file_descriptors(self):
        few = ("import resource\n"
               "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
               "clock_server.REQUEST_SECONDS = 1000")
        with Command(setup=few) as command, contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", command.port)))
            self.assertEqual(visit(command.port).status, 200)
            status, _, errors = command.finish(signal.SIGTERM)
        self.assertEqual(status, 0)
        # Even the first line of the log needs no file that could not be opened now.
        self.assertRegex(errors, r'^127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 -\n$')


@POSIX_ONLY
class OutputTest(unittest.TestCase):
    """What happens to the command's output, and if nobody reads it."""

    def test_log(self):
        with Command() as command:
            visit(command.port)
            _, _, errors = command.finish(signal.SIGTERM)
            self.assertRegex(errors, r'^127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 -\n$')

    def test_quiet(self):
        with Command("--quiet") as command:
            visit(command.port)
            self.assertEqual(command.finish(signal.SIGTERM)[2], "")

    @contextlib.contextmanager
    def output(self, kind):
        """Open a file to write to that is a dead pipe, a full pipe or a full disk."""
        if kind == "full disk":
            if not os.path.exists("/dev/full"):
                self.skipTest("this system has no /dev/full")
            with open("/dev/full", "wb", 0) as file:
                yield file
            return
        reader, writer = os.pipe()
        with open(reader, "rb", 0) as unread, open(writer, "wb", 0) as file:
            if kind == "dead pipe":
                unread.close()
            else:
                os.set_blocking(writer, False)
                for size in 65536, 1:
                    while file.write(b"x" * size):
                        pass
                os.set_blocking(writer, True)
            yield file

    def check_unread(self, buffering=("", "1"), **streams):
        """Start it with these streams, buffered and unbuffered, visit it twice, and stop it."""
        for unbuffered in buffering:
            port = free_port()
            with self.subTest(streams, unbuffered=unbuffered), Command(
                    setup="clock_server.STOP_SECONDS = 0.05", port=port,
                    environment={"PYTHONUNBUFFERED": unbuffered}, **streams) as command:
                wait_until(lambda: is_listening(port) or command.process.poll() is not None)
                self.assertEqual([visit(port).status, visit(port).status], [200, 200])
                status, _, errors = command.finish(signal.SIGTERM)
                self.assertEqual(status, 0, errors)
                if "stderr" not in streams:
                    for line in errors.splitlines():
                        self.assertRegex(line, r'^127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 -$')
                    self.assertEqual(len(errors.splitlines()), 2)

    def test_nobody_reads_standard_output(self):
        for kind in "dead pipe", "full pipe", "full disk":
            with self.subTest(kind), self.output(kind) as file:
                self.check_unread(stdout=file)

    def test_nobody_reads_standard_error(self):
        """Where the log is a full pipe, each response is sent, and then its thread hangs."""
        for kind in "dead pipe", "full pipe", "full disk":
            with self.subTest(kind), self.output(kind) as file:
                self.check_unread([""], stderr=file)

    def test_nobody_reads_either(self):
        for kind in "dead pipe", "full pipe", "full disk":
            with self.subTest(kind), self.output(kind) as file:
                self.check_unread([""], stdout=file, stderr=file)

    def test_output_may_be_closed_from_the_start(self):
        for closing in ">&-", "2>&-", ">&- 2>&-":
            port = free_port()
            script = "exec %s clock_server.py %d %s" % (shlex.quote(sys.executable), port, closing)
            with self.subTest(closing), Program("sh", "-c", script) as program:
                wait_until(lambda: is_listening(port) or program.process.poll() is not None)
                self.assertEqual(visit(port).status, 200)
                status, _, errors = program.finish(signal.SIGTERM)
                self.assertEqual((status, len(errors.splitlines())), (0, 0 if "2" in closing else 1), errors)

    def test_say_survives_every_stream(self):
        class Broken(io.StringIO):
            def flush(self):
                raise OSError(errno.ENOSPC, "full")
        closed = io.StringIO()
        closed.close()
        for label, stream in [("none", None), ("closed", closed), ("text", io.StringIO())]:
            with self.subTest(label), mock.patch("sys.stdout", stream):
                clock_server.say("text")
        self.assertEqual(stream.getvalue(), "text\n")


# --- The README ----------------------------------------------------------------------------------

README = os.path.join(HERE, "README.md")


@unittest.skipUnless(os.path.exists(README), "only the module and its tests are here")
class ReadmeTest(unittest.TestCase):

    def examples(self):
        """Return the blocks of Python in the README."""
        with open(README, encoding="utf-8") as file:
            return re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)

    def defines_a_handler(self, tree):
        """Return whether a program defines a class whose base is some handler."""
        bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        names = [getattr(base, "id", getattr(base, "attr", "")) for base in bases]
        return any(re.search("Handler$|^ClockPage$", name) for name in names)

    def test_examples_compile_and_answer(self):
        served = 0
        for example in self.examples():
            with self.subTest(example):
                compile(example, README, "exec")
                if self.defines_a_handler(ast.parse(example)):
                    self.check_server(example)
                    served += 1
        self.assertTrue(served)

    def check_server(self, example):
        """Run the example as a program, on a free port instead of its own; visit it."""
        port = free_port()
        program = re.sub(r"\b8\d\d0\b", str(port), example)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "example.py")
            with open(path, "w", encoding="utf-8") as file:
                file.write(program)
            with Program(sys.executable, path, str(port), environment={"PYTHONPATH": HERE}) as server:
                wait_until(lambda: is_listening(port) or server.process.poll() is not None)
                self.assertIsNone(server.process.poll(), server.errors())
                response = visit(port, path="/<b>&")
                self.assertEqual(response.status, 200)
                self.assertNotIn(b"<b>&", response.body)
                policy = response.fields.get("Content-Security-Policy", "")
                for style in re.findall(b"<style>(.*?)</style>", response.body, re.S):
                    if policy:
                        self.assertIn(clock_server.csp_hash(style.decode()), policy)
                self.assertNotIn("Traceback", server.errors())


# --- The browser ---------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@unittest.skipUnless(CHROMIUM, "no Chromium here")
class BrowserTest(unittest.TestCase):

    PAST = 1162510190  # half an hour before November 3, 2006, in UTC

    def dump(self, handler, seconds, zone="UTC", user=""):
        """Return what the clock shows after so many virtual seconds in a browser in that zone.

        That is its datetime, its text, the offset, and the messages in the console.
        """
        with running_server(handler) as server, tempfile.TemporaryDirectory() as profile:
            result = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--no-first-run", "--user-data-dir=" + profile, "--dump-dom", "--enable-logging=stderr",
                 "--virtual-time-budget=%d" % (seconds * 1000),
                 "http://%s127.0.0.1:%d/" % (user, server.server_port)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                env=dict(os.environ, TZ=zone))
        clock = re.search(rb'<time datetime="([^"]*)">([^<]*)</time>', result.stdout)
        offset = re.search(rb"<span>(.*?)</span>", result.stdout)
        console = re.findall(r"CONSOLE.*", result.stderr.decode("utf-8", "replace"))
        return [text.decode() for text in (clock[1], clock[2], offset[1])] + [console]

    def shown(self, text):
        """Return the time that the clock shows, which must be written as ctime does."""
        time_shown = datetime.strptime(text, "%a %b %d %H:%M:%S %Y")
        self.assertEqual(text, time_shown.ctime())
        return time_shown

    def seconds_since(self, text, start):
        """Return by how much the clock is ahead of this time."""
        return (self.shown(text) - datetime(*time.localtime(start)[:6])).total_seconds()

    def test_clock_ticks_in_the_time_of_the_server(self):
        class Past(QuietHandler):
            def do_GET(self):
                requests.append(self.path)
                self.send_page(render_page(moment(BrowserTest.PAST, 250000)))
        requests = []
        stamp, text, offset, console = self.dump(Past, 15, zone="Asia/Kathmandu")
        self.assertEqual((stamp[:19], stamp[-6:]), (self.shown(text).isoformat(), offset))
        self.assertTrue(10 <= self.seconds_since(text, self.PAST) <= 25, (stamp, text))
        self.assertEqual(requests, ["/", "/"])  # the page, and the time when it has been loaded
        self.assertEqual(console, [])

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_clock_follows_a_change_of_zone_within_an_hour(self):
        class Moving(QuietHandler):
            def do_GET(self):
                requests.append(self.path)
                if len(requests) == 3:
                    os.environ["TZ"] = "CEST-2"
                    time.tzset()
                self.send_page(render_page(moment(BrowserTest.PAST, 250000)))
        requests = []
        with zone_of("CET-1"):
            stamp, text, offset, _ = self.dump(Moving, 3700)
        self.assertEqual((offset, stamp[-6:]), ("+02:00", "+02:00"))
        self.assertEqual(text.split()[3], stamp[11:19])

    def test_page_that_is_old_becomes_right_after_the_first_quick_answer(self):
        """A page may have been fetched before it was opened, or have waited for its connection.

        fetch would refuse the URL of this page, which has a password.
        """
        class Old(QuietHandler):
            def do_GET(self):
                seconds = BrowserTest.PAST + (100 if requests else 0)
                requests.append(self.path)
                self.send_page(render_page(moment(seconds)))
        requests = []
        stamp, text, _, console = self.dump(Old, 5, user="user:password@")
        self.assertTrue(100 <= self.seconds_since(text, self.PAST) <= 110, (stamp, text))
        self.assertEqual((requests, console), (["/", "/"], []))

    def test_clock_asks_at_each_full_hour(self):
        """Daylight saving time begins with an hour. This one is also the first of a day."""
        class Hourly(QuietHandler):
            def do_GET(self):
                requests.append(self.path)
                asked_at = 1800 - 10 if len(requests) < 3 else 1800 + 0.5
                self.send_page(render_page(moment(BrowserTest.PAST + 10 + asked_at)))
        requests = []
        with zone_of("UTC0") if HAS_TZSET else contextlib.suppress():
            stamp, text, _, _ = self.dump(Hourly, 15)
            self.assertTrue(1790 + 10 <= self.seconds_since(text, self.PAST) <= 1830, (stamp, text))
        self.assertEqual(requests, ["/"] * 3)

    def test_bad_answers_do_not_stop_the_clock(self):
        """They come one after another; the clock asks again and again, less and less often."""
        def duration(handler):
            handler.send_page(b'<time datetime="PT5M">')

        def second_60(handler):
            handler.send_page(b'<time datetime="2006-11-02T23:59:60.000+00:00">')

        def gone(handler):
            raise clock_server.ClientLeft("without an answer")

        def error(handler):
            handler.send_error(502)
        bad = [error, duration, second_60, gone]

        class Bad(QuietHandler):
            def do_GET(self):
                number = len(requests)
                requests.append(self.path)
                if number:
                    bad[min(number, len(bad)) - 1](self)
                else:
                    self.send_page(render_page(moment(BrowserTest.PAST)))
        requests = []
        stamp, text, _, console = self.dump(Bad, 14)
        self.assertTrue(9 <= self.seconds_since(text, self.PAST) <= 25, (stamp, text))
        self.assertGreaterEqual(len(requests), 5)
        self.assertFalse([line for line in console if "Uncaught" in line], console)


if __name__ == "__main__":
    unittest.main()
