#!/usr/bin/env python3
r"""A web server in one file. Every URL it serves is a page with the current time.

    python3 clock_server.py            serve on port 8880 until Ctrl-C
    python3 clock_server.py --help     show the options

GET of any path returns the page, generated afresh for each request; HEAD returns the same
response without the page; OPTIONS lists the methods. Every other request gets the error response
that RFC 9110 and RFC 9112 require. Deliberately left out: files, routes, request bodies, TLS,
compression, caching.

Read this file from top to bottom. At the end of do_GET you have seen a complete dynamic web page;
the rest is what it takes to leave one running where strangers can reach it.


What travels over the wire

A browser opens a TCP connection to the server and sends a request. It is text:

    GET /any/path HTTP/1.1              the request line: method, target, version
    Host: localhost:8880                the header section: one field a line,
    User-Agent: Mozilla/5.0             each with a name, a colon and a value
                                        an empty line ends the header section

The server sends a response back on the same connection:

    HTTP/1.1 200 OK                     the status line: version, status, reason
    Content-Type: text/html             the header section
    Content-Length: 2471                the number of bytes in the body
                                        an empty line ends the header section
    <!DOCTYPE html>...                  the body

Every line before the body ends with a carriage return and a line feed, written "\r\n" in Python
and CRLF in the standards. A request can have a body, too, but the clock has no use for one. In this
file the head of a request is its request line and its header section. A connection that is kept
open for further requests is persistent.
"""
from __future__ import annotations  # so that Python 3.8 accepts types such as list[bytes]

import argparse
import base64
import collections
import email.utils
import errno
import functools
import hashlib
import io
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

__version__ = "2.0.0"
assert (python := "3.8 or newer")  # A SyntaxError here means that your Python is older than 3.8.


# --- The page ------------------------------------------------------------------------------------
#
# The page is one string with the time filled in. Its style and its script are part of it, so a
# browser needs nothing else. The script lets the clock tick; without it the page is still right,
# but shows the time of the request.

# Font sizes are sums of rem and vw: vw follows the width of the window, and rem follows the zoom
# and the default font of the browser, which vw alone would ignore. Two lines hold 14 digits each,
# so a narrow window breaks the time after the date and nowhere else; pre-wrap and pre keep the two
# blanks that ctime puts before a day of one digit. The typefaces are those of road signs and
# timetables, and all digits have the same width, so that the text does not shake. Canvas and
# CanvasText are white and black, or black and white where the visitor prefers it dark.
STYLE = """
html { min-height: 100%; display: grid; color-scheme: light dark; background: Canvas; }
body { margin: auto; padding: 0.5rem; text-align: center; color: CanvasText;
       font-family: Bahnschrift, "DIN Alternate", Roboto, system-ui, sans-serif; }
h1 { max-width: 14ch; margin: 0 auto; white-space: pre-wrap; font-variant-numeric: tabular-nums;
     font-size: min(1.5rem + 2.5vw, 11vw); font-weight: 500; line-height: 1.2; }
p { display: inline-block; margin: 0.8em 0 0; padding-top: 0.6em; border-top: 0.12em solid #c8503a;
    font-size: min(0.9rem + 0.4vw, 6vw); color: color-mix(in srgb, CanvasText 70%, Canvas); }
@media (min-width: 40em) { h1 { max-width: none; white-space: pre; } }
"""

# `ahead` is the number of milliseconds by which the server's local time is ahead of the browser's
# UTC, so it corrects a wrong clock and another time zone alike. To find it, the server's local
# time is read as if it were UTC: its offset, the last six characters, is replaced by Z. We assume
# that it was right half-way through the round trip; if one way takes longer than the other, the
# clock is wrong by half the difference. Date.now() goes on while a computer sleeps, which
# performance.now() may not. Every hour the page is fetched again, since the offset of the server
# and the clock of the browser may have been changed; if that fails, the clock just ticks on.
SCRIPT = """
const time = document.querySelector("time"), offset = document.querySelector("span");
let ahead;
function set(stamp, age) {
  ahead = Date.parse(stamp.slice(0, -6) + "Z") + age - Date.now();
  offset.textContent = stamp.slice(-6);
}
function tick() {
  const now = new Date(Date.now() + ahead);
  const [day, date, month, year, clock] = now.toUTCString().split(/,? /);
  time.textContent = [day, month, String(+date).padStart(2), clock, year].join(" ");
  time.dateTime = now.toISOString().slice(0, -1) + offset.textContent;
  setTimeout(tick, 1000 - now % 1000);  // at the next full second
}
const [trip] = performance.getEntriesByType("navigation");
set(time.dateTime, performance.now() - (trip.requestStart + trip.responseStart) / 2);
tick();
setInterval(async () => {
  const start = performance.now(), page = await (await fetch("")).text();
  set(page.match(/datetime="(.*?)"/)[1], (performance.now() - start) / 2);
}, 3600000);
"""


def render_page(now: float) -> bytes:
    """Return the page for the time `now` (seconds since 1970), encoded in UTF-8."""
    local = time.localtime(now)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", local)  # ends with an offset such as +0530
    offset = stamp[-5:-2] + ":" + stamp[-2:]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="The current time on this server.">
<title>The current time on this server</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1><time datetime="{stamp[:-5]}.{int(now % 1 * 1000):03}{offset}">{time.asctime(local)}</time></h1>
<p>Time on this server, UTC<span>{offset}</span></p>
</main>
<script>{SCRIPT}</script>
</body>
</html>
""".encode()


# --- The responses -------------------------------------------------------------------------------
#
# For each connection the server makes a handler, an instance of the class below. The handler reads
# one request after another and calls the method that is named after the method of the request:
# do_GET, do_HEAD and so on. That method sends the response: a status, header fields and a body.

def csp_hash(text: str) -> str:
    """Return the Content-Security-Policy source that allows exactly this inline style or script."""
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class ClockHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection. Override do_GET in a subclass to serve your page."""

    protocol_version = "HTTP/1.1"  # keep connections open between requests
    allow = "GET, HEAD, OPTIONS"  # the methods announced to clients
    common_fields = {  # sent with every response; a page of your own may need a different policy
        "Server": "clock_server",
        "Cache-Control": "no-store",  # the time is outdated at once
        # What the page may load and run: its own style, its own script and, once an hour, itself.
        # No other site may show it in a frame.
        "Content-Security-Policy":
        f"default-src 'none'; style-src {csp_hash(STYLE)}; script-src {csp_hash(SCRIPT)}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",  # no link tells another site where the visitor was
        "X-Content-Type-Options": "nosniff",  # browsers must not guess another Content-Type
    }

    def do_GET(self) -> None:
        """Send the page, generated for this request."""
        self.send_page(render_page(time.time()))

    def send_page(self, page: bytes, type: str = "text/html; charset=utf-8", status: int = 200) -> None:
        """Send a complete response with this page as its body. finish_response adds its length."""
        self.send_response(status)
        self.send_header("Content-Type", type)
        self.end_headers()
        self.wfile.write(page)

    def do_HEAD(self) -> None:
        """Answer as for GET; finish_response leaves out the body (RFC 9110 section 9.3.2)."""
        self.do_GET()

    def do_OPTIONS(self) -> None:
        """List the methods that are allowed here (RFC 9110 section 9.3.7)."""
        self.send_response(204)
        self.send_header("Allow", self.allow)
        self.end_headers()

    def do_POST(self) -> None:
        """Refuse a method that is known but not allowed here (RFC 9110 section 15.5.6)."""
        self.send_error(405)

    # There is nothing to change here, no request to echo, and no proxy to connect through.
    do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = do_POST

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse with one line of plain text, then close the connection. Overridden because the
        stock method logs every error twice, and cannot take back half a response."""
        self.wfile = io.BytesIO()
        self.close_connection = self.linger = True
        reason = self.responses.get(code, ("Unknown",))[0] + (": " + message if message else "")
        self.send_page(b"%d %s\n" % (code, reason.encode()), "text/plain; charset=utf-8", code)

    def log_message(self, format: str, *args: object) -> None:
        """Log a line. Overridden so that no request can forge one, and no broken log stops us."""
        message = (format % args).encode("unicode_escape").decode()
        if len(message) > LOG_CHARACTERS:
            message = message[:LOG_CHARACTERS] + "..." + message[-7:]  # the end shows the status
        line = "%s - - [%s] %s\n" % (self.address_string(), self.log_date_time_string(), message)
        with suppress(AttributeError, OSError, ValueError):  # no stderr, a full disk, a dead pipe
            sys.stderr.write(line)
            sys.stderr.flush()

    def address_string(self) -> str:
        """Return the client's address. Overridden to show IPv4 as such on an IPv6 socket."""
        return plain_address(self.client_address[0])

    # --- The connections -------------------------------------------------------------------------
    #
    # The rest of the class is about the connection on which requests and responses travel. Clients
    # may send half a request, or two at once, and may leave at any time. So each request is read
    # and checked before a method is called. The response is collected, and sent when it is whole:
    # one send is faster than two, half a response can still be replaced by an error message, and
    # what do_GET left out, or wrote in vain for a HEAD, can be put right.

    disable_nagle_algorithm = True  # send a response at once, even while another is on its way
    server: ClockServer
    wfile: io.BytesIO  # collects the body of the response
    requests_left: int  # how many more requests this connection may carry
    received = b""  # the bytes that have come in after the last head
    raw_head: bytes  # the head of the request, as it came
    head: Head  # what the head of the request says
    beginning = b""  # the status line of the response, and the fields that every response has
    fields = b""  # the other fields of the response
    linger = True  # whether the client may still be sending when the connection is closed

    def handle(self) -> None:
        """Answer requests until either side is done. Overridden to linger before the close.

        To close a connection with unread input resets it, which can destroy the last response on
        its way. So stop sending, read until the client stops, too, and only then close (RFC 9112
        section 9.6).
        """
        self.requests_left = MAX_REQUESTS
        with suppress(OSError):  # the client left or was evicted, which is not an error
            super().handle()
            if self.linger:
                self.connection.shutdown(socket.SHUT_WR)
                while self.connection.recv(65536):
                    pass

    def handle_one_request(self) -> None:
        """Answer one request. Overridden to send the response in one piece."""
        self.wfile, self.beginning = io.BytesIO(), b""
        if self.parse_request():
            self.call_method()
        self.connection.sendall(self.finish_response())

    def parse_request(self) -> bool:
        """Read and check a request; return False if it was refused. Overridden because the stock
        method accepts much that HTTP forbids, and is slower."""
        self.raw_head = self.read_head()
        self.server.renew_deadline(self.connection)
        try:
            self.head = head = parse_head(self.raw_head)
        except Refused as refused:
            self.command = self.requestline.partition(" ")[0]
            self.request_version = self.protocol_version
            self.send_error(*refused.args)
            return False
        self.command, self.path, self.request_version = head.method, head.target, head.version
        self.requests_left -= 1
        self.linger = head.has_body or not head.wants_close
        # Since the clock does not read a body, it could take what is in one for the next request.
        self.close_connection = head.has_body or head.wants_close or self.requests_left == 0
        if head.has_body:  # a do_POST of your own may read it
            self.rfile.close()
            self.rfile = io.BufferedReader(Body(self.received, self.connection))
        return True

    def read_head(self) -> bytes:
        """Return the next head without the empty line at its end, or as much of a head as shows
        that it is invalid. Raises ConnectionAbortedError if the client leaves before."""
        seen = 0
        while not self.received or not is_decided(self.received, seen):
            seen = len(self.received)
            piece = self.connection.recv(RECEIVE_BYTES)
            if not piece:
                raise ConnectionAbortedError("the client left before its request was complete")
            self.received += piece
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        # One empty line before a request is skipped (RFC 9112 section 2.2).
        return head[2:] if head.startswith(b"\r\n") else head

    def call_method(self) -> None:
        """Call the method named after the method of the request, such as do_GET."""
        method = getattr(self, "do_" + self.command, None)
        if not method:
            self.send_error(501)
            return
        try:
            method()
            if not self.beginning:
                raise RuntimeError("do_%s sent no response" % self.command)
        except BaseException:  # a bug in it; even SystemExit must not end a thread of the server
            self.send_error(500)
            self.server.handle_error(self.request, self.client_address)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Log the response and begin it. Overridden because the stock method formats each field
        each time: with it a request takes 27 us of processor time, without it 22."""
        self.log_request(code)
        self.fields = b""
        self.beginning = self.begin_response(int(code), message, int(time.time()))

    @classmethod
    @functools.lru_cache(maxsize=16)  # it changes once a second
    def begin_response(cls, code: int, message: str | None, now: int) -> bytes:
        """Return the status line and the fields that every response has."""
        reason = message or cls.responses.get(code, ("Unknown",))[0]
        fields = {"Date": email.utils.formatdate(now, usegmt=True), **cls.common_fields}
        if code == 405:
            fields["Allow"] = cls.allow
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{cls.protocol_version} {code} {reason}\r\n{head}".encode("latin-1")

    def send_header(self, keyword: str, value: str) -> None:
        """Add a field. Overridden to keep it for finish_response."""
        self.fields += f"{keyword}: {value}\r\n".encode("latin-1")

    def end_headers(self) -> None:
        """Do nothing. Overridden because finish_response ends the header section."""

    def finish_response(self) -> bytes:
        """Return the collected response, with the fields added that do_GET left out.

        Connection says whether the connection persists (RFC 9112 section 9.3). Without a
        Content-Length the client would wait for more (section 6.3). The responses to HEAD, 204
        and 304 have no body (RFC 9110 section 6.4.1).
        """
        body, names = self.wfile.getvalue(), b"\n" + self.fields.lower()
        if self.server.crowded or b"\nconnection: close" in names:
            self.close_connection = True
        if b"\nconnection:" not in names and (self.close_connection or self.request_version == "HTTP/1.0"):
            self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        if self.beginning[9:12] in (b"204", b"304"):
            body = b""
        elif not (b"\ncontent-length:" in names or b"\ntransfer-encoding:" in names):
            if body or self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
        head = self.beginning + self.fields + b"\r\n"
        return head if self.command == "HEAD" else head + body

    @property
    def requestline(self) -> str:
        """The request line, for the log, which puts it in double quotes."""
        return self.raw_head.partition(b"\n")[0].decode("latin-1").strip("\r").replace('"', "%22")

    @property
    def headers(self) -> HTTPMessage:
        """The header fields of the request, built on demand: the clock needs none of them."""
        message: HTTPMessage = self.MessageClass()
        for name, value in self.head.fields:
            message[name.decode()] = value.decode("latin-1")
        return message


class QuietHandler(ClockHandler):
    """Answers without logging."""

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Do nothing. Overridden for --quiet."""


class Body(io.RawIOBase):
    """The body of a request, from which self.rfile reads: what came with the head, then the rest."""

    def __init__(self, received: bytes, connection: socket.socket) -> None:
        self.received, self.connection = received, connection

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes of the body into the buffer; return their number."""
        piece = self.received[:len(buffer)] or self.connection.recv(len(buffer))
        self.received = self.received[len(piece):]
        buffer[:len(piece)] = piece
        return len(piece)


def plain_address(address: str) -> str:
    """Return the address, but ::ffff:192.0.2.1, which is how IPv6 shows IPv4, as 192.0.2.1."""
    return address[7:] if address.startswith("::ffff:") else address


# --- The limits ----------------------------------------------------------------------------------
#
# Whatever a client can have without limit, some client will take, by mistake or on purpose. These
# are the limits, each with its reason. Change them here; there are no options for them.

HEAD_BYTES = 65536      # in a head; at least 8,000 in its first line (RFC 9112 section 3)
RECEIVE_BYTES = 8192    # received at once; most heads are shorter
SEND_BYTES = 40960      # that the system keeps for a slow client; with less, long pages take long
MAX_REQUESTS = 500      # on a connection; then other clients get a turn
MAX_CONNECTIONS = 512   # at once: half of the 1,024 file descriptors that most systems allow
REQUEST_SECONDS = 10    # from one complete request to the next one on a connection
GRACE_SECONDS = 0.25    # before a new connection may be evicted, lest a burst evict its own front
RETRY_SECONDS = 0.0005  # before looking for room again: short for a visitor, long for a processor
STOP_SECONDS = 0.4      # for the threads to end; with serve_forever's 0.5 s, under a second in all
LOG_CHARACTERS = 200    # in a line of the log
CORE_PORT = 8880        # plus the number of a core: see stay_on_one_core


# --- The grammar ---------------------------------------------------------------------------------
#
# If a proxy and the server behind it read the same bytes differently, an attacker can smuggle one
# request inside another. So this chapter accepts what the standards define and refuses the rest;
# the functions know nothing of sockets and handlers. Each pattern stands below the rule that it
# implements. Adjacent repetitions in a pattern never match the same byte, so matching takes linear
# time; otherwise one long line could keep the server busy for hours.

class Refused(Exception):
    """The request breaks a rule; the arguments are the status and the reason."""


class Head(NamedTuple):
    """What the head of a request says."""

    method: str
    target: str
    version: str  # "HTTP/1.0" or "HTTP/1.1"
    fields: list[tuple[bytes, bytes]]  # the names, in lower case, and the values
    has_body: bool
    wants_close: bool  # whether the client wants the connection closed after the response


# token = 1*tchar  (RFC 9110 section 5.6.2)
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# request-line = method SP request-target SP HTTP-version  (RFC 9112 section 3)
# A target may hold every visible character but "#": browsers send some that RFC 3986 forbids.
REQUEST_LINE = re.compile(rb"(%s) ([!\"$-~]+) HTTP/([0-9])\.([0-9])" % TOKEN)
# field-line = field-name ":" OWS field-value OWS  (RFC 9112 section 5)
FIELD_LINE = re.compile(rb"(%s):([\t -~\x80-\xff]*)" % TOKEN)
# Host = uri-host [ ":" port ]  (RFC 9110 section 7.2)
# uri-host = IP-literal / reg-name  (RFC 3986 section 3.2.2)
# A reg-name may hold commas, but here it may not: they would hide that there are two Host fields.
HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[!$&'()*+.;=_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)"
                  rb"(?::[0-9]*)?")
BARE_LF = re.compile(rb"(?<!\r)\n")  # ends no line (RFC 9112 section 2.2)


def is_decided(received: bytes, seen: int) -> bool:
    """Return whether these bytes contain a whole head, or cannot become one any more, such as the
    first message of TLS or SSH. The first `seen` of them are known to contain neither."""
    whole = received.find(b"\r\n\r\n", max(0, seen - 3)) >= 0
    if whole or BARE_LF.search(received, seen) or len(received) > HEAD_BYTES:
        return True
    first_line, end, _ = received.lstrip(b"\r\n").partition(b"\r\n")
    return bool(end) and b" HTTP/" not in first_line


@functools.lru_cache(maxsize=64)  # most clients repeat their head byte for byte
def parse_head(head: bytes) -> Head:
    """Return what a head says. Raises Refused."""
    request_line, *field_lines = head.split(b"\r\n")
    if len(head) > HEAD_BYTES:
        raise Refused(414 if len(request_line) > HEAD_BYTES else 431)
    match = REQUEST_LINE.fullmatch(request_line)
    if not match:
        raise Refused(400, "malformed request line (RFC 9112 section 3)")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are supported (RFC 9110 section 15.6.6)")
    if not is_target(target, method):
        raise Refused(400, "malformed request target (RFC 9112 section 3.2)")
    version = "HTTP/1.0" if minor == b"0" else "HTTP/1.1"  # RFC 9110 section 2.5
    fields = list(map(parse_field, field_lines))
    host = combined(fields, b"host")
    if not (version == "HTTP/1.0" if host is None else is_host(host)):
        raise Refused(400, "Host missing, repeated or invalid (RFC 9112 section 3.2)")
    has_body = declares_body(fields, version)
    if not {b"100-continue"}.issuperset(members(fields, b"expect")):
        raise Refused(417, "unsupported expectation (RFC 9110 section 10.1.1)")
    options = members(fields, b"connection")  # RFC 9112 section 9.3
    wants_close = b"close" in options or (version == "HTTP/1.0" and b"keep-alive" not in options)
    return Head(method.decode(), target.decode(), version, fields, has_body, wants_close)


def is_target(target: bytes, method: bytes) -> bool:
    """Return whether the target has a form allowed for the method (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        return is_host(target) and b":" in target and target[-1:].isdigit()
    if target[:7].lower() == b"http://":
        return is_host(re.split(rb"[/?]", target[7:], maxsplit=1)[0])
    return target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")


def is_host(value: bytes) -> bool:
    """Return whether the value is a host with an optional port (RFC 9110 section 7.2)."""
    match = HOST.fullmatch(value)
    try:
        return bool(match and (not match[1] or socket.inet_pton(socket.AF_INET6, match[1].decode())))
    except OSError:  # what is in the brackets is not an IPv6 address
        return False


def parse_field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name, in lower case, and the value of a field. Raises Refused."""
    match = FIELD_LINE.fullmatch(line)
    if not match:
        raise Refused(400, "malformed field line (RFC 9112 section 5)")
    return match[1].lower(), match[2].strip(b" \t")


def combined(fields: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the values of all fields of this name, joined by commas (RFC 9110 section 5.3), or
    None if there is no such field."""
    values = [value for other, value in fields if other == name]
    return b",".join(values) if values else None


def members(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the members of a list-valued field in lower case, without empty ones, which do not
    count (RFC 9110 section 5.6.1.2)."""
    listed = (combined(fields, name) or b"").lower().split(b",")
    return [member.strip(b" \t") for member in listed if member.strip(b" \t")]


def declares_body(fields: list[tuple[bytes, bytes]], version: str) -> bool:
    """Return whether a body follows. Raises Refused if its length is ambiguous."""
    length, codings = combined(fields, b"content-length"), members(fields, b"transfer-encoding")
    if length is not None and not re.fullmatch(rb"[0-9]{1,18}", length):
        raise Refused(400, "malformed Content-Length (RFC 9110 section 8.6)")
    if combined(fields, b"transfer-encoding") is None:
        return int(length or 0) > 0
    if length is not None or version == "HTTP/1.0" or not codings:
        raise Refused(400, "ambiguous message length (RFC 9112 section 6.1)")
    if b"chunked" in codings[:-1] or (len(codings) > 1 and codings[-1] != b"chunked"):
        raise Refused(400, "chunked is repeated, or not the last coding (RFC 9112 section 6.3)")
    if codings != [b"chunked"]:
        raise Refused(501, "unsupported transfer coding (RFC 9112 section 6.1)")
    return True


# --- The server ----------------------------------------------------------------------------------
#
# One thread accepts connections: the one that has called serve_forever. The others serve them, each
# one connection at a time. This is what happens to a connection:
#
#     get_request         the first thread accepts it, as soon as there is room
#     process_request     ... and gives it to an idle thread, or else to a new one
#     finish_request      this thread makes a handler for it, which answers its requests
#     renew_deadline      the handler calls this for each complete request
#     shutdown_request    the thread closes it and is idle again
#
# A client that sends nothing, or a byte now and then, would keep its thread for ever. So there is a
# deadline for each request, and serve_forever calls service_actions again and again, which evicts
# connections past their deadline: it shuts them down, which wakes their threads. If all connections
# are taken when another client comes, the one that has waited longest is evicted early. If even
# that one is busy, each response becomes the last one on its connection, so that clients take turns.

class ClockServer(ThreadingHTTPServer):
    """Serves each connection in a thread of its own, within the limits above, with any handler.

    Takes the arguments of any socketserver; the host "" means all interfaces.
    """

    request_queue_size = socket.SOMAXCONN  # the backlog; the default of 5 drops part of a burst

    def __init__(self, server_address: tuple[str, int],
                 RequestHandlerClass: Callable[..., BaseHTTPRequestHandler] = ClockHandler,
                 bind_and_activate: bool = True) -> None:
        # The open connections, each with the time.monotonic() of its last complete request, or of
        # its beginning. Each request moves its connection to the end, so the first one has waited
        # longest. Threads hold the lock while they use this.
        self.connections: collections.OrderedDict[socket.socket, float] = collections.OrderedDict()
        self.lock = threading.Lock()
        self.crowded = False  # whether a client is waiting for room
        self.accepted: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()  # for idle threads
        self.idle_threads = threading.Semaphore(0)  # counts them
        self.threads: list[threading.Thread] = []
        host, port = server_address[:2]
        host = host or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
        addresses: list = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses.sort(key=lambda info: info[0] != socket.AF_INET)  # a name may have both: use IPv4
        self.address_family, *_, address = addresses[0]
        super().__init__(address, RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind the socket. Overridden because the stock method asks a name server for the name of
        this host, and because create_server knows the right options for each system."""
        self.socket.close()
        self.socket = socket.create_server(
            self.server_address, family=self.address_family,
            dualstack_ipv6=self.address_family == socket.AF_INET6 and socket.has_dualstack_ipv6())
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # for connections
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection. Overridden to make room if there is none."""
        try:
            if len(self.connections) < MAX_CONNECTIONS:
                request, client_address = super().get_request()
                self.crowded = False
                if os.name == "nt":  # there, shutdown does not wake a thread: python/cpython#91913
                    request.settimeout(REQUEST_SECONDS)
                return request, client_address
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):  # out of file descriptors
                raise
        self.make_room()
        raise BlockingIOError("no room yet")  # serve_forever ignores an OSError and tries again

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Give a connection to a thread. Overridden to use idle threads again: to make a new one
        each time takes twice as long."""
        with self.lock:
            self.connections[request] = time.monotonic()
        while not self.idle_threads.acquire(blocking=False):
            try:
                thread = threading.Thread(target=self.serve_connections, daemon=True)
                thread.start()
                self.threads.append(thread)
                break
            except RuntimeError:  # the system has no more threads, so wait for an idle one
                self.make_room()
        self.accepted.put((request, client_address))

    def serve_connections(self) -> None:
        """Serve one connection after another, as each thread does, until there is a None."""
        for request, client_address in iter(self.accepted.get, None):
            self.process_request_thread(request, client_address)
            self.idle_threads.release()
        self.accepted.put(None)  # so that the next thread ends, too

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        """Let a handler serve a connection. Overridden because a client may leave: no error."""
        with suppress(ConnectionError):
            super().finish_request(request, client_address)

    def renew_deadline(self, connection: socket.socket) -> None:
        """Give a connection the full time again, unless it has been evicted."""
        with self.lock:
            if connection in self.connections:
                self.connections[connection] = time.monotonic()
                self.connections.move_to_end(connection)

    def evict(self, seconds: float) -> bool:
        """Evict the connection that has waited longest, if it has waited for so many seconds;
        return whether one was evicted."""
        with self.lock:
            connection = next(iter(self.connections), None)
            if not connection or time.monotonic() - self.connections[connection] < seconds:
                return False
            del self.connections[connection]
            with suppress(OSError):  # the client has reset it
                connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
            return True

    def make_room(self) -> None:
        """Evict a connection unless all are new, and until the next one has been accepted let each
        response be the last on its connection. Then wait a moment."""
        self.crowded = True
        self.evict(GRACE_SECONDS)
        time.sleep(RETRY_SECONDS)

    def service_actions(self) -> None:
        """Evict connections past their deadline. serve_forever calls this after each connection
        that it accepts, and twice a second in between."""
        while self.evict(REQUEST_SECONDS):
            pass

    def shutdown_request(self, request: socket.socket) -> None:
        """Close a connection. Overridden to take it out of self.connections."""
        with self.lock:
            self.connections.pop(request, None)
        self.close_request(request)

    def server_close(self) -> None:
        """Stop listening, close all connections and end all threads. Overridden because the stock
        method only stops listening."""
        super().server_close()
        while self.evict(0):
            pass
        self.accepted.put(None)
        end = time.monotonic() + STOP_SECONDS
        for thread in self.threads:
            thread.join(max(0, end - time.monotonic()))


# --- The command ---------------------------------------------------------------------------------
#
# What is left is to read the arguments, to say where the clock is, and to stop at a signal. main,
# at the end of the file, shows the order; what can go wrong is said in one line.

def port_number(text: str) -> int:
    """Return the argument as a port number. Raises ArgumentTypeError."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError("not a number from 0 to 65535: %r" % text)
    return int(text)


def host_name(text: str) -> str:
    """Return the argument as an address or host name, an IPv6 address without the brackets that
    it has in a URL. Raises ArgumentTypeError, without asking a name server."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # not an address, or nothing that can be encoded for DNS
        if not re.fullmatch(r"(?:[0-9A-Za-z_-]{1,63}\.)*(?![0-9]+\.?$)[0-9A-Za-z_-]{1,63}\.?", text):
            raise argparse.ArgumentTypeError("not an address or host name: %r" % text) from None
    return host


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments of the command; exit with status 2 if one is invalid."""
    parser = argparse.ArgumentParser(
        prog="clock_server", description="Serve a web page with the current time.")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.add_argument("-b", "--bind", metavar="ADDRESS", type=host_name,
                        help="listen on this address or host name (default: all interfaces)")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not log requests")
    parser.add_argument("port", nargs="?", type=port_number, default=8880,
                        help="listen on this port; 0 picks a free one (default: %(default)s)")
    return parser.parse_args(argv)


def start_text(host: str, port: int) -> str:
    """Return where the clock is, who can reach it, and how to stop it, in short lines."""
    host, where = plain_address(host), "Serving the time on http://%s:%d/"
    if host in ("::", "0.0.0.0"):
        text, outside = where % ("localhost", port), outside_address()
        if outside:
            text += "\nFrom other computers: http://%s:%d/" % (outside, port)
    else:
        text = where % ("[%s]" % host if ":" in host else host, port)
        if host == "::1" or host.startswith("127."):
            text += " to this computer only"
    return text + "\nPress Ctrl-C to stop."


def outside_address() -> str:
    """Return the address under which other computers see this one, or "" without a network.

    To connect a UDP socket sends nothing, but picks the address that it would send from. The
    address that it is connected to is reserved for documentation.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return ""


def advice(error: OSError, host: str | None, port: int) -> str:
    """Return why the server cannot listen there and, where possible, what to do about it."""
    if isinstance(error, socket.gaierror):
        return f"not an address or host name: {host!r} ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        option, other = f"--bind {host} " if host else "", port + 1 if port < 65535 else 8880
        return f"port {port} is in use; try another one: python3 clock_server.py {option}{other}"
    if error.errno == errno.EACCES and port < 1024:
        return f"port {port} needs the right to use ports below 1024; try one above 1023"
    reason = (error.strerror or str(error)).partition(" (while")[0]  # the rest repeats the address
    return f"cannot listen on port {port} of {host or 'all interfaces'}: {reason}"


def stay_on_one_core(mark: socket.socket) -> None:
    """Keep this process on one core, if possible not on that of another clock server.

    Only one thread at a time runs Python, so a second core is no use, and costs a lot: each time
    a thread hands over to one on another core, that core has to be woken. On two cores 16 clients
    got 14,000 responses a second, on one core 42,000. A UDP port marks a core as taken: only one
    process can bind it, and the system frees it however that process ends.
    """
    has_lock = not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled()
    if has_lock and hasattr(os, "sched_setaffinity"):
        for core in sorted(os.sched_getaffinity(0)):
            with suppress(OSError):  # taken
                mark.bind(("127.0.0.1", CORE_PORT + core))
                break
        with suppress(OSError):  # not allowed
            os.sched_setaffinity(0, {core})


def say(text: str) -> None:
    """Print a text immediately, even if nobody can read it."""
    with suppress(OSError):
        print(text, flush=True)


def stop(*_: object) -> None:
    """Stop at the first signal and ignore later ones.

    They are ignored by a function, not by SIG_IGN: Python would report a signal that came in just
    before as an error.
    """
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    args = parse_arguments(argv)
    handler = QuietHandler if args.quiet else ClockHandler
    try:
        for number in signal.SIGINT, signal.SIGTERM:  # whoever started us may have ignored either
            signal.signal(number, stop)
        with ClockServer((args.bind or "", args.port), handler) as server, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mark:
            stay_on_one_core(mark)
            say(start_text(server.server_name, server.server_port))
            server.serve_forever()
    except KeyboardInterrupt:
        say("Stopped.")
    except OSError as error:
        print("clock_server: " + advice(error, args.bind, args.port), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
