#!/usr/bin/env python3
"""A web server in one file: every address on it is a page with the current time.

    python clock_server.py            serve on port 8880 until Ctrl-C
    python clock_server.py --help     the few things that can be chosen

GET of any path gives the page, made anew for each request; HEAD the same without
the page; OPTIONS the list of methods. Every other request gets the error that
RFC 9110 and RFC 9112 ask for. Left out on purpose: files, routes, request bodies,
TLS, compression, caching.

To be read from top to bottom: the page, the answers, the limits, the grammar, the
server, the command. With do_GET you have seen a whole dynamic web page; the rest
is what it takes to leave one running where strangers can reach it.
"""
from __future__ import annotations

import argparse
import base64
import email.utils
import errno
import functools
import hashlib
import io
import math
import queue
import re
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__version__ = "1.0.0"


# --- The page ----------------------------------------------------------------------

STYLE = """
html { color-scheme: light dark; background: Canvas; height: 100%; display: grid; }
body { margin: auto; }
h1 { font: 400 clamp(1rem, 6vw, 14rem) system-ui, sans-serif; margin: 0;
     font-variant-numeric: tabular-nums; white-space: pre; }
"""

# Makes the page tick; empty, it leaves a page with the time of the request. `offset` is
# how far the server's wall clock is ahead of the browser's, which may be wrong or in
# another zone. The server read its clock half-way through the round trip.
SCRIPT = """
const time = document.querySelector("time");
const [trip = {requestStart: 0, responseStart: 0}] = performance.getEntriesByType("navigation");
const age = performance.now() - (trip.requestStart + trip.responseStart) / 2;
const offset = Date.parse(time.dateTime.slice(0, 23) + "Z") + age - Date.now();
(function tick() {
  const now = new Date(Date.now() + offset);
  const [day, date, month, year, clock] = now.toUTCString().split(/,? /);
  time.textContent = [day, month, String(+date).padStart(2), clock, year].join(" ");
  setTimeout(tick, 1000 - now % 1000);
})();
"""


def render_page(now: float) -> bytes:
    """Return the page for the moment `now`, in seconds since 1970, as UTF-8."""
    local = time.localtime(now)
    # The milliseconds, which strftime does not have, come in last. %z is such as +0530.
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.%%03d%z", local) % (now % 1 * 1000)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="The current time on this server.">
<title>The current time</title>
<style>{STYLE}</style>
</head>
<body>
<main><h1><time datetime="{stamp[:-2]}:{stamp[-2:]}">{time.asctime(local)}</time></h1></main>
<script>{SCRIPT}</script>
</body>
</html>
""".encode()


# --- The answers -------------------------------------------------------------------

def csp_hash(text: str) -> str:
    """Return what allows exactly this inline text in a Content-Security-Policy."""
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class ClockHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection. A subclass with its own do_GET is its own site."""

    protocol_version = "HTTP/1.1"  # connections persist
    allow = "GET, HEAD, OPTIONS"  # the methods that a client is told of
    # In every answer. The policy allows the page its own style and script and nothing else, no
    # icon either; a page of yours may need another.
    common_fields = (
        "Server: clock_server\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Security-Policy: default-src 'none'; style-src {csp_hash(STYLE)}; "
        f"script-src {csp_hash(SCRIPT)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
        "Referrer-Policy: no-referrer\r\n"
        "X-Content-Type-Options: nosniff\r\n")

    def do_GET(self) -> None:
        """Answer with the page, made for this very request."""
        self.send_page(render_page(time.time()))

    def send_page(self, page: bytes, content_type: str = "text/html; charset=utf-8",
                  status: int = 200) -> None:
        """Answer with a whole document of the given type."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_HEAD(self) -> None:
        """Answer as to GET; handle_one_request leaves the page out (RFC 9110 section 9.3.2)."""
        self.do_GET()

    def do_OPTIONS(self) -> None:
        """Answer with the methods that can be used here (RFC 9110 section 9.3.7)."""
        self.send_response(204)
        self.send_header("Allow", self.allow)
        self.end_headers()

    def do_POST(self) -> None:
        """Refuse: a known method, but there is nothing to change (RFC 9110 section 15.5.6)."""
        self.send_error(405)

    do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = do_POST

    def send_response(self, code: int, message: str | None = None) -> None:
        """Log an answer and begin it. Overridden to put in what every answer carries."""
        self.log_request(code)
        phrase = message or self.responses.get(code, ("",))[0]
        self.wfile.write(f"{self.protocol_version} {code:d} {phrase}\r\n"
                         f"Date: {http_date(int(time.time()))}\r\n{self.common_fields}"
                         .encode("latin-1"))
        if self.close_connection:  # RFC 9112 section 9.3
            self.send_header("Connection", "close")
        elif self.request_version == "HTTP/1.0":
            self.send_header("Connection", "keep-alive")
        if code == 405:
            self.send_header("Allow", self.allow)

    def send_error(self, code: int, message: str | None = None, explain: object = None) -> None:
        """Refuse in a line of plain text, then close. Overridden: the stock one logs twice."""
        self.close_connection, self.client_done = True, False  # it may well still be sending
        text = "%d %s%s\n" % (code, self.responses[code][0], ": " + message if message else "")
        self.send_page(text.encode(), "text/plain; charset=utf-8", code)

    def log_message(self, format: str, *args: object) -> None:
        """Log a line. Overridden: no request may forge one, and a lost log may not stop us."""
        line = "%s - - [%s] %s" % (
            self.address_string(), self.log_date_time_string(), format % args)
        with suppress(AttributeError, OSError, ValueError):  # no stderr, a full disk, a dead pipe
            sys.stderr.write(line.encode("unicode_escape").decode() + "\n")
            sys.stderr.flush()

    def address_string(self) -> str:
        """Return the client's address. Overridden to show IPv4 as such on an IPv6 socket."""
        host: str = self.client_address[0]
        return host[7:] if host.startswith("::ffff:") else host

    # So far the answers. What follows is about connections, and about clients of all kinds.

    def handle(self) -> None:
        """Answer until one side is done. Overridden to close so that the last answer arrives."""
        self.requests_left = MAX_REQUESTS
        with suppress(OSError):  # the client is gone, or the server cut it off: no error
            super().handle()
            # To close before all is read causes a reset, which can destroy the answer: RFC 9112
            # section 9.6.
            if not self.client_done:
                self.connection.shutdown(socket.SHUT_WR)
                while self.connection.recv(65536):
                    pass

    def handle_one_request(self) -> None:
        """Read a request and answer it in one send. Overridden for that, and for the deadline."""
        self.wfile = io.BytesIO()  # collects the answer
        self.head = read_head(self.rfile.readline)
        if self.parse_request():
            try:
                getattr(self, "do_" + self.command, lambda: self.send_error(501))()
            except BaseException:  # our fault: a traceback for the operator, a 500 for the client
                self.server.handle_error(self.request, self.client_address)
                self.flush_headers()  # into the answer that is thrown away
                self.wfile = io.BytesIO()
                self.send_error(500)
        answer = self.wfile.getvalue()
        if self.command == "HEAD":
            answer = answer[:answer.find(b"\r\n\r\n") + 4]
        self.connection.sendall(answer)
        if not self.close_connection and hasattr(self.server, "renew_deadline"):
            self.server.renew_deadline(self.connection)  # a stock server has no deadlines

    def parse_request(self) -> bool:
        """Take in the head; False if it is refused. Overridden: the stock one forgives too much."""
        # For the log, where quotes enclose it.
        self.requestline = self.head.partition(b"\r\n")[0].decode("latin-1").replace('"', "%22")
        self.requests_left -= 1
        try:
            (self.command, self.path, self.request_version, has_body,
             self.client_done) = parse_head(self.head)
        except Refused as refused:
            self.command, self.request_version = self.requestline.partition(" ")[0], "HTTP/1.1"
            self.send_error(*refused.args)
            return False
        # A body is never read, so what is in one can never be taken for a request.
        self.close_connection = has_body or self.client_done or not self.requests_left
        return True

    @property
    def headers(self) -> HTTPMessage:
        """The fields of the request, put together when asked for: the clock never asks."""
        fields: HTTPMessage = self.MessageClass()
        for name, value in FIELD_LINE.findall(self.head):
            fields[name.decode()] = value.strip(b" \t").decode("latin-1")
        return fields


@functools.lru_cache(maxsize=1)
def http_date(second: int) -> str:
    """Return the value of Date, which is the same for a whole second."""
    return email.utils.formatdate(second, usegmt=True)


# --- The limits --------------------------------------------------------------------

LINE_BYTES = 8192       # of a line; 8,000 are to be read (RFC 9112 section 3)
HEAD_BYTES = 65536      # of a head, which is a request without its body
MAX_FIELDS = 100        # in a head, as in http.client and Apache
MAX_REQUESTS = 1000     # on a connection; then other clients have a turn
REQUEST_SECONDS = 10    # from waiting for a request until its answer is taken
MAX_CONNECTIONS = 512   # at once: half of the usual 1,024 file descriptors
GRACE_SECONDS = 0.25    # before a newcomer can be cut off: bursts of honest ones need it
RETRY_SECONDS = 0.0005  # between looks for room: short for a visitor, long for a processor
SPARE_THREADS = 32      # that wait for connections; others end, so an attack leaves no trace
STOP_SECONDS = 0.4      # for threads to end: with the half one of serve_forever, below a second
SEND_BYTES = 40960      # the system keeps for who does not read; 32 KiB make a large page slow


# --- The grammar -------------------------------------------------------------------

class Refused(Exception):
    """The request breaks a rule; the arguments are the status and the reason."""


# No two neighbouring repetitions match the same byte, so all of these are linear.
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2
# RFC 9112 sections 3 and 5; RFC 3986 section 3.2 without user, and without the comma of a list
REQUEST_LINE = re.compile(rb"(%s) ([!\"$-~]+) HTTP/([0-9])\.([0-9])\r\n" % TOKEN)
FIELD_LINE = re.compile(rb"(?m)^(%s):([\t -~\x80-\xff]*)\r\n" % TOKEN)
HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[!$&'()*+.;=_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)"
                  rb"(?::[0-9]*)?")


def read_head(readline: Callable[[int], bytes]) -> bytes:
    """Return the lines of a request up to the empty one, or up to one with which it is lost.

    Raises ConnectionAbortedError when the client leaves before that.
    """
    read_line = functools.partial(readline, LINE_BYTES + 1)
    line, size = read_line(), 0
    while line == b"\r\n" and size < HEAD_BYTES:  # before a request: RFC 9112 section 2.2
        line, size = read_line(), size + 2
    lines, size = [line], len(line)
    if line[-11:-5] == b" HTTP/":  # as in " HTTP/1.1\r\n"; without a version it is lost
        for line in iter(read_line, b"\r\n"):
            lines.append(line)
            size += len(line)
            if line[-2:] != b"\r\n" or size > HEAD_BYTES or len(lines) > MAX_FIELDS + 1:
                break
    if line[-1:] != b"\n" and len(line) <= LINE_BYTES:
        raise ConnectionAbortedError("the client left before its request was whole")
    return b"".join(lines)


@functools.lru_cache(maxsize=64)  # most clients repeat their head to the letter
def parse_head(head: bytes) -> tuple[str, str, str, bool, bool]:
    """Return method, target, version ("HTTP/1.0" or "HTTP/1.1"), whether a body follows, and
    whether the client is done: it wants the connection closed, and no body follows.

    Raises Refused.
    """
    lines = head.count(b"\n")
    if len(head) > HEAD_BYTES or lines > MAX_FIELDS + 1 or not head.endswith(b"\n"):
        raise Refused(431 if lines else 414, "too long (RFC 9110 section 5.4)")
    match = REQUEST_LINE.match(head)
    if not match:
        raise Refused(400, "not a request line (RFC 9112 section 3)")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Refused(505, "not HTTP/1.1 (RFC 9110 section 15.6.6)")
    if not is_target(target, method):
        raise Refused(400, "not a request target (RFC 9112 section 3.2)")
    version = "HTTP/1.0" if minor == b"0" else "HTTP/1.1"  # RFC 9110 section 2.5
    has_body, close = check_fields(head[match.end():], version)
    return method.decode(), target.decode(), version, has_body, close and not has_body


@functools.lru_cache(maxsize=64)  # those who ask for another target repeat the fields
def check_fields(section: bytes, version: str) -> tuple[bool, bool]:
    """Say whether a body follows these field lines, and whether the client wants the connection
    closed. Raises Refused."""
    found = FIELD_LINE.findall(section.lower())
    if len(found) < section.count(b"\n"):
        raise Refused(400, "not a field line (RFC 9112 section 5)")
    fields: dict[bytes, list[bytes]] = {}
    for name, value in found:
        fields.setdefault(name, []).append(value.strip(b" \t"))
    hosts = fields.get(b"host", [])
    if len(hosts) > 1 or not hosts and version != "HTTP/1.0" or not all(map(is_host, hosts)):
        raise Refused(400, "not one valid Host (RFC 9112 section 3.2)")
    has_body = declares_body(fields, version)
    if not {b"", b"100-continue"}.issuperset(members(fields.get(b"expect", []))):
        raise Refused(417, "unknown expectation (RFC 9110 section 10.1.1)")
    options = members(fields.get(b"connection", []))  # RFC 9112 section 9.3
    return has_body, b"close" in options or version == "HTTP/1.0" and b"keep-alive" not in options


def is_target(target: bytes, method: bytes) -> bool:
    """Say whether the target has one of the forms for the method (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        return is_host(target) and target[-1:].isdigit() and b":" in target
    if target[:7].lower() == b"http://":
        return is_host(re.split(rb"[/?]", target[7:], maxsplit=1)[0])
    return target.startswith(b"/") or target == b"*" and method == b"OPTIONS"


def is_host(value: bytes) -> bool:
    """Say whether the value is a host, with or without a port (RFC 9110 section 7.2)."""
    match = HOST.fullmatch(value)
    if not match or not match[1]:
        return bool(match)
    with suppress(OSError):
        return bool(socket.inet_pton(socket.AF_INET6, match[1].decode()))
    return False


def members(values: list[bytes]) -> list[bytes]:
    """Return the members of a field that is a list (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t") for member in b",".join(values).split(b",")]


def declares_body(fields: dict[bytes, list[bytes]], version: str) -> bool:
    """Say whether a body follows the head. Raises Refused if its length is in doubt."""
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if lengths and not re.fullmatch(rb"[0-9]{1,18}", b",".join(lengths)):
        raise Refused(400, "not a Content-Length (RFC 9110 section 8.6)")
    if not codings:
        return any(map(int, lengths))
    names = members(codings)
    if lengths or len(codings) > 1 or names == [b""] or version == "HTTP/1.0":
        raise Refused(400, "faulty framing (RFC 9112 section 6.1)")
    if len(names) > 1 and (names[-1] != b"chunked" or names.count(b"chunked") > 1):
        raise Refused(400, "chunked twice, or not last (RFC 9112 section 6.3)")
    if names != [b"chunked"]:
        raise Refused(501, "unknown transfer coding (RFC 9112 section 6.1)")
    return True


# --- The server --------------------------------------------------------------------

class ClockServer(ThreadingHTTPServer):
    """Gives each connection a thread and a deadline, and when it is full cuts off the one that
    has waited longest. Arguments are as for any socketserver; "" means all interfaces."""

    request_queue_size = socket.SOMAXCONN  # the stock 5 loses the front of a burst
    # On Windows this would share a port in use; elsewhere a restart needs it.
    allow_reuse_address = not hasattr(socket, "SO_EXCLUSIVEADDRUSE")
    allow_reuse_port = False  # as it is in most Pythons: it would share a port, too

    def __init__(self, server_address: tuple[str, int],
                 RequestHandlerClass: Callable[..., BaseHTTPRequestHandler] = ClockHandler,
                 bind_and_activate: bool = True) -> None:
        # When to cut off each connection, by time.monotonic(). The deadlines are all equally
        # far, and a new request moves its connection to the end: the first has waited longest.
        self.deadlines: dict[socket.socket, float] = {}
        self.accepted: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        # A thread that waits takes a seat. Those of a list are as safe to take as those of a
        # semaphore, and cheaper.
        self.seats = [None] * SPARE_THREADS
        self.threads: list[threading.Thread] = []
        host, port = server_address[:2]
        self.address_family, *_, address = min(  # of a name that has both, IPv4
            socket.getaddrinfo(host or any_address(), None, type=socket.SOCK_STREAM))
        self.add_thread()
        super().__init__((address[0], port, *address[2:]), RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind. Overridden to look up no name, and for the options that connections inherit."""
        if self.address_family == socket.AF_INET6:
            with suppress(AttributeError, OSError):  # then it is IPv6 alone
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for pipelining
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection. Overridden: where there is no room for it, some has to be made."""
        try:
            if len(self.deadlines) < self.max_connections or self.make_room():
                return super().get_request()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):  # out of file descriptors
                raise
            self.make_room()
        time.sleep(RETRY_SECONDS)  # serve_forever would ask again without a pause
        raise BlockingIOError("no room yet")

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Queue a connection for a thread. Overridden: to make one would keep others waiting."""
        self.renew_deadline(request)
        self.accepted.put((request, client_address))

    def add_thread(self) -> None:
        """Start a thread that serves connections."""
        self.max_connections = MAX_CONNECTIONS  # before the start: later, it could undo the limit
        try:
            threading.Thread(target=self.serve_accepted, daemon=True).start()
        except RuntimeError:  # the system has no more for us: so many connections, then
            if not self.threads:
                raise
            self.max_connections = len(self.threads)

    def serve_accepted(self) -> None:
        """Serve one connection after another: the life of a thread."""
        self.threads.append(threading.current_thread())
        with suppress(IndexError):  # no seat is left: enough others wait
            while True:
                self.seats.pop()
                accepted = self.accepted.get()
                self.seats.append(None)
                if not accepted:
                    self.accepted.put(())  # the others are to end, too
                    break
                if len(self.threads) <= len(self.deadlines):
                    self.add_thread()  # so that one waits while this one is busy
                self.process_request_thread(*accepted)
        self.threads.remove(threading.current_thread())

    def renew_deadline(self, connection: socket.socket) -> None:
        """Give a connection the whole time for a request."""
        self.deadlines.pop(connection, None)
        self.deadlines[connection] = time.monotonic() + REQUEST_SECONDS

    def cut_off_oldest(self, until: float) -> bool:
        """Cut off the connection that has waited longest if its deadline is not after `until`."""
        for connection, deadline in self.deadlines.copy().items():  # threads change the original
            if deadline > until:
                break
            self.deadlines.pop(connection, None)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
            return True
        return False

    def make_room(self) -> bool:
        """Cut off a connection for the sake of another one, unless all have just come."""
        return self.cut_off_oldest(time.monotonic() + REQUEST_SECONDS - GRACE_SECONDS)

    def service_actions(self) -> None:
        """Cut off who is late; serve_forever calls this after each connection, and when idle."""
        while self.cut_off_oldest(time.monotonic()):
            pass
        while len(self.deadlines) > self.max_connections and self.make_room():
            pass

    def shutdown_request(self, request: socket.socket) -> None:
        """Close a connection. Overridden to forget its deadline."""
        self.deadlines.pop(request, None)
        self.close_request(request)

    def server_close(self) -> None:
        """Close all connections and end the threads. Overridden: the stock one does neither."""
        super().server_close()
        self.accepted.put(())
        end = time.monotonic() + STOP_SECONDS
        for thread in self.threads[:]:
            while thread.is_alive() and time.monotonic() < end:
                while self.cut_off_oldest(math.inf):  # again, for a thread may have renewed one
                    pass
                thread.join(RETRY_SECONDS)


def any_address() -> str:
    """Return the address for all interfaces, of IPv6 and IPv4 where one socket can have both."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return "::"
    except (AttributeError, OSError):
        return "0.0.0.0"


# --- The command -------------------------------------------------------------------

class QuietHandler(ClockHandler):
    """Answers without logging."""

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


def port_number(text: str) -> int:
    """Return the port that an argument names. Raises ArgumentTypeError."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError("not a number from 0 to 65535: %r" % text)
    return int(text)


def start_line(host: str, port: int) -> str:
    """Return what to say at the start: where the clock is, for whom, and how to stop it."""
    url = "localhost" if host in ("::", "0.0.0.0") else "[%s]" % host if ":" in host else host
    who = "this computer" if host == "::1" or host.startswith("127.") else "the whole network"
    return "Serving the time at http://%s:%d/ to %s; stop with Ctrl-C." % (url, port, who)


def say(text: str) -> None:
    """Print a line at once, whether or not anybody reads it."""
    with suppress(OSError):
        print(text, flush=True)


def stop(*_: object) -> None:
    """Stop at the first signal; ignore the next ones, for stopping has begun."""
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="clock_server", description="Serve a web page with the current time.")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.add_argument("-b", "--bind", metavar="ADDRESS", default="",
                        help="serve on this address or name (default: all interfaces)")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not log requests")
    parser.add_argument("port", nargs="?", type=port_number, default=8880,
                        help="serve on this port; 0 takes a free one (default: %(default)s)")
    args = parser.parse_args(argv)
    for number in signal.SIGINT, signal.SIGTERM:  # both may have come to us ignored
        signal.signal(number, stop)
    try:
        with ClockServer((args.bind, args.port),
                         QuietHandler if args.quiet else ClockHandler) as server:
            say(start_line(server.server_name, server.server_port))
            server.serve_forever()
    except KeyboardInterrupt:
        say("Stopped.")
    except (OSError, RuntimeError, UnicodeError) as error:  # no address, no thread, no name
        print("clock_server: cannot serve on port %d of %s: %s" % (
            args.port, args.bind or "all interfaces", getattr(error, "strerror", None) or error),
            file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
