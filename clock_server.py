#!/usr/bin/env python3
r"""A web server in one file. Every URL it serves is a page with the current time.

    python3 clock_server.py     serve on port 8880 until Ctrl-C; --help shows the options

Read this file from top to bottom. The first chapter is a complete small server: a function that
writes a page, a class that sends it, and a line that starts it. The second one lists what strangers
do to that server. Each later chapter, except "The looks", begins with what they do, as a command
that you can type, and then shows the cure. In the end you have a server that you can leave running.

What travels over the wire: a client, such as a browser, opens a connection to a server, a stream of
bytes in each direction. A port, here 8880, is the number by which a machine knows which of its
programs is meant. On the connection, the client sends a request. It is text:

    GET /any/path HTTP/1.1              the request line: method, target, version
    Host: localhost:8880                the header section: one field per line,
    User-Agent: Mozilla/5.0             each with a name, a colon and a value
                                        an empty line ends the header section

The server sends a response back on the same connection:

    HTTP/1.1 200 OK                     the status line: version, status, reason phrase
    Content-Type: text/html             the header section
    Content-Length: 4987                the number of bytes in the body
                                        an empty line ends the header section
    <!DOCTYPE html>...                  the body

Every line before the body ends with two bytes, a carriage return and a line feed: CRLF in the
standards, "\r\n" in Python. The standards are RFC 9110, on what requests and responses mean, and
RFC 9112, on how they are written: https://www.rfc-editor.org/rfc/rfc9112. A few more words:

    method        what a request asks for: GET a page, HEAD the response to a GET without its body;
                  POST sends a body to the server. (Methods of classes are written as in do_GET.)
    field         a line of the header section; Python calls it a header, as in send_header
    head          of a request or a response: everything before the body
    inherited     comes from a class of the standard library, and is not shown in this file
"""
from __future__ import annotations  # so that Python 3.8 accepts types such as list[bytes]

import argparse
import atexit
import base64
import email.message
import errno
import functools
import hashlib
import io
import mmap
import os
import queue
import re
import select
import signal
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from contextlib import suppress
from datetime import datetime
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterable, NamedTuple

__version__ = "3.0.0"
assert (python := "3.8 or newer")  # older Pythons do not know :=, stop here and show this line


# --- The clock -----------------------------------------------------------------------------------
#
# This chapter is a whole program. Only the style, the script and the icon of the page are elsewhere,
# in "The looks". The script makes the clock tick; without it, the page shows the time of the request.

def render_page(now: datetime) -> bytes:
    """Return the page for the time `now`, which must know its time zone, encoded in UTF-8."""
    stamp = now.isoformat(timespec="milliseconds")  # for example 2026-11-24T06:27:12.345+01:00
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="The current time on this server.">
<title>The current time on this server</title>
<link rel="icon" href="{ICON}">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1><time datetime="{stamp}">{now.ctime()}</time></h1>
<p>Time on this server, UTC<span>{stamp[-6:]}</span></p>
</main>
<script>{SCRIPT}</script>
</body>
</html>
""".encode()


# For each connection, the server makes an object of the next class, a handler. It runs in a thread, a
# part of the program beside the others; it reads a request, and calls do_GET if the method is GET.

class ClockPage(BaseHTTPRequestHandler):
    """Answers every GET request with the page, whatever its target is."""

    protocol_version = "HTTP/1.1"  # connections are persistent: they stay open for further requests

    def do_GET(self) -> None:
        """Send the page, generated for this request."""
        page = render_page(datetime.now().astimezone())
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)  # what is written to wfile is sent on the connection


# That is the small server. To start it in the folder of this file, type what follows the $:
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), ClockPage).serve_forever()"
#
# Here '' stands for every network of this machine, and 8880 is the port. Now open
# http://localhost:8880/ in a browser. For each request, the server writes a line to its log, which is
# the terminal. To see the text that travels, type this in a second terminal:
#
#     $ curl -v http://localhost:8880/


# --- What strangers do to it ---------------------------------------------------------------------
#
# Among friends, the small server is all you need. On an open network it meets strangers, whose
# programs are slow, broken or malicious. This is what they do to it, and the chapter with the cure:
#
#     write a lie into its log                                   The responses
#     leave in the middle, so that it prints a traceback         The connections
#     send half a request, and keep it waiting forever           The limits
#     hide a second request in the first one                     The grammar
#     take all its connections, so that nobody else gets one     The server
#     send more than it reads, and never see its response        The server
#
# The last chapter, The command, is about what happens to the operator, the person who runs the
# server: a port in use, and Ctrl-C. From here on, a client is a program that sends requests, and a
# visitor is a person who looks at the page in a browser.
#
# Keep the small server running in one terminal, and type the commands of these chapters in another
# one: what follows "$ " and, on further lines, what follows "> ". Ctrl-C ends a command that waits.
# Then stop the small server, start `python3 clock_server.py` instead, and type the commands again.
# (On Windows, use the shell of WSL.)


# --- The looks -----------------------------------------------------------------------------------
#
# You can skip this chapter if you have come for the server. It is CSS, JavaScript and SVG.

STYLE = """
html { min-height: 100%; display: grid;  /* In a grid, auto margins center in both directions. */
       color-scheme: light dark;  /* The visitor's choice: Canvas is white or black, and */
       background: Canvas; }      /* CanvasText, the color of the text, is the other one. */
body { margin: auto; padding: 0.5rem; text-align: center; color: CanvasText;
       /* These are the typefaces of road signs and timetables, then that of the system. */
       font-family: Bahnschrift, "DIN Alternate", Roboto, system-ui, sans-serif; }
/* vw follows the width of the window; rem follows the zoom and the font size of the browser. */
main { font-size: min(1.5rem + 2.5vw, 11vw); }
h1 { margin: 0 auto; font-size: 1em; font-weight: 500; line-height: 1.2;
     font-variant-numeric: tabular-nums;  /* All digits have one width: the text does not shake. */
     white-space: pre-wrap;  /* This keeps both blanks before a day of one digit. */
     /* A narrow window has room for the 13 characters from the hour to the year. So the first line
        is the date. Without balance, the hour would fit beside it in a typeface with a narrow 1. */
     max-width: 13ch; text-wrap: balance; }
@media (min-width: 40em) { h1 { max-width: none; white-space: pre; } }  /* One line has room. */
p { display: inline-block; margin: 0.8em 0 0; padding-top: 0.6em;
    border-top: 0.12em solid #c8503a;  /* As wide as the text, which is less wide than the time. */
    font-size: 0.43em; color: color-mix(in srgb, CanvasText 70%, Canvas); }
"""

SCRIPT = """
const clock = document.querySelector("time"), zone = document.querySelector("span");
const text = clock.firstChild;
let ahead = Date.parse(clock.dateTime) - Date.now();  // ms by which the server's clock is ahead
let offset = clock.dateTime.slice(-6);  // of the server's zone from UTC, for example +01:00
let wait = 1000;  // ms after which we ask again, unless a quick answer comes
let step;  // Date.now() - performance.now() when we asked; only the first jumps if a clock is set
let ticking, asking;  // the timers
document.querySelector("h1").translate = false;  // A translator would replace the text that ticks.

function shown() {  // Return a Date whose UTC is the local time of the server.
  return new Date(Date.now() + ahead - Date.parse("1970-01-01T00:00" + offset));
}

function tick() {
  const now = shown();
  const [day, date, month, year, hours] = now.toUTCString().split(/,? /);
  const ctime = [day, month, date.replace(/^0/, " "), hours, year].join(" ");
  for (let i = 0; i < ctime.length; i++)  // Change only what differs: so a selection survives.
    if (text.data[i] != ctime[i]) { text.insertData(i, ctime[i]); text.deleteData(i + 1, 1); }
  clock.dateTime = now.toISOString().slice(0, -1) + offset;
  clearTimeout(ticking);
  ticking = setTimeout(tick, 1000 - now.getUTCMilliseconds());  // at the next full second
  if (Math.abs(Date.now() - performance.now() - step) > 100) { wait = 1000; ask(); }
}

function askIn(ms) {  // Daylight saving time begins or ends at a full hour: ask just after each.
  clearTimeout(asking);
  asking = setTimeout(ask, Math.min(ms, shown().setUTCMinutes(60, 0, 500) - shown()));
}

async function ask() {
  const asked = performance.now();
  step = Date.now() - asked;
  askIn(wait);  // unless a quick answer comes before
  wait *= 2;
  try {  // This URL is without a password: fetch refuses URLs that have one.
    const answer = await fetch(location.origin + location.pathname, { cache: "no-store" });
    const trip = performance.now() - asked, read = Date.now() - trip / 2;  // assumed: half-way
    const page = await answer.text();
    const stamp = page.match(/datetime="([\\d-]+T[\\d:.]+[+-]\\d\\d:\\d\\d)"/)[1];
    if (isNaN(Date.parse(stamp))) return;
    zone.textContent = offset = stamp.slice(-6);
    const change = Date.parse(stamp) - read - ahead;  // may be wrong by trip / 2, if not quick
    if (trip <= 200 || Math.abs(change) > trip / 2) ahead += change;
    if (trip <= 200) { wait = 1000; askIn(Infinity); }  // until the next hour
    tick();
  } catch {}  // There is no answer, or no stamp in it: the clock ticks on.
}

ask();
tick();
"""

# A clock face. Its lines are on the grid of 16 pixels, and its own white shows on any color.
ICON = "data:image/svg+xml," + urllib.parse.quote("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">\
<circle cx="8" cy="8" r="7" fill="#fff" stroke="#c8503a" stroke-width="2"/>\
<path d="M8 4v5h3" fill="none" stroke="#222" stroke-width="2"/></svg>""")


def csp_hash(text: str) -> str:
    """Return the hash that allows an inline style or script in a Content-Security-Policy.

    This field tells browsers what a page may load and run: here, nothing but the style and the
    script with the right hashes.
    """
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- The responses -------------------------------------------------------------------------------
#
# A request can write a lie into the log. The small server refuses this one, since it is malformed:
#
#     $ printf 'GET / HTTP/1.1" 200 -\r\n\r\n' | nc localhost 8880
#
# But its log has the line  "GET / HTTP/1.1" 200 -" 400 -  and a program that reads up to the second
# quotation mark sees a request that was answered with 200. The cure is to replace quotation marks and
# control characters, and to cut long lines, which would soon fill the disk. Then the log says %22.
#
# The class of this chapter and the next is ClockHandler. It sends the same page as ClockPage, but to
# strangers: it answers the other methods, protects visitors with further fields, and reports errors.
# It collects the whole response before it sends it. So half a response can still be replaced by an
# error response, what a method left out can be added, and one write is faster than two.

LOG_LOCK = threading.Lock()  # whoever holds it writes to the log, one thread at a time
"".encode("unicode_escape")  # loads what log_message needs, while there is a file free to do it
BODILESS = {204, 205, 304}  # statuses without a body: RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5


class Misuse(Exception):
    """A do_ method has sent no response, or two, or a malformed one. The argument says which."""


@functools.lru_cache(maxsize=1)  # keeps the last result, and returns it again for the same second
def split_page(second: int) -> tuple[bytes, bytes, bytes]:
    """Return what stands before the milliseconds of the page, ".000", and what stands after them.

    `second` is the time in full seconds since 1970; its milliseconds are written .000.
    """
    return render_page(datetime.fromtimestamp(second).astimezone()).partition(b".000")


class ClockHandler(ClockPage):
    """Answers the requests of one connection. To serve a page of your own, override do_GET.

    Needs a ClockServer. All that BaseHTTPRequestHandler documents works, with few exceptions; the
    README of the project lists them.
    """

    common_fields = {  # are in every response, unless a method sends a field with the same name
        "Server": "clock_server",
        "Cache-Control": "no-store",  # a stored page would show an old time
        # Allow the icon, style and script of the page, and the requests to this server that keep the
        # clock right. Forbid everything else, and forbid other pages to show this one inside them.
        "Content-Security-Policy":
        f"default-src 'none'; img-src data:; style-src {csp_hash(STYLE)}; "
        f"script-src {csp_hash(SCRIPT)}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",  # sites that a page links to do not learn its address
        "X-Content-Type-Options": "nosniff",  # browsers must not guess another Content-Type
    }

    # The state of a connection. Inherited are connection (its socket, the object that sends and
    # receives), client_address, and close_connection (whether the current response is the last one).
    server: ClockServer
    rbufsize = 4096  # bytes that rfile receives at once; by default, some Pythons keep 128 KB for it

    # The state of a request. Inherited are command (its method), path (its target), request_version,
    # and rfile (from which a do_ method reads the body of the request, if there is one).
    raw_head: bytes  # the head as it was received
    request_head: RequestHead  # what that says
    headers_cache: tuple[bytes, email.message.Message] = b"", email.message.Message()  # head, fields

    # The state of a response.
    status: int  # 0 before send_response
    reason: str | None  # the reason phrase, or None for the usual one
    fields: list[tuple[str, str]]  # names and values of the fields that send_header has added
    wfile: io.BytesIO  # the body

    def do_GET(self) -> None:
        """Send the page.

        Overridden for speed: all but the milliseconds is the same for all requests of a second.
        """
        second, fraction = divmod(time.time(), 1)
        before, _, after = split_page(int(second))
        self.send_page(before + b".%03d" % (1000 * fraction) + after)

    def send_page(self, page: bytes, content_type: str = "text/html; charset=utf-8",
                  status: int = 200) -> None:
        """Send a complete response; complete_head will add its length."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(page)

    def do_HEAD(self) -> None:
        """Answer as for GET; finish_response leaves out the body (RFC 9110 section 9.3.2)."""
        self.do_GET()

    def do_OPTIONS(self) -> None:
        """List the methods that are allowed here (RFC 9110 section 9.3.7)."""
        self.send_response(HTTPStatus.NO_CONTENT)
        self.send_header("Allow", self.allowed_methods())
        self.end_headers()

    def refuse(self) -> None:
        """Answer that this method is not allowed here (RFC 9110 section 15.5.6)."""
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    # PUT, DELETE and PATCH would change something, TRACE would send the request back, and CONNECT
    # would connect the client to another server. None of this makes sense for a clock.
    do_POST = do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = refuse

    @classmethod
    def allowed_methods(cls) -> str:
        """Return the methods that this class does not refuse, as a list for the field Allow."""
        methods = {name[3:]: getattr(cls, name) for name in sorted(dir(cls)) if name.startswith("do_")}
        if methods["HEAD"] is ClockHandler.do_HEAD:  # which is refused if do_GET is
            methods["HEAD"] = methods["GET"]
        refused = (ClockHandler.refuse, None)  # None removes a method in a subclass
        return ", ".join(name for name, method in methods.items() if method not in refused)

    def begin_response(self) -> None:
        """Start to collect a response; what has been collected before is discarded."""
        self.status, self.reason, self.fields, self.wfile = 0, None, [], io.BytesIO()

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin the response: set its status and its reason phrase.

        Overridden because the inherited method logs a response before it has been sent, and formats
        Server and Date anew for each one.
        """
        if self.status:
            raise Misuse("a second response to one request")
        self.status, self.reason = int(code), message

    send_response_only = send_response  # the inherited one leaves out Server and Date

    def send_header(self, keyword: str, value: str) -> None:
        """Add a field to the response. Overridden to collect it for complete_head, which checks it."""
        self.fields.append((keyword, str(value)))

    def end_headers(self) -> None:
        """Do nothing. Overridden because finish_response ends the header section."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error response, one line of plain text, and close the connection after it.

        Overridden because the inherited method cannot replace half a response, and logs an error
        twice. `explain` is ignored.
        """
        self.begin_response()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        text = f"{self.status} {self.reason_phrase(self.status)}" + (f": {message}" if message else "")
        self.wfile.write(text.encode() + b"\n")

    @classmethod
    def reason_phrase(cls, status: int) -> str:
        """Return the phrase for a status: "Not Found" for 404, for example."""
        return cls.responses.get(status, ("Unknown",))[0]

    def finish_response(self) -> bytes:
        """Return the whole response, with the fields that the method has left out."""
        if not self.status:
            raise Misuse("the method sent no response")
        body = b"" if self.status in BODILESS else self.wfile.getvalue()
        # A do_HEAD may write no body, and 304 has none; both stand for a response that has one.
        is_unknown = self.status == HTTPStatus.NOT_MODIFIED or (self.command == "HEAD" and not body)
        close = (self.close_connection or self.request_head.wants_close  # whatever the method has set
                 or self.request_head.body_length != 0  # a cure: see "The grammar"
                 or self.server.crowded)  # another one: see "The server"
        response_head, self.close_connection, length_was_wrong = self.complete_head(
            int(time.time()), self.request_version, self.status, self.reason,
            tuple(self.fields), None if is_unknown else len(body), close)
        if length_was_wrong:
            self.log_error("wrong Content-Length: the body has %s bytes", len(body))
        return response_head if self.command == "HEAD" else response_head + body

    @classmethod
    @functools.lru_cache(maxsize=64)  # the responses of a second have the same few heads
    def complete_head(cls, now: int, version: str, status: int, reason: str | None,
                      added: tuple[tuple[str, str], ...], length: int | None,
                      close: bool) -> tuple[bytes, bool, bool]:
        """Return the head of a response: the status line, the fields that were added, and the others.

        Also return whether the connection must be closed after it, and whether a Content-Length was
        added that is wrong. Only the arguments decide, so that lru_cache can return the last results
        again. Raises Misuse if the head would be malformed: see the end of "The grammar".
        """
        common = {"Date": formatdate(now, usegmt=True), **cls.common_fields}
        lines = {**field_lines(common.items()), **field_lines(added)}
        length_was_wrong = False
        if status == HTTPStatus.NO_CONTENT:
            lines.pop("content-length", None)  # RFC 9110 section 8.6
        elif length is not None and "transfer-encoding" not in lines:  # which says where the body ends
            length_was_wrong = set_length(lines, length)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.setdefault("allow", field_line("Allow", cls.allowed_methods()))
        close = (close or length_was_wrong or cls.protocol_version == "HTTP/1.0"
                 or lines.get("connection", b"").lower() == b"connection: close\r\n")
        # HTTP/1.1 persists unless Connection says close; HTTP/1.0 closes unless it says keep-alive.
        if close or version == "HTTP/1.0":  # RFC 9112 section 9.3
            lines["connection"] = field_line("Connection", "close" if close else "keep-alive")
        first_line = status_line(cls.protocol_version, status, reason or cls.reason_phrase(status))
        return first_line + b"".join(lines.values()) + b"\r\n", close, length_was_wrong

    @property
    def requestline(self) -> str:
        """The request line for the log, which puts it in quotes: a double quote becomes %22."""
        line = self.raw_head.lstrip(b"\r\n").partition(b"\n")[0].decode("latin-1")
        return line.rstrip("\r").replace('"', "%22")

    def log_message(self, format: str, *args: object) -> None:
        """Write a line to the log, in the format of http.server.

        Overridden to escape control characters, to cut long lines, and to go on if the log cannot be
        written. It may go to a program that has stopped reading it: then one thread waits in write,
        and the others drop their lines.
        """
        message = (format % args).encode("unicode_escape").decode()
        if len(message) > LOG_CHARACTERS:
            message = message[:LOG_CHARACTERS] + "..." + message[-7:]  # the end is '" 200 -'
        line = f"{self.address_string()} - - [{self.log_date_time_string()}] {message}\n"
        if LOG_LOCK.acquire(timeout=LOG_SECONDS):
            try:
                sys.stderr.write(line)
                sys.stderr.flush()
            except (AttributeError, OSError, ValueError):  # stderr is None, unwritable or closed
                pass
            finally:
                LOG_LOCK.release()

    # --- The connections -------------------------------------------------------------------------
    #
    # Clients leave at any time. This one reads a single byte of the page:
    #
    #     $ python3 -c "import socket
    #     > connection = socket.create_connection(('localhost', 8880))
    #     > connection.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
    #     > connection.recv(1)"
    #
    # The small server prints a traceback of some twenty lines, as if something were wrong with it.
    # But clients may leave: then there is nobody to answer, and nothing to report. In clock_server.py,
    # finish_request in "The server" catches the exception, and prints nothing.
    #
    # The rest of the class serves one connection. The inherited method handle() calls
    # handle_one_request again and again. It makes three steps: read_head receives the head of a
    # request; call_method checks it and calls the do_ method; and finish_response, which you know,
    # returns what is then sent in one piece. If the do_ method fails, the client still gets a whole
    # response, with status 500, and the operator gets a traceback.

    def handle_one_request(self) -> None:
        """Answer one request. Raises an OSError if the client leaves.

        Overridden because the inherited method calls do_GET before it knows whether the request is
        valid, and because the whole response is sent at once.
        """
        self.raw_head = self.read_head()
        self.server.renew_deadline(self.connection)  # nine more seconds: see "The limits"
        try:
            self.call_method()
            response = self.finish_response()
        except ClientLeft:
            raise
        except BaseException as error:  # even sys.exit() in a do_ method must not end the server
            self.server.handle_error(self.connection, self.client_address)
            message = str(error) if isinstance(error, Misuse) else None
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, message)
            response = self.finish_response()
        self.connection.sendall(response)
        self.log_request(self.status)
        if self.request_head.wants_close and self.request_head.body_length == 0:
            self.server.close_request(self.connection)  # no lingering close (see there): nothing follows

    def read_head(self) -> bytes:
        """Return the next head, with the empty line that ends it; leave what follows in rfile.

        If it can no longer become valid, return what there is; parse_head will refuse it. Raises
        ClientLeft if the client leaves before.
        """
        received, length = bytearray(), 0
        while not length:
            # peek returns what has come, or waits for it, and leaves it in rfile.
            piece = self.rfile.peek()  # type: ignore[attr-defined]
            if not piece:
                raise ClientLeft("before its request was complete")
            known = len(received)
            received += piece
            length = length_of_head(received, known)
            # Take what belongs to the head out of rfile: all of the piece, unless the head ends in it.
            self.rfile.read((length or len(received)) - known)
        return bytes(received[:length])

    def call_method(self) -> None:
        """Parse the head, and call the do_ method for it, or else send an error response."""
        self.begin_response()
        refusal: tuple[Any, ...] = ()
        try:
            self.request_head = parse_head(self.raw_head)
        except Refused as refused:
            refusal = refused.args
            # finish_response needs a head: for the method, since no response to HEAD has a body.
            command = self.requestline.partition(" ")[0]
            self.request_head = RequestHead(command, "", "HTTP/1.1", body_length=None, wants_close=True)
        (self.command, self.path, self.request_version,  # the parts of a RequestHead, in order
         body_length, self.close_connection) = self.request_head
        method = getattr(self, "do_" + self.command, None)
        if refusal:
            self.send_error(*refusal)
        elif not method:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)
        else:
            stream = self.rfile
            self.rfile = io.BytesIO() if body_length == 0 else io.BufferedReader(Body(stream, body_length))
            try:
                method()
            finally:
                self.rfile = stream

    @property
    def headers(self) -> email.message.Message:
        """The fields of the request, for do_ methods. Overridden to parse them only if they are used."""
        if self.headers_cache[0] is not self.raw_head:
            section = self.raw_head.lstrip(b"\r\n").partition(b"\r\n")[2].decode("latin-1")
            self.headers_cache = self.raw_head, email.message_from_string(section, self.MessageClass)
        return self.headers_cache[1]


class ClientLeft(ConnectionAbortedError):
    """The client has left in the middle of a request."""


class Body(io.RawIOBase):
    """The body of a request: the next bytes of a stream, `length` of them and no more.

    The length None means a chunked body, which is sent in pieces, each after its length. It is not
    decoded, and ends where the client stops sending.
    """

    def __init__(self, stream: io.BufferedIOBase, length: int | None) -> None:
        self.stream, self.left = stream, length

    def readable(self) -> bool:
        """Return True: io.BufferedReader asks before it adds read, readline and the rest."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer and return their number, which is 0 at the end.

        Raises ClientLeft if the client leaves before the end.
        """
        try:
            piece = self.stream.read1(len(buffer) if self.left is None else min(len(buffer), self.left))
        except OSError as error:
            raise ClientLeft("before its request was complete") from error
        if self.left is not None:
            if self.left and not piece:
                raise ClientLeft("before its request was complete")
            self.left -= len(piece)
        buffer[:len(piece)] = piece
        return len(piece)


# --- The limits ----------------------------------------------------------------------------------
#
# A client can send half a request, and then nothing:
#
#     $ printf 'GET / HTTP/1.1\r\n' | nc localhost 8880
#
# The small server waits for the rest forever, and so does nc. Whatever a client can have without
# limit, some client will take, by mistake or on purpose. So each request has a deadline: after nine
# seconds, clock_server.py closes the connection, and nc ends. That is done by service_actions in
# "The server", which looks twice a second.
#
# This is the deadline with the other limits, each with its reason. Change them here; there are no
# options for them. To evict a connection means to close it before its client is done.

HEAD_BYTES = 65536      # in a head; browsers send the cookies of all servers on this machine
MAX_FIELDS = 100        # in a head, as in http.server, Apache and gunicorn
SEND_BYTES = 40960      # of a response that the system keeps until the client reads them
MAX_CONNECTIONS = 512   # at once: half of the 1,024 files and sockets that Linux usually allows
MAX_THREADS = 1024      # twice as many, because the thread of an evicted connection may hang
SPARE_BYTES = 16 << 20  # 16 MB of memory: a thread is only started if the others still have so much
REQUEST_SECONDS = 9     # from one complete head to the next; not 5 or 10, when programs often ask again
GRACE_SECONDS = 0.1     # before a connection may be evicted; a request usually follows at once
RETRY_SECONDS = 0.0005  # to sleep when there is no room, and no connection that may be evicted
LOOK_SECONDS = 0.5      # between two looks for connections past their deadline
POLL_SECONDS = 0.1      # between two looks for a signal that stops the server
STOP_SECONDS = 0.4      # for the threads to end
LOG_CHARACTERS = 200    # in a line of the log, besides the address and the date
LOG_SECONDS = 1         # to wait while another thread writes to the log; a disk needs less


# --- The grammar ---------------------------------------------------------------------------------
#
# A request can hide a second one. This one has a body of 35 bytes, which looks like a request:
#
#     $ printf '%b' 'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n' \
#     >     'GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n' | nc localhost 8880
#
# The small server does not read the body of a GET, takes it for the next request, and sends two
# responses; its log shows both requests. A proxy, a program that stands before a server and passes
# requests on, has seen only one request, and checked only that. Whenever two programs read the same
# bytes differently, one request can be smuggled inside another one.
#
# The cure has two parts. finish_response closes the connection after a request with a body, so that a
# body is never read as a request: clock_server.py sends one response. And this chapter accepts only
# what the standards define, which all programs read alike.
#
# Its functions know nothing of connections: bytes go in, and what they mean comes out. Each pattern
# stands below the rule that it implements, in the notation of the standards: 1*x means one or more
# x, [ x ] an optional x, "x" just these characters, SP a space, and OWS optional spaces and tabs.
# No pattern has two neighbours that can match the same bytes, such as rb"a*a*x": there are many ways
# to divide a row of a's between them, and Python would try them all before it gives up.

# token = 1*tchar  (RFC 9110 section 5.6.2); a tchar is a letter, a digit or one of these marks
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# request-line = method SP request-target SP HTTP-version  (RFC 9112 section 3)
# As a target we accept all visible characters but "#", since browsers send some that the rule forbids.
TARGET = rb"[!\"$-~]+"
REQUEST_LINE = re.compile(rb"(%s) (%s) HTTP/([0-9])\.([0-9])" % (TOKEN, TARGET))
# field-line = field-name ":" OWS field-value OWS  (RFC 9112 section 5)
# FIELD_VALUE matches the OWS as well; parse_fields strips it.
FIELD_VALUE = rb"[\t -~\x80-\xff]*"
FIELD_LINE = re.compile(rb"(%s):(%s)" % (TOKEN, FIELD_VALUE))
# Host = uri-host [ ":" port ]  (RFC 9110 section 7.2)
# uri-host = IP-literal / reg-name  (RFC 3986 section 3.2.2)
# We accept no comma in a reg-name. parse_fields joins two Host fields with one, and so they fail.
IP_LITERAL = rb"\[([0-9A-Fa-f:.]+)\]"
REG_NAME = rb"(?:[!$&'()*+.;=_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+"
HOST = re.compile(rb"(?:%s|%s)(?::[0-9]*)?" % (IP_LITERAL, REG_NAME))
# Content-Length = 1*DIGIT  (RFC 9110 section 8.6)
# We accept 18 digits: every program can keep such a number, in 64 bits.
LENGTH = re.compile(rb"[0-9]{1,18}")
# A line feed ends a line only after a carriage return (RFC 9112 section 2.2). (?<!x) means: not after x.
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


class Refused(Exception):
    """The request breaks a rule; the arguments are those of send_error."""


class RequestHead(NamedTuple):
    """What the head of a request says."""

    method: str
    target: str
    version: str  # "HTTP/1.0" or "HTTP/1.1"
    body_length: int | None  # in bytes: 0 without a body, None for a chunked one, or if unknown
    wants_close: bool  # whether the client wants the connection closed after the response


def length_of_head(received: bytes | bytearray, known: int) -> int:
    """Return the length of the head with which these bytes begin, or 0 if it is not complete.

    If it can no longer become valid, return the length of all: somebody may have typed https:// into
    a browser, which then sends no text. The first `known` bytes were there at the last call, and are
    not searched again: the time for a head is linear in its length, even if it comes byte by byte.
    """
    end = received.find(b"\r\n\r\n", max(known - 3, 0))
    if end >= 0:
        return end + 4
    # An empty line of 2 bytes may come before the request line.
    is_hopeless = len(received) > 2 + HEAD_BYTES
    if received.find(b"\n", known) >= 0:  # a line has ended
        is_first = received.rfind(b"\n", 2, known) < 0
        line_end = received.find(b"\n", max(known, 2))
        is_not_http = is_first and line_end >= 0 and received.find(b" HTTP/", 0, line_end) < 0
        is_hopeless = is_hopeless or is_not_http or bool(BARE_LINE_FEED.search(received, known))
    return len(received) if is_hopeless else 0


@functools.lru_cache(maxsize=64)  # most clients repeat their head; at most 4 MB are kept
def parse_head(head: bytes) -> RequestHead:
    r"""Return what a head says; it ends with the empty line. Raises Refused.

    >>> parse_head(b"GET /any/path HTTP/1.1\r\nHost: localhost:8880\r\nUser-Agent: Mozilla/5.0\r\n\r\n")
    RequestHead(method='GET', target='/any/path', version='HTTP/1.1', body_length=0, wants_close=False)
    """
    if head.startswith(b"\r\n"):  # an empty line before a request is skipped (RFC 9112 section 2.2)
        head = head[2:]
    request_line, _, section = head.partition(b"\r\n")
    if len(request_line) > HEAD_BYTES:
        raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG)
    if len(head) > HEAD_BYTES or section.count(b"\r\n") > MAX_FIELDS + 1:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    method, target, version = parse_request_line(request_line)
    fields = parse_fields(section)
    has_host = is_host(fields[b"host"]) if b"host" in fields else version == "HTTP/1.0"
    if not has_host:
        raise Refused(HTTPStatus.BAD_REQUEST, "Host missing, repeated or invalid (RFC 9112 section 3.2)")
    body_length = parse_body_length(fields, version)
    # A client that sends 100-continue waits before it sends the body; its response comes at once.
    if not set(split_list(fields.get(b"expect", b""))) <= {b"100-continue"}:
        raise Refused(HTTPStatus.EXPECTATION_FAILED, "unsupported expectation (RFC 9110 section 10.1.1)")
    options = split_list(fields.get(b"connection", b""))  # RFC 9112 section 9.3
    wants_close = b"close" in options or (version == "HTTP/1.0" and b"keep-alive" not in options)
    return RequestHead(method, target, version, body_length, wants_close)


def parse_request_line(line: bytes) -> tuple[str, str, str]:
    """Return the method, the target and the version, "HTTP/1.0" or "HTTP/1.1". Raises Refused."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refused(HTTPStatus.BAD_REQUEST, "malformed request line (RFC 9112 section 3)")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
                      "only HTTP/1.0 and HTTP/1.1 are supported (RFC 9110 section 15.6.6)")
    if not is_target(target, method):
        raise Refused(HTTPStatus.BAD_REQUEST, "malformed request target (RFC 9112 section 3.2)")
    # A handler of yours may redirect browsers to its path. "//host" would lead them to another server
    # (python/cpython#87389).
    if target.startswith(b"//"):
        target = b"/" + target.lstrip(b"/")
    version = "HTTP/1.0" if minor == b"0" else "HTTP/1.1"  # RFC 9110 section 2.5
    return method.decode(), target.decode(), version


def is_target(target: bytes, method: bytes) -> bool:
    """Return whether the target has a form allowed for the method (RFC 9112 section 3.2)."""
    if method == b"CONNECT":  # authority-form: example.com:80
        return is_host(target) and b":" in target and target[-1:].isdigit()  # the port is not empty
    if target[:7].lower() == b"http://":  # absolute-form: http://example.com/path?query
        return is_host(re.split(rb"[/?]", target[7:], maxsplit=1)[0])
    # origin-form: /path?query, or asterisk-form: *
    return target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")


def is_host(value: bytes) -> bool:
    """Return whether the value is a host with an optional port (RFC 9110 section 7.2)."""
    match = HOST.fullmatch(value)
    if match and match[1]:  # an IP-literal, which can only be an IPv6 address
        try:
            socket.inet_pton(socket.AF_INET6, match[1].decode())
        except OSError:
            return False
    return bool(match)


def parse_fields(section: bytes) -> dict[bytes, bytes]:
    """Return the values of the fields in a header section, by name in lower case. Raises Refused.

    The values of fields with the same name are joined with commas (RFC 9110 section 5.3).
    """
    if section != b"\r\n" and not section.endswith(b"\r\n\r\n"):  # there is no empty line at the end
        raise Refused(HTTPStatus.BAD_REQUEST, "line feed without carriage return (RFC 9112 section 2.2)")
    fields: dict[bytes, bytes] = {}
    for line in section.split(b"\r\n")[:-2]:  # the two last ones are empty
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise Refused(HTTPStatus.BAD_REQUEST, "malformed field line (RFC 9112 section 5)")
        name, value = match[1].lower(), match[2].strip(b" \t")
        fields[name] = fields[name] + b"," + value if name in fields else value
    return fields


def split_list(value: bytes) -> list[bytes]:
    """Return the members of a list in lower case, without empty ones (RFC 9110 section 5.6.1.2).

    Raises Refused if there are too many.
    """
    if value.count(b",") > MAX_FIELDS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    members = [member.strip(b" \t") for member in value.lower().split(b",")]
    return [member for member in members if member]


def parse_body_length(fields: dict[bytes, bytes], version: str) -> int | None:
    """Return the length of the body in bytes, or None if it is chunked (RFC 9112 section 6.3).

    Raises Refused if another program could read it differently.
    """
    # 1. Content-Length is a number; without it, there is no body. Two of them, joined by a comma, are
    #    not a number.
    length = fields.get(b"content-length", b"0")
    if not LENGTH.fullmatch(length):
        raise Refused(HTTPStatus.BAD_REQUEST, "malformed Content-Length (RFC 9110 section 8.6)")
    if b"transfer-encoding" not in fields:
        return int(length)
    # 2. Transfer-Encoding: chunked means that the body is sent in chunks, each after its length.
    codings = split_list(fields[b"transfer-encoding"])
    is_ambiguous = (
        version == "HTTP/1.0"  # 3. HTTP/1.0 does not know this field.
        or b"content-length" in fields  # 4. The two fields contradict each other.
        or codings.count(b"chunked") > 1 or not codings  # 5. There are two chunked, or no coding at all.
        or len(codings) > 1 and codings[-1] != b"chunked")  # 6. Of several codings, chunked is not last.
    if is_ambiguous:
        raise Refused(HTTPStatus.BAD_REQUEST, "ambiguous message length (RFC 9112 section 6.3)")
    if codings != [b"chunked"]:  # 7. We know no other coding.
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unsupported transfer coding (RFC 9112 section 6.1)")
    return None


# The same rules apply to what we send.

def field_line(name: str, value: str) -> bytes:
    """Return the line of a field in a response (RFC 9112 section 5). Raises Misuse if it is malformed."""
    line = f"{name}: {value}".encode("latin-1")
    match = FIELD_LINE.fullmatch(line)
    if not match or match[1] != name.encode():
        raise Misuse(f"malformed field: {line!r}")
    return line + b"\r\n"


def field_lines(fields: Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """Return the lines of these fields, by name in lower case. Raises Misuse."""
    lines: dict[str, bytes] = {}
    for name, value in fields:
        lines[name.lower()] = lines.get(name.lower(), b"") + field_line(name, value)
    return lines


def set_length(lines: dict[str, bytes], length: int) -> bool:
    """Set the line of Content-Length, and return whether another length was there."""
    right = field_line("Content-Length", str(length))
    was_wrong = lines.get("content-length", right).lower() != right.lower()
    lines["content-length"] = right
    return was_wrong


def status_line(version: str, status: int, reason: str) -> bytes:
    """Return the status line of a response (RFC 9112 section 4). Raises Misuse if it is malformed."""
    line = f"{version} {status} {reason}".encode("latin-1")
    if not 200 <= status <= 599 or not re.fullmatch(FIELD_VALUE, line):
        raise Misuse(f"malformed status line: {line!r}")
    return line + b"\r\n"


# --- The server ----------------------------------------------------------------------------------
#
# A client can take all connections, and do nothing with them. To see it in a second instead of
# minutes, type `ulimit -n 64` before you start the small server: then it may open 64 files and
# sockets, where Linux usually allows 1,024.
#
#     $ python3 -c "import socket, time
#     > connections = []
#     > for _ in range(100):
#     >     connections.append(socket.create_connection(('localhost', 8880)))
#     >     time.sleep(0.01)
#     > input()"
#
# The small server accepts clients until it has no sockets left. From then on, the page does not load
# until this client ends, with Ctrl-C. The cure is to evict the connection that has waited longest when
# another client comes (get_request): clock_server.py shows its page all the time. If all clients are
# busy, so that none has waited long, each response closes its connection, and they take turns.
#
# A client can also send more than anybody wants to read:
#
#     $ python3 -c "import urllib.request
#     > urllib.request.urlopen('http://localhost:8880/', data=b'x' * 10**7)"
#
# The small server refuses the request at once, and closes the connection. But when a connection with
# unread input is closed, the system resets it: the client fails with "broken pipe" or "connection
# reset", and never reads the response. The cure is the lingering close: stop sending, read until the
# client stops, too, and only then close (finish_request). It reports "405: Method Not Allowed".
#
# ClockServer inherits its loop, serve_forever, from the module socketserver. The loop calls methods
# that ClockServer overrides:
#
#     until there is a reason to stop:
#         wait until a client connects, at most for POLL_SECONDS
#         if a client connects:
#             request, client_address = get_request()     accept it; an OSError means: not now
#             process_request(request, client_address)    hand it to another thread, which calls
#                 finish_request(request, client_address)     make a handler, which serves it
#                 shutdown_request(request)                   close it
#         service_actions()                               what must be done from time to time
#
# (In socketserver, a connection is called a request.) One thread runs this loop, and so accepts all
# connections. Each of the others serves one connection at a time; then it is idle, and waits at its
# mailbox, a queue, for the next one. The threads share four things. No lock protects them, because
# each step that reads or changes one of them is a single step for Python:
#
#     connections     the loop adds and evicts them; the others renew their deadlines, and remove them
#     crowded         the loop writes it; the others read it
#     threads         the loop adds a thread; each removes itself at its end
#     idle            the others add their mailboxes; the loop takes one

class ClockServer(ThreadingHTTPServer):
    """Serves connections in threads, within the limits, with any handler.

    Takes the arguments of socketserver.TCPServer; the host "" means all interfaces, that is, every
    network of this machine.
    """

    request_queue_size = socket.SOMAXCONN  # clients that may wait to be accepted; the default is 5
    allow_reuse_address = os.name == "posix"  # on Windows, it lets two servers share a port
    allow_reuse_port = False  # it lets two servers share a port elsewhere

    def __init__(self, server_address: Any, RequestHandlerClass: Any = ClockHandler,
                 bind_and_activate: bool = True) -> None:
        # For each open connection, when its last complete head came, or when it began. The time is in
        # a list. So a thread can renew it without writing to the dict, which could put back a
        # connection that has just been evicted.
        self.connections: dict[socket.socket, list[float]] = {}
        self.crowded = False  # whether a client waits for room
        self.threads: dict[threading.Thread, queue.SimpleQueue[Any]] = {}  # each with its mailbox
        self.idle: list[queue.SimpleQueue[Any]] = []  # the mailboxes of the threads that wait
        self.signals: list[int] = []  # one of them stops serve_forever
        self.next_look = 0.0  # when we look again for connections past their deadline
        self.address_family, address = resolve(*server_address[:2])
        super().__init__(address, RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind the socket to the address.

        Overridden to set options, which its connections inherit, and because the inherited method
        asks the network, which may be slow, for the name of this machine.
        """
        for level, option, value in [
                (socket.IPPROTO_IPV6, "IPV6_V6ONLY", 0),  # serve IPv4 as well
                (socket.IPPROTO_TCP, "TCP_NODELAY", 1),  # send each response at once
                (socket.SOL_SOCKET, "SO_SNDBUF", SEND_BYTES),
                # Drop what a client does not take within so many milliseconds, even after the close.
                (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(1000 * REQUEST_SECONDS))]:
            with suppress(AttributeError, OSError):  # this system does not know the option
                self.socket.setsockopt(level, getattr(socket, option), value)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and return it with the address of the client.

        Overridden to make room if there is none; then it raises BlockingIOError, and serve_forever
        will call it again.
        """
        with suppress(OSError, RuntimeError, MemoryError):  # no more sockets, threads or memory
            if len(self.connections) < MAX_CONNECTIONS and self.ensure_idle_thread():
                request, (host, *rest) = super().get_request()
                self.crowded = False
                if os.name == "nt":  # on Windows, evict wakes no thread that waits in recv
                    request.settimeout(REQUEST_SECONDS)  # (python/cpython#91913)
                return request, (plain_address(host), *rest)
        # There is no room: too many connections, or the system has no more of something.
        self.crowded = True
        if not self.evict(GRACE_SECONDS):
            time.sleep(RETRY_SECONDS)
        raise BlockingIOError("no room yet")

    def ensure_idle_thread(self) -> bool:
        """Return whether a thread is idle, after starting one if none was.

        Raises RuntimeError or OSError if the system has no more threads or memory.
        """
        if not self.idle and len(self.threads) < MAX_THREADS:
            mmap.mmap(-1, SPARE_BYTES).close()  # raises OSError if so much memory is not free
            mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            thread = threading.Thread(target=self.work, args=(mailbox,), daemon=True)
            thread.start()
            self.threads[thread] = mailbox
            self.idle.append(mailbox)
        return bool(self.idle)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to an idle thread.

        Overridden because a new thread for each connection would halve the number that can be
        served in a second.
        """
        self.connections[request] = [time.monotonic()]
        self.idle.pop().put((request, client_address))

    def work(self, mailbox: queue.SimpleQueue[Any]) -> None:
        """Serve the connections that come into the mailbox, until a None comes. Runs in each thread."""
        try:
            while (job := mailbox.get()) is not None:
                self.process_request_thread(*job)  # inherited: finish_request, shutdown_request
                self.idle.append(mailbox)
        finally:  # also if a handler raises SystemExit
            self.threads.pop(threading.current_thread(), None)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Let a handler serve a connection, then linger.

        Overridden because a client that leaves is no error, and for the lingering close (RFC 9112
        section 9.6).
        """
        try:
            super().finish_request(request, client_address)
        except OSError as error:
            if not has_left(error):
                raise
        if request.fileno() >= 0:  # the handler has not closed it
            with suppress(OSError):  # the client has left
                request.shutdown(socket.SHUT_WR)
                while request.recv(65536):
                    pass

    def shutdown_request(self, request: Any) -> None:
        """Close a connection. Overridden to remove it from self.connections."""
        self.connections.pop(request, None)
        self.close_request(request)

    def renew_deadline(self, connection: socket.socket) -> None:
        """Give a connection the full time for a response and the next request.

        If it has been evicted, this changes a list that nobody keeps.
        """
        self.connections.get(connection, [0.0])[0] = time.monotonic()

    def evict(self, seconds: float) -> bool:
        """Evict the connection that has waited longest, if it has waited at least `seconds`.

        Return whether one was evicted.
        """
        connections = self.connections.copy()  # the other threads change the original
        longest = min(connections, key=connections.__getitem__, default=None)
        if longest is None or time.monotonic() - connections[longest][0] < seconds:
            return False
        self.connections.pop(longest, None)
        with suppress(OSError):  # the client has reset it
            longest.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
        return True

    def service_actions(self) -> None:
        """Stop after a signal; evict connections past their deadline; follow the machine's time zone.

        Overridden because serve_forever calls it again and again, between two connections, where an
        exception leaves nothing half done.
        """
        if self.signals:
            raise KeyboardInterrupt
        if time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_SECONDS
            while self.evict(REQUEST_SECONDS):
                pass
            if hasattr(time, "tzset"):
                time.tzset()  # the zone of this machine may have been changed

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback. Overridden to survive if that fails, as when the log cannot be written."""
        with suppress(Exception):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Stop listening, close all connections, and end all threads. Overridden for the latter two.

        A thread that hangs stays in self.threads.
        """
        super().server_close()
        while self.evict(0):
            pass
        threads, end = self.threads.copy(), time.monotonic() + STOP_SECONDS
        for mailbox in threads.values():
            mailbox.put(None)
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))


def has_left(error: OSError) -> bool:
    """Return whether the error says that a client, or the network between us, is gone."""
    return (isinstance(error, (ConnectionError, TimeoutError, socket.timeout))
            or error.errno in (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN))


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the address family and the address for a host and a port to listen on.

    Raises OSError or UnicodeError if the host is not known or not valid.
    """
    if not host and socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", port)
    # A host without letters can only be an address: do not ask a name server.
    flags = 0 if re.search("[A-Za-z]", host) else socket.AI_NUMERICHOST
    found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM, flags=flags)
    # A name may have addresses of both families. Prefer IPv4, which more clients can use.
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, (address[0], port, *address[2:])


def plain_address(address: str) -> str:
    """Return the address; an IPv4 address that IPv6 shows as ::ffff:192.0.2.1 becomes 192.0.2.1."""
    return address[7:] if address.startswith("::ffff:") else address


# --- The command ---------------------------------------------------------------------------------
#
# Two programs cannot listen on one port. Start a second small server while the first one runs:
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), ClockPage).serve_forever()"
#
# It prints a traceback, and Ctrl-C in the first one prints another. But the operator has only made a
# slip, or wants to stop. Start `python3 clock_server.py` twice: the second one prints a line that says
# what is wrong and what to do, and Ctrl-C in the first one prints "Stopped."

def main(argv: list[str] | None = None, handler: type[BaseHTTPRequestHandler] = ClockHandler) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, with this handler.

    `argv` are the arguments, or None for those of the program. Exits with status 2 if they are
    invalid, and with status 1 if the server cannot start.
    """
    signals = catch_signals()
    args = parse_arguments(argv)
    if args.quiet:
        handler = type("QuietHandler", (handler,), {"log_request": lambda *_: None})
    with listen(args.bind, args.port, handler) as server:
        stay_on_one_core()
        say(start_text(server.server_name, server.server_port))
        server.signals = signals
        with suppress(KeyboardInterrupt):
            server.serve_forever(POLL_SECONDS)
    say("Stopped.")
    if server.threads:  # one hangs, perhaps in a write to the log, for which Python would wait
        os._exit(0)
    flush(sys.stderr)


def catch_signals() -> list[int]:
    """Return a list to which SIGINT and SIGTERM are added when they come.

    By default, SIGINT raises an exception at whatever instruction the program has reached, and no
    program is ready for that everywhere. Also, a shell that starts a program in the background lets
    it ignore SIGINT.
    """
    signals: list[int] = []
    with suppress(ValueError):  # this is not the main thread, which alone can do this
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, lambda number, frame: signals.append(number))
        if sys.platform != "win32":  # a second Ctrl-C must not kill Python while it ends
            atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    return signals


# A name server need not be asked for what cannot be a name.
HOST_NAME = re.compile(r"([\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)


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
        return args
    args.bind = args.bind.strip("[]")  # in URLs, IPv6 addresses stand in brackets
    if not HOST_NAME.fullmatch(args.bind) and args.bind.count(":") < 2:
        parser.error("not an address or host name: %r" % args.bind)
    return args


def listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ClockServer:
    """Return a server that listens there; exit with status 1 and the reason if that is impossible."""
    try:
        return ClockServer((host, port), handler)
    except (OSError, UnicodeError) as error:
        sys.exit("clock_server: " + listen_error(error, host, port))


def listen_error(error: Exception, host: str, port: int) -> str:
    """Return why the server cannot listen there and, where possible, what to do about it."""
    number = getattr(error, "errno", None) or 0
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"not an address or host name: {host!r} ({getattr(error, 'strerror', error)})"
    if number == errno.EADDRINUSE:
        option, other = f"--bind {host} " if host else "", port + 1 if port < 65535 else 8880
        return f"port {port} is in use; try another one: python3 clock_server.py {option}{other}"
    if number == errno.EACCES and port < 1024:
        return f"port {port} needs the right to use ports below 1024; try one above 1023"
    return f"cannot listen on port {port} of {host or 'all interfaces'}: {os.strerror(number)}"


def stay_on_one_core() -> None:
    """Keep this process on one core of the processor, where the system can do that.

    Only one thread at a time runs Python, so a second core is of no use, and it costs a lot: each
    time a thread hands over to one on another core, that core must be woken. The core is chosen at
    random, so that several servers spread over the cores.
    """
    if getattr(sys, "_is_gil_enabled", lambda: True)():  # some Pythons do run threads at once
        with suppress(AttributeError, OSError):  # the system does not have these calls, or forbids them
            if sys.platform == "linux":
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, {cores[os.urandom(1)[0] % len(cores)]})


def start_text(host: str, port: int) -> str:
    """Return where the clock is, who can reach it, its time zone, and how to stop it."""
    host, outside = plain_address(host), ""
    if host in ("::", "0.0.0.0"):
        host, outside = "localhost", outside_address(with_ipv6=host == "::")
    text = "Serving the time on " + url(host, port)
    if host == "::1" or host.startswith("127."):
        text += " to this computer only"
    if outside:
        text += "\nFrom other computers: " + url(outside, port)
    return text + f"\nTime zone: UTC{datetime.now().astimezone().isoformat()[-6:]}\nPress Ctrl-C to stop."


def url(host: str, port: int) -> str:
    """Return the URL of a server; in it, an IPv6 address has brackets."""
    return "http://%s:%d/" % ("[%s]" % host if ":" in host else host, port)


def outside_address(with_ipv6: bool) -> str:
    """Return an address under which other computers reach this one, or "" without a network.

    A UDP socket sends single messages. To connect it sends nothing, but the system chooses the address
    to send from, and that is what we want. The target is far away or, if no route leads there, a
    multicast address, which means everybody on the network of one of our interfaces.
    """
    probes: list[tuple[int, str, Any]] = [  # these two addresses exist only in documentation
        (socket.AF_INET, "192.0.2.1", None), (socket.AF_INET6, "2001:db8::1", None)]
    with suppress(AttributeError, OSError):  # this system cannot list its interfaces
        for number, _ in socket.if_nameindex():
            ip_mreqn = bytes(8) + number.to_bytes(4, sys.byteorder)  # two empty addresses, the interface
            probes += [(socket.AF_INET, "224.0.0.1", (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip_mreqn)),
                       (socket.AF_INET6, "ff0e::1", (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, number))]
    for family, target, option in probes:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            if option:
                probe.setsockopt(*option)
            probe.connect((target, 9))
            address = str(probe.getsockname()[0])
            is_local = address.startswith(("127.", "0.0.0.0", "::", "fe80:"))
            if not is_local and (with_ipv6 or family == socket.AF_INET):
                return address
    return ""


def say(text: str) -> None:
    """Print a text at once, unless it goes to a program that has stopped reading."""
    try:
        can_write = bool(select.select([], [sys.stdout], [], 0)[1])
    except (OSError, TypeError, ValueError):  # not a file; or Windows, where only sockets can be asked
        can_write = True
    if can_write:
        with suppress(OSError, ValueError):  # a dead pipe, a full disk, a closed file
            print(text)
        flush(sys.stdout)


def flush(stream: Any) -> None:
    """Write what the stream holds. If that fails, drop it: Python would end with an error otherwise."""
    with suppress(AttributeError, ValueError):  # there is no stream, or it is closed
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# For the type checker mypy: some inherited attributes are properties here.
# mypy: disable-error-code="override"

if __name__ == "__main__":
    main()
