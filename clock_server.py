#!/usr/bin/env python3
r"""A web server in one file. Every URL it serves is a page with the current time.

    python3 clock_server.py            serve on port 8880 until Ctrl-C
    python3 clock_server.py --help     show the options

GET of any path returns the page, generated afresh for each request; HEAD returns the same
response without the page; OPTIONS lists the methods. Every other request gets the error response
that RFC 9110 and RFC 9112, the standards of HTTP, require. Deliberately left out: files, routes,
request bodies, TLS, compression, caching.

Skip the imports, and read this file from top to bottom. At the end of do_GET you have seen a
complete dynamic web page; the rest is what it takes to leave one running where strangers can reach
it.


What travels over the wire

A browser opens a TCP connection to the server and sends a request. It is text:

    GET /any/path HTTP/1.1              the request line: method, target, version
    Host: localhost:8880                the header section: one field a line,
    User-Agent: Mozilla/5.0             each with a name, a colon and a value
                                        an empty line ends the header section

The server sends a response back on the same connection:

    HTTP/1.1 200 OK                     the status line: version, status, reason
    Content-Type: text/html             the header section
    Content-Length: 2093                the number of bytes in the body
                                        an empty line ends the header section
    <!DOCTYPE html>...                  the body

Every line before the body ends with a carriage return and a line feed, written "\r\n" in Python
and CRLF in the standards. A request can have a body, too, but the clock has no use for one. In this
file, the head of a request is its request line and its header section. A connection that stays open
for further requests is persistent.
"""
from __future__ import annotations  # so that Python 3.8 accepts types such as list[bytes]

import argparse
import base64
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
from collections import OrderedDict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

__version__ = "2.0.0"
assert (python := "3.8 or newer")  # A SyntaxError here means that your Python is older than 3.8.


# --- The page ------------------------------------------------------------------------------------
#
# The page is one string with the time filled in. Its style and its script are part of it, so a
# browser needs nothing else. The script lets the clock tick; without it the page is still right,
# but shows the time of the request.

# Font sizes are sums of rem and vw: vw follows the width of the window, and rem follows the zoom
# and the default font size of the browser, which vw alone would ignore. A narrow window breaks the
# time after the date and nowhere else, since h1 is as wide as the longer of the two lines; pre-wrap
# and pre keep the two blanks that ctime puts before a day of one digit. The typefaces are those of
# road signs and timetables, and all digits have the same width, so that the text does not shake.
# Canvas and CanvasText are white and black, or black and white if the visitor prefers it dark.
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

# To tick, the script needs two times: `stamp`, what the clock of the server showed, and `read`, the
# time of the browser at which it was read. We assume that this was half-way through the round trip;
# if one way takes longer than the other, the page is wrong by half the difference. (Some browsers
# keep the times of the trip to themselves; then it was read when the navigation began.) The stamp
# is taken as if it were UTC (Z replaces its last six characters, the offset), so the page shows the
# time zone of the server and not that of the browser; toUTCString has the parts of ctime in another
# order. Date.now() goes on while a computer sleeps, which performance.now() may not. Once an hour
# the script asks again, because either clock may have been set, or summer time may have begun; if
# that fails, it just ticks on.
SCRIPT = """
const time = document.querySelector("time"), offset = document.querySelector("span");
const [trip = { requestStart: 0, responseStart: 0 }] = performance.getEntriesByType("navigation");
let stamp = time.dateTime;
let read = Date.now() - performance.now() + (trip.requestStart + trip.responseStart) / 2;
function tick() {
  const now = new Date(Date.parse(stamp.slice(0, -6) + "Z") + Date.now() - read);
  const [day, date, month, year, clock] = now.toUTCString().split(/,? /);
  time.textContent = [day, month, String(+date).padStart(2), clock, year].join(" ");
  offset.textContent = stamp.slice(-6);
  time.dateTime = now.toISOString().slice(0, -1) + stamp.slice(-6);
  setTimeout(tick, 1000 - now % 1000);  // at the next full second
}
tick();
setInterval(async () => {
  const asked = Date.now(), page = await (await fetch("")).text();
  [stamp, read] = [page.match(/datetime="(.*?)"/)[1], (asked + Date.now()) / 2];
}, 3600000);
"""


def render_page(now: float) -> bytes:
    """Return the page for the time `now` (seconds since 1970), encoded in UTF-8."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now))  # ends in +0530, for example
    offset = stamp[-5:-2] + ":" + stamp[-2:]
    stamp = "%s.%03d%s" % (stamp[:-5], now % 1 * 1000, offset)
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
<h1><time datetime="{stamp}">{time.ctime(now)}</time></h1>
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
# BaseHTTPRequestHandler defines what such methods can use, for example send_response.

def csp_hash(text: str) -> str:
    """Return what allows exactly this style or script in a Content-Security-Policy, the field that
    tells browsers what a page may load and run."""
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class ClockHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection. Override do_GET in a subclass to serve your page."""

    protocol_version = "HTTP/1.1"  # keep connections open between requests
    allow = "GET, HEAD, OPTIONS"  # the methods announced to clients
    common_fields = {  # sent with every response; a page of your own may need a different policy
        "Server": "clock_server",
        "Cache-Control": "no-store",  # the time is outdated at once
        # The page may load and run its own style, its own script and, once an hour, itself; and no
        # other site may show it in a frame.
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
        """Send a complete response: status, type and body. finish_response adds the length."""
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
        self.send_error(405)  # finish_response adds the methods that are allowed

    # There is nothing to change here, no request to echo, and no proxy to connect through.
    do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = do_POST

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse with one line of plain text, then close the connection. Overridden because the
        stock method logs every error twice, and cannot take back half a response."""
        self.wfile = io.BytesIO()
        self.close_connection = True
        text = f"{code} {self.reason_phrase(code)}" + (f": {message}" if message else "") + "\n"
        self.send_page(text.encode(), "text/plain; charset=utf-8", code)

    def reason_phrase(self, code: int) -> str:
        """Return the phrase that explains a status: "Not Found" for 404, for example."""
        return self.responses.get(code, ("Unknown",))[0]

    def log_message(self, format: str, *args: object) -> None:
        """Log a line in the format of http.server. Overridden so that no request can forge a line,
        or fill the disk, and that no broken log stops the server."""
        message = (format % args).encode("unicode_escape").decode()
        if len(message) > LOG_CHARACTERS:
            message = message[:LOG_CHARACTERS] + "..." + message[-7:]  # the end shows the status
        with suppress(AttributeError, OSError, ValueError):  # no stderr, a full disk, a dead pipe
            sys.stderr.write(f"{self.address_string()} - - [{self.log_date_time_string()}] {message}\n")
            sys.stderr.flush()

    # --- The connections -------------------------------------------------------------------------
    #
    # The rest of the class is about the connection on which requests and responses travel. Clients
    # may send half a request, or two at once, and may leave at any time. So each head is received
    # whole and checked before a method is called. The response is collected, and sent when it is
    # whole: one send is faster than two, half a response can still be replaced by an error message,
    # and what do_GET left out, or wrote in vain for a HEAD, can be put right.

    rbufsize = 0  # do not buffer rfile, which is for bodies only: see Body
    server: ClockServer
    wfile: io.BytesIO  # collects the body of the response
    received = b""  # what has been received after the last head
    raw_head: bytes  # the head of the request, as it was received
    status: int  # the status of the response, or 0 before send_response
    fields: bytes  # the status line and the header fields of the response
    client_is_done = False  # whether the client has asked for the close and sends nothing more

    def handle_one_request(self) -> None:
        """Answer one request. The stock handle() calls this until close_connection is True.
        Overridden to check the whole head first, and to send the response in one piece."""
        self.raw_head = self.read_head()
        self.server.renew_deadline(self.connection)
        self.wfile, self.status = io.BytesIO(), 0
        try:
            self.take_head(parse_head(self.raw_head))
            method = require(getattr(self, "do_" + self.command, None), 501)
            method()
            require(self.status, 500, "the method sent no response")
        except Refused as refused:
            self.command, self.request_version = self.requestline.partition(" ")[0], "HTTP/1.1"
            self.send_error(*refused.args)
        except BaseException:  # a bug in the method; not even SystemExit may end this thread
            self.send_error(500)
            self.server.handle_error(self.request, self.client_address)
        self.connection.sendall(self.finish_response())
        if self.client_is_done:  # then the server need not linger: see finish_request
            self.server.close_request(self.connection)

    def read_head(self) -> bytes:
        """Return the next head without the empty line at its end, or as much of it as shows that it
        is invalid. Raises ConnectionAbortedError if the client leaves before."""
        while not self.received or not is_decided(self.received):
            piece = self.connection.recv(HEAD_BYTES)
            if not piece:
                raise ConnectionAbortedError("the client left before its request was complete")
            self.received += piece
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        # One empty line before a request is skipped (RFC 9112 section 2.2).
        return head[2:] if head.startswith(b"\r\n") else head

    def take_head(self, head: Head) -> None:
        """Set what the head says about the request, the connection and the body."""
        self.command, self.path, self.request_version = head.method, head.target, head.version
        # If nobody read the body, it could be taken for the next request, so there must be none.
        self.close_connection = head.has_body or head.wants_close
        self.client_is_done = head.wants_close and not head.has_body
        if head.has_body:  # do_POST in a subclass may read it
            self.rfile.close()
            self.rfile = io.BufferedReader(Body(self.received, self.connection))

    def send_response(self, code: int, message: str | None = None) -> None:
        """Log the response and begin it. Overridden because the stock methods format every field
        anew: with them a request takes 37 us of processor time, without them 25."""
        self.log_request(code)
        self.status, phrase = code, message or self.reason_phrase(code)
        self.fields = f"{self.protocol_version} {code} {phrase}\r\n".encode("latin-1")

    def send_header(self, keyword: str, value: str) -> None:
        """Add a field. Overridden to keep it for finish_response."""
        self.fields += f"{keyword}: {value}\r\n".encode("latin-1")

    def end_headers(self) -> None:
        """Do nothing. Overridden because finish_response ends the header section."""

    def finish_response(self) -> bytes:
        """Return the collected response, with the fields added that do_GET left out.

        Connection says whether the connection persists (RFC 9112 section 9.3). Without a
        Content-Length the client would wait for more (section 6.3). The responses to HEAD, and
        those with a status of 1xx, 204 or 304, have no body (RFC 9110 section 6.4.1). A response
        with status 405 must have an Allow (section 15.5.6).
        """
        body, sent = self.wfile.getvalue(), self.fields.decode("latin-1").lower()
        if self.server.crowded or "\nconnection: close" in sent:
            self.close_connection = True
        if "\nconnection:" not in sent and (self.close_connection or self.request_version == "HTTP/1.0"):
            self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        if self.status < 200 or self.status in (204, 304):
            body = b""
        elif "\ncontent-length:" not in sent and "\ntransfer-encoding:" not in sent:
            if body or self.command != "HEAD":  # a do_HEAD need not know the length
                self.send_header("Content-Length", str(len(body)))
        if self.status == 405 and "\nallow:" not in sent:
            self.send_header("Allow", self.allow)
        head = self.fields + self.common_lines(int(time.time())) + b"\r\n"
        return head if self.command == "HEAD" else head + body

    @classmethod
    @functools.lru_cache(maxsize=16)  # they change once a second
    def common_lines(cls, now: int) -> bytes:
        """Return the lines of Date and of the common fields, for the time `now`."""
        fields = {"Date": email.utils.formatdate(now, usegmt=True), **cls.common_fields}
        return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")

    @property
    def requestline(self) -> str:
        """The request line for the log, without the double quotes that the log puts round it."""
        return self.raw_head.partition(b"\n")[0].decode("latin-1").strip("\r").replace('"', "%22")

    @property
    def headers(self) -> Any:
        """The header fields of the request as an email.message.Message, for subclasses."""
        section = self.raw_head.partition(b"\r\n")[2].decode("latin-1")
        return email.message_from_string(section, self.MessageClass)


class QuietHandler(ClockHandler):
    """Answers as a ClockHandler does, but does not log requests."""

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Do nothing. Overridden for --quiet."""


class Body(io.BytesIO):
    """The body of a request, for rfile: the part received with the head, then the rest."""

    def __init__(self, received: bytes, connection: socket.socket) -> None:
        super().__init__(received)
        self.connection = connection

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into the buffer and return their number. Overridden to go on with
        the rest, which is still to be received."""
        return super().readinto(buffer) or self.connection.recv_into(buffer)


# --- The limits ----------------------------------------------------------------------------------
#
# Whatever a client can have without limit, some client will take, by mistake or on purpose. These
# are the limits, each with its reason. Change them here; there are no options for them. To evict a
# connection is to close it although its client is not done.

HEAD_BYTES = 65536      # in a head; at least 8,000 in its first line (RFC 9112 section 3)
SEND_BYTES = 40960      # that the system keeps for a slow client; with less, long pages take long
MAX_CONNECTIONS = 512   # at once: half of the 1,024 file descriptors that most systems allow
REQUEST_SECONDS = 10    # from one complete request to the next one on a connection
GRACE_SECONDS = 0.25    # before a connection may be evicted, so that bursts of visitors are served
RETRY_SECONDS = 0.0005  # before looking for room again: short for a visitor, long for a processor
STOP_SECONDS = 0.4      # for the threads to end; with serve_forever's 0.5 s, under a second in all
LOG_CHARACTERS = 200    # in a line of the log, besides the address and the date
CORE_PORT = 8880        # the first UDP port that marks a core: see stay_on_one_core


# --- The grammar ---------------------------------------------------------------------------------
#
# If a proxy and the server behind it read the same bytes differently, an attacker can smuggle one
# request inside another. So this chapter accepts what the standards define and refuses the rest.
# Its functions know nothing of sockets and handlers. The rule that a pattern implements stands
# above it. Adjacent repetitions in a pattern never match the same byte, so that matching takes
# linear time; otherwise one long line could keep the server busy for hours.

class Refused(Exception):
    """The request breaks a rule; the arguments are the status and the reason."""


class Head(NamedTuple):
    """What the head of a request says."""

    method: str
    target: str
    version: str  # "HTTP/1.0" or "HTTP/1.1"
    has_body: bool  # whether a body follows
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
HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[!$&'()*+.;=_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?")


def is_decided(received: bytes) -> bool:
    """Return whether these bytes contain a whole head, or can never become a valid one, as for
    example the first message of TLS or SSH."""
    first_line, line_end, _ = received.lstrip(b"\r\n").partition(b"\n")
    # The first test uses find, since in is slow: it first tries to take the pattern as a number.
    return (received.find(b"\r\n\r\n") >= 0 or len(received) > HEAD_BYTES
            or received.count(b"\n") > received.count(b"\r\n")  # RFC 9112 section 2.2
            or (line_end == b"\n" and b" HTTP/" not in first_line))


def require(condition: Any, status: int, reason: str | None = None) -> Any:
    """Return the condition if it is true. Raises Refused with this status and reason if not."""
    if not condition:
        raise Refused(status, reason)
    return condition


@functools.lru_cache(maxsize=64)  # most clients repeat their head: 25 us a request instead of 39
def parse_head(head: bytes) -> Head:
    """Return what a head says, given without the empty line at its end. Raises Refused."""
    request_line, *field_lines = head.split(b"\r\n")
    require(len(head) <= HEAD_BYTES, 414 if len(request_line) > HEAD_BYTES else 431)
    match = require(REQUEST_LINE.fullmatch(request_line), 400, "malformed request line (RFC 9112 section 3)")
    method, target, major, minor = match.groups()
    require(major == b"1", 505, "only HTTP/1.0 and HTTP/1.1 are supported (RFC 9110 section 15.6.6)")
    require(is_target(target, method), 400, "malformed request target (RFC 9112 section 3.2)")
    version = "HTTP/1.0" if minor == b"0" else "HTTP/1.1"  # RFC 9110 section 2.5
    fields = parse_fields(field_lines)
    require(is_host(fields[b"host"]) if b"host" in fields else version == "HTTP/1.0",
            400, "Host missing, repeated or invalid (RFC 9112 section 3.2)")
    has_body = declares_body(fields, version)
    require({b"100-continue"}.issuperset(members(fields, b"expect")),
            417, "unsupported expectation (RFC 9110 section 10.1.1)")
    options = members(fields, b"connection")  # RFC 9112 section 9.3
    wants_close = b"close" in options or (version == "HTTP/1.0" and b"keep-alive" not in options)
    return Head(method.decode(), target.decode(), version, has_body, wants_close)


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
    if match and match[1]:  # in brackets, where only an IPv6 address may be
        try:
            socket.inet_pton(socket.AF_INET6, match[1].decode())
        except OSError:
            return False
    return bool(match)


def parse_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the values of the fields by their names in lower case. The values of fields with the
    same name are joined by commas (RFC 9110 section 5.3). Raises Refused."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        match = require(FIELD_LINE.fullmatch(line), 400, "malformed field line (RFC 9112 section 5)")
        name, value = match[1].lower(), match[2].strip(b" \t")
        fields[name] = fields[name] + b"," + value if name in fields else value
    return fields


def members(fields: dict[bytes, bytes], name: bytes) -> list[bytes]:
    """Return the members of a list-valued field in lower case. Empty members do not count (RFC 9110
    section 5.6.1.2)."""
    listed = fields.get(name, b"").lower().split(b",")
    return [member.strip(b" \t") for member in listed if member.strip(b" \t")]


def declares_body(fields: dict[bytes, bytes], version: str) -> bool:
    """Return whether a body follows. Raises Refused if its length is ambiguous."""
    length = fields.get(b"content-length", b"0")
    require(re.fullmatch(rb"[0-9]{1,18}", length), 400, "malformed Content-Length (RFC 9110 section 8.6)")
    if b"transfer-encoding" not in fields:
        return int(length) > 0
    # Chunks say where the body ends, if chunked is the last coding and nothing contradicts it.
    *others, last = members(fields, b"transfer-encoding") or [b""]
    require(version == "HTTP/1.1" and b"content-length" not in fields and last and b"chunked" not in others
            and (last == b"chunked" or not others), 400, "ambiguous message length (RFC 9112 section 6.3)")
    require(last == b"chunked" and not others, 501, "unsupported transfer coding (RFC 9112 section 6.1)")
    return True


# --- The server ----------------------------------------------------------------------------------
#
# One thread accepts connections: the one that has called serve_forever. The others serve them, each
# one connection at a time. This is what happens to a connection:
#
#     get_request         the first thread accepts it, as soon as there is room
#     process_request     ... and hands it to an idle thread, or else to a new one
#     finish_request      that thread makes a handler for it, which answers its requests
#     renew_deadline      ... and calls this for each complete head
#     shutdown_request    the thread closes it and is idle again
#
# A client that sends nothing, or a byte now and then, would keep its thread for ever. So there is a
# deadline for each request, and serve_forever calls service_actions again and again, which evicts
# connections past their deadline: it shuts them down, which wakes their threads. If all connections
# are taken when another client comes, the one that has waited longest is evicted early. If none has
# waited for long, since all are busy, each response becomes the last one on its connection, so that
# clients take turns.

class ClockServer(ThreadingHTTPServer):
    """Serves each connection in a thread of its own, within the limits above, with any handler.

    Takes the arguments of any socketserver; the host "" means all interfaces.
    """

    request_queue_size = socket.SOMAXCONN  # the backlog; the default of 5 drops part of a burst

    def __init__(self, server_address: tuple[str, int], RequestHandlerClass: Any = ClockHandler,
                 bind_and_activate: bool = True) -> None:
        # The open connections, each with the time.monotonic() of its last complete head, or of its
        # beginning. Each head moves its connection to the end, so the first one has waited longest.
        self.connections: OrderedDict[socket.socket, float] = OrderedDict()
        self.lock = threading.Lock()  # for self.connections
        self.crowded = False  # whether a client is waiting for room
        self.accepted: queue.SimpleQueue[tuple] = queue.SimpleQueue()  # for idle threads
        self.idle_threads = threading.Semaphore(0)  # counts them
        self.threads: list[threading.Thread] = []
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind the socket. Overridden because the stock method asks a name server for the name of
        this host, and because create_server knows the right options for each system."""
        dual_stack = socket.has_dualstack_ipv6()
        host = str(self.server_address[0]) or ("::" if dual_stack else "0.0.0.0")
        # Without letters it is an address or invalid, so that no name server need be asked.
        flags = 0 if re.search("[A-Za-z]", host) else socket.AI_NUMERICHOST
        addresses = socket.getaddrinfo(host, self.server_address[1], type=socket.SOCK_STREAM, flags=flags)
        # A name may have addresses of both families. Prefer IPv4, which every client can use.
        self.address_family, *_, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
        self.socket.close()
        self.socket = socket.create_server(
            address, family=self.address_family,
            dualstack_ipv6=dual_stack and self.address_family == socket.AF_INET6)
        # Connections inherit these options: to send a response at once, even while another one is
        # on its way, and to keep little for a client that does not read.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.server_address = bound = self.socket.getsockname()
        self.server_name, self.server_port = bound[:2]

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection. Overridden to make room if there is none."""
        with suppress(OSError):  # out of file descriptors, or the client has left
            if len(self.connections) < MAX_CONNECTIONS:
                request, (host, *rest) = super().get_request()
                self.crowded = False
                if os.name == "nt":  # there, shutdown does not wake a thread: python/cpython#91913
                    request.settimeout(REQUEST_SECONDS)
                return request, (plain_address(host), *rest)
        self.make_room()
        raise BlockingIOError("no room yet")  # serve_forever ignores an OSError and tries again

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Hand a connection to a thread. Overridden to use idle threads again: if each connection
        had a new one, a third as many would be served in a second."""
        with self.lock:
            self.connections[request] = time.monotonic()
        while not self.idle_threads.acquire(blocking=False):
            with suppress(RuntimeError):  # the system has no more threads: wait for an idle one
                super().process_request(request, client_address)
                return
            self.make_room()
        self.accepted.put((request, client_address))

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:
        """Serve connections, one after another. Overridden because the stock method, which a new
        thread calls, serves only one. A None instead of a connection ends the thread."""
        self.threads.append(threading.current_thread())
        while request:
            super().process_request_thread(request, client_address)
            self.idle_threads.release()
            request, client_address = self.accepted.get()
        self.accepted.put((None, None))  # so that the next thread ends, too

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        """Let a handler serve a connection. Overridden because a client that leaves is no error,
        and for the lingering close: to close a connection that has unread input resets it, which
        can destroy the last response on its way. So stop sending, read until the client stops, too,
        and only then close (RFC 9112 section 9.6)."""
        with suppress(ConnectionError, socket.timeout):
            super().finish_request(request, client_address)
        if request.fileno() >= 0:  # the handler has not closed it
            with suppress(OSError):  # the client has left
                request.shutdown(socket.SHUT_WR)
                while request.recv(65536):
                    pass

    def renew_deadline(self, connection: socket.socket) -> None:
        """Give a connection the full time for its response and its next request, unless it has been
        evicted."""
        with self.lock:
            if connection in self.connections:
                self.connections[connection] = time.monotonic()
                self.connections.move_to_end(connection)

    def evict(self, seconds: float) -> bool:
        """Evict the connection that has waited longest, if it has waited for so many seconds, and
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
        """Evict a connection unless all are new, and let each response be the last one on its
        connection until another client has been accepted. Then wait a moment."""
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
        self.accepted.put((None, None))
        end = time.monotonic() + STOP_SECONDS
        for thread in self.threads:
            thread.join(max(0, end - time.monotonic()))


def plain_address(address: str) -> str:
    """Return the address, but ::ffff:192.0.2.1, which is how IPv6 shows IPv4, as 192.0.2.1."""
    return address[7:] if address.startswith("::ffff:") else address


# --- The command ---------------------------------------------------------------------------------
#
# What is left is to read the arguments, to say where the clock is, and to stop at a signal. main,
# at the end of the file, shows the order. Whatever goes wrong is explained in one line.

# Nothing, a character that addresses and host names do not have, an empty or too long label, or a
# port. Nothing is an error because it may be a variable without a value, as in --bind "$ADDRESS".
NOT_A_HOST = re.compile(r"^$|[^\w.:%-]|^\.|\.\.|[\w-]{64}|^[^:]+:[^:]*$", re.ASCII)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command; exit with status 2 if one is invalid."""
    parser = argparse.ArgumentParser(
        prog="clock_server", description="Serve a web page with the current time.")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.add_argument("-b", "--bind", metavar="ADDRESS",
                        help="listen on this address or host name (default: all interfaces)")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not log requests")
    parser.add_argument("port", nargs="?", type=int, default=8880,
                        help="listen on this port; 0 picks a free one (default: %(default)s)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error("not a port number from 0 to 65535: %d" % args.port)
    if args.bind is None:
        args.bind = ""  # all interfaces
    elif NOT_A_HOST.search(args.bind.strip("[]")):
        parser.error("not an address or host name: %r" % args.bind)
    args.bind = args.bind.strip("[]")  # IPv6 addresses have brackets in URLs
    return args


def start_text(host: str, port: int) -> str:
    """Return where the clock is, who can reach it, and how to stop it, in short lines."""
    host, outside = plain_address(host), ""
    if host in ("::", "0.0.0.0"):
        host, outside = "localhost", outside_address()
    text = "Serving the time on http://%s:%d/" % ("[%s]" % host if ":" in host else host, port)
    if host == "::1" or host.startswith("127."):
        text += " to this computer only"
    if outside:
        text += "\nFrom other computers: http://%s:%d/" % (outside, port)
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


def advice(error: OSError, host: str, port: int) -> str:
    """Return why the server cannot listen there and, where possible, what to do about it."""
    if isinstance(error, socket.gaierror):
        return f"not an address or host name: {host!r} ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        option, other = f"--bind {host} " if host else "", port + 1 if port < 65535 else 8880
        return f"port {port} is in use; try another one: python3 clock_server.py {option}{other}"
    if error.errno == errno.EACCES and port < 1024:
        return f"port {port} needs the right to use ports below 1024; try one above 1023"
    return f"cannot listen on port {port} of {host or 'all interfaces'}: {os.strerror(error.errno or 0)}"


def stay_on_one_core() -> socket.socket:
    """Keep this process on one core, if possible not on that of another clock server.

    Only one thread at a time runs Python, so a second core is no use, and costs a lot: each time a
    thread hands over to one on another core, that core has to be woken. On two cores 16 clients got
    15,000 responses a second, on one core 40,000. A UDP port marks a core as taken: only one process
    can bind it, and the system frees it however that process ends. Return the socket of that port.
    """
    mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    has_lock = not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled()
    if has_lock and hasattr(os, "sched_setaffinity"):
        for core in sorted(os.sched_getaffinity(0)):
            with suppress(OSError):  # taken
                mark.bind(("127.0.0.1", CORE_PORT + core))
                break
        with suppress(OSError):  # not allowed
            os.sched_setaffinity(0, {core})
    return mark


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


def main(argv: list[str] | None = None) -> str | None:
    """Serve until SIGINT or SIGTERM. Return None, or an error message for sys.exit."""
    args = parse_arguments(argv)
    handler = QuietHandler if args.quiet else ClockHandler
    try:
        for number in signal.SIGINT, signal.SIGTERM:  # whoever started us may have ignored either
            signal.signal(number, stop)
        with ClockServer((args.bind, args.port), handler) as server, stay_on_one_core():
            say(start_text(server.server_name, server.server_port))
            server.serve_forever()
    except KeyboardInterrupt:
        say("Stopped.")
    except OSError as error:
        return "clock_server: " + advice(error, args.bind, args.port)
    return None


if __name__ == "__main__":
    sys.exit(main())
