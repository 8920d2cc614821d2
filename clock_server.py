#!/usr/bin/env python3
r"""A web server in one file. Every URL it serves is a page with the current time.

    python3 clock_server.py     serve on port 8880 until Ctrl-C; --help shows the options

Read this file from top to bottom. The first chapter is a complete small server. From "The methods" on, each
chapter begins with what is wrong with it, usually something that strangers do to it, as a command that you can
type, and cures it with a small class, which inherits from a class before it. So the server grows, and at each
stage it is a program that runs. In the end you can leave it running.

What travels over the wire: a client, such as a browser, opens a connection to a server, a stream of
bytes in each direction. A port, here 8880, is the number by which a machine knows which of its
programs is meant. On the connection, the client sends a request. It is text:

    GET /any/path HTTP/1.1              the request line: method, target, version
    Host: localhost:8880                the header section: one field per line,
    User-Agent: Mozilla/5.0             each with a name, a colon and a value
                                        an empty line ends the header section

The server sends a response back on the same connection:

    HTTP/1.1 200 OK                     the status line: version, status (4xx is an error), reason phrase
    Content-Type: text/html             the header section
    Content-Length: 4009                the number of bytes in the body
                                        an empty line ends the header section
    <!DOCTYPE html>...                  the body

Every line before the body ends with two bytes, a carriage return and a line feed: CRLF in the
standards, "\r\n" in Python. The standards are RFC 9110, on what requests and responses mean, and
RFC 9112, on how they are written: https://www.rfc-editor.org/rfc/rfc9112. A few more words:

    method        what a request asks for: GET a page, HEAD the response to a GET without its body;
                  POST sends a body to the server
    field         a line of the header section; Python calls it a header, as in send_header
    head          of a request or a response: everything before the body
    socket        the end of a connection that a program has
    proxy         a program that stands before a server and passes requests on
    inherited     comes from a class of the standard library, and is not shown in this file

There are two kinds of classes. A server accepts connections, and for each it makes a handler, which reads
the requests and sends the responses. Each class inherits from the one of its kind before it.
"""
from __future__ import annotations  # for Python 3.8, which does not know types such as list[bytes]

import _thread
import argparse
import base64
import email
import errno
import functools
import hashlib
import io
import os
import queue
import select
import signal
import socket
import socketserver
import sys
import time
import urllib.parse
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator, NamedTuple

__version__ = "5.0.0"


# --- The clock -----------------------------------------------------------------------------------
#
# This chapter is a whole program. Only the style, the script and the icon of the page are in the next
# one. The script makes the clock tick; without it, the page shows the time of the request.

def render_page(now: datetime) -> bytes:
    """Return the page for the time `now`, which must know its time zone, encoded in UTF-8."""
    stamp = now.isoformat(timespec="milliseconds")  # for example 2026-11-24T06:27:12.345+01:00
    return f"""<!DOCTYPE html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The current time on this server</title>
<meta name="description" content="The current time on this server."><link rel="icon" href="{ICON}">
<style>{STYLE}</style>
</head><body>
<main>
<h1 translate="no"><time datetime="{stamp}">{now.ctime()}</time></h1>
<p>Time on this server, UTC<span>{stamp[-6:]}</span></p>
</main>
<script>{SCRIPT}</script>
</body></html>
""".encode()


# The server makes an object of the next class, a handler, for each connection. It runs in a thread, a part
# of the program that runs beside the others. It reads a request, and calls do_GET if the method is GET.

class ClockPage(BaseHTTPRequestHandler):
    """Answers every GET request with the page, whatever its target is."""

    protocol_version = "HTTP/1.1"  # connections are persistent: they stay open for further requests
    disable_nagle_algorithm = True  # send the page at once; see below

    def do_GET(self):
        """Send the page, generated for this request."""
        if hasattr(time, "tzset"):
            time.tzset()  # the zone of this machine may have been changed
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
# (The * brings ThreadingHTTPServer, too, which this file imports.) Here '' stands for every network of this
# machine, and 8880 is the port. Now open http://localhost:8880/ in a browser. For each request, the server writes
# a line to its log, which is the terminal. To see the text that travels, use a second terminal:
#
#     $ curl -v http://localhost:8880/
#
# The head and the page leave in two pieces. Nagle's algorithm, which saves small packets, would keep the
# second one back until the client acknowledges the first one, which takes 40 ms for all pages on a connection
# but the first. To see it, put a # before disable_nagle_algorithm for a while, start the server again, and
# ask for ten pages on one connection; the command prints the seconds for each:
#
#     $ curl -s -o /dev/null -w '%{time_total}\n' 'http://localhost:8880/?[1-10]'


# --- The looks -----------------------------------------------------------------------------------
#
# You can skip this chapter if you have come for the server. It is CSS, JavaScript and SVG.
# A narrow window has room for 13 characters (13ch), those from the hour to the year; the date stands
# above them. Without balance, the hour would stand beside the date where the digit 1 is narrow.

STYLE = """
html { min-height: 100%; display: grid;  /* In a grid, auto margins center in both directions. */
       color-scheme: light dark; background: Canvas; }  /* white or black, as the visitor chose */
body { margin: auto; padding: 0.5rem; text-align: center; color: CanvasText;
       font-family: Bahnschrift, "DIN Alternate", Roboto, system-ui, sans-serif; }
main { font-size: min(1.5rem + 2.5vw, 11vw); }  /* vw follows the window; rem follows the zoom. */
h1 { margin: 0 auto; max-width: 13ch; text-wrap: balance; font-size: 1em; font-weight: 500; line-height: 1.2;
     font-variant-numeric: tabular-nums;  /* All digits have one width: the text does not shake. */
     white-space: pre-wrap; }  /* This keeps both blanks before a day of one digit. */
@media (min-width: 40em) { h1 { max-width: none; white-space: pre; } }  /* One line has room. */
p { display: inline-block; margin: 0.8em 0 0; padding-top: 0.6em; border-top: 0.12em solid #c8503a;
    font-size: 0.43em; color: color-mix(in srgb, CanvasText 70%, Canvas); }
"""

SCRIPT = """
const clock = document.querySelector("time"), text = clock.firstChild;
let ahead = Date.parse(clock.dateTime) - Date.now();  // ms by which the server's clock is ahead
let offset = clock.dateTime.slice(-6);  // of the server's zone from UTC, for example +01:00
let timer, minute, step;  // step is Date.now() - performance.now(); only the first can be set

function tick() {
  const time = Date.now() + ahead, last = [minute, step];
  const local = new Date(time - Date.parse("1970-01-01T00:00" + offset));  // its UTC is local time
  const [day, date, month, year, hours] = local.toUTCString().split(/,? /);
  const ctime = [day, month, date.replace(/^0/, " "), hours, year].join(" ");
  for (let i = 0; i < ctime.length; i++)  // Change only what differs: so a selection survives.
    if (text.data[i] != ctime[i]) { text.insertData(i, ctime[i]); text.deleteData(i + 1, 1); }
  clock.dateTime = local.toISOString().slice(0, -1) + offset;
  clearTimeout(timer);
  timer = setTimeout(tick, 1000 - local.getUTCMilliseconds());  // at the next full second
  minute = Math.floor((time - 1000) / 60000);  // This changes one second after each full minute.
  step = Date.now() - performance.now();
  if (minute != last[0] || Math.abs(step - last[1]) > 100) ask(performance.now());
}

async function ask(asked) {
  try {  // This URL is without a password: fetch refuses URLs that have one.
    const url = location.origin + location.pathname + location.search, cache = "no-store";
    const signal = window.AbortSignal && AbortSignal.timeout && AbortSignal.timeout(30000);  // ms
    const answer = await fetch(url, { cache, signal });
    const [, stamp] = (await answer.text()).match(/datetime="([\\d-]+T[\\d:.]+[+-]\\d\\d:\\d\\d)"/);
    const earliest = Date.parse(stamp), latest = earliest + performance.now() - asked;
    if (!answer.ok || isNaN(earliest)) return;
    ahead = Math.max(earliest, Math.min(latest, Date.now() + ahead)) - Date.now();
    document.querySelector("p span").textContent = offset = stamp.slice(-6);
    tick();
  } catch (error) { }  // There is no answer, or no time in it: the clock ticks on.
}

tick();
"""

# A clock face. Its lines are on the grid of 16 pixels, and its own white shows on any color.
ICON = "data:image/svg+xml," + urllib.parse.quote("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">\
<circle cx="8" cy="8" r="7" fill="#fff" stroke="#c8503a" stroke-width="2"/>\
<path d="M8 4v5h3" fill="none" stroke="#222" stroke-width="2"/></svg>""")


# --- What strangers do to it ---------------------------------------------------------------------
#
# Among friends, the small server is all you need. On an open network it meets strangers, whose programs
# are curious, slow, broken or malicious. This is what they do, and the chapter with the cure:
#
#     use another method than GET                                The methods
#     show its page inside a page of their own                   The frame
#     write a lie into its log                                   The log
#     hide a second request in the first one                     The grammar
#     leave in the middle, or send what nobody reads             The goodbye
#     send half a request, and keep it waiting forever           The deadline
#     take all its connections, so that nobody else gets one     The full house
#
# After them, The speed makes the server fast, and The command is for the operator, who runs it. From here
# on, a client is a program that sends requests, and a visitor is a person with a browser.
#
# Each of these chapters shows an attack as a command, and at its end the line that starts the server
# with the cure. Keep the server of the chapter before running in one terminal, and type the attack in
# another one: what follows "$ " and, on further lines, "> ". Ctrl-C ends a command that waits. Then stop
# the server with Ctrl-C, which prints a traceback until the last one, start the new one, and type the
# attack again. (On Windows, use the shell of WSL.)


# --- The methods ---------------------------------------------------------------------------------
#
# Not every client sends GET. Monitors and link checkers ask for the head alone, and scanners try POST:
#
#     $ curl -I http://localhost:8880/
#     $ curl -v -d x http://localhost:8880/
#
# The small server answers 501 to both: it does not know these methods. But HTTP asks every server to
# know HEAD, and to list the methods that it allows when it refuses one.
#
# The cure is to write the methods: the inherited machinery calls do_HEAD for HEAD, do_POST for POST, and so
# on. For HEAD, we call do_GET, and leave it with an exception as soon as it has sent the head.

class HeadSent(BaseException):
    """The head of a response to HEAD is sent. (An `except Exception` in a do_GET must not catch this.)"""


class PoliteHandler(ClockPage):
    """Answers GET, HEAD and OPTIONS, and refuses the other methods of HTTP."""

    only_head = False  # True while do_HEAD runs do_GET

    def do_HEAD(self):
        """Answer as do_GET does, but without the body (RFC 9110 section 9.3.2)."""
        self.only_head = True
        with suppress(HeadSent):  # go on after this block if HeadSent is raised in it
            self.do_GET()
        self.only_head = False

    def end_headers(self):
        """Send the head. Overridden to leave do_GET then, unless the real head follows, as after 1xx."""
        super().end_headers()
        if self.only_head and self.sent_status >= 200:
            raise HeadSent

    def do_OPTIONS(self):
        """Answer with the list of methods, and without a body (RFC 9110 section 9.3.7)."""
        self.send_response(204)
        self.send_header("Allow", self.allowed_methods())
        self.end_headers()

    def refuse(self):
        """Answer that this method is not allowed here (RFC 9110 section 15.5.6)."""
        self.send_error(405)

    # A clock cannot be changed (POST, PUT, DELETE, PATCH); TRACE and CONNECT are for proxies.
    do_POST = do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = refuse

    def send_response_only(self, code, message=None):
        """Begin a head. Overridden to remember the status, and to list the methods (RFC 9110 section 15.5.6)."""
        super().send_response_only(code, message)
        self.sent_status = code
        if code == 405:
            self.send_header("Allow", self.allowed_methods())

    def allowed_methods(self) -> str:
        """Return the methods that this class does not refuse, separated by commas."""
        return ", ".join(name[3:] for name in sorted(dir(self))
                         if name.startswith("do_") and getattr(self, name) != self.refuse)


# Start this stage, and type the commands again: HEAD is answered, and POST gets 405 and the field Allow.
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), PoliteHandler).serve_forever()"


# --- The frame -----------------------------------------------------------------------------------
#
# Another site can show the clock in a frame, as if it were a part of its own page. If a page has buttons, this
# is dangerous: the frame may be invisible, and a visitor who clicks on the other site presses them. This
# command makes such a site; open http://localhost:8881/ in a browser:
#
#     $ (cd $(mktemp -d)
#     >     echo '<h1>My own clock</h1> <iframe src="http://localhost:8880/"></iframe>' > index.html
#     >     python3 -m http.server 8881)
#
# A browser obeys the fields of a response, and no field forbids this. Nor does any forbid storing the page,
# which would show an old time later. And the field Server tells everybody which version of Python runs
# here, and so which of its known weaknesses may be tried.
#
# The cure is to add fields to each response, errors too. This is how the inherited methods send one:
#
#     send_response(200)                              write a line to the log, then
#         send_response_only(200)                     begin the head with the status line
#         send_header("Server", version_string())     add a field; then the same with Date
#     send_header("Content-Type", "text/html")        add the fields that do_GET wants
#     end_headers()                                   add the empty line, and send the head
#
#     send_error(405)                                 do all of this, and send a body that says what is wrong

def csp_hash(text: str) -> str:
    """Return the hash of a style or script, a short text that changes with it, for Content-Security-Policy."""
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class ShyHandler(PoliteHandler):
    """Adds to each response the fields that protect its reader, and does not name the version of Python."""

    server_version, sys_version = "clock_server", ""  # version_string joins them for the field Server
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"  # the body of send_error; the library's is HTML
    common_fields = {  # are in every response, unless do_GET sends a field with the same name
        "Cache-Control": "no-store, no-transform",  # the hashes below are only those of an unchanged page
        # Allow the icon, the style and the script with these hashes, and the requests to this server that keep
        # the clock right. Forbid other scripts, everything else, and showing the page inside another one.
        "Content-Security-Policy": "default-src 'none'; img-src data:; connect-src 'self'; form-action 'none'; "
        f"base-uri 'none'; frame-ancestors 'none'; style-src {csp_hash(STYLE)}; script-src {csp_hash(SCRIPT)}",
        "Referrer-Policy": "no-referrer",  # sites that a page links to do not learn its address
        "X-Content-Type-Options": "nosniff",  # browsers must not guess another Content-Type
    }
    sent_status = 0  # of the response that is being sent, before there is one
    sent_names: frozenset[str] = frozenset()  # the names of its fields, in lower case

    def version_string(self):
        """Return the value of the field Server. Overridden because it would end in a space."""
        return super().version_string().strip()

    def send_response_only(self, code, message=None):
        """Begin a head. Overridden to keep a line break out of the status line."""
        self.sent_names = frozenset()
        super().send_response_only(code, message and ascii(message)[1:-1])  # ascii writes it as \n, in quotes

    def send_header(self, keyword, value, *more, **options):
        """Add a field. Overridden to remember its name, and to raise ValueError for a line break in it.

        `more` and `options` are what new Pythons add to the arguments.
        """
        if any(character in f"{keyword}{value}" for character in "\0\r\n"):  # what follows it would be a field
            raise ValueError(f"line break in a field: {keyword!r}, {value!r}")
        self.sent_names |= {keyword.lower()}
        super().send_header(keyword, value, *more, **options)

    def end_headers(self):
        """End and send the head. Overridden to add Connection, and the common fields that were not sent yet."""
        if self.sent_status >= 200:  # a status of 1xx only announces another response
            fields, has_body = dict(self.common_fields), self.sent_status not in (204, 304)
            if has_body and not self.sent_names & {"content-length", "transfer-encoding"}:
                self.close_connection = True  # only the close ends this body (RFC 9112 section 6.3)
            if self.close_connection or self.request_version == "HTTP/1.0":  # RFC 9112 section 9.3
                fields["Connection"] = "close" if self.close_connection else "keep-alive"
            for name, value in fields.items():
                if name.lower() not in self.sent_names:
                    self.send_header(name, value)
        super().end_headers()


# Now the frame stays empty, and `curl -I http://localhost:8880/` shows the new fields:
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), ShyHandler).serve_forever()"


# --- The log -------------------------------------------------------------------------------------
#
# A request can write a lie into the log. After -X, curl sends whatever you like as the method:
#
#     $ curl -X 'GET / HTTP/1.1" 200 -' http://localhost:8880/
#
# The server refuses this request, since it is malformed. But the line in its log begins with
# "GET / HTTP/1.1" 200 -  and a program that reads up to the second quotation mark sees a request that
# was answered with 200. There is a second problem: press Ctrl-S in the terminal of the server, which stops
# its output, and open the page. It does not load until you press Ctrl-Q: a thread waits to write.
#
# The cure is to replace quotation marks and control characters, to cut long lines, which would fill
# the disk, and to write nothing while nobody reads.

LOG_CHARACTERS = 200  # in a line of the log, besides the address and the date; most requests are shorter


def is_stuck(stream) -> bool:
    """Return whether a write to this stream would have to wait for somebody to read it."""
    with suppress(Exception):  # the stream is not a file of the system; or this is Windows
        return not select.select([], [stream], [], 0)[1]  # which of these streams can be written now
    return False


def say(stream, text: str) -> None:
    """Write a text to standard output or standard error, if that is possible, and possible at once."""
    with suppress(Exception):  # the stream is None or closed, or the disk is full: serve all the same
        if not is_stuck(stream):
            stream.write(text)
            stream.flush()


class HonestHandler(ShyHandler):
    """Writes a log in which no request can lie, and for which no visitor has to wait."""

    def log_message(self, format, *args):
        """Write a line to the log. Overridden for the cure above; the format is that of http.server."""
        args = tuple(arg.replace('"', "%22") if isinstance(arg, str) else arg for arg in args)
        message = ascii(format % args)[1:-1]  # a line break becomes \n, é becomes \xe9
        if len(message) > LOG_CHARACTERS:
            message = message[:LOG_CHARACTERS] + "..." + message[-7:]  # the end is '" 200 -'
        say(sys.stderr, f"{self.address_string()} - - [{self.log_date_time_string()}] {message}\n")


# Now the log says %22 instead of the quotation mark, and Ctrl-S stops the log, but not the page:
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), HonestHandler).serve_forever()"


# --- The grammar ---------------------------------------------------------------------------------
#
# A request can hide a second one. The body of this one, 33 bytes, looks like a request:
#
#     $ printf 'GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n' |
#     >     curl -X GET --data-binary @- http://localhost:8880/
#
# The server does not read the body of a GET, takes it for the next request, and answers that, too: its
# log shows both. (It may also print a traceback, because curl does not read the second response.) A proxy
# before it has seen only one request, and checked only that. Whenever two programs read the same bytes
# differently, one request can be smuggled inside another.
#
# The cure has two parts. After a request with a body, the connection is closed, so that a body is never
# read as a request. And a request is accepted only if it is what the standards define, which all programs
# read alike. The inherited parser, parse_request, is tolerant; we replace it. This is how it is used:
#
#     handle()                        until self.close_connection is true, call
#         handle_one_request()        read a line from rfile, the stream of what the client sends, as
#                                     self.raw_requestline, and call
#             parse_request()         set command, path and headers, and return True; or send an error
#             do_GET()                or do_POST and so on, if True was returned
#
# First come functions that know nothing of connections: bytes go in, and what they mean comes out. Each
# quotes the grammar that it checks, in which "x" means just these characters, SP a space, OWS optional
# spaces and tabs, 1*x one or more x, and [ x ] an optional x. Most rules say which bytes a text may
# consist of. To check that, we let strip take the allowed bytes off both ends; nothing must be left:
# b"abba".strip(b"ab") is b"", but b"abXba".strip(b"ab") is b"X". The lines of a head come from a function
# with yield, which runs only as far as its next yield each time that parse_head asks for another line.

HEAD_BYTES = 65536  # in a head; browsers send the cookies of all servers on this machine
MAX_FIELDS = 100    # in a head, as in http.server, Apache and gunicorn

DIGITS = b"0123456789"
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VISIBLE = bytes(range(0x21, 0x7F))  # the characters of ASCII that can be seen
TOKEN = LETTERS + DIGITS + b"!#$%&'*+-.^_`|~"  # RFC 9110 section 5.6.2
HOST = LETTERS + DIGITS + b"-._~!$&'()*+;=%"  # RFC 3986 section 3.2.2, but for the comma, which separates hosts
TARGET = VISIBLE.replace(b"#", b"")  # lenient, since browsers send some characters that RFC 3986 forbids
VALUE = VISIBLE + b" \t" + bytes(range(0x80, 0x100))  # RFC 9110 section 5.5


class Refused(Exception):
    """The request breaks a rule. The arguments are those of send_error: a status and a message."""


def require(condition: object, rule: str, status: int = 400) -> None:
    """Raise Refused unless the condition holds."""
    if not condition:
        raise Refused(status, rule)


def consists_of(allowed: bytes, text: bytes) -> bool:
    """Return whether the text has at least one byte, and only bytes that are allowed."""
    return text != b"" and text.strip(allowed) == b""


def without_end(line: bytes) -> bytes:
    """Return the line without the CRLF at its end (RFC 9112 section 2.2). Raises Refused."""
    require(line.endswith(b"\r\n"), "a line does not end with CRLF (RFC 9112 section 2.2)")
    return line[:-2]


def is_authority(text: bytes) -> bool:
    """Return whether the text is uri-host [ ":" port ]  (RFC 9110 section 7.2, RFC 3986 section 3.2.2)."""
    before = text.rstrip(DIGITS)  # the port may even be empty
    host = before[:-1] if before.endswith(b":") else text
    if host.startswith(b"[") and host.endswith(b"]"):  # an IPv6 address; we only look at its characters
        return consists_of(DIGITS + b"abcdefABCDEF:.", host[1:-1])
    return consists_of(HOST, host)


def is_target(method: bytes, target: bytes) -> bool:
    """Return whether the target has a form that is right for the method (RFC 9112 section 3.2)."""
    if method == b"CONNECT":  # authority-form = uri-host ":" port
        _, colon, port = target.rpartition(b":")
        return colon != b"" and consists_of(DIGITS, port) and is_authority(target)
    if target == b"*":  # asterisk-form: the server as a whole
        return method == b"OPTIONS"
    if target.startswith(b"/"):  # origin-form: a path, and perhaps a query
        return True
    scheme, _, rest = target.partition(b"://")  # absolute-form: a whole URL, which a proxy is sent
    return scheme.lower() == b"http" and is_authority(rest.replace(b"?", b"/").partition(b"/")[0])


def parse_request_line(line: bytes) -> tuple[str, str, str]:
    """Return method, target and version: the library's command, path and request_version. Raises Refused."""
    # request-line = method SP request-target SP HTTP-version CRLF  (RFC 9112 section 3)
    parts = without_end(line).split(b" ")
    require(len(parts) == 3, "the request line is not three words (RFC 9112 section 3)")
    method, target, version = parts
    require(consists_of(TOKEN, method), "malformed method (RFC 9110 section 9.1)")
    # HTTP-version = "HTTP/" DIGIT "." DIGIT  (RFC 9112 section 2.3)
    name, dot, digits = version[:5], version[6:7], version[5:6] + version[7:]
    require(name == b"HTTP/" and dot == b".", "malformed version (RFC 9112 section 2.3)")
    require(consists_of(DIGITS, digits) and len(digits) == 2, "malformed version (RFC 9112 section 2.3)")
    require(digits[:1] == b"1", "not HTTP/1.0 or HTTP/1.1 (RFC 9110 section 15.6.6)", 505)
    require(consists_of(TARGET, target), "malformed target (RFC 9112 section 3.2)")
    require(is_target(method, target), "malformed target for this method (RFC 9112 section 3.2)")
    # A do_GET that redirects to //x/ would lead its visitor to the host x (python/cpython#87389): keep one slash.
    path = "/" + target.decode().lstrip("/") if target.startswith(b"//") else target.decode()
    return method.decode(), path, "HTTP/1.0" if digits == b"10" else "HTTP/1.1"  # also for 1.2 and so on


def parse_field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name of a field, in lower case, and its value. Raises Refused."""
    # field-line = field-name ":" OWS field-value OWS CRLF  (RFC 9112 section 5)
    name, colon, value = without_end(line).partition(b":")
    require(colon, "a field line has no colon (RFC 9112 section 5)")
    require(consists_of(TOKEN, name), "malformed name of a field (RFC 9110 section 5.1)")
    require(value.strip(VALUE) == b"", "malformed value of a field (RFC 9110 section 5.5)")
    return name.lower(), value.strip(b" \t")


def single_value(fields: dict[bytes, list[bytes]], name: bytes) -> bytes | None:
    """Return the value of a field, or None. Raises Refused if there are two: which one counts?"""
    values = fields.get(name, [])
    require(len(values) < 2, "a field is repeated that may come only once (RFC 9110 section 5.3)")
    return values[0] if values else None


def list_members(fields: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    """Return the members of a list, in lower case and without empty ones (RFC 9110 section 5.6.1.2)."""
    members = b",".join(fields.get(name, [])).lower().split(b",")
    return [member.strip() for member in members if member.strip()]


def body_follows(fields: dict[bytes, list[bytes]], version: str) -> bool:
    """Return whether a body follows the head (RFC 9112 section 6.3). Raises Refused if that is ambiguous."""
    length = single_value(fields, b"content-length")
    coding = single_value(fields, b"transfer-encoding")
    if length is not None:
        # Content-Length = 1*DIGIT  (RFC 9110 section 8.6); every program can keep 18 digits in 64 bits.
        require(consists_of(DIGITS, length) and len(length) <= 18, "malformed Content-Length")
    if coding is None:
        return int(length or 0) > 0
    # chunked means that the body is sent in chunks, each after its length. Other codings may come before it.
    require(version == "HTTP/1.1", "Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1)")
    require(length is None, "Transfer-Encoding and Content-Length (RFC 9112 section 6.1)")
    codings = list_members(fields, b"transfer-encoding")
    require(codings and codings[-1] == b"chunked", "the last coding is not chunked (RFC 9112 section 6.3)")
    require(codings.count(b"chunked") == 1, "chunked is repeated (RFC 9112 section 6.1)")
    require(len(codings) == 1, "unknown transfer coding (RFC 9112 section 6.1)", 501)
    return True


class Request(NamedTuple):
    """What a head says: a tuple whose parts have names."""

    method: str
    path: str
    version: str
    has_body: bool  # whether a body follows
    is_last: bool   # whether the connection is to be closed after the response
    expects: bool   # whether the client asks before it sends the body; the response 100 Continue means yes


def parse_head(lines: Iterator[bytes]) -> Request:
    r"""Return what a head says. `lines` yields its lines, up to the empty one. Raises Refused.

    >>> parse_head(iter([b"GET / HTTP/1.1\r\n", b"Host: localhost:8880\r\n", b"\r\n"]))
    Request(method='GET', path='/', version='HTTP/1.1', has_body=False, is_last=False, expects=False)
    """
    request_line = next(lines)
    require(len(request_line) <= HEAD_BYTES, "request line too long (RFC 9110 section 15.5.15)", 414)
    method, path, version = parse_request_line(request_line)
    size = len(request_line)
    fields: dict[bytes, list[bytes]] = {}  # each name, and its values: a name may come more than once
    for number, line in enumerate(lines):
        size += len(line)
        require(size <= HEAD_BYTES and number <= MAX_FIELDS, "head too large (RFC 9110 section 5.4)", 431)
        if line == b"\r\n":
            break
        name, value = parse_field(line)
        fields.setdefault(name, []).append(value)
    host = single_value(fields, b"host")
    require(version == "HTTP/1.0" or host is not None, "no Host (RFC 9112 section 3.2)")
    require(host is None or is_authority(host), "malformed Host (RFC 9112 section 3.2)")
    has_body, options = body_follows(fields, version), list_members(fields, b"connection")
    persists = version == "HTTP/1.1" or b"keep-alive" in options  # RFC 9112 section 9.3
    expects = version == "HTTP/1.1" and b"100-continue" in list_members(fields, b"expect")
    return Request(method, path, version, has_body, has_body or not persists or b"close" in options, expects)


class StrictHandler(HonestHandler):
    """Accepts what the standards define, and closes the connection after a request with a body."""

    has_body, parsed_headers = False, None  # whether the last request had a body; its headers, once used

    def handle(self):
        """Answer the requests of a connection. Overridden to forget each one, and to stop after a body.

        close_connection does not suffice: send_header sets it to False if it sends Connection: keep-alive.
        """
        self.close_connection = False
        while not self.close_connection and not self.has_body:
            self.command, self.path, self.raw_head, self.parsed_headers = "", "", b"", None
            self.handle_one_request()

    def parse_request(self):
        """Read and check a request, whose first line has been read; return whether to answer it."""
        if self.raw_requestline == b"\r\n":  # RFC 9112 section 2.2: ignore an empty line before a request
            self.raw_requestline = self.rfile.readline(HEAD_BYTES + 1)
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.request_version, self.close_connection = "HTTP/1.1", True
        try:
            request = self.read_request()
        except EOFError:  # the client has left, and nobody waits for a response
            return False
        except Refused as refused:
            self.command = self.requestline.partition(" ")[0]  # if it is HEAD, send_error sends no body
            self.send_error(*refused.args)
            return False
        self.command, self.path, self.request_version, self.has_body, is_last, expects = request
        is_old = self.protocol_version == "HTTP/1.0"  # in a class of yours
        self.close_connection = is_last or is_old
        if is_old or not expects or getattr(self, "do_" + self.command, self.refuse) == self.refuse:
            return True  # nobody asks, or we are going to refuse it
        return self.handle_expect_100()  # inherited: sends 100 Continue

    def read_request(self) -> Request:
        """Return what the head says. Raises Refused, or EOFError if the client leaves before its end."""
        return parse_head(self.read_lines())

    def read_lines(self) -> Iterator[bytes]:
        """Yield the lines of the head as they come, so that a wrong one, or one too long, is refused at once."""
        self.raw_head, line = b"", self.raw_requestline
        while line.endswith(b"\n") or len(line) > HEAD_BYTES:
            self.raw_head += line
            yield line
            line = self.rfile.readline(HEAD_BYTES + 1)
        raise EOFError

    @property
    def headers(self):
        """The fields of the request. They are parsed only if somebody uses them, which takes time."""
        if self.parsed_headers is None:
            section = self.raw_head.partition(b"\r\n")[2].decode("latin-1")
            self.parsed_headers = email.message_from_string(section, self.MessageClass)
        return self.parsed_headers


# Now the body is no request, and the log shows one:
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), StrictHandler).serve_forever()"


# --- The goodbye ---------------------------------------------------------------------------------
#
# Clients leave at any time. This one reads a single byte of the page:
#
#     $ python3 -c "import socket
#     > connection = socket.create_connection(('localhost', 8880))
#     > connection.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
#     > connection.recv(1)"
#
# The server prints a traceback of some twenty lines, as if something were wrong with it. But clients
# may leave: then there is nobody to answer, and nothing to report. And it is the server that leaves too
# early if a client sends more than it wants to read, here 10 MB:
#
#     $ python3 -c "import urllib.request
#     > urllib.request.urlopen('http://localhost:8880/', data=b'x' * 10**7)"
#
# The server refuses the request, and closes the connection. But a connection that is closed with unread
# input is reset: the client fails with "broken pipe" or "connection reset", and never reads the response.
#
# The cure is to print nothing if a client has left, and the lingering close (RFC 9112 section 9.6): stop
# sending, read until the client stops, too, and only then close. (The next chapter says how long that may
# take.) For this, we override methods that serve_forever, the loop of the module socketserver, calls. In
# this module, a connection is called a request:
#
#     until the program ends:
#         wait until a client connects, at most half a second
#         if a client connects:
#             request, client_address = get_request()     accept it; an OSError means: not now
#             process_request(request, client_address)    start a thread, which calls
#                 finish_request(request, client_address)     make a handler, which serves it
#                 handle_error(request, client_address)       if there was an exception
#                 shutdown_request(request)                   close it
#         service_actions()                               what must be done from time to time

# The numbers of the errors that mean: the client, or the network between us, is gone.
CLIENT_LEFT = (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ETIMEDOUT,
               errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN)


class CalmServer(ThreadingHTTPServer):
    """Lets clients leave when they like, and closes a connection only when its client has finished."""

    def finish_request(self, request, client_address):
        """Let a handler serve a connection. Overridden to read what the client still sends."""
        try:
            super().finish_request(request, client_address)
        finally:
            with suppress(OSError):  # the client has left
                request.shutdown(socket.SHUT_WR)
                while request.recv(65536):
                    pass

    def handle_error(self, request, client_address):
        """Print a traceback, unless the client has left, or nobody reads what is printed."""
        error = sys.exc_info()[1]
        # Errors of connections have no filename. A do_GET of yours may open files, whose errors have one.
        has_left = isinstance(error, OSError) and error.errno in CLIENT_LEFT and not error.filename
        if not has_left and sys.stderr and not is_stuck(sys.stderr):
            with suppress(Exception):  # the traceback cannot be written, or not be made for want of memory
                super().handle_error(request, client_address)


# Now the first command leaves no trace, and the second one reports "405: Method Not Allowed":
#
#     $ python3 -c "from clock_server import *; CalmServer(('', 8880), StrictHandler).serve_forever()"


# --- The deadline --------------------------------------------------------------------------------
#
# A client can send half a request, and then nothing:
#
#     $ python3 -c "import socket
#     > connection = socket.create_connection(('localhost', 8880))
#     > connection.sendall(b'GET / HTTP/1.1\r\n')
#     > connection.recv(1)"
#
# The server waits for the rest forever, and so does this command. Each such client keeps a thread and
# a connection. A timeout for each receive is no cure: a client that sends a byte now and then never runs
# into it. So there is one deadline, from one head to the next: a connection that has had no complete head
# for nine seconds is evicted, that is, closed whatever its client is doing.

REQUEST_SECONDS = 9  # not 10: a client that asks every ten seconds would send just when we close


class PunctualServer(CalmServer):
    """Evicts the connections that have had no complete head for REQUEST_SECONDS."""

    def __init__(self, *args, **options):
        # For each connection, when its last complete head came, or when it began; the oldest is the first.
        # Threads can share this dict: copy, pop and assignment are a single step for Python.
        self.connections = {}
        super().__init__(*args, **options)

    def process_request(self, request, client_address):
        """Serve a connection. Overridden to remember when it began."""
        self.watch(request)
        super().process_request(request, client_address)

    def watch(self, request):
        """Start the clock of a new connection."""
        if os.name == "nt":  # on Windows, evict cannot wake a thread that waits to receive
            request.settimeout(REQUEST_SECONDS)
        self.connections[request] = time.monotonic()

    def shutdown_request(self, request):
        """Close a connection. Overridden to forget it."""
        self.connections.pop(request, None)
        self.close_request(request)  # inherited; finish_request has shut it down already

    def evict(self, seconds: float) -> socket.socket | None:
        """Evict the connection that has waited longest, if for so many seconds; return it, or None."""
        connections = self.connections.copy()  # the other threads change the original
        longest = next(iter(connections), None)
        if longest is None or time.monotonic() - connections[longest] < seconds:
            return None
        self.connections.pop(longest, None)
        with suppress(OSError):  # the client has left
            longest.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
        return longest

    def service_actions(self):
        """Keep the deadlines. Overridden because serve_forever calls it twice a second or more often."""
        while self.evict(REQUEST_SECONDS):
            pass


class PunctualHandler(StrictHandler):
    """Tells its server, a PunctualServer, when a head is complete."""

    def parse_request(self):
        """Read and check a request. Overridden to restart the clock of its connection."""
        is_valid = super().parse_request()
        if is_valid:
            self.server.connections.pop(self.connection, None)
            self.server.connections[self.connection] = time.monotonic()  # now it is the last of the dict
        return is_valid


# Now the command ends after nine seconds:
#
#     $ python3 -c "from clock_server import *; PunctualServer(('', 8880), PunctualHandler).serve_forever()"


# --- The full house ------------------------------------------------------------------------------
#
# A client can take all connections, and do nothing with them. To see it in a second, start the server in a
# new terminal, and type `ulimit -n 64` there before: then it may open 64 files and sockets, where Linux
# usually allows 1,024. While this command runs, the page does not load for nine seconds, and without a
# deadline it never does:
#
#     $ python3 -c "import socket, time
#     > connections = []
#     > for _ in range(100):
#     >     connections.append(socket.create_connection(('localhost', 8880)))
#     >     time.sleep(0.01)
#     > input()"
#
# The cure is to evict the connection that has waited longest when another client comes. The system keeps
# clients in a queue until they are accepted. So, if there is no room, get_request evicts a connection, waits
# until its thread has closed it, and raises an OSError, which means: not now. The client is still in the
# queue, and the loop tries again. A connection that has just come is not evicted, since its request is due.
#
# A client can also send many requests at once, which HTTP calls pipelining. (Start the server in the old
# terminal for this one, which has no such limit.)
#
#     $ python3 -c "import socket, time
#     > connections = []
#     > for _ in range(200):
#     >     connections.append(socket.create_connection(('localhost', 8880)))
#     >     time.sleep(0.01)
#     > for connection in connections:
#     >     connection.sendall(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n' * 2000)
#     > input()"
#
# Now 200 threads answer as fast as they can, and the page takes up to half a second; if the client read the
# responses, it would go on like this. Since it does not, the system keeps them, some 200 to 300 MB after half a
# minute: on Linux, see the last number of the line TCP in /proc/net/sockstat, in pages of 4 KB.
#
# The cure is to let clients take turns: while there are many connections, one that has more than one request
# in it is closed after the first response, and its client has to come again, and to wait behind the others.
# Besides, the system is to keep no more than 40 KB for each connection.

MAX_CONNECTIONS = 512   # at once: half of the 1,024 files and sockets that Linux usually allows
TURN_CONNECTIONS = 64   # at once; even if 64 clients pipeline without end, a visitor waits less than a second
GRACE_SECONDS = 0.01    # for a new client to send a request, and for a thread to close an evicted connection
RETRY_SECONDS = 0.0005  # to sleep when there was no room; most evicted connections are closed by then
SEND_BYTES = 40960      # of a response that the system keeps until the client reads them


class FairServer(PunctualServer):
    """Makes room for new clients when it is full, and for others when one is greedy."""

    request_queue_size = 1024  # clients that the system lets wait to be accepted; the default is 5

    def server_activate(self):
        """Begin to listen. Overridden to set socket options, which the connections inherit."""
        with suppress(OSError, AttributeError):  # this system does not know the second option
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            # Drop what a client does not take within so many milliseconds. Otherwise the system keeps it for
            # minutes after the close: 200 clients that never read would leave 200 sockets behind.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * REQUEST_SECONDS))
        super().server_activate()

    def has_room(self) -> bool:
        """Return whether another connection can be served."""
        return len(self.connections) < MAX_CONNECTIONS

    def get_request(self):
        """Accept a connection. Overridden to make room if there is none, and raise an OSError."""
        is_full = not self.has_room()
        try:
            if is_full:
                raise BlockingIOError("no room yet")
            return super().get_request()
        except OSError:  # we are full, or the system is, which has no more sockets
            evicted, end = self.evict(GRACE_SECONDS), time.monotonic() + GRACE_SECONDS
            while not (is_full and self.has_room()):  # if the system is full, room of ours does not help
                time.sleep(RETRY_SECONDS)
                if evicted is None or evicted.fileno() == -1 or time.monotonic() > end:  # -1: it is closed
                    break
            raise


class FairHandler(PunctualHandler):
    """Closes the connection of a client that pipelines, if its server, a FairServer, has many connections."""

    def parse_request(self):
        """Read and check a request. Overridden to let the clients take turns."""
        is_valid = super().parse_request()
        is_crowded = len(self.server.connections) > TURN_CONNECTIONS
        self.close_connection = self.close_connection or (is_crowded and self.has_more())
        return is_valid

    def has_more(self) -> bool:
        """Return whether the client has sent more than this head. (KeepingHandler also sees what rfile keeps.)"""
        return bool(select.select([self.connection], [], [], 0)[0])


# Now the page loads at once while the commands run:
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), FairHandler).serve_forever()"


# --- The speed -----------------------------------------------------------------------------------
#
# This server is safe, but slow, because it does the same work again and again. Start it without the log, which
# takes its own time; 2>/dev/null throws it away:
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), FairHandler).serve_forever()" 2>/dev/null
#
# Now send 2,001 requests on one connection. The command prints the seconds that this takes: 0.57 on a machine
# with two cores, as all numbers of this chapter.
#
#     $ python3 -c "import socket, time
#     > connection, start = socket.create_connection(('localhost', 8880)), time.time()
#     > head = b'GET / HTTP/1.1\r\nHost: x\r\n' + b'Accept: text/html, */*\r\n' * 15
#     > connection.sendall((head + b'\r\n') * 2000 + head + b'Connection: close\r\n\r\n')
#     > while connection.recv(65536): pass
#     > print(time.time() - start)"
#
# Clients repeat their heads. So, first, we keep what the last 64 heads said, with lru_cache, which makes a
# function that remembers its results. For this, we need a head as a whole, not line by line. Usually it has
# come in one piece; peek returns what has come, and leaves it in rfile. But if nothing has come, peek waits,
# while a client that has sent a wrong line, and nothing more, is to be refused at once. So we check the first
# line before we call peek: after a right one, at least an empty line must come.

class KeepingHandler(FairHandler):
    """Keeps what the last heads said."""

    rbufsize = 8192  # bytes that rfile receives at once; new Pythons keep 128 KB for it
    keep_line = staticmethod(functools.lru_cache(maxsize=64)(parse_request_line))
    keep_head = staticmethod(functools.lru_cache(maxsize=64)(lambda head: parse_head(iter(head.splitlines(True)))))

    def read_request(self):
        """Return what the head says. Overridden to look it up if the head has come in one piece."""
        received = self.raw_requestline
        if received.endswith(b"\n") and self.keep_line(received):
            received += getattr(self.rfile, "peek", bytes)()  # b"", which is bytes(), if rfile has no peek
        length, self.received = received.find(b"\r\n\r\n") + 4, len(received)
        if length < 4:  # the end of the head is not there
            return super().read_request()
        self.rfile.read(length - len(self.raw_requestline))
        self.raw_head = received[:length]
        return self.keep_head(self.raw_head)

    def has_more(self):
        """Return whether the client has sent more. Overridden because now we know what rfile has kept."""
        return self.received > len(self.raw_head)


# The requests take 0.48 seconds at this stage. The price is the memory for 64 heads.
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), KeepingHandler).serve_forever()" 2>/dev/null
#
# Second, for a whole second, all that changes in the response are the milliseconds of the page. So we keep
# what is before and after them. But a class of yours that inherits from this one may answer something else.

class ClockHandler(KeepingHandler):
    """Keeps the page for a second. To serve a page of your own, inherit from this class, and override do_GET."""

    # For each version and close_connection: a second, and what is before and after the milliseconds.
    kept: dict[tuple[str, bool], tuple[int, bytes, bytes]] = {}

    def do_GET(self):
        """Send the page. Overridden to send the response that has been kept, if it is of this second."""
        if type(self) is not ClockHandler or self.command != "GET":
            return super().do_GET()
        now, key = time.time(), (self.request_version, self.close_connection)
        second, before, after = self.kept.get(key, (None, b"", b""))
        if second == int(now):
            self.log_request(200)
            response = b"%b%03d%b" % (before, now % 1 * 1000, after)
        else:
            connection, self.wfile = self.wfile, io.BytesIO()  # write into memory
            super().do_GET()
            response, self.wfile = self.wfile.getvalue(), connection
            start = response.index(b'datetime="') + len('datetime="2026-11-24T06:27:12.')  # an example's length
            if int(time.time()) == int(now):  # otherwise the response may be of the next second
                self.kept[key] = int(now), response[:start], response[start + 3:]
        self.wfile.write(response)


# Now they take 0.15 seconds. The price is that a change of the time zone is seen a second later.
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), ClockHandler).serve_forever()" 2>/dev/null
#
# But most visitors come with a new connection. These 16 clients open 300 each, which takes 3.3 seconds:
#
#     $ time (for i in $(seq 16); do
#     >     curl -s -o /dev/null -H 'Connection: close' 'http://localhost:8880/?[1-300]' & done; wait)
#
# Third, then, we do not start a thread for each connection, but use the threads again: those that have done
# their work wait at a queue, self.jobs, and the loop accepts a connection only if one is idle. It starts them
# with the module _thread, because Thread.start waits until the new thread runs. When 250 others are busy, that
# takes a tenth of a second, in which nobody else is accepted.

MAX_THREADS = 1024  # twice MAX_CONNECTIONS, since a slow do_GET goes on when its connection has been evicted
IDLE_THREADS = 64   # that wait for connections; others end when they have done their work


class QuickServer(FairServer):
    """Uses its threads again."""

    def __init__(self, *args, **options):
        self.jobs = queue.SimpleQueue()  # the connections that wait for a thread, each with its address
        # Two lists used as counters: a None for each thread, and one for each idle thread. Lists, because append
        # and pop are a single step for Python, and += is not.
        self.threads, self.idle = [], []
        super().__init__(*args, **options)

    def has_room(self):
        """Return whether another connection can be served. Overridden to start a thread if none is idle."""
        if not self.idle and len(self.threads) < MAX_THREADS:
            with suppress(RuntimeError, MemoryError):  # the system has no more threads
                _thread.start_new_thread(self.work, ())
                self.threads.append(None)
                self.idle.append(None)
        return bool(self.idle) and super().has_room()

    def process_request(self, request, client_address):
        """Hand a connection to an idle thread; has_room has returned True, so there is one."""
        self.watch(request)
        self.idle.pop()
        self.jobs.put((request, client_address))

    def work(self):
        """Serve one connection after the other. Each thread runs this."""
        try:
            while job := self.jobs.get():  # until it is None; := needs Python 3.8
                self.process_request_thread(*job)  # inherited: finish_request, handle_error, shutdown_request
                if len(self.idle) >= IDLE_THREADS:
                    return
                self.idle.append(None)
            self.jobs.put(None)  # the server is closed: tell the next thread
        finally:  # also when a do_GET has called sys.exit
            self.threads.pop()

    def server_close(self):
        """Stop listening. Overridden to end the threads when they have done their work."""
        super().server_close()
        self.jobs.put(None)


# Now they take 2.7 seconds. The price is the memory for the threads that wait.
#
#     $ python3 -c "from clock_server import *; QuickServer(('', 8880), ClockHandler).serve_forever()" 2>/dev/null
#
# Last, only one thread at a time runs Python. When one on another core of the processor has its turn, that
# core must wake up first, which takes longer than a request. So we keep all threads on one core.

def stay_on_one_core() -> None:
    """Keep this process, and the processes that it starts, on one core, where the system can do that."""
    with suppress(AttributeError, OSError):  # the system does not know these calls, or forbids them
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


# Now they take 1.6 seconds. The price is that a program that a do_GET starts stays on this core, too.
#
#     $ python3 -c "from clock_server import *; stay_on_one_core()
#     > QuickServer(('', 8880), ClockHandler).serve_forever()" 2>/dev/null
#
# In short: what is kept helps clients that ask again on their connection, threads that are used again help
# those that come with a new one, and the core helps when many come at once.


# --- The command ---------------------------------------------------------------------------------
#
# Two programs cannot listen on one port. Start this server twice:
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), FairHandler).serve_forever()"
#
# The second one prints a traceback, and Ctrl-C in the first one prints another. But the operator has only
# made a slip, or wants to stop. Start `python3 clock_server.py` twice: the second one says in a line what
# is wrong, and Ctrl-C ends the first one without a word.
#
# Also, machines have addresses of two families: IPv4, such as 192.0.2.1, and IPv6, such as 2001:db8::1. So far,
# the server has listened only on IPv4. "::" stands for all networks in IPv6; a socket that listens there can
# serve IPv4, too ("dual stack"); an IPv4 address then looks like ::ffff:192.0.2.1.

class ClockServer(QuickServer):
    """Serves connections with any handler. The host "" means every network of this machine."""

    allow_reuse_address = os.name == "posix"  # on Windows, it lets two servers share a port

    def __init__(self, server_address, RequestHandlerClass=ClockHandler, bind_and_activate=True):
        host, port = server_address[:2]
        if not host and socket.has_dualstack_ipv6():
            host = "::"
        # A tuple for each address: its family first, and the address last. min takes IPv4 if there are both.
        family, *_, found = min(socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM))
        self.address_family, address = family, (found[0], port, *found[2:])
        super().__init__(address, RequestHandlerClass, bind_and_activate)

    def server_bind(self):
        """Bind the socket. Overridden because HTTPServer asks a name server for server_name, which may be slow."""
        with suppress(AttributeError, OSError):  # this is an IPv4 socket
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # serve IPv4 as well
        socketserver.TCPServer.server_bind(self)
        self.server_address = self.server_address[:2]
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]

    def get_request(self):
        """Accept a connection. Overridden to show IPv4 addresses as such, not as ::ffff:192.0.2.1."""
        request, (host, port, *_) = super().get_request()
        return request, (host[7:] if host.startswith("::ffff:") else host, port)


def main(argv: list[str] | None = None, handler=ClockHandler) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM (kill), which end the whole process: main does not return.

    `argv` are the arguments, or None for those of the program. Exits with status 2 if they are invalid,
    and with status 1 if the server cannot start.
    """
    args = parse_arguments(argv)
    server = listen(args.bind or "", args.port, handler)
    for number in signal.SIGINT, signal.SIGTERM:
        with suppress(ValueError):  # this is not the main thread, which alone can do this
            signal.signal(number, lambda *_: os._exit(0))  # at once, whatever the threads do
    if args.quiet:
        handler.log_request = handler.log_error = lambda *_: None
    if getattr(sys, "_is_gil_enabled", lambda: True)():  # only one thread at a time runs Python
        stay_on_one_core()
    say(sys.stdout, start_text(*server.server_address))
    server.serve_forever()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command; exit with status 2 if one is invalid."""
    parser = argparse.ArgumentParser(prog="clock_server", description="Serve a page with the current time.")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.add_argument("-b", "--bind", metavar="ADDRESS", help="listen there (default: all interfaces)",
                        type=lambda text: text.strip("[]"))  # in URLs, IPv6 addresses stand in brackets
    parser.add_argument("-q", "--quiet", action="store_true", help="do not log requests")
    parser.add_argument("port", nargs="?", type=int, default=8880, help="0 picks one (default: %(default)s)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error("not a port number from 0 to 65535: %d" % args.port)
    if args.bind == "":
        parser.error("--bind needs an address or a host name")
    return args


def listen(host: str, port: int, handler) -> ClockServer:
    """Return a server that listens there; exit with status 1 and the reason if that is impossible."""
    try:
        _thread.start_new_thread(int, ())  # does nothing, but fails if the system allows no thread
        return ClockServer((host, port), handler)
    except (OSError, RuntimeError, MemoryError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no memory"
        advice = "; port 0 picks a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        sys.exit(f"clock_server: cannot listen on port {port} of {host or 'all interfaces'}: {reason}{advice}")


def start_text(host: str, port: int) -> str:
    """Return where the clock is, who can reach it, its time zone, and how to stop it."""
    is_everywhere = host in ("::", "0.0.0.0")
    name = "localhost" if is_everywhere else "[%s]" % host if ":" in host else host  # brackets for IPv6
    text = f"Serving the time on http://{name}:{port}/\n"
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # no network, perhaps
        probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses the address to send from
        if is_everywhere:
            text += f"From other computers: http://{probe.getsockname()[0]}:{port}/\n"
    return text + f"Time zone: UTC{datetime.now().astimezone().isoformat()[-6:]}\nPress Ctrl-C to stop.\n"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it while it starts, too
    main()
