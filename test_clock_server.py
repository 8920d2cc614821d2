"""Tests of clock_server, in the order of the module and under its headings.

    python3 -m unittest                    run all of them
    python3 test_clock_server.py GrammarTest.test_rejected

They use real sockets, real processes and nothing but the standard library. Where time matters, the
limits of the module are shortened, but where the README promises a time. No test measures how fast the
machine is.

exchange() sends all it is given on a connection of its own, ends its side, and returns all responses.
ask() sends one request on a connection from connect(), which stays open. GET leaves the connection open
for the next request; after LAST, the server closes it.

To add a request that must be accepted or refused, add a row to ACCEPTED or REJECTED.
"""
import base64
import contextlib
import csv
import doctest
import errno
import functools
import hashlib
import html
import http
import http.client
import http.server
import importlib.util
import io
import json
import os
import platform
import random
import re
import select
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
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import clock_server  # noqa: E402  the one beside this file, wherever the tests are started
from clock_server import ClockHandler, ClockServer, render_page  # noqa: E402


# --- Helpers -------------------------------------------------------------------------------------

GIVE_UP = 30  # seconds after which something that should have happened has not
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close() resets the connection
HAS_TZSET = hasattr(time, "tzset")
HAS_IPV6 = socket.has_dualstack_ipv6()
Response = namedtuple("Response", "status fields body head")


class QuietHandler(ClockHandler):
    """The handler of the module, without its log."""

    def log_message(self, format, *args):
        """Do nothing."""


class StockHandler(http.server.SimpleHTTPRequestHandler):
    """A handler of the standard library, without its log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        """Do nothing."""


class Recorder(http.server.ThreadingHTTPServer):
    """Keeps the errors that the module passes on to the library, which would print them."""

    def handle_error(self, request, client_address):
        self.errors.append(sys.exc_info()[1])


class WatchedServer(ClockServer, Recorder):
    """Records the errors that it would have reported, and the most connections it served at once."""

    most = 0

    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.most = max(self.most, len(self.connections))


@contextlib.contextmanager
def running_server(handler=QuietHandler, errors=(), host="127.0.0.1", server_class=WatchedServer, **limits):
    """Serve on a free port with these limits; check that nothing is left over at the end.

    `errors` are the types of the errors that the server is expected to report, in their order.
    """
    with contextlib.ExitStack() as stack:
        for name, value in limits.items():
            stack.enter_context(mock.patch.object(clock_server, name, value))
        server = stack.enter_context(server_class((host, 0), handler))
        server.errors = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            while server.evict(0):  # server_close leaves them to their threads
                pass
    if os.name == "posix":  # elsewhere, evict wakes no thread that waits to receive
        wait_until(lambda: not server.connections and not server.threads)
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
        yield
    time.tzset()


class Program:
    """A program in a process of its own, which is killed at the end of the with block.

    Its standard error goes to a file, which never fills up as a pipe does.
    """

    def __init__(self, *command, **options):
        self.folder = tempfile.mkdtemp()
        environment = dict(os.environ, TMPDIR=self.folder, **options.pop("environment", {}))
        self.log = open(os.path.join(self.folder, "log"), "wb")
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
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self):
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def errors(self):
        with open(self.log.name, "rb") as file:  # at a position of its own
            return file.read().decode().replace("\r\n", "\n")

    def finish(self, *signals):
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
            self.line = self.process.stdout.readline().decode().replace("\r\n", "\n")
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


# --- The clock -----------------------------------------------------------------------------------

def time_in(page):
    """Return the time that a page names, in seconds since 1970."""
    stamp = re.search(rb'<time datetime="(.*?)">', page)[1].decode()
    return datetime.strptime(stamp[:-3] + stamp[-2:], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


@unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
class PageTest(unittest.TestCase):

    ZONES = [  # TZ, offset of standard time
        ("UTC0", "+00:00"), ("IST-5:30", "+05:30"), ("NST3:30", "-03:30"), ("AAA-14", "+14:00"),
        ("BBB0:30", "-00:30")]
    MOMENTS = [  # label, seconds since 1970, microseconds
        ("the epoch", 0, 0), ("before the epoch", -1, 500000), ("a day of one digit", 1162512000, 0),
        ("just before a second", 1700000000, 999999), ("just after a second", 1700000000, 1),
        ("today", int(time.time()), 123456), ("after 32 bits of seconds", 2 ** 32, 500000)]

    def test_shows_ctime_and_names_the_same_moment(self):
        for zone, offset in self.ZONES:
            with zone_of(zone):
                for label, seconds, microseconds in self.MOMENTS:
                    with self.subTest(label, zone=zone):
                        page = render_page(moment(seconds, microseconds))
                        texts = dict(re.findall("<(time|p|span)[^>]*>([^<]*)", page.decode()))
                        self.assertEqual(texts["time"], time.ctime(seconds))
                        self.assertEqual(texts["p"] + texts["span"], "Time on this server, UTC" + offset)
                        stamp = re.search(rb'datetime="(.*?)"', page)[1].decode()
                        self.assertRegex(stamp, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
                        self.assertEqual((stamp[-6:], stamp[11:19]), (offset, texts["time"].split()[3]))
                        behind = seconds + microseconds // 1000 / 1000 - time_in(page)
                        self.assertLess(abs(behind), 0.0001)

    def test_follows_daylight_saving_time(self):
        with zone_of("CET-1CEST,M3.5.0,M10.5.0/3"):
            for label, seconds, stamp in [
                    ("winter", 1616893199, "2021-03-28T01:59:59.000+01:00"),
                    ("summer", 1616893200, "2021-03-28T03:00:00.000+02:00"),
                    ("the hour that comes twice", 1635641999, "2021-10-31T02:59:59.000+02:00"),
                    ("its second time", 1635642000, "2021-10-31T02:00:00.000+01:00")]:
                with self.subTest(label):
                    self.assertIn(b'<time datetime="%s">' % stamp.encode(), render_page(moment(seconds)))

    def test_changed_zone_of_the_machine_is_followed(self):
        def zone_file(offset):
            counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
            return b"TZif" + bytes(16) + counts + struct.pack(">lbb", offset, 0, 0) + b"XXX\0"
        if not shutil.which("unshare") or os.getuid() or platform.libc_ver()[0] != "glibc":
            self.skipTest("only root can have a zone of its own, and only glibc reads it again")
        with tempfile.NamedTemporaryFile() as file:
            file.write(zone_file(3600))
            file.flush()
            port = free_port()
            script = ("mount --bind %s /etc/localtime || exit; unset TZ; exec %s clock_server.py %d"
                      % (shlex.quote(file.name), shlex.quote(sys.executable), port))
            with Program("unshare", "-m", "sh", "-c", script) as program:
                wait_until(lambda: is_listening(port) or program.process.poll() is not None)
                if program.process.poll() is not None:
                    self.skipTest("no namespaces here: " + program.errors())
                self.assertIn(b"UTC<span>+01:00</span>", visit(port).body)
                file.seek(0)
                file.write(zone_file(20700))
                file.flush()
                os.utime(file.name, (1, 1))  # the system sees a change by its full second
                wait_until(lambda: b"UTC<span>+05:45</span>" in visit(port).body)


# --- What strangers do to it ---------------------------------------------------------------------

STAGES = [  # the servers of the chapters and their handlers
    ("ThreadingHTTPServer", "ClockPage"), ("ThreadingHTTPServer", "PoliteHandler"),
    ("ThreadingHTTPServer", "ShyHandler"), ("ThreadingHTTPServer", "HonestHandler"),
    ("ThreadingHTTPServer", "StrictHandler"), ("CalmServer", "StrictHandler"),
    ("PunctualServer", "PunctualHandler"), ("FairServer", "FairHandler"), ("ClockServer", "ClockHandler")]
PATIENCE = 3  # seconds that a visitor waits for the page


def attack_still_runs(server, attack):
    """Return whether the attack still runs after the deadline of the server."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        attack.process.wait(clock_server.REQUEST_SECONDS + PATIENCE)
    return attack.process.poll() is None


def visitor_is_answered(server):
    """Return whether somebody who tries again for some seconds sees the page."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return visit(server.port, timeout=deadline - time.monotonic()).status == 200
    return False


def visitor_is_not_answered(server, attack):
    """Return whether somebody waits in vain before the server makes room, or after that."""
    address = "127.0.0.1", server.port
    with contextlib.suppress(OSError), socket.create_connection(address, PATIENCE) as first:
        first.settimeout(0.1)
        while visitor_is_answered(server):
            with contextlib.suppress(socket.timeout):
                first.recv(1)  # it has waited longest, and made room for another one
                return not all(visitor_is_answered(server) for _ in range(5))
    return True


def frame_is_shown(server, attack):
    """Return whether a browser may show the page in the page of the attack, or the fields tell too much."""
    wait_until(lambda: is_listening(attack.other_port))
    source = re.search(b'<iframe src="http://localhost:(.*?)/"', visit(attack.other_port).body)[1]
    assert int(source) == server.port
    fields = visit(server.port).fields
    return not ("frame-ancestors 'none'" in fields.get("Content-Security-Policy", "")
                and "no-store" in fields.get("Cache-Control", "") and "Python" not in fields["Server"])


ATTACKS = [  # label, chapter, how many of its commands, the class that cures it, when the server is harmed
    ("another method", "The methods", 2, "PoliteHandler", lambda server, attack: not all(
        text in attack.errors() for text in ("HTTP/1.1 200 ", "HTTP/1.1 405 ", "Allow: GET, HEAD, OPTIONS"))),
    ("a frame", "The frame", 1, "ShyHandler", frame_is_shown),
    ("a lie in the log", "The log", 1, "HonestHandler",  # for who reads up to the second quotation mark
     lambda server, attack: re.search(r'\] "[^"]*" 200 ', server.errors())),
    ("a hidden request", "The grammar", 1, "StrictHandler",
     lambda server, attack: "GET /hidden" in server.errors()),
    ("leaves in the middle", "The goodbye", 1, "CalmServer",
     lambda server, attack: "Traceback" in server.errors()),
    ("10 MB nobody reads", "The goodbye", 1, "CalmServer",
     lambda server, attack: "HTTP Error 405" not in attack.errors()),
    ("half a request", "The deadline", 1, "PunctualServer", attack_still_runs),
    ("all connections", "The full house", 1, "FairServer", visitor_is_not_answered),]
ENDLESS = attack_still_runs, visitor_is_not_answered, frame_is_shown  # these attacks do not end by themselves


@unittest.skipUnless(os.name == "posix" and shutil.which("bash"), "the commands need a shell of Unix")
class AttacksTest(unittest.TestCase):
    """Every attack in the file harms each stage before its cure, and none from there on."""

    FILES = 64  # that a server may open, as the file says; fewer than the clients of the full house
    CHAPTERS = dict(re.findall(r"^# --- (.*?) -+\n(.*?)(?=\n# ---|\Z)", source_of_module(), re.M | re.S))

    def commands(self, chapter):
        found = re.findall(r"^#     \$ (.*(?:\n#     > .*)*)", self.CHAPTERS[chapter], re.M)
        return [command.replace("\n#     > ", "\n") for command in found]

    def starts(self):
        self.assertIn("\n    python3 clock_server.py     serve on port 8880", source_of_module())
        chapters = "The clock", *dict.fromkeys(row[1] for row in ATTACKS)
        return [command for chapter in chapters for command in self.commands(chapter)
                if "serve_forever()" in command] + ["python3 clock_server.py 8880"]

    def attacks(self):
        left = {row[1]: [command for command in self.commands(row[1]) if "serve_forever()" not in command]
                for row in ATTACKS}
        scripts = ["\n".join(left[row[1]].pop(0) for _ in range(row[2])) for row in ATTACKS]
        return scripts, sum(left.values(), [])

    def expected(self):
        return [[all(row[3] not in names for names in STAGES[:number + 1]) for row in ATTACKS]
                for number in range(len(STAGES))]

    def shell(self, command, port, options="", **environment):
        python, other_port = "%s %s" % (shlex.quote(sys.executable), options), free_port()
        script = re.sub(r"\bpython3\b", lambda _: python, command).replace("8880", str(port))
        script = "exec >&2\n" + script.replace("8881", str(other_port))
        program = Program("bash", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          environment=dict(environment, no_proxy="*", PYTHONUNBUFFERED="1"))
        program.other_port = other_port
        return program

    @contextlib.contextmanager
    def server(self, start):
        for _ in range(5):  # somebody else may take the port in the meantime
            port = free_port()
            with self.shell("ulimit -n %d; exec %s" % (self.FILES, start), port, "-W error") as server:
                wait_until(lambda: is_listening(port) or server.process.poll() is not None)
                if server.process.poll() is None:
                    server.port = port
                    yield server
                    return
        raise AssertionError("the server does not start: " + start)

    def does_harm(self, start, script, harm, expected):
        with self.server(start) as server, self.shell(script, server.port) as attack:
            if harm in ENDLESS:
                return harm(server, attack)
            attack.process.wait(GIVE_UP)
            if expected:
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: harm(server, attack))
            else:  # until another one has ended, all that the first one does has shown itself
                with self.shell(script, server.port) as again:
                    again.process.wait(GIVE_UP)
            is_harmed = bool(harm(server, attack))
            self.assertTrue(visitor_is_answered(server))
            return is_harmed

    def test_every_chapter_has_its_row_and_every_stage_its_line(self):
        listed = re.findall(r"^#     \S.*?  +(\S.*)$", self.CHAPTERS["What strangers do to it"], re.M)
        self.assertEqual(listed, list(dict.fromkeys(row[1] for row in ATTACKS)))
        _, others = self.attacks()
        self.assertEqual(["range(200)" in command for command in others], [True])  # is to be measured
        found = [re.findall(r"(\w+)\(\('', 8880\), (\w+)\)\.serve_forever\(\)", start)
                 for start in self.starts()]
        self.assertEqual(found, [[names] for names in STAGES[:-1]] + [[]])

    def test_attacks_harm_all_stages_before_their_cure(self):
        cells = {}
        with ThreadPoolExecutor(len(STAGES)) as waiting, ThreadPoolExecutor(3) as working:
            for script, (label, *_, harm), column in zip(self.attacks()[0], ATTACKS, zip(*self.expected())):
                pool = waiting if harm is attack_still_runs else working
                for start, names, expected in zip(self.starts(), STAGES, column):
                    if "curl" not in script or shutil.which("curl") or os.environ.get("CI"):
                        job = pool.submit(self.does_harm, start, script, harm, expected)
                        cells[label, names] = job, expected
        for (label, names), (job, expected) in cells.items():
            with self.subTest(label, server=names[0], handler=names[1]):
                self.assertEqual(job.result(), expected)
        if len(cells) < len(ATTACKS) * len(STAGES):
            self.skipTest("some of the attacks need curl")

    def test_readme_shows_the_same_table(self):
        with open(os.path.join(HERE, "README.md"), encoding="utf-8") as file:
            rows = [[cell.strip() for cell in line.strip("|\n").split("|")]
                    for line in file if line[0] == "|"]
        labels = [row[0] for row in ATTACKS]
        start = next(number for number, row in enumerate(rows, 2) if row[1:] == labels)
        table = rows[start:start + len(STAGES)]
        self.assertEqual([re.findall(r"\w+", row[0]) for row in table], [list(names) for names in STAGES])
        self.assertEqual([["harm" in cell for cell in row[1:]] for row in table], self.expected())


# --- The looks -----------------------------------------------------------------------------------

class LooksTest(unittest.TestCase):

    def test_page_is_complete_and_loads_nothing(self):
        page = render_page(moment(0)).decode()
        self.assertRegex(page, r'\A<!DOCTYPE html>\n<html lang="en">')
        for needed in ('<meta charset="utf-8">', '<meta name="viewport" ', "<title>",
                       '<link rel="icon" href="data:'):
            self.assertEqual(page.count(needed), 1, needed)
        for forbidden in " src=", "url(", "@import", "XMLHttpRequest", " style=", "http-equiv":
            self.assertNotIn(forbidden, page)
        tags = re.findall(r"<(/?)(\w+)[^>]*>", re.sub(r"(?s)<(script|style)>.*?</", r"<\1></", page))
        self.assertEqual(sorted(tag for end, tag in tags if end),
                         sorted(tag for end, tag in tags if not end and tag not in ("meta", "link")))

    def test_icon_is_an_image(self):
        kind, _, image = clock_server.ICON.partition(",")
        self.assertEqual(kind, "data:image/svg+xml")
        root = xml.etree.ElementTree.fromstring(urllib.parse.unquote(image))
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")

    def test_hash_is_that_of_the_text(self):
        digest = hashlib.sha256("h\xe9".encode("utf-8")).digest()
        self.assertEqual(clock_server.csp_hash("h\xe9"), "'sha256-%s'" % base64.b64encode(digest).decode())


# --- The methods ---------------------------------------------------------------------------------

def page_of(body, *fields, status=200, length=True):
    """Return a method that sends this body, with its length, and these fields."""
    def page(handler):
        handler.send_response(status)
        for field in (*[("Content-Length", len(body))] * length, *fields):
            handler.send_header(*field)
        handler.end_headers()
        handler.wfile.write(body)
    return page


def echo(handler):
    """Send back the body of the request, as a method."""
    page_of(handler.rfile.read(int(handler.headers["Content-Length"])))(handler)


class ResponsesTest(unittest.TestCase):

    SAFE = {"Server": "clock_server", "Cache-Control": "no-store, no-transform",
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

    def test_every_path_is_the_page(self):
        with running_server() as server:
            for target in [b"/", b"/index.html", b"/a/b?c=d", b"//", b"/%00", b"/..", b"/favicon.ico"]:
                with self.subTest(target):
                    response, = exchange(server, GET.replace(b"/", target, 1))
                    self.assertEqual(response.status, 200)
                    self.assertRegex(response.body, b"<h1[^>]*><time ")

    def test_page_has_these_fields_and_no_others(self):
        def inline(tag):
            text = re.search(b"<%s>(.*)</%s>" % (tag, tag), response.body, re.S)[1]
            return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text).digest()).decode()
        with mock.patch("sys.stderr"), running_server(ClockHandler) as server:
            responses = exchange(server, GET * 2)  # the second one may be the first one, kept
        for response in responses:  # parse_responses has found each field once
            self.assertTrue(response.head.startswith(b"HTTP/1.1 200 OK\r\n"), response.head)
            fields = dict(response.fields)
            self.assertEqual(fields.pop("Content-Length"), str(len(response.body)))
            self.assertEqual(fields.pop("Content-Type"), "text/html; charset=utf-8")
            self.assertTrue(fields.pop("Date"))
            self.assertEqual(set(fields.pop("Content-Security-Policy").split("; ")), {
                "default-src 'none'", "img-src data:", "style-src " + inline(b"style"),
                "script-src " + inline(b"script"), "connect-src 'self'", "base-uri 'none'",
                "form-action 'none'", "frame-ancestors 'none'"})
            self.assertEqual(fields, self.SAFE)

    def test_head_is_get_without_the_page(self):
        with running_server() as server:
            head, get = exchange(server, b"HEAD" + GET[3:] + GET, methods=["HEAD"])
        self.assertEqual((head.status, head.body, get.status), (200, b"", 200))
        self.assertEqual({**get.fields, "Date": ""}, {**head.fields, "Date": ""})

    def test_other_methods(self):
        rows = [(method, b"/", 405) for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE")]
        rows += [(b"CONNECT", b"x:80", 405), (b"OPTIONS", b"/", 204), (b"OPTIONS", b"*", 204)]
        rows += [(method, b"/", 501) for method in (b"get", b"BREW", b"command", b"__init__", b"GET_")]
        with mock.patch("sys.stderr"), running_server(ClockHandler) as server:
            for method, target, status in rows:
                with self.subTest(method, target=target):
                    request = request_of(b"%s %s HTTP/1.1" % (method, target))
                    response, *rest = exchange(server, request + LAST)
                    self.assertEqual((response.status, len(rest)), (status, int(status == 204)))
                    self.assertEqual(response.fields.get("Allow"),
                                     None if status == 501 else "GET, HEAD, OPTIONS")
                    self.assertEqual("Content-Length" in response.fields, status != 204)

    def test_allow_follows_the_class(self):
        posting = {"do_POST": page_of(b"posted")}
        failing = {"do_GET": lambda handler: handler.send_error(405)}
        for attributes, method, allowed in [
                (posting, b"OPTIONS", "GET, HEAD, OPTIONS, POST"), (posting, b"POST", None),
                ({"do_OPTIONS": page_of(b"", ("Allow", "GET"))}, b"OPTIONS", "GET"),
                (posting, b"PUT", "GET, HEAD, OPTIONS, POST"), (failing, b"GET", "GET, HEAD, OPTIONS")]:
            with self.subTest(method), running_server(type("Own", (QuietHandler,), attributes)) as server:
                self.assertEqual(exchange(server, method + LAST[3:])[0].fields.get("Allow"), allowed)

    def test_refusal_is_a_complete_response(self):
        with running_server() as server:
            response, = exchange(server, b"GET / HTTP/1.1\r\n\r\n" + GET)
        self.assertEqual(response.status, 400)
        self.assertRegex(response.body, rb"\A400 [^\n]*Host[^\n]*\(RFC 9112 section 3\.2\)\n\Z")
        self.assertLessEqual({"Date", "Content-Length", "Content-Security-Policy"}, set(response.fields))
        expected = {**self.SAFE, "Connection": "close", "Content-Type": "text/plain; charset=utf-8"}
        self.assertEqual({name: response.fields.get(name) for name in expected}, expected)


class SubclassTest(unittest.TestCase):
    """All that BaseHTTPRequestHandler documents works as documented."""

    BREW = b"BREW" + LAST[3:]
    ANSWERS = [  # label, requests, attributes of the class besides its page, pattern of all that is sent
        ("message format", BREW, {"error_message_format": "%(code)d! %(explain)s"}, rb".*\r\n\r\n501! \w.*"),
        ("error type", BREW, {"error_content_type": "text/x"}, rb".*\r\nContent-Type: text/x\r\n.*"),
        ("server", LAST, {"server_version": "mine/1"}, rb".*\r\nServer: mine/1\r\n.*"),
        ("system", LAST, {"sys_version": "mine"}, rb".*\r\nServer: clock_server mine\r\n.*"),
        ("version", LAST, {"version_string": lambda _: "mine/2"}, rb".*\r\nServer: mine/2\r\n.*"),
        ("date", LAST, {"date_time_string": lambda *_: "today"}, rb".*\r\nDate: today\r\n.*"),
        ("responses", LAST, {"responses": {200: ("Yes", "")}}, rb"HTTP/1\.1 200 Yes\r\n.*"),
        ("first line", LAST, {"send_response_only": lambda handler, code, message=None: super(
            type(handler), handler).send_response_only(code, "Fine")}, rb"HTTP/1\.1 200 Fine\r\n.*"),
        ("HTTP/1.0", GET * 2, {"protocol_version": "HTTP/1.0"},
         rb"HTTP/1\.0 200 OK\r\n((?!page).)*\r\nConnection: close\r\n\r\npage"),
        ("common fields", LAST, {"common_fields": {"X-Mine": "1"}}, rb".*\r\nX-Mine: 1\r\n.*"),
        ("close by a field", GET * 2, {"do_GET": page_of(b"page", ("connection", "Close"))},
         rb"((?!page).)*\r\nconnection: Close\r\n((?!page|Connection).)*\r\n\r\npage"),
        ("close by the attribute", GET * 2, {"do_GET": lambda handler: (
            setattr(handler, "close_connection", True), page_of(b"page")(handler))},
         rb"((?!page).)*\r\nConnection: close\r\n((?!page).)*page"),
        ("no keep-alive after a body", post_of(GET),
         {"do_POST": page_of(b"page", ("Connection", "keep-alive"))}, rb"((?!page).)*page"),
        ("keep-alive without one", post_of(b"") + LAST,
         {"do_POST": page_of(b"page", ("Connection", "keep-alive"))}, rb"((?!page).)*page((?!page).)*page"),
        ("204 needs no length", GET * 2, {"do_GET": page_of(b"", status=204, length=False)},
         rb"(HTTP/1\.1 204 ((?!HTTP/|\r\n\r\n|Connection).)*\r\n\r\n){2}"),
        ("304 needs no length", GET * 2, {"do_GET": page_of(b"", status=304, length=False)},
         rb"(HTTP/1\.1 304 ((?!HTTP/|\r\n\r\n|Connection).)*\r\n\r\n){2}"),
        ("two fields", LAST, {"do_GET": page_of(b"", ("Set-Cookie", "a"), ("Set-Cookie", "b"))},
         rb".*\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n.*"),]

    def serving(self, errors=(), **attributes):
        attributes.setdefault("do_GET", page_of(b"page"))
        return running_server(type("Handler", (QuietHandler,), attributes), errors)

    def answer(self, data=LAST, errors=(), **attributes):
        with self.serving(errors, **attributes) as server, connect(server) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)

    def test_documented_attributes_and_fields(self):
        for label, data, attributes, pattern in self.ANSWERS:
            with self.subTest(label):
                received = self.answer(data, **attributes)
                self.assertTrue(re.fullmatch(pattern, received, re.S), received)

    def test_what_is_written_is_sent_at_once(self):
        """wfile is that of the library: nothing is kept back, whoever writes."""
        def begin(handler, length):
            page_of(b"", ("Content-Length", length), length=False)(handler)

        def write(handler):
            begin(handler, 3)
            for piece in b"1", b"2", b"3":
                assert handler.wfile.write(piece) == 1
                assert read.acquire(timeout=GIVE_UP)

        def run_child(handler):
            begin(handler, 5)
            subprocess.run([sys.executable, "-c", "print('child', end='')"], stdout=handler.wfile, check=True)
            handler.wfile.write(b"!")

        def use_connection(handler):
            begin(handler, 5)
            handler.connection.sendall(b"12345")

        def send_hints(handler):
            handler.send_response_only(103)
            handler.send_header("Link", "</style.css>")
            handler.end_headers()
            assert read.acquire(timeout=GIVE_UP)
            page_of(b"page")(handler)

        def switch(handler):
            handler.send_response_only(101)
            handler.end_headers()
            handler.wfile.write(handler.rfile.readline().upper())
        for way, data, pieces in [
                (write, LAST, [b"\r\n\r\n1", b"2", b"3"]), (run_child, LAST, [b"child!"]),
                (use_connection, LAST, [b"\r\n\r\n12345"]),
                (send_hints, LAST, [b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n", b"page"]),
                (switch, LAST + b"raw\n", [b"HTTP/1.1 101 Switching Protocols\r\n\r\nRAW\n"])]:
            if way is run_child and os.name != "posix":
                continue  # there, sockets are no files for a child
            responses = {**ClockHandler.responses, 103: ("Early Hints", "")}  # Python 3.8 does not know it
            with self.subTest(way.__name__), self.serving(do_GET=way, responses=responses) as server, \
                    connect(server) as connection:
                read = threading.Semaphore(0)
                connection.sendall(data)
                received = b""
                for end in pieces:
                    while not received.endswith(end):
                        piece = connection.recv(65536)
                        self.assertTrue(piece, received)
                        received += piece
                    read.release()

    def test_100_continue_goes_to_a_method_that_reads(self):
        def head(method, *fields):
            return request_of(method + b" / HTTP/1.1", b"Content-Length: 4", b"Expect: 100-Continue", *fields)

        def refuse(handler):
            handler.send_error(417)
            return False
        with self.serving(do_POST=echo) as server:
            with connect(server) as connection:
                connection.sendall(head(b"POST"))
                self.assertEqual(connection.recv(65536), b"HTTP/1.1 100 Continue\r\n\r\n")
                connection.sendall(b"body")
                self.assertEqual(parse_responses(read_to_end(connection))[0].body, b"body")
            for request, status in (head(b"PUT"), 405), (head(b"BREW"), 501), (head(b"POST", b"x"), 400):
                with self.subTest(status):
                    self.assertEqual(statuses(exchange(server, request)), [status])
        received = self.answer(head(b"POST"), do_POST=echo, handle_expect_100=refuse)
        self.assertEqual(statuses(parse_responses(received)), [417])
        received = self.answer(head(b"POST") + b"body", do_POST=echo, protocol_version="HTTP/1.0", rbufsize=0)
        self.assertRegex(received, rb"(?s)\AHTTP/1\.0 200 .*\r\n\r\nbody\Z")

    def test_head_is_that_of_every_page(self):
        def pieces(handler):
            page_of(b"", ("Content-Length", 4), length=False)(handler)
            for piece in b"1,", b"2\n":
                assert handler.wfile.write(piece) == 2
                handler.wfile.flush()

        def text(handler):
            page_of(b"", ("Content-Length", 4), length=False)(handler)
            stream = io.TextIOWrapper(handler.wfile, encoding="utf-8", newline="", write_through=True)
            csv.writer(stream, lineterminator="\n").writerow([1, 2])
            stream.detach()

        def hints(handler):
            handler.send_response_only(103, "Early Hints")
            handler.end_headers()
            page_of(b"page")(handler)

        def stream(handler):
            page_of(b"", ("Connection", "close"), length=False)(handler)
            while handler.command == "HEAD":
                handler.connection.sendall(b"without end")
        for page in hints, stream:
            with self.subTest(page.__name__):
                received = self.answer(b"HEAD" + LAST[3:], do_GET=page)
                self.assertRegex(received, rb"(?s)\A(HTTP/1.1 103 [^\r]*\r\n\r\n)?HTTP/1.1 200 .*\r\n\r\n\Z")
        for page in pieces, text, page_of(b"\r\n\r\n"):
            with self.subTest(page.__name__):
                received = self.answer(b"HEAD" + GET[3:] + GET + LAST, do_GET=page)
                head, get, again = parse_responses(received, ["HEAD"])
                self.assertEqual((head.body, get.body), (b"", again.body))
                self.assertEqual({**head.fields, "Date": ""}, {**get.fields, "Date": ""})
        head = self.answer(b"HEAD" + GET[3:] + LAST, do_GET=page_of(b"page", length=False))
        self.assertRegex(head, rb"(?s)\A((?!\r\n\r\n).)*\r\nConnection: close((?!\r\n\r\n).)*\r\n\r\n\Z")

    def test_fields_of_a_method_replace_the_common_ones(self):
        for name in (*ClockHandler.common_fields, *map(str.lower, ClockHandler.common_fields)):
            with self.subTest(name):
                received = self.answer(do_GET=page_of(b"page", (name, "mine")))
                self.assertEqual(re.findall(rb"(?i)\r\n%s: ([^\r]*)" % name.encode(), received), [b"mine"])

    def test_line_break_in_a_field_is_an_error(self):
        for bad in "\r", "\n", "\r\nX-Evil: 1\r\n\r\n":
            for field in ("X", "a%sb" % bad), ("X%sY" % bad, "a"):
                with self.subTest(field):
                    received = self.answer(GET * 2, [ValueError], do_GET=page_of(b"page", field))
                    self.assertNotRegex(received, rb"Evil|page|[\r\n][bY]")

    def test_send_error_with_any_message_is_one_response(self):
        for message in "\u20ac", "\xe9", "a\r\nX-Evil: 1\r\n\r\nb", "a\nb", "\0", "a reason":
            with self.subTest(message):
                received = self.answer(GET * 2, do_GET=lambda handler: handler.send_error(404, message))
                head, _, body = received.partition(b"\r\n\r\n")
                self.assertRegex(head, rb"\AHTTP/1\.1 404 [^\r\n\0]+\r\n")
                self.assertNotRegex(head, rb"(?i)\nx-evil|[^\r]\n|\r[^\n]")
                self.assertIn(b"\r\nContent-Length: %d\r\n" % len(body), head + b"\r\n")
                self.assertEqual(body, b"404 %s\n" % message.encode())

    def test_response_without_a_length_closes_at_once(self):
        for status, body in (302, b""), (200, b"page"):
            page = page_of(body, ("Location", "/x"), status=status, length=False)
            with self.subTest(status), self.serving(do_GET=page) as server, connect(server) as connection:
                connection.sendall(GET)
                head, _, received = read_without_reset(connection).partition(b"\r\n\r\n")
                self.assertEqual(received, body)
                self.assertIn(b"\r\nConnection: close", head)

    def test_body_can_be_read_by_its_length(self):
        with self.serving(do_POST=echo) as server:
            for body in b"", b"0123456789", GET, b"body." * 40000:
                post = post_of(body)
                for first in 10, post.index(b"\r\n\r\n") + 4, len(post) - 1, len(post):
                    with self.subTest(length=len(body), first=first):
                        responses = exchange(server, post[:first], post[first:] + LAST)
                        self.assertEqual(responses[0].body, body)
                        self.assertEqual(len(responses), 1 if body else 2)

    def test_body_that_is_not_read_is_never_answered(self):
        for size in 1, 8192, 65535, 65536, 65537, 200000:
            for body in b"x" * size, (GET * 3000)[:size]:
                with self.subTest(size, body=body[:3]):
                    post = request_of(b"POST / HTTP/1.1", b"Content-Length: %d" % size, body=body)
                    page = page_of(b"page", ("Connection", "keep-alive"))
                    received = self.answer(post + GET, do_POST=page)
                    self.assertEqual(received.count(b"HTTP/1.1 "), 1)

    def test_attributes_are_those_of_the_request_or_empty(self):
        """A log that blames the address in X-Forwarded-For must not blame the visitor before."""
        def log_message(handler, format, *args):
            seen.append((handler.command, handler.path, handler.headers.get("X-Name")))
        first = request_of(b"PUT /first HTTP/1.1", b"X-Name: first")
        for label, data in [("400", b"GET / HTTP/1.1\r\nX\r\n\r\n"), ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
                            ("414", b"G" * 70000), ("431", b"GET / HTTP/1.1\r\nX-Other: " + b"y" * 70000),
                            ("501", request_of(b"BREW /second HTTP/1.1")),
                            ("505", request_of(b"GET / HTTP/2.0"))]:
            seen = []
            with self.subTest(label):
                self.answer(first + data, do_PUT=page_of(b"page"), log_message=log_message)
                self.assertEqual(seen[0], ("PUT", "/first", "first"))
                self.assertGreater(len(seen), 1)
                for command, path, name in seen[1:]:
                    self.assertIn(command, ("", data.split()[0].decode()))
                    self.assertIn(path, ("", "/second"))
                    self.assertIsNone(name)

    def test_client_that_goes_away_is_no_error(self):
        """On old Pythons some of these are no ConnectionError, and no TimeoutError either."""
        for name in "HOSTUNREACH", "HOSTDOWN", "NETUNREACH", "NETDOWN", "TIMEDOUT", "CONNRESET", "PIPE":
            with self.subTest(name):
                leaving = mock.Mock(side_effect=OSError(getattr(errno, "E" + name), name))
                self.assertEqual(self.answer(do_GET=leaving), b"")
        begun = threading.Event()
        with self.serving(do_POST=lambda handler: (begun.set(), echo(handler))) as server:
            with connect(server) as connection:
                connection.sendall(post_of(b"x" * 100)[:-50])
                self.assertTrue(begun.wait(GIVE_UP))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def test_bug_in_a_method_is_reported_and_closes(self):
        own_error = KeyError("own")
        own_error.errno = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # nobody listens there
            for label, error, bug in [
                    ("a str as the page", TypeError, lambda handler: handler.wfile.write("page")),
                    ("no such file", FileNotFoundError, lambda handler: open("/nowhere/x")),
                    ("a server that refuses", ConnectionRefusedError,
                     lambda handler: socket.create_connection(probe.getsockname(), GIVE_UP)),
                    ("a full disk", OSError, mock.Mock(side_effect=OSError(errno.ENOSPC, "full"))),
                    ("an errno of another kind", OSError, mock.Mock(side_effect=OSError([], "odd"))),
                    ("an errno of its own", KeyError, mock.Mock(side_effect=own_error)),
                    ("a pipe", BrokenPipeError, mock.Mock(side_effect=OSError(errno.EPIPE, "", "/pipe")))]:
                with self.subTest(label), self.serving([error], do_GET=bug) as server, \
                        connect(server) as connection:
                    connection.sendall(GET * 2)
                    self.assertEqual(read_to_end(connection), b"")

    def test_files_can_be_served(self):
        class Files(http.server.SimpleHTTPRequestHandler, QuietHandler):
            """Serves files in the manner of this module."""
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, "sub"))
            with open(os.path.join(folder, "page.txt"), "wb") as file:
                file.write(b"text" * 100000)
            for handler in Files, StockHandler:
                with running_server(functools.partial(handler, directory=folder)) as server:
                    for path, status, body in [("/page.txt", 200, b"text" * 100000), ("/none", 404, b""),
                                               ("/", 200, b"<!DOCTYPE"), ("/sub", 301, b"")]:
                        with self.subTest(handler=handler.__name__, path=path):
                            response = visit(server.server_port, path=path)
                            self.assertEqual(response.status, status)
                            self.assertTrue(response.body.startswith(body))
                            self.assertEqual("X-Content-Type-Options" in response.fields, handler is Files)
                    head, = exchange(server, b"HEAD /page.txt" + LAST[9:], methods=["HEAD"])
                    self.assertEqual(head.fields["Content-Length"], "400000")

    def test_send_header_takes_what_new_pythons_add(self):
        def send_header(handler, keyword, value, *more, **options):
            stock(handler, keyword, " ".join(map(str, (value, *more, *options.items()))))
        stock = http.server.BaseHTTPRequestHandler.send_header
        with mock.patch("http.server.BaseHTTPRequestHandler.send_header", send_header):
            received = self.answer(do_GET=page_of(b"", ("X", 1, 2)))
            self.assertIn(b"\r\nX: 1 2\r\n", received)

    def test_fields_of_each_request(self):
        """A field that end_headers adds is new in each response, and headers are those of the request."""
        def end_headers(handler):
            handler.send_header("X-Headers", repr(handler.headers.items()))
            super(type(handler), handler).end_headers()
        with running_server(type("Own", (QuietHandler,), {"end_headers": end_headers})) as server:
            responses = exchange(server, GET + GET, get_with(b"X: 1", b"x: 2") + self.BREW)
        self.assertEqual([response.fields["X-Headers"] for response in responses], [
            "[('Host', 'x')]", "[('Host', 'x')]", "[('Host', 'x'), ('X', '1'), ('x', '2')]",
            "[('Host', 'x'), ('Connection', 'close')]"])

    def test_path_cannot_become_another_host(self):
        """A redirection to path + "/" must lead to this server: python/cpython#87389."""
        for target, path in [(b"//host/x", b"/host/x"), (b"///x", b"/x"), (b"/a//b", b"/a//b")]:
            with self.subTest(target):
                received = self.answer(LAST.replace(b"/last", target),
                                       do_GET=lambda handler: page_of(handler.path.encode())(handler))
                self.assertEqual(parse_responses(received)[0].body, path)


# --- The log -------------------------------------------------------------------------------------

class LogTest(unittest.TestCase):

    def test_log_has_a_line_for_each_request(self):
        rows = [  # label, request, what is logged after the date
            ("page", GET, '"GET / HTTP/1.1" 200 -'),
            ("empty line first", b"\r\n" + GET, '"GET / HTTP/1.1" 200 -'),
            ("refusal", b"GET / HTTP/1.1\r\n\r\n", '"GET / HTTP/1.1" 400 -'),
            ("escape", b"GET /\x1b[2J HTTP/1.1\r\n\r\n", r'"GET /\x1b[2J HTTP/1.1" 400 -'),
            ("backslash", rb"GET /\x1b HTTP/1.1" + GET[14:], r'"GET /\\x1b HTTP/1.1" 200 -'),
            ("line end", b"GET / HTTP/1.1\nFORGED\n", r'"GET / HTTP/1.1" 400 -'),
            ("bare CR", b"GET /\rFORGED HTTP/1.1\r\n\r\n", r'"GET /\rFORGED HTTP/1.1" 400 -'),
            ("DEL and C1", b"GET /\x7f\x9b HTTP/1.1\r\n\r\n", r'"GET /\x7f\x9b HTTP/1.1" 400 -'),
            ("quote", b'GET /"_200_" HTTP/1.1' + GET[14:], '"GET /%22_200_%22 HTTP/1.1" 200 -'),
            ("quote in the method", b'GET"200" / HTTP/1.1' + GET[14:], '"GET%22200%22 / HTTP/1.1" 400 -'),
            ("apostrophe", b"GET /it's HTTP/1.1" + GET[14:], r'"GET /it\'s HTTP/1.1" 200 -'),
            ("percent", b"GET /%s%d HTTP/1.1" + GET[14:], '"GET /%s%d HTTP/1.1" 200 -'),
            ("long", GET[:5] + b"a" * 5000 + GET[5:], '"GET /' + "a" * 194 + '..." 200 -'),
            ("garbage", b"\x16\x03\x01" * 3000 + b"\n", ('"' + r"\x16\x03\x01" * 17)[:200] + '..." 400 -'),]
        with running_server(ClockHandler) as server:
            for label, data, logged in rows:
                with self.subTest(label), mock.patch("sys.stderr", io.StringIO()) as stderr:
                    exchange(server, data)
                    lines = stderr.getvalue().splitlines()
                    for line in lines:
                        self.assertRegex(line, r"\A127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} [\d:]{8}\] [ -~]*\Z")
                        self.assertLessEqual(len(line), 300)
                    requests = [line.partition("] ")[2] for line in lines if '"' in line]
                    self.assertEqual(requests, [logged])

    def test_broken_log_stops_nobody(self):
        class Broken(ClockHandler):
            do_GET = None  # calling it is a bug
        with open(os.devnull, "w") as closed:
            pass
        odd = [mock.Mock(write=mock.Mock(side_effect=error), fileno=mock.Mock(side_effect=error))
               for error in (OSError, RuntimeError, KeyError)]
        for label, stderr in [("none", None), ("closed", closed), *enumerate(odd)]:
            for handler, status in (ClockHandler, [200]), (Broken, []):
                with self.subTest(label, status=status), mock.patch("sys.stderr", stderr), \
                        mock.patch("sys.stdout") as stdout, \
                        running_server(handler, server_class=ClockServer) as server:
                    for _ in range(3):
                        self.assertEqual(statuses(exchange(server, GET)), status)
                stdout.write.assert_not_called()


# --- The grammar ---------------------------------------------------------------------------------

LONG = b"a" * 7980
CHUNKS = b"1b\r\n" + GET + b"\r\n0\r\n\r\n"
ACCEPTED = [  # section of the RFC, label, request, status, whether the connection persists
    ("9112 2.2", "an empty line first", b"\r\n" + GET, 200, True), ("9112 3", "plain", GET, 200, True),
    ("9112 3", "8,000 bytes", request_of(b"GET /" + LONG + b"abcdef HTTP/1.1"), 200, True),
    ("9112 3.2.4", "asterisk", request_of(b"OPTIONS * HTTP/1.1"), 204, True),
    ("9110 5.4", "100 fields", get_with(*[b"X: y"] * 99), 200, True),
    ("9110 5.4", "64 KiB", get_with(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1624), 200, True),
    ("9112 6.2", "body by length", get_with(b"Content-Length: 27", body=GET), 200, False),
    ("9112 6.1", "body in chunks", get_with(b"Transfer-Encoding: chunked", body=CHUNKS), 200, False),
    ("9112 7", "in capitals", get_with(b"Transfer-Encoding: , CHUNKED,,", body=CHUNKS), 200, False),
    ("9112 9.3", "HTTP/1.0", request_of(b"GET / HTTP/1.0", host=b""), 200, False),
    ("9112 9.3", "HTTP/1.0 with Host", request_of(b"GET / HTTP/1.0"), 200, False),
    ("9112 9.3", "HTTP/1.0 keep-alive", request_of(b"GET / HTTP/1.0", b"Connection: Keep-Alive"), 200, True),
    ("9112 9.3", "both", request_of(b"GET / HTTP/1.0", b"Connection: keep-alive, close"), 200, False),
    ("9110 10.1.1", "HTTP/1.0", request_of(b"GET / HTTP/1.0", b"Expect: 100-continue"), 200, False),]
ACCEPTED += [("9112 9.6", repr(lines), get_with(lines), 200, False) for lines in [
    b"Connection: close", b"Connection: x ,\tCLOSE,", b"Connection: x\r\nconnection: close"]]
ACCEPTED += [("9112 3", repr(line), request_of(b"GET " + line), 200, True) for line in [
    b"//..?%zz HTTP/1.1", b'/!"$%&\'()*+,-./:;<=>?@[\\]^_`{|}~ HTTP/1.1', b"http://x/y HTTP/1.1",
    b"HTTP://x HTTP/1.1", b"http://[::1]:80?y HTTP/1.1", b"http://y/ HTTP/1.1", b"/ HTTP/1.2", b"/ HTTP/1.9"]]
ACCEPTED += [("9110 5", repr(lines[:40]), get_with(lines), 200, True) for lines in [
    b"!#$%&'*+-.^_`|~09AZaz: y", b"X:", b"X: a\tb", b"X:" + bytes(range(128, 256)), b"X: " + LONG,
    b"Connection: x" + b",x" * 1000, b"Connection: closer, not-close,,", b"X-Connection: close",
    b"Content-Length: 0", b"Content-Length: 000", b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Accept: x/y", b"Range: bytes=0-9", b"Expect: 200-ok, 100,\r\nExpect: 100-continued", b"X: *"]]
ACCEPTED += [("9110 7.2", repr(line), get_with(host=line), 200, True) for line in [
    b"hOST: x", b"Host:x", b"Host: \t x\t ", *(b"Host: " + host for host in [
        b"localhost:8880", b"127.0.0.1", b"[::1]", b"[::1]:80", b"[::ffff:1.2.3.4]", b"a-b_c.example.",
        b"x:", b"%7Ex", b"xn--bcher-kva.example", b"[1:2:3:4:5:6:7::]", b"[::2:3:4:5:6:7:8]:8880"])]]

REJECTED = [  # section of the RFC, label, request, status
    ("9112 2.2", "two empty lines first", b"\r\n\r\n" + GET, 400),
    ("9112 2.2", "bare LF first", b"\n" + GET, 400),
    ("9112 2.2", "space before the first field", get_with(host=b" Host: x"), 400),
    ("9112 3", "too long", request_of(b"GET /" + LONG * 9 + b" HTTP/1.1"), 414),
    ("9112 3", "too long, and without an end", b"G" * 70000, 414),
    ("9112 3", "an empty line first, and too long", b"\r\nG" + b"G" * 70000, 414),
    ("9110 15.6.6", "HTTP/0.9", request_of(b"GET / HTTP/0.9"), 505),
    ("9110 15.6.6", "HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("9110 15.6.6", "HTTP/3.1", request_of(b"GET / HTTP/3.1"), 505),
    ("9110 5.4", "long line", get_with(b"X: " + LONG * 9), 431),
    ("9110 5.4", "long line without an end", b"GET / HTTP/1.1\r\n" + b"X" * 70000, 431),
    ("9110 5.4", "101 fields", get_with(*[b"X: y"] * 100), 431),
    ("9110 5.4", "many short fields", get_with(*[b"X: y"] * 20000), 431),
    ("9110 5.4", "64 KiB and a byte", get_with(*[b"X: " + LONG] * 8, b"X: " + b"y" * 1625), 431),
    ("9112 3.2", "no Host", get_with(host=b""), 400),
    ("9112 3.2", "two Hosts in HTTP/1.0", request_of(b"GET / HTTP/1.0", b"Host: x"), 400),
    ("9112 3.2", "bad Host in HTTP/1.0", request_of(b"GET / HTTP/1.0", host=b"Host: x/y"), 400),
    ("9112 6.1", "HTTP/1.0", request_of(b"GET / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    ("9112 6.3", "framing before the method", request_of(b"BREW / HTTP/1.1", b"Content-Length: x"), 400),]
REJECTED += [("9112 2.2", "start %r" % start, start, 400) for start in [
    b"\n", b"\r\n\r\n", b"GET /\r\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nX\r\n", b"SSH-2.0-x\r\n",
    b"GET / HTTP/1.1\r\n\n", b"GET / HTTP/1.1\r\nHost: x\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: y\r\nX: y\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\0\x0a\0\x0a"]]
REJECTED += [("9112 2.2", "bare %r" % lines, b"GET / HTTP/1." + lines + b"\r\n", 400) for lines in [
    b"1\nHost: x\r\n", b"1\nHost: x\n\n", b"1\r\nHost: x\nX: y\r\n", b"1\r\nHost: x\r\nX: y\nX: y\r\n",
    b"1\r\nHost: x\r\nX: y\r\nX: y\nX: y\r\n", b"0\r\nX: y\n", b"1\r\nHost: x\r\n\n", b"1\rHost: x\r\n"]]
REJECTED += [("9112 3", repr(line), request_of(line + b" HTTP/1.1"), 400) for line in [
    b"GET ", b"GET\t/", b" GET /", b"GET  /", b"GET / x", b"GET", b"/", b"", b"G(T /", b"GET x", b"GET /#x",
    b"GET /\0", b"GET /\x7f", b"GET /\xe9", b"GET http:///x", b"GET http://u@x/", b"GET https://x/",
    b"GET x:80", b"GET *", b"CONNECT /", b"CONNECT u@x:80", b"CONNECT x", b"CONNECT x1", b"CONNECT x1:",
    b"CONNECT 80", b"CONNECT x:1:2", b"CONNECT [::1]", b"CONNECT *", b"OPTIONS x", b"PRI *", b"GET http:/x"]]
REJECTED += [("9112 2.3", repr(end), request_of(b"GET /" + end), 400) for end in [
    b"", b" HTTP/1", b" HTTP/1.10", b" HTTP/01.1", b" http/1.1", b" HTTP/1.\xb9", b" HTTP/1.1 ",
    b" HTTP/1.1\r"]]
REJECTED += [("9112 5", repr(lines), get_with(lines), 400) for lines in [
    b"  ", b"X", b": y", b"X[: y", b"X\xe9: y", b"X : y", b"X: y\r\n z", b"Host: x",
    b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Content-Length: 0\r\nTransfer-Encoding:", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\r\nTransfer-Encoding: x"]]
REJECTED += [("9110 5.5", "byte %d" % byte, get_with(b"X: a" + bytes([byte]) + b"b"), 400)
             for byte in [*range(9), *range(11, 32), 127]]
REJECTED += [("9110 7.2", "Host %r" % host, get_with(host=b"Host: " + host), 400) for host in [
    b"", b"x y", b"x,y", b"x/", b"u@x", b"x:y", b"x:1:2", b"::1", b"[::1", b"[]", b"[x]", b"::1]", b"[::1%lo]",
    b"[::1]x", b"[::1]:x", b"[::1]80", b"[[::1]]", b"x[::1]", b"x?", b"x#", b"http://x",
    b"x\\y", b"\xe9", b":80"]]
REJECTED += [("9110 8.6", "length %r" % length, get_with(b"Content-Length: " + length), 400) for length in [
    b"", b"+5", b"-1", b"5,5", b"5, 5", b"5 5", b"1_0", b"0x5", b"5.0", b"five", b"\xb2", b"9" * 19,
    b"9" * 5000]]
REJECTED += [("9112 6", repr(coding), get_with(b"Transfer-Encoding: " + coding), 400) for coding in [
    b"", b"\x0bchunked", b"chunked, gzip", b"chunked, chunked", b"gzip, identity", b", ,", b"x,x", b"gzip",
    b"identity", b"xchunked", b"chunked;q=1", b'"chunked"', b"chunked, gzip, chunked"]]
REJECTED += [("9112 6.1", repr(coding), get_with(b"Transfer-Encoding: " + coding), 501) for coding in [
    b"gzip, chunked", b"chunked;q=1, chunked", b"gzip, br ,CHUNKED,"]]


class Cut(QuietHandler):
    """Receives what the client sends in pieces of these sizes, and then all that is there."""

    sizes = []

    def setup(self):
        super().setup()
        stream, sizes = self.rfile.raw, list(self.sizes)
        readinto = stream.readinto
        stream.readinto = lambda buffer: readinto(memoryview(buffer)[:sizes.pop(0)] if sizes else buffer)


class GrammarTest(unittest.TestCase):

    def exchange_cut(self, server, data):
        ways = [("whole", []), ("in two", [len(data) // 2])]
        ways.append(("byte by byte", [1] * len(data)) if len(data) < 200 else ("in pieces", [999] * 100))
        for way, Cut.sizes in ways:
            yield way, exchange(server, data)

    def test_accepted(self):
        with running_server(Cut) as server:
            for section, label, data, status, persists in ACCEPTED:
                for way, responses in self.exchange_cut(server, data + LAST):
                    with self.subTest(label, section=section, way=way):
                        self.assertEqual(statuses(responses), [status, 200] if persists else [status])
                        connection = responses[0].fields.get("Connection")
                        self.assertEqual(connection == "close", not persists)
                        self.assertEqual(connection == "keep-alive", persists and b"HTTP/1.0" in data)

    def test_rejected(self):
        with running_server(Cut) as server:
            for section, label, data, status in REJECTED:
                for before in b"", GET:
                    for way, responses in self.exchange_cut(server, before + data + GET):
                        with self.subTest(label, section=section, before=before, way=way):
                            self.assertEqual(statuses(responses), [200, status] if before else [status])
                            self.assertEqual(responses[-1].fields["Connection"], "close")

    def test_rejected_at_once(self):
        """No further byte could make these requests valid: they are refused although the client waits."""
        with running_server() as server:
            for section, label, data, status in REJECTED:
                with self.subTest(label, section=section), connect(server) as connection:
                    connection.sendall(data)
                    response, = parse_responses(read_to_end(connection))
                    self.assertEqual(response.status, status)

    def test_incomplete_request_gets_no_response_and_no_line(self):
        lines = []
        handler = type("Logging", (ClockHandler,), {"log_message": lambda *args: lines.append(args)})
        with running_server(handler) as server:
            for data in GET, post_of(b"body")[:-4], b"\r\n" + LAST:
                for end in range(len(data)):
                    with self.subTest(data[:end]):
                        self.assertEqual(exchange(server, data[:end]), [])
                        self.assertEqual(lines, [])

    def test_every_rule_is_linear(self):
        """The worst line for each place. A rule that is not linear would take 10 s for it, or more."""
        line = b"GET / HTTP/1.1\r\nHost: x\r\n"
        places = [b"%s / HTTP/1.1\r\n", b"GET %s HTTP/1.1\r\n", b"GET /%s HTTP/1.1\r\n", b"GET / %s\r\n",
                  b"GET http://%s HTTP/1.1\r\n", b"CONNECT %s:1 HTTP/1.1\r\n",
                  b"GET / HTTP/1.1\r\nHost: %s\r\n", line + b"%s: y\r\n"]
        places += [line + name + value for value in (b": %s\r\n", b": x%s\r\n") for name in (
            b"X", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect")]
        for fill in [b" ", b" \t", b",", b", ", b"a", b"a,", b":", b"%", b"%41", b".", b"/", b"[", b"[:",
                     b":0", b"0", b"\xff", b"\r", b"\n", b"\r\n", b"\r\na:"]:
            for place in places:
                for end in b"", b"x", b"\0":
                    head = place.replace(b"%s", (fill * 60000)[:60000] + end) + b"\r\n"
                    started = time.thread_time()  # counts only the work of this thread
                    with contextlib.suppress(clock_server.Refused):
                        clock_server.parse_head(iter(head.splitlines(True)))
                    self.assertLess(time.thread_time() - started, 1, (fill, place, end))

    def test_body_is_never_taken_for_a_request(self):
        with running_server() as server:
            for field, body in (b"Content-Length: 27", GET), (b"Transfer-Encoding: chunked", CHUNKS):
                for method in "GET", "HEAD", "OPTIONS", "POST", "BREW":
                    for more in b"Connection: keep-alive", b"Expect: 100-continue":
                        data = request_of(method.encode() + b" / HTTP/1.1", field, more, body=body)
                        with self.subTest(data), connect(server) as connection:
                            connection.sendall(data + GET)
                            connection.shutdown(socket.SHUT_WR)
                            received = read_to_end(connection).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
                            self.assertEqual(len(parse_responses(received, [method])), 1)

    def test_pipelined_requests_are_answered_in_order(self):
        handler = type("Echo", (QuietHandler,), {"version_string": lambda self: self.path})
        targets = ["/%d" % number for number in range(1000)]
        data = "".join("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target for target in targets).encode()
        with running_server(handler) as server:
            responses = exchange(server, data)
        self.assertEqual([response.fields["Server"] for response in responses], targets)

    def test_example_of_parse_head_is_true(self):
        result = doctest.testmod(clock_server)
        self.assertTrue(result.attempted and not result.failed, result)


# --- The goodbye ---------------------------------------------------------------------------------

def open_files():
    """Return how many files and sockets this process has open, if the system tells."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


class GoodbyeTest(unittest.TestCase):

    def test_response_arrives_while_the_client_is_sending(self):
        body = b"b" * 10_000_000
        length = b"Content-Length: %d" % len(body)
        closing_post = request_of(b"POST / HTTP/1.1", length, b"Connection: close", body=body)
        for label, handler, data, status in [
                ("POST", QuietHandler, request_of(b"POST / HTTP/1.1", length, body=body), 405),
                ("POST, then the close", QuietHandler, closing_post, 405),
                ("POST to another handler", StockHandler, closing_post, 501),
                ("GET", QuietHandler, request_of(b"GET / HTTP/1.1", length, body=body), 200),
                ("GET, then the close, then more", QuietHandler, LAST + body, 200),
                ("refused", QuietHandler, request_of(b"GET / HTTP/9.9", body=body), 505),
                ("long line", QuietHandler, b"GET /" + body, 414)]:
            with self.subTest(label), running_server(handler, REQUEST_SECONDS=1000) as server:
                with connect(server) as connection:
                    for start in range(0, len(data), 1_000_000):  # all of it, and only then listen
                        connection.sendall(data[start:start + 1_000_000])
                    connection.shutdown(socket.SHUT_WR)
                    received = read_without_reset(connection)
                    self.assertEqual(re.findall(rb"HTTP/1\.1 (\d+)", received), [b"%d" % status])

    def test_vanished_clients_leave_nothing_behind(self):
        ways = {"close": lambda connection: None,
                "reset": lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET),
                "end": lambda connection: [connection.shutdown(socket.SHUT_WR), read_to_end(connection)]}
        for handler in QuietHandler, StockHandler:
            with running_server(handler, REQUEST_SECONDS=1000) as server:
                exchange(server, LAST)
                files = open_files()
                for way in ways:
                    with self.subTest(handler.__name__, way=way):
                        for data in [b"", b"GET", GET, LAST, GET * 50, post_of(b"body")[:-2]] * 4:
                            with connect(server) as connection:
                                connection.sendall(data)
                                ways[way](connection)
                        wait_until(lambda: not server.connections and open_files() <= files)

    def test_network_that_goes_away_is_no_error(self):
        """On old Pythons some of these are no ConnectionError, and no TimeoutError either."""
        for name in "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "ETIMEDOUT", "ECONNRESET", "EPIPE", "ENOSPC":
            for call in "readinto", "write":
                class Unplugged(QuietHandler):
                    def setup(self):
                        super().setup()
                        error = OSError(getattr(errno, name), name)
                        setattr(self.rfile.raw if call == "readinto" else self.wfile, call,
                                mock.Mock(side_effect=error))
                with self.subTest(name, call=call):
                    with running_server(Unplugged, errors=[OSError] * (name == "ENOSPC")) as server:
                        self.assertEqual(exchange(server, GET), [])
                        wait_until(lambda: not server.connections)

    def test_system_exit_ends_only_its_connection(self):
        for handler in QuietHandler, StockHandler:
            leaving = type("Leaving", (handler,), {"do_GET": lambda handler: sys.exit("over")})
            with self.subTest(handler.__name__), running_server(leaving, MAX_THREADS=2) as server:
                self.assertEqual([exchange(server, GET) for _ in range(10)], [[]] * 10)
                with connect(server) as connection:
                    connection.sendall(GET.replace(b"GET", b"BREW"))
                    connection.shutdown(socket.SHUT_WR)
                    self.assertTrue(read_to_end(connection).startswith(b"HTTP/1.1 501 "))


# --- The deadline --------------------------------------------------------------------------------

DEADLINES = [  # label, what the client sends first, and then again and again, whether it reads
    ("nothing", b"", b"", True), ("half a head", GET[:-2], b"", True),
    ("a head in drops", b"GET / HTTP/1.1\r\nX: ", b"y", True),
    ("a head, line by line", b"GET / HTTP/1.1\r\n", b"X: y\r\n", False),
    ("a request, and nothing more", GET, b"", True),
    ("a request, and half of one in drops", GET + b"GET /", b"y", True),
    ("a body in drops", request_of(b"POST / HTTP/1.1", b"Content-Length: 999999"), b"y", False),
    ("a refused request, and never an end", b"BREW / HTTP/1.1\r\n\r\n", b"y", False),
    ("requests, but it never reads", GET * 2000, b"y", False),]
HANG = GET.replace(b"/", b"/hang", 1)


def seconds_until_closed(address, first, again, reads):
    """Return after how many seconds the server closes the connection of such a client."""
    started = time.monotonic()
    with socket.create_connection(address, GIVE_UP) as connection:
        connection.sendall(first)
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < started + GIVE_UP:
                with contextlib.suppress(socket.timeout):
                    connection.sendall(again)
                    if not reads:
                        time.sleep(0.05)
                    elif not connection.recv(65536):
                        break
        return time.monotonic() - started


def hanging():
    """Return a handler that hangs in /hang, the event that lets it go on, and what counts its arrivals."""
    def do_GET(handler):
        if handler.path == "/hang":
            arrived.release()
            go_on.wait(GIVE_UP)
        QuietHandler.do_GET(handler)
    go_on, arrived = threading.Event(), threading.Semaphore(0)
    return type("Hanging", (QuietHandler,), {"do_GET": do_GET}), go_on, arrived


class DeadlineTest(unittest.TestCase):

    def check(self, address, earliest, latest):
        with ThreadPoolExecutor(len(DEADLINES)) as pool:
            results = pool.map(lambda row: seconds_until_closed(address, *row[1:]), DEADLINES)
            for row, seconds in zip(DEADLINES, results):
                with self.subTest(row[0]):
                    self.assertGreater(seconds, earliest)
                    self.assertLess(seconds, latest)

    def test_nine_seconds_whatever_the_client_does(self):
        with Command("-q") as command:
            self.check(("127.0.0.1", command.port), 8.9, GIVE_UP)

    def test_any_handler_on_clock_server_has_a_deadline(self):
        for handler in QuietHandler, StockHandler:
            with self.subTest(handler.__name__), running_server(handler, REQUEST_SECONDS=0.3) as server:
                self.check(server.server_address, 0.2, GIVE_UP)

    def test_connection_may_be_wrapped(self):
        """A program that wraps what get_request returns, for TLS for example, keeps the deadlines."""
        class Wrapping(WatchedServer):
            def get_request(self):
                request, client_address = super().get_request()
                return socket.socket(fileno=request.detach()), client_address
        for handler in QuietHandler, StockHandler:
            with self.subTest(handler.__name__), \
                    running_server(handler, server_class=Wrapping, REQUEST_SECONDS=0.3) as server:
                self.check(server.server_address, 0.2, GIVE_UP)

    def test_complete_request_renews_the_deadline(self):
        def pass_time(seconds):
            nonlocal ahead
            ahead += seconds
            before = rounds.call_count
            wait_until(lambda: rounds.call_count > before + 1)

        ahead, clock = 0, mock.Mock(wraps=time, monotonic=lambda: time.monotonic() + ahead)
        with mock.patch.object(clock_server, "time", clock), \
                running_server(REQUEST_SECONDS=1000) as server, connect(server) as busy, \
                connect(server) as half, mock.patch.object(
                    server, "service_actions", wraps=server.service_actions) as rounds:
            for connection in busy, half:
                ask(connection)
            half.sendall(b"GET / HTTP/1.1\r\nHost:")
            for _ in range(3):
                pass_time(600)
                ask(busy)
            self.assertEqual(half.recv(1), b"")
            pass_time(1000)
            self.assertEqual(busy.recv(1), b"")


# --- The full house ------------------------------------------------------------------------------

PATIENT = {"REQUEST_SECONDS": 1000, "GRACE_SECONDS": 1000}  # no client has waited so long


class CrowdTest(unittest.TestCase):
    """Base of the tests with many clients."""

    def crowd(self, number, port, data=b""):
        connections = [socket.create_connection(("127.0.0.1", port), GIVE_UP) for _ in range(number)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.sendall(data)
        return connections

    def last_of(self, connection):
        with connection:
            return parse_responses(read_to_end(connection))


class FullHouseTest(CrowdTest):

    def test_client_that_waited_longest_makes_room(self):
        for handler in QuietHandler, StockHandler:
            with self.subTest(handler.__name__), \
                    running_server(handler, MAX_CONNECTIONS=3, GRACE_SECONDS=0) as server:
                first, second, third = self.crowd(3, server.server_port)
                wait_until(lambda: len(server.connections) == 3)
                if handler is QuietHandler:  # which tells the server of each request
                    ask(first)
                    first, second = second, first
                visitor, = self.crowd(1, server.server_port)
                self.assertEqual(read_to_end(first), b"")
                for connection in third, second, visitor:
                    connection.sendall(LAST)
                    self.assertTrue(read_to_end(connection).startswith(b"HTTP/1.1 "))

    def test_client_that_has_just_come_is_not_evicted(self):
        with running_server(MAX_CONNECTIONS=2, **PATIENT) as server:
            first, second = self.crowd(2, server.server_port)
            visitor, another = self.crowd(2, server.server_port, LAST)
            for connection in (first, second) * 10:  # also while others wait
                ask(connection)
            first.close()
            self.assertEqual(statuses(self.last_of(visitor) + self.last_of(another)), [200, 200])
            ask(second)
        self.assertEqual(server.most, 2)

    def test_clients_that_pipeline_take_turns(self):
        """They get a response each, and others are not disturbed; in both ways to see what has come."""
        for handler in QuietHandler, clock_server.FairHandler:
            own = type("Own", (handler,), {"log_message": QuietHandler.log_message})
            with self.subTest(handler.__name__), running_server(own, TURN_CONNECTIONS=2, **PATIENT) as server:
                polite = self.crowd(2, server.server_port)
                for connection in polite * 3:
                    self.assertNotIn("Connection", ask(connection).fields)
                self.assertEqual(len(exchange(server, GET * 500)), 1)
                for size in (1, 100, 1000) if handler is QuietHandler else (1000,):
                    response, = exchange(server, GET * size + LAST)
                    self.assertEqual(response.fields["Connection"], "close")
                for connection in polite * 3:
                    self.assertNotIn("Connection", ask(connection).fields)
                polite.pop().close()
                wait_until(lambda: len(server.connections) == 1)
                self.assertEqual(len(exchange(server, GET * 500)), 500)

    def test_burst_larger_than_the_server(self):
        for grace in 1000, 0:
            with self.subTest(grace), running_server(MAX_CONNECTIONS=4, GRACE_SECONDS=grace) as server:
                for connection in self.crowd(100, server.server_port, LAST):
                    with connection:
                        received = read_to_end(connection)
                    self.assertTrue(grace == 0 or received.endswith(b"</html>\n"), received)
                self.assertEqual(statuses(exchange(server, LAST)), [200])

    @unittest.skipUnless(os.name == "posix", "Windows keeps what it likes")
    def test_slow_readers_keep_nobody_waiting_and_take_little(self):
        with running_server(REQUEST_SECONDS=1000, TURN_CONNECTIONS=1000) as server:
            self.crowd(200, server.server_port, GET * 200)
            self.assertEqual(statuses(exchange(server, GET * 5)), [200] * 5)
            self.assertGreaterEqual(len(server.connections), 200)
            for connection in list(server.connections.copy())[:200]:  # the last one may be closed by now
                self.assertLess(connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 100_000)
                self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                timeout = getattr(socket, "TCP_USER_TIMEOUT", 0)
                value = timeout and connection.getsockopt(socket.IPPROTO_TCP, timeout)
                self.assertEqual(value, 1_000_000 if timeout else 0)

    FEW_FILES = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"

    @unittest.skipUnless(os.name == "posix", "this system has no such limit")
    def test_few_sockets_are_enough(self):
        """Whatever is lacking: the next socket, or the next file of a module for the first request."""
        for number in 56, 57, 58, 59, 60, 150:
            setup = self.FEW_FILES + "clock_server.REQUEST_SECONDS = 1000"
            with self.subTest(number), Command(setup=setup) as command:
                self.crowd(number, command.port)
                self.assertEqual(visit(command.port).status, 200)
                self.assertRegex(command.errors(), r'\A[^\n]+ "GET / HTTP/1\.1" 200 -\n\Z')

    @unittest.skipUnless(os.name == "posix", "this system has no such limit")
    def test_a_newcomer_costs_one_connection(self):
        """Whatever is lacking, and although the thread of an evicted connection needs time to close it."""
        slow = ("close_request = clock_server.ClockServer.close_request\n" "def close(server, request):\n"
                "    time.sleep(0.005)\n" "    close_request(server, request)\n"
                "clock_server.ClockServer.close_request = close\n")
        for label, setup, number in [
                ("files", self.FEW_FILES, 70), ("threads", "clock_server.MAX_THREADS = 16\n", 16),
                ("connections", "clock_server.MAX_CONNECTIONS = 16\n", 16)]:
            setup = "import time\nclock_server.GRACE_SECONDS = 0.2\n" + setup + slow
            setup += "clock_server.REQUEST_SECONDS = 1000"
            with self.subTest(label), Command("-q", setup=setup) as command:
                crowd = self.crowd(number, command.port)
                visit(command.port)  # comes after them, and goes
                lost = self.lost(crowd)
                for _ in range(3):
                    newcomer, = self.crowd(1, command.port, GET)
                    self.assertTrue(newcomer.recv(1))
                    lost, before = self.lost(crowd), lost
                    self.assertLessEqual(lost - before, 1)

    def lost(self, connections):
        return sum(bool(select.select([connection], [], [], 0)[0]) for connection in connections)

    @unittest.skipUnless(os.name == "posix", "this system has no such limit")
    def test_busy_clients_make_room(self):
        """300 clients that ask again at once do not keep a visitor out of a server with 64 files."""
        def ask_again_and_again():
            while not over.is_set():
                with contextlib.suppress(OSError, AssertionError), \
                        socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as connection:
                    while not over.wait(0.05):
                        ask(connection)
        over = threading.Event()
        with Command("-q", setup=self.FEW_FILES) as command, ThreadPoolExecutor(150) as pool:
            try:
                for _ in range(150):
                    pool.submit(ask_again_and_again)
                for _ in range(10):
                    self.assertTrue(visitor_is_answered(command))
            finally:
                over.set()

    def test_slow_methods_do_not_stop_the_others(self):
        handler, go_on, arrived = hanging()
        with running_server(handler, MAX_CONNECTIONS=4, GRACE_SECONDS=0) as server:
            for _ in range(8):
                client, = self.crowd(1, server.server_port, HANG)
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
                self.assertEqual(statuses(exchange(server, LAST)), [200])
            with mock.patch.object(clock_server, "REQUEST_SECONDS", 0):
                self.assertEqual(read_to_end(client), b"")  # too slow, and goes on without its client
            go_on.set()


# --- The speed -----------------------------------------------------------------------------------

class ThreadsTest(CrowdTest):

    FEW_THREADS = """
import ctypes, resource
user = 60000 + os.getpid() % 5000  # has no other processes
os.setresuid(user, user, 0)
ctypes.CDLL(None).setfsuid(0)  # but can read all files of Python
resource.setrlimit(resource.RLIMIT_NPROC, ({0}, {0}))
clock_server.REQUEST_SECONDS = 1000
"""

    def test_threads_are_used_again(self):
        name = type("Name", (QuietHandler,), {"version_string": lambda _: str(threading.get_ident())})
        with running_server(name) as server:
            names = {exchange(server, LAST)[0].fields["Server"] for _ in range(50)}
        self.assertLessEqual(len(names), 5)

    def test_threads_are_bounded_even_if_methods_hang(self):
        """Evicted connections keep their threads. Clients for whom there is none wait."""
        handler, go_on, arrived = hanging()
        with running_server(handler, MAX_THREADS=4, GRACE_SECONDS=0) as server:
            crowd = self.crowd(20, server.server_port, HANG)
            for _ in range(4):
                self.assertTrue(arrived.acquire(timeout=GIVE_UP))
            wait_until(lambda: not server.connections)  # all those that hang are evicted
            clock_server.GRACE_SECONDS = 1000
            self.assertEqual(len(server.threads), 4)
            for connection in crowd:
                connection.close()
            go_on.set()
            for connection in self.crowd(20, server.server_port, LAST):
                self.assertEqual(statuses(self.last_of(connection)), [200])
            self.assertLessEqual(len(server.threads), 4)

    @unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid() == 0, "only root can change the user")
    @unittest.skipUnless(importlib.util.find_spec("_ctypes"), "this Python has no ctypes")
    def test_few_threads_are_enough_and_none_is_said(self):
        with Command(setup=self.FEW_THREADS.format(30)) as command:
            self.crowd(100, command.port)
            self.assertEqual([visit(command.port).status for _ in range(20)], [200] * 20)
            self.assertRegex(command.errors(), r'\A(.+ "GET / HTTP/1\.1" 200 -\n){20}\Z')
        with Command(setup=self.FEW_THREADS.format(1), port=free_port()) as command:
            status, output, errors = command.finish()
            self.assertEqual((status, output), (1, ""))
            self.assertRegex(errors, r"\Aclock_server: .*thread.*\n\Z")

    @unittest.skipUnless(os.name == "posix", "evict wakes no thread that waits to receive")
    def test_memory_that_is_lacking_stops_nobody(self):
        for error in MemoryError, RuntimeError:
            with self.subTest(error), running_server() as server:
                self.assertEqual(statuses(exchange(server, LAST)), [200])
                lacking = mock.Mock(side_effect=error)
                with mock.patch.object(clock_server._thread, "start_new_thread", lacking):
                    self.crowd(5, server.server_port)
                    self.assertEqual(statuses(exchange(server, LAST)), [200])
                self.assertTrue(lacking.called)

    def test_loop_waits_for_no_thread(self):
        """Thread.start waits until the new thread runs, which takes long if others are busy."""
        with mock.patch("threading.Thread.start", side_effect=AssertionError("waits")), \
                contextlib.suppress(AssertionError):
            with ClockServer(("127.0.0.1", 0), QuietHandler) as server:
                with connect(server) as connection:
                    connection.sendall(LAST)
                    server.handle_request()
                    self.assertEqual(statuses(parse_responses(read_to_end(connection))), [200])
                    return
        self.fail("a thread was waited for")

    def test_closing_cuts_no_response(self):
        """Not that of handle_request, and not that of a do_GET that ends its server."""
        def slow(handler):
            time.sleep(0.05)
            page_of(b"page")(handler)

        def end(handler):
            handler.server.shutdown()
            handler.server.server_close()
            page_of(b"page")(handler)
        for way in slow, end:
            with self.subTest(way.__name__), \
                    ClockServer(("127.0.0.1", 0), type("Own", (QuietHandler,), {"do_GET": way})) as server:
                with connect(server) as connection:
                    connection.sendall(GET)
                    connection.shutdown(socket.SHUT_WR)
                    server.serve_forever() if way is end else server.handle_request()
                    server.server_close()
                    self.assertEqual(parse_responses(read_to_end(connection))[0].body, b"page")
            wait_until(lambda: not server.threads and not server.connections)

    def test_closing_ends_threads(self):
        """Also in a program that starts and stops many servers; running_server checks the threads."""
        files = open_files()
        for _ in range(10):
            with running_server(REQUEST_SECONDS=1000) as server:
                for data in b"", GET[:-2]:
                    for connection in self.crowd(5, server.server_port, data):
                        connection.close()
                ask(self.crowd(1, server.server_port)[0])
        self.doCleanups()
        wait_until(lambda: open_files() <= files)


class KeptTest(unittest.TestCase):
    """What is kept for speed is bounded, and right."""

    @unittest.skipUnless(sys.platform == "linux", "this system has no /proc")
    @unittest.skipUnless(sys.implementation.name == "cpython", "memory is not free as soon as it is not used")
    def test_heads_take_no_memory(self):
        def resident():
            with open("/proc/%d/status" % command.process.pid, encoding="ascii") as file:
                return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1000
        with Command("-q") as command:
            with socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as connection:
                ask(connection)
                before = resident()
                for number in range(3000):
                    long = b"%d" % number + b"y" * 30000
                    ask(connection, request_of(b"GET /%s HTTP/1.1" % long, b"X: " + long))
            self.assertLess(resident() - before, 20)

    def test_responses_are_those_of_their_request_and_of_their_time(self):
        """The wall clock is stopped, moved by milliseconds, into the next second, and back."""
        def fake_now(cls, zone=None):
            return datetime.fromtimestamp(now, zone)
        requests = [  # what the response says of the connection, the request
            (None, GET), ("close", LAST), ("close", request_of(b"GET / HTTP/1.0")), (None, b"HEAD" + GET[3:]),
            ("keep-alive", request_of(b"GET / HTTP/1.0", b"Connection: keep-alive")),
            ("close", get_with(b"Content-Length: 1", body=b"x")), (None, get_with(b"X: y"))]
        clock = type("Clock", (datetime,), {"now": classmethod(fake_now)})
        with mock.patch.object(ClockHandler, "log_request"), mock.patch("time.time", lambda: now), \
                mock.patch.object(clock_server, "datetime", clock), running_server(ClockHandler) as server:
            first = 0.5 if os.name == "posix" else 1e9  # Windows' Python has no zone for the first day
            for now in [first] + [1e9 + after for after in (0.125, 0.25, 0.875, 1, 1.5, -3599.5, 0.25)]:
                page = render_page(moment(int(now), int(now % 1 * 1e6)))
                for connection, data in requests * 2:
                    with self.subTest(data, now=now):
                        methods = ["GET", data.split()[0].decode()]
                        _, response, *_ = exchange(server, GET, data, LAST, methods=methods)
                        self.assertEqual(response.body, b"" if data.startswith(b"HEAD") else page)
                        self.assertEqual(response.fields["Content-Length"], str(len(page)))
                        self.assertEqual(response.fields["Date"], formatdate(now, usegmt=True))
                        self.assertEqual(response.fields.get("Connection"), connection)

    def test_subclass_has_responses_of_its_own(self):
        rows = [("X", None, ClockHandler),
                ("X", "mine", type("Fields", (ClockHandler,), {"common_fields": {"X": "mine"}})),
                ("Server", "mine", type("Version", (ClockHandler,), {"version_string": lambda _: "mine"}))]
        with mock.patch.object(ClockHandler, "log_request"):
            for name, value, handler in rows * 2:
                with self.subTest(handler.__name__), running_server(handler) as server:
                    response, = exchange(server, LAST)
                    self.assertEqual(response.fields.get(name), value)


@unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
@unittest.skipUnless(getattr(sys, "_is_gil_enabled", lambda: True)(), "threads run side by side")
class CoreTest(unittest.TestCase):

    def test_processes_of_a_method_stay_on_the_core_of_the_server(self):
        hello = """
import subprocess
class Hello(clock_server.ClockHandler):
    def version_string(self):
        program = "import os; print(os.sched_getaffinity(0), end='')"
        return subprocess.check_output([sys.executable, "-c", program]).decode()
clock_server.main(sys.argv[1:], Hello)
"""
        with Command("-q", call=hello) as command:
            core = os.sched_getaffinity(command.process.pid)
            self.assertEqual((visit(command.port).fields["Server"], len(core)), (str(core), 1))


class AddressTest(unittest.TestCase):

    def test_all_interfaces_and_who_comes(self):
        """An IPv4 client has its usual address, although the socket is one of IPv6, and each has two values."""
        def version_string(handler):
            host, port = handler.client_address
            return "%s %d" % (host, port)
        address = type("Address", (ClockHandler,), {"version_string": version_string})
        for host, client in [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("", "::1"), ("::1", "::1")]:
            if HAS_IPV6 or client != "::1":
                with self.subTest(host, client=client), mock.patch("sys.stderr", io.StringIO()) as stderr, \
                        running_server(address, host=host) as server:
                    with socket.create_connection((client, server.server_port), GIVE_UP) as connection:
                        expected = "%s %d" % connection.getsockname()[:2]
                        self.assertEqual(ask(connection, LAST).fields["Server"], expected)
                    self.assertTrue(stderr.getvalue().startswith(client + " - - "), stderr.getvalue())
                    self.assertRegex(server.server_name, r"\A[\w.-]*[A-Za-z][\w.-]*\Z")
                    self.assertEqual(server.server_address[1:], (server.server_port,))
        with mock.patch("socket.has_dualstack_ipv6", return_value=False), running_server(host="") as server:
            self.assertEqual((server.socket.family, visit(server.server_port).status), (socket.AF_INET, 200))

    def test_port_beyond_16_bits_is_an_error(self):
        for address in ("", 70000), ("", -1), ("127.0.0.1", 65536), ("localhost", 70000):
            with self.subTest(address), self.assertRaises((OSError, OverflowError)):
                ClockServer(address).server_close()

    def test_starts_without_looking_up_a_name(self):
        lookup = mock.Mock(side_effect=AssertionError("a look-up"))
        with mock.patch.multiple(socket, getfqdn=lookup, gethostbyaddr=lookup, gethostbyname=lookup):
            for host in "", "127.0.0.1", "0.0.0.0":
                with self.subTest(host), running_server(host=host) as server:
                    self.assertEqual(visit(server.server_port).status, 200)


# --- The command ---------------------------------------------------------------------------------


POSIX_ONLY = unittest.skipUnless(os.name == "posix", "Windows has other signals and files")
# Code that reads what a program could have changed, for a comparison.
STATE = ("[[signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],"
         " threading.active_count(), getattr(os, 'sched_getaffinity', bool)(0)]")
HELLO = """
import http.server
class Hello(clock_server.ClockHandler):
    def do_GET(self):
        self.path == '/error' and self.fail()
        self.send_response(200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'Hello')
class Folder(http.server.SimpleHTTPRequestHandler):
    pass
"""


class StartTest(unittest.TestCase):

    def test_start_text(self):
        everywhere = r"(From other computers: http://[\w.:[\]]+:\d+/\n)?"
        for label, arguments, host, url, others in [
                ("all interfaces", [], "127.0.0.1", "localhost", everywhere),
                ("all of IPv4", ["-b", "0.0.0.0"], "127.0.0.1", "localhost", everywhere),
                ("IPv4", ["-b", "127.0.0.1"], "127.0.0.1", "127.0.0.1", ""),
                ("IPv6", ["-b", "::1"], "::1", "[::1]", ""),
                ("IPv6 in brackets", ["--bind", "[::1]"], "::1", "[::1]", ""),
                ("a name", ["--bind=localhost"], "localhost", "127.0.0.1", "")]:
            with self.subTest(label):
                if host == "::1" and not HAS_IPV6:
                    self.skipTest("no IPv6 here")
                with Command(*arguments, environment={"TZ": "NPT-5:45"} if HAS_TZSET else {}) as command:
                    page = visit(command.port, host).body.decode()
                    zone = re.search(r'datetime="[^"]*([+-]\d\d:\d\d)"', page)[1]
                    self.assertTrue(zone == "+05:45" or not HAS_TZSET, zone)
                    _, rest, _ = command.finish(signal.SIGTERM)
                    expected = (r"Serving the time on http://%s:%d/\n%sTime zone: UTC%s\n"
                                r"Press Ctrl-C to stop\.\n")
                    expected %= re.escape(url), command.port, others, re.escape(zone)
                    self.assertRegex(command.line + rest, r"\A%s\Z" % expected)

    @unittest.skipUnless(hasattr(os, "sched_setaffinity"), "this system cannot choose cores")
    def test_command_stays_on_one_of_the_cores_allowed(self):
        allowed, has_lock = os.sched_getaffinity(0), getattr(sys, "_is_gil_enabled", lambda: True)()
        with Command("-q", setup="os.sched_setaffinity(0, {%d})" % max(allowed)) as command:
            self.assertEqual(os.sched_getaffinity(command.process.pid), {max(allowed)})
        for setup, count in [("", 1 if has_lock else len(allowed)),
                             ("sys._is_gil_enabled = bool", len(allowed))]:
            with self.subTest(setup), Command("-q", setup=setup) as command:
                self.assertEqual(len(os.sched_getaffinity(command.process.pid)), count)

    def test_import_has_no_effects(self):
        code = "import os, signal, threading\nbefore = %s\nimport clock_server\nassert %s == before"
        with Program(sys.executable, "-W", "error", "-c", code % (STATE, STATE)) as program:
            self.assertEqual(program.finish(), (0, "", ""))


class ArgumentsTest(unittest.TestCase):

    def check_refused(self, result, status, reason):
        self.assertEqual((result.returncode, result.stdout), (status, ""))
        self.assertRegex(result.stderr, r"\A(usage: .*\n( .*\n)?)?clock_server: .*%s.*\n\Z" % reason)

    def run_program(self, setup, *arguments):
        code = ("import os, signal, socket, sys, threading, clock_server\n%s\n"
                "clock_server.main(sys.argv[1:])")
        with Program(sys.executable, "-W", "error", "-c", code % setup, *arguments) as program:
            return subprocess.CompletedProcess(arguments, *program.finish())

    def test_port_in_use_is_said(self):
        with ClockServer(("127.0.0.1", 0)) as server:
            for host in "127.0.0.1", "0.0.0.0":
                result = run_command("-b", host, str(server.server_port))
                self.check_refused(result, 1, "on port %d of %s: .*; port 0 picks a free one" % (
                    server.server_port, re.escape(host)))

    def test_invalid_arguments(self):
        for arguments, reason in [
                (["abc"], "abc"), ([""], ""), (["80.0"], "80.0"), (["70000"], "70000"), (["-1"], "-1"),
                (["--nonsense"], "--nonsense"), (["1", "2"], "2"), (["-b"], "bind")]:
            with self.subTest(arguments):
                self.check_refused(run_command(*arguments), 2, reason)

    def test_addresses_that_cannot_be_served(self):
        setup = ("def look_up(host, *args, look_up=socket.getaddrinfo, **options):\n"
                 "    if host == 'no.such.name': raise socket.gaierror(-2, 'not known')\n"
                 "    return look_up(host, *args, **options)\n" "socket.getaddrinfo = look_up\n"
                 "for host in sys.argv[1:]:\n" "    try: clock_server.main(['-b', host, '0'])\n"
                 "    except SystemExit as exit: print(exit.code, file=sys.stderr)\n" "sys.exit()")
        hosts = ["203.0.113.1", "no.such.name", "a" * 64, "1:2:3"]
        result = self.run_program(setup, *hosts)
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertEqual(result.stderr.count("\n"), len(hosts), result.stderr)
        for host, line in zip(hosts, result.stderr.splitlines()):
            self.assertIn(" of %s: " % host, line)

    def test_empty_address_is_not_all_interfaces(self):
        setup = "clock_server.ClockServer.serve_forever = lambda self: print('serves')"
        for host in "", "[]":
            with self.subTest(host):
                result = self.run_program(setup, "--bind", host, "0")
                self.check_refused(result, result.returncode or -1, "")

    def test_version_and_help(self):
        for option, said in [("--version", "clock_server " + re.escape(clock_server.__version__)),
                             ("--help", r"usage: clock_server \[-h\] \[--version\] \[-b ADDRESS\] \[-q\] "
                                        r"\[port\]\n(.*\n)+.*8880(.*\n)+")]:
            result = run_command(option)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertRegex(result.stdout, r"\A%s" % said)

    def test_no_thread_at_all_is_said(self):
        for error, reason in ("RuntimeError('no thread')", "no thread"), ("MemoryError", "no memory"):
            setup = "def start(*args): raise %s\nclock_server._thread.start_new_thread = start" % error
            self.check_refused(self.run_program(setup, "-b", "127.0.0.1", "0"), 1, reason)

    def test_error_has_no_effects_on_a_program_that_catches_it(self):
        state = "[%s, clock_server.ClockHandler.log_request]" % STATE
        code = ("for arguments in ['-q', '-b', '203.0.113.1', '0'], ['-q', 'abc']:\n" "    before = %s\n"
                "    try: clock_server.main(arguments)\n" "    except SystemExit as exit: assert exit.code\n"
                "    assert %s == before\n" "sys.exit('done')" % (state, state))
        result = self.run_program(code)
        self.assertEqual((result.returncode, result.stderr[-5:]), (1, "done\n"), result.stderr)


class OwnHandlerTest(unittest.TestCase):
    """The command with a handler of somebody else's."""

    def test_main_serves_any_handler(self):
        for label, handler, answer in [
                ("a subclass", "Hello", b"Hello"), ("a stage", "clock_server.StrictHandler", b"<!DOC"),
                ("by its name", "handler=Hello", b"Hello"), ("files", "Folder", b"<!DOC")]:
            call = "clock_server.main(sys.argv[1:], %s)" % handler
            for options, lines in ([], 1), (["--quiet"], 0):
                with self.subTest(label, options=options), \
                        Command(*options, setup=HELLO, call=call) as command:
                    response = visit(command.port)
                    self.assertEqual((response.status, response.body[:5]), (200, answer))
                    status, _, errors = command.finish(signal.SIGTERM)
                    self.assertTrue(status == 0 or os.name != "posix", status)  # Windows ends it
                    self.assertEqual(errors.count('"GET / HTTP/1.1" 200 -\n'), lines)
                    self.assertEqual(errors.count("\n"), lines, errors)

    def test_quiet_suppresses_requests_but_not_tracebacks(self):
        call = "clock_server.main(sys.argv[1:], Hello)"
        with Command("-q", setup=HELLO, call=call) as command:
            with contextlib.suppress(http.client.HTTPException):
                visit(command.port, path="/error")
            wait_until(lambda: "'fail'" in command.errors())
            visit(command.port)
            self.assertNotIn('"GET', command.finish(signal.SIGTERM)[2])

    def test_quiet_suppresses_refused_requests(self):
        for handler in "Hello", "Folder":
            call = "clock_server.main(sys.argv[1:], %s)" % handler
            with self.subTest(handler), Command("-q", setup=HELLO, call=call) as command:
                self.assertGreaterEqual(visit(command.port, path="/none").status, 200)
                with socket.create_connection(("127.0.0.1", command.port), GIVE_UP) as client:
                    client.sendall(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    self.assertIn(b" 501 ", read_to_end(client))
                self.assertEqual(command.finish(signal.SIGTERM)[2], "")


@POSIX_ONLY
class SignalsTest(unittest.TestCase):
    """A signal ends the command with status 0, and nothing is said, whatever it is doing."""

    def test_signals_stop_it(self):
        interrupt, terminate = signal.SIGINT, signal.SIGTERM
        ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"  # as after & in a script
        hang = "clock_server.ClockHandler.do_GET = lambda self: %s"
        full = "clock_server.MAX_CONNECTIONS, clock_server.GRACE_SECONDS = 2, 1000"
        few = "clock_server.MAX_THREADS = 1"
        for label, setup, clients, signals in [
                ("Ctrl-C", "", [b"", GET, b"GET"], [interrupt]),
                ("SIGTERM", "", [b"", GET, b"GET"], [terminate]),
                ("both", "", [], [interrupt, interrupt, terminate]),
                ("Ctrl-C inherited as ignored", ignored, [], [interrupt]),
                ("many requests", "", [GET * 2000] * 4, [interrupt]),
                ("methods wait", hang % "threading.Event().wait()", [GET] * 3, [terminate]),
                ("methods compute", hang % "[0 for _ in iter(int, 1)]", [GET] * 3, [interrupt]),
                ("full house", full, [GET] * 10, [terminate]),
                ("no more threads", few, [GET] * 10, [interrupt])]:
            with self.subTest(label), Command(setup=setup) as command, contextlib.ExitStack() as stack:
                for sent in clients:
                    client = socket.create_connection(("127.0.0.1", command.port), GIVE_UP)
                    stack.enter_context(client).sendall(sent)
                if clients and "methods" not in label:
                    wait_until(command.errors)
                for number in signals:
                    command.process.send_signal(number)
                self.assertEqual(command.process.wait(GIVE_UP), 0)
                log = r'\A(127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" 200 -\n)*\Z'
                self.assertRegex(command.errors(), log)

    def test_signal_while_a_name_server_does_not_answer(self):
        silent = ("import runpy, socket, sys, time\n" "def look_up(*args, **options):\n"
                  "    print('asked', flush=True)\n" "    time.sleep(60)\n" "socket.getaddrinfo = look_up\n"
                  "runpy.run_path('clock_server.py', run_name='__main__')")
        for number in signal.SIGINT, signal.SIGTERM:
            with self.subTest(number), Program(sys.executable, "-c", silent, "-b", "silent.example") as program:
                self.assertEqual(program.process.stdout.readline(), b"asked\n")
                program.process.send_signal(number)
                self.assertEqual((program.process.wait(GIVE_UP), program.errors()), (-number, ""))

    def test_main_can_run_in_another_thread(self):
        call = ("threading.Thread(target=clock_server.main, args=(sys.argv[1:],), daemon=True).start()\n"
                "sys.stdin.read()")
        with Command(call=call, stdin=subprocess.PIPE) as command:
            self.assertEqual(visit(command.port).status, 200)


@POSIX_ONLY
class OutputTest(unittest.TestCase):
    """The command serves, and stops when it should, whatever becomes of its output."""

    @contextlib.contextmanager
    def output(self, kind):
        reader, writer = os.pipe()
        with open(reader, "rb", 0) as unread, open(writer, "wb", 0) as file:
            if kind == "dead pipe":
                unread.close()
            elif kind == "full disk":
                os.dup2(os.open("/dev/full", os.O_WRONLY), writer)
            else:
                os.set_blocking(writer, False)
                for size in 65536, 1:
                    while file.write(b"x" * size):
                        pass
                os.set_blocking(writer, True)
            yield file

    def check_serves(self, program, port, lines):
        wait_until(lambda: is_listening(port) or program.process.poll() is not None)
        for path, statuses in [("/", [200])] + [("/error", [])] * 9 + [("/", [200])]:
            with contextlib.suppress(http.client.RemoteDisconnected):
                self.assertEqual([visit(port, path=path).status], statuses)
        wait_until(lambda: program.errors().count('"GET / HTTP/1.1" 200 -\n') == lines)
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.process.wait(GIVE_UP), 0)

    def test_nobody_reads(self):
        call = "clock_server.MAX_THREADS = 8\nclock_server.main(sys.argv[1:], Hello)"
        for kind in ["dead pipe", "full pipe"] + ["full disk"] * os.path.exists("/dev/full"):
            for names, unbuffered in [(["stdout"], ""), (["stdout"], "1"), (["stderr"], ""),
                                      (["stdout", "stderr"], "")]:
                port = free_port()
                with self.subTest(kind, names=names, unbuffered=unbuffered), self.output(kind) as file:
                    options = dict.fromkeys(names, file)
                    with Command(setup=HELLO, call=call, port=port,
                                 environment={"PYTHONUNBUFFERED": unbuffered}, **options) as command:
                        self.check_serves(command, port, 0 if "stderr" in names else 2)

    def test_output_may_be_closed_from_the_start(self):
        code = "import clock_server, sys\n%s\nclock_server.main(sys.argv[1:], Hello)" % HELLO
        for closing in ">&-", "2>&-", "<&- >&- 2>&-":
            port = free_port()
            script = "exec %s -c %s %d %s" % (shlex.quote(sys.executable), shlex.quote(code), port, closing)
            with self.subTest(closing), Program("sh", "-c", script) as program:
                self.check_serves(program, port, 0 if "2" in closing else 2)


# --- The README ----------------------------------------------------------------------------------

README = os.path.join(HERE, "README.md")


@unittest.skipUnless(os.path.exists(README), "only the module and its tests are here")
class ReadmeTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        with open(README, encoding="utf-8") as file:
            cls.text = file.read()

    def test_sizes(self):
        self.assertLessEqual(self.text.count("\n"), 220)
        self.assertLessEqual(source_of_module().count("\n"), 1175)

    def test_examples_run_and_answer(self):
        examples = re.findall(r"^```python\n(.*?)^```", self.text, re.M | re.S)
        self.assertTrue(examples)
        for example in examples:
            port = free_port()
            program = re.sub(r"\b8\d\d0\b", str(port), example)
            program = re.sub(r"\bmain\(\[", 'main(["%d"' % port, program)
            with self.subTest(example), Program(sys.executable, "-c", program, str(port)) as server:
                wait_until(lambda: is_listening(port) or server.process.poll() is not None)
                response = visit(port, path="/<b>&")
                self.assertEqual(response.status, 200)
                if "Hello" in example:
                    self.assertIn(b"Hello", response.body)
                self.assertNotIn(b"<b>&", response.body)
                policy = response.fields.get("Content-Security-Policy", "style-src 'unsafe-inline'")
                for style in re.findall(b"<style>(.*?)</style>", response.body, re.S):  # is it shown?
                    allowed = "'unsafe-inline'|" + re.escape(clock_server.csp_hash(style.decode()))
                    self.assertRegex(policy, "style-src [^;]*(%s)" % allowed)
                self.assertNotIn("Traceback", server.errors())

    def test_limits_are_those_of_the_module(self):
        words = {9: "nine", 0.01: "a hundredth of a"}
        for name, unit in [("REQUEST_SECONDS", r"\s+seconds"), ("GRACE_SECONDS", r"\s+second"),
                           ("MAX_CONNECTIONS", ""), ("TURN_CONNECTIONS", ""), ("HEAD_BYTES", ""),
                           ("MAX_FIELDS", "")]:
            value = getattr(clock_server, name)
            spelt = "|".join({str(value), "{:,}".format(value), words.get(value, str(value))})
            with self.subTest(name):
                self.assertRegex(self.text, r"(?<![\w.,])(%s)\b%s" % (spelt, unit))

    def test_every_option_is_explained(self):
        for option in re.findall(r"(?<![\w-])--?\w+", run_command("--help").stdout):
            self.assertRegex(self.text, r"`[^`\n]*(?<![\w-])%s\b" % option)


# --- The browser ---------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Plays each scenario on the page of the module, in a frame where time, timers and fetch are replaced, so
# that minutes take no time. `now` is the true time in ms since the page was opened. In each second of the
# server, 0.1 s after its beginning and before its end, it notes whether the clock is wrong.
STAGE = r"""
function pageOf(time, zone) {
  const local = new Date(time + (zone[0] + 1) * (zone.slice(1, 3) * 60 + +zone.slice(4)) * 60000);
  const [day, date, month, year, hour] = local.toUTCString().split(/,? /);
  const text = `${day} ${month} ${String(+date).padStart(2)} ${hour} ${year}`;
  const stamp = local.toISOString().slice(0, -1) + zone;
  return [PAGE.replace("@STAMP@", stamp).replace("@TEXT@", text).replace("@ZONE@", zone), text, stamp];
}

async function play(scenario) {
  const state = { server: START, visitor: START, zone: "+05:45", age: 0, up: 20, down: 20, answer: "" };
  Object.assign(state, scenario[0]);
  const result = { wrong: [], asked: [], errors: [], open: 0 }, timers = new Map();
  const page = document.body.appendChild(document.createElement("iframe")).contentWindow;
  let now = 0, last = 0;
  page.Date = class extends Date {
    constructor(...given) { super(...(given.length ? given : [state.visitor + now])); }
    static now() { return state.visitor + now; }
  };
  page.performance.now = () => 1000 + now;
  page.setTimeout = (call, delay) => (timers.set(++last, [now + delay, call]), last);
  page.clearTimeout = id => { timers.delete(id); };
  page.AbortSignal = { timeout: ms => new Promise(resolve => page.setTimeout(resolve, ms)) };
  if (state.old) page.AbortSignal = undefined;
  page.fetch = async (url, { signal }) => {
    if (result.open == 6) await new Promise(() => { });  // browsers have six connections to a server
    result.asked.push(now / 1000);
    const { up, down, answer } = state;
    result.open++;
    if (answer == "never") await (signal || new Promise(() => { }));
    result.open--;
    if (answer == "never") throw new TypeError("The operation timed out.");
    await new Promise(resolve => page.setTimeout(resolve, up));
    const [text, , stamp] = pageOf(state.server + now + (answer == "502" ? 7e6 : 0), state.zone);
    await new Promise(resolve => page.setTimeout(resolve, down));
    if (answer == "none") throw new TypeError("Failed to fetch");
    const ok = answer != "502", sent = ok && answer ? text.replace(stamp, answer) : text;
    return { ok, status: ok ? 200 : 502, text: async () => sent };
  };
  page.onerror = message => { result.errors.push(message); };
  page.onunhandledrejection = event => { result.errors.push(String(event.reason)); };

  page.document.open();
  const written = pageOf(state.server - state.age, state.zone)[0];
  page.document.write(written.replace("<body>", state.above ? "<body><span>an extension</span>" : "<body>"));
  page.document.close();
  const clock = page.document.querySelector("time"), [from, to] = state.select || [0, 0];
  page.getSelection().setBaseAndExtent(clock.firstChild, from, clock.firstChild, to);
  for (let second = 0; second < SECONDS; second++)
    for (const ms of [100, 900]) {
      for (;;) {
        for (let i = 0; i < 20; i++) await null;  // what waits for a promise goes on
        const [id, [due, call]] = [...timers, [0, [Infinity]]].reduce((a, b) => a[1][0] <= b[1][0] ? a : b);
        if (due > second * 1000 + ms) break;
        timers.delete(id);
        now = due;
        call();
      }
      now = second * 1000 + ms;
      const [, text, stamp] = pageOf(state.server + now, state.zone);
      const shown = [clock.textContent, clock.getAttribute("datetime").replace(/\.\d*/, "")];
      if (state.above && page.document.querySelector("span").textContent != "an extension")
        result.errors.push("a span of somebody else is overwritten");
      if (shown != text + "," + stamp.replace(/\.\d*/, "")
          || !page.document.body.textContent.includes("UTC" + state.zone))
        result.wrong.push(now / 1000);
      if (second && ms == 100) Object.assign(state, scenario[second]);
    }
  result.text = clock.textContent;
  result.selected = page.getSelection().toString();
  await new Promise(resolve => setTimeout(resolve));  // browsers report rejections late
  return result;
}

(async () => {
  const results = {};
  for (const name in SCENARIOS) results[name] = await play(SCENARIOS[name]);
  document.body.textContent = JSON.stringify(results);
})();
"""


@unittest.skipUnless(CHROMIUM, "no Chromium here")
class BrowserTest(unittest.TestCase):
    """The open page is right whatever the clock and the network of its visitor do."""

    ZONE = timezone(timedelta(hours=5, minutes=45))
    START = int(datetime(2006, 11, 30, 23, 58, 30, tzinfo=ZONE).timestamp()) * 1000  # 90 s before December
    SECONDS = 200  # each scenario takes, with full minutes at 30, 90 and 150
    YEARS = 5 * 365 * 86400000 + 123  # in ms, as all times in scenarios
    SCENARIOS = {  # what changes at some seconds; from when to when the clock may be wrong
        "all is right": ({}, 0, 0), "visitor is late": ({0: dict(visitor=START - YEARS)}, 0, 0),
        "answers are 5 s on their way": ({0: dict(down=5000)}, 0, 0),
        "questions are 5 s on their way": ({0: dict(up=5000)}, 0, 0),
        "page is old": ({0: dict(age=100000, visitor=START + YEARS)}, 0, 1),
        "visitor sets the clock": ({45: dict(visitor=START + 2000)}, 45, 47),
        "visitor sets the clock back": ({45: dict(visitor=START - YEARS)}, 45, 47),
        "summer time": ({35: dict(zone="+06:45")}, 35, 95),
        "summer time on Chatham": ({0: dict(zone="+12:45"), 35: dict(zone="+13:45")}, 35, 95),
        "west of Greenwich": ({0: dict(zone="-03:30"), 35: dict(zone="-02:30")}, 35, 95),
        "server is set": ({35: dict(server=START + 7200000)}, 35, 95),
        "server is set back": ({35: dict(server=START - 3000)}, 35, 95),
        "a span above": ({0: dict(above=True), 35: dict(zone="+06:45")}, 35, 95),
        "an old browser": ({0: dict(old=True), 35: dict(zone="+06:45")}, 35, 95),
        "all is selected": ({0: dict(select=[0, 24])}, 0, 0),
        "hour is selected": ({0: dict(select=[11, 19])}, 0, 0)}
    for bad in "502", "none", "never", "PT5M", "2006-11-30T23:59:60.000+05:45", "today":
        SCENARIOS["bad answer: " + bad] = (
            {0: dict(answer=bad), 100: dict(answer="", server=START + 3000)}, 100, 160)

    @classmethod
    def setUpClass(cls):
        now = datetime(2006, 1, 9, 1, 2, 3, 456000, cls.ZONE)
        page = render_page(now).decode().replace(now.isoformat(timespec="milliseconds"), "@STAMP@")
        page = page.replace(now.ctime(), "@TEXT@").replace("+05:45", "@ZONE@")
        constants = dict(PAGE=page, START=cls.START, SECONDS=cls.SECONDS,
                         SCENARIOS={name: row[0] for name, row in cls.SCENARIOS.items()})
        script = "const {PAGE, START, SECONDS, SCENARIOS} = %s;" % json.dumps(constants).replace("</", r"<\/")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "stage.html")
            with open(path, "w", encoding="utf-8") as file:
                file.write("<!DOCTYPE html><body><script>%s%s</script>" % (script, STAGE))
            body, cls.console = cls.browse("file://" + path)
        cls.results = json.loads(html.unescape(re.search("<body>(.*)</body>", body, re.S)[1]))

    @staticmethod
    def browse(url):
        with tempfile.TemporaryDirectory() as profile:
            result = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--no-first-run", "--user-data-dir=" + profile, "--dump-dom", "--enable-logging=stderr",
                 "--virtual-time-budget=15000", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                timeout=120, env=dict(os.environ, TZ="America/Caracas"))
        return result.stdout.decode(), re.findall("CONSOLE.*", result.stderr.decode("utf-8", "replace"))

    def test_clock_is_right(self):
        for name, (_, start, end) in self.SCENARIOS.items():
            with self.subTest(name):
                wrong = [second for second in self.results[name]["wrong"] if not start <= second <= end]
                self.assertEqual(wrong, [])
        self.assertEqual(self.results["all is right"]["text"], "Fri Dec  1 00:01:49 2006")

    def test_asks_after_each_full_minute_and_when_a_clock_is_set(self):
        for name, (_, start, end) in self.SCENARIOS.items():
            with self.subTest(name):
                asked = self.results[name]["asked"]
                self.assertEqual({(second + 30) // 60 for second in asked}, {0, 1, 2, 3})
                self.assertLessEqual(len(asked), 6 if end else 4, asked)
                others = [second for second in asked[1:] if not 0 <= (second - 30) % 60 < 5]
                self.assertEqual([second for second in others if not start <= second <= end + 1], [])

    def test_no_uncaught_errors(self):
        errors = {name: result["errors"] for name, result in self.results.items() if result["errors"]}
        self.assertEqual((errors, self.console), ({}, []))

    def test_selection_survives(self):
        for name, (changes, _, _) in self.SCENARIOS.items():
            start, end = changes.get(0, {}).get("select", [0, 0])
            self.assertEqual(self.results[name]["selected"], self.results[name]["text"][start:end], name)

    @unittest.skipUnless(HAS_TZSET, "this system cannot change its zone")
    def test_page_of_a_real_server(self):
        """The URL has a password, which fetch would refuse, and a query. The time is quicker than it is."""
        class Watched(QuietHandler):
            def log_request(self, code="-", size="-"):
                requests.append((self.path, int(code)))
        requests = []
        with running_server(Watched) as server, zone_of("NPT-5:45"):
            before = time.time()
            body, console = self.browse("http://user:password@127.0.0.1:%d/path?token=1" % server.server_port)
            stamp = re.search(r'<time datetime="([^"]*)\.\d*\+05:45"', body)[1]
            shown = time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))
        self.assertGreater(len(requests), 1)
        if len(requests) == 2:  # no minute has begun, when the page would have been set back
            self.assertTrue(before + 5 < shown < time.time() + 25, stamp)
        self.assertEqual((set(requests), console), ({("/path?token=1", 200)}, []))

    def test_page_of_another_site_cannot_show_it(self):
        for handler, refused in (clock_server.PoliteHandler, False), (QuietHandler, True):
            own = type("Own", (handler,), {"log_message": QuietHandler.log_message})
            with self.subTest(handler.__name__), running_server(own) as server, \
                    tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, "index.html"), "w") as file:
                    file.write('<iframe src="http://localhost:%d/"></iframe>' % server.server_port)
                with running_server(functools.partial(StockHandler, directory=folder)) as other:
                    _, console = self.browse("http://127.0.0.1:%d/" % other.server_port)
                self.assertEqual("frame-ancestors" in "".join(console), refused, console)

    def test_question_that_nobody_answers_is_given_up(self):
        self.assertEqual(self.results["bad answer: never"]["open"], 0)

    def test_script_has_the_syntax_of_2017(self):
        script = re.sub(r"//.*", "", clock_server.SCRIPT)
        for newer in [r"\bcatch\s*\{", r"\?\.(?!\d)", r"\?\?", r"[{.]\s*#\w", r"(&&|\|\|)=",
                      r"\d_\d", r"\b\d+n\b", r"[{,]\s*\.\.\.\w+\s*[,}]", r"\bfor\s+await\b", r"\(\?<",
                      r"/[a-z]*s[a-z]*[,;).]",
                      r"\.(finally|flat|flatMap|matchAll|replaceAll|at|fromEntries|trimStart|trimEnd)\("]:
            self.assertNotRegex(script, newer)


if __name__ == "__main__":
    unittest.main()
