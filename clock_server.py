#!/usr/bin/env python3
r"""A web server in one file. Every URL it serves is a page with the current time.

    python3 clock_server.py     serve on port 8880 until Ctrl-C; --help shows the options

Read this file from top to bottom. The first chapter is a complete small server. The second one lists
what strangers do to it. Each later chapter begins with one of these attacks, as a command that you can
type, and cures it with a small class, which inherits from the class of the chapter before. So the
server grows, and at each stage it is a program that runs. In the end you can leave it running.

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
    Content-Length: 3853                the number of bytes in the body
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
import base64
import email
import errno
import functools
import hashlib
import io
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__version__ = "4.0.0"
assert (python := "3.8 or newer")  # only there so that older Pythons, without :=, stop and show it


# --- The clock -----------------------------------------------------------------------------------
#
# This chapter is a whole program. Only the style, the script and the icon of the page are elsewhere, in
# "The looks". The script makes the clock tick; without it, the page shows the time of the request.

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


# For each connection, the server makes an object of the next class, a handler. It runs in a thread, a
# part of the program beside the others; it reads a request, and calls do_GET if the method is GET.

class ClockPage(BaseHTTPRequestHandler):
    """Answers every GET request with the page, whatever its target is."""

    protocol_version = "HTTP/1.1"  # connections are persistent: they stay open for further requests

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
# (The * brings the names that this file imports, too.) Here '' stands for every network of this machine,
# and 8880 is the port. Now open http://localhost:8880/ in a browser. For each request, the server writes
# a line to its log, which is the terminal. To see the text that travels, use a second terminal:
#
#     $ curl -v http://localhost:8880/


# --- What strangers do to it ---------------------------------------------------------------------
#
# Among friends, the small server is all you need. On an open network it meets strangers, whose programs
# are curious, slow, broken or malicious. This is what they do, and the chapter with the cure:
#
#     use another method than GET                                The methods
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


# --- The looks -----------------------------------------------------------------------------------
#
# You can skip this chapter if you have come for the server. It is CSS, JavaScript and SVG.
# A narrow window has room for 13 characters (13ch), those from the hour to the year; the date stands
# above them. Without balance, the hour would fit beside it in a typeface with a narrow 1.

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
    const answer = await fetch(location.origin + location.pathname, { cache: "no-store" });
    const [, stamp] = (await answer.text()).match(/datetime="([\\d-]+T[\\d:.]+[+-]\\d\\d:\\d\\d)"/);
    const earliest = Date.parse(stamp), latest = earliest + performance.now() - asked;
    if (!answer.ok || isNaN(earliest)) return;
    ahead = Math.max(earliest, Math.min(latest, Date.now() + ahead)) - Date.now();
    document.querySelector("span").textContent = offset = stamp.slice(-6);
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


# --- The methods ---------------------------------------------------------------------------------
#
# Not every client sends GET. Monitors and link checkers ask for the head alone, and scanners try POST:
#
#     $ curl -I http://localhost:8880/
#     $ curl -v -d x http://localhost:8880/
#
# The small server answers 501 to both: it does not know these methods. But HTTP asks every server to
# know HEAD, and a server that refuses a method should list those that it allows. Also, the field Server
# tells the world which version of Python runs here, and no field keeps another site from showing the
# page in a frame of its own.
#
# The cure is to write the methods, and to extend what all responses, errors too, go through: the
# inherited send_response_only, send_header and end_headers.

BODILESS = {204, 304}  # statuses whose responses have no body: RFC 9110 sections 15.3.5 and 15.4.5


def csp_hash(text: str) -> str:
    """Return the hash that allows an inline style or script in a Content-Security-Policy."""
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class PoliteHandler(ClockPage):
    """Answers the usual methods, and adds to each response what protects its reader."""

    wbufsize = 16384  # bytes that wfile collects: the page and its head are less, and leave in one piece
    server_version, sys_version = "clock_server", ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    common_fields = {  # are in every response, unless a method sends a field with the same name
        "Cache-Control": "no-store",  # a stored page would show an old time
        # Allow the icon, style and script of the page, and the requests to this server that keep the
        # clock right. Forbid everything else, and forbid other pages to show this one inside them.
        "Content-Security-Policy": "default-src 'none'; img-src data:; connect-src 'self'; form-action 'none'; "
        f"base-uri 'none'; frame-ancestors 'none'; style-src {csp_hash(STYLE)}; script-src {csp_hash(SCRIPT)}",
        "Referrer-Policy": "no-referrer",  # sites that a page links to do not learn its address
        "X-Content-Type-Options": "nosniff",  # browsers must not guess another Content-Type
    }

    def setup(self):
        """Prepare for a connection. Overridden so that `with io.TextIOWrapper(self.wfile)` may close wfile."""
        super().setup()
        self.wfile.close = self.wfile.flush  # an attribute of the object hides the method of its class

    def finish(self):
        """Clean up after a connection. Overridden because now wfile is to be closed."""
        vars(self.wfile).pop("close", None)
        with self.rfile:  # close it, too, if the client has left, and wfile cannot be flushed
            super().finish()

    def do_HEAD(self):
        """Answer as for GET; end_headers sees to it that no body follows."""
        self.do_GET()
        vars(self.wfile).pop("write", None)  # which end_headers, below, has hidden

    def do_OPTIONS(self):
        """Answer without a body; end_headers lists the methods (RFC 9110 section 9.3.7)."""
        self.send_response(204)
        self.end_headers()

    def refuse(self):
        """Answer that this method is not allowed here (RFC 9110 section 15.5.6)."""
        self.send_error(405)

    # A clock cannot be changed (POST, PUT, DELETE, PATCH); TRACE and CONNECT are for proxies.
    do_POST = do_PUT = do_DELETE = do_PATCH = do_TRACE = do_CONNECT = refuse

    def send_response_only(self, code, message=None):
        """Begin a response. Overridden to remember its status, and to keep its first line one line."""
        self.sent_status, self.sent = int(code), set()
        vars(self.wfile).pop("write", None)  # if a do_HEAD of yours has left it hidden
        super().send_response_only(code, message and re.sub(r"[^\t -~\x80-\xff]", "?", message))

    def send_header(self, keyword, value, *more, **options):
        """Add a field. Overridden to note its name, and to raise ValueError for a line break in it."""
        if re.search("[\0\r\n]", f"{keyword}{value}"):  # it would begin another one (python/cpython#142533)
            raise ValueError(f"line break in a field: {keyword!r}, {value!r}")
        self.sent.add(keyword.lower())
        super().send_header(keyword, str(value).strip(), *more, **options)  # Server ends in a blank

    def end_headers(self):
        """End the head. Overridden to add the fields that the method has not sent itself."""
        if self.sent_status >= 200:  # otherwise another response follows: see handle_expect_100
            fields = dict(self.common_fields)
            if self.sent_status == 405 or self.command == "OPTIONS":
                fields["Allow"] = ", ".join(name[3:] for name in sorted(dir(self)) if name.startswith("do_")
                                            and getattr(self, name) != self.refuse)
            if self.sent_status not in BODILESS and not self.sent & {"content-length", "transfer-encoding"}:
                self.close_connection = True  # only that ends the body (RFC 9112 section 6.3)
            if self.close_connection or self.request_version == "HTTP/1.0":  # RFC 9112 section 9.3
                fields["Connection"] = "close" if self.close_connection else "keep-alive"
            for name in fields:
                if name.lower() not in self.sent:
                    self.send_header(name, fields[name])
        super().end_headers()
        if self.command == "HEAD":
            self.wfile.write = len  # drops what is written, and returns its length, as write does


# Start this stage, and type the commands again: HEAD is answered, and POST gets 405 and the field Allow.
#
#     $ python3 -c "from clock_server import *; ThreadingHTTPServer(('', 8880), PoliteHandler).serve_forever()"


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

LOG_CHARACTERS = 200  # in a line of the log, besides the address and the date


def is_stuck(stream) -> bool:
    """Return whether a write to this stream would have to wait for somebody to read it."""
    try:
        return not select.select([], [stream], [], 0)[1]
    except (OSError, TypeError, ValueError):  # not a file; or on Windows, which only asks sockets
        return False


def say(stream, text: str) -> None:
    """Write a text to standard output or standard error, if that is possible, and possible at once."""
    with suppress(AttributeError, OSError, ValueError):  # there is none, the disk is full, it is closed
        if not is_stuck(stream):
            stream.write(text)
            stream.flush()


class HonestHandler(PoliteHandler):
    """Writes a log in which no request can lie, and for which no visitor has to wait."""

    def log_message(self, format, *args):
        """Write a line to the log, in the format of http.server. Overridden for what is said above."""
        args = tuple(arg.replace('"', "%22") if isinstance(arg, str) else arg for arg in args)
        message = re.sub(r"[^ -\[\]-~]", lambda match: ascii(match[0])[1:-1], format % args)
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
# log shows both. A proxy, a program that stands before a server and passes requests on, has seen only
# one request, and checked only that. Whenever two programs read the same bytes differently, one
# request can be smuggled inside another one.
#
# The cure has two parts. After a request with a body, the connection is closed, so that a body is
# never read as a request. And a request is accepted only if it is what the standards define, which all
# programs read alike. The library's own parser, parse_request, is tolerant; we replace it. This is how the
# inherited methods use it:
#
#     until self.close_connection is true:
#         read a line from self.rfile, the stream of what the client sends, into self.raw_requestline
#         if parse_request():     it sets command, path and headers, or sends an error and returns False
#             call the method for the command, such as do_GET, and flush wfile
#
# The functions before the class know nothing of connections: bytes go in, and what they mean comes out.
# The notation of the standards: 1*x means one or more x, [ x ] an optional x, "x" just these
# characters, SP a space, and OWS optional spaces and tabs. Where neighbours in a pattern can match the same
# bytes, as in rb"a*a*x", Python tries all ways to divide a row of a's between them. Ours cannot, but for a
# few bytes. In a pattern, (?=x) means: here follows x; (?!x): here x does not follow; (?i): in any case.

HEAD_BYTES = 65536  # in a head; browsers send the cookies of all servers on this machine
MAX_FIELDS = 100    # in a head, as in http.server, Apache and gunicorn

# token = 1*tchar  (RFC 9110 section 5.6.2); a tchar is a letter, a digit or one of these marks
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# field-line = field-name ":" OWS field-value OWS CRLF  (RFC 9112 sections 2.1 and 5)
FIELD_LINE = re.compile(rb"%s:[\t -~\x80-\xff]*\r\n" % TOKEN)
FIELD_LINES = re.compile(rb"(?:%s)*\r\n" % FIELD_LINE.pattern)  # with the empty line after them
# Of these fields, we need the values. (With (?m), ^ is the start of any line.)
KNOWN_FIELD = re.compile(rb"(?im)^(host|content-length|transfer-encoding|connection|expect):([^\r]*)")
# uri-host = IP-literal / reg-name  (RFC 3986 section 3.2.2); the literal is an IPv6 address
URI_HOST = rb"(?:\[(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]*\]|(?:[!$&'()*+.;=_~0-9A-Za-z-]|%[0-9A-Fa-f]{2})+)"
# Host = uri-host [ ":" port ]  (RFC 9110 section 7.2)
HOST = re.compile(rb"%s(?::[0-9]*)?" % URI_HOST)
# The form of the target depends on the method (RFC 9112 section 3.2): CONNECT example.com:80, OPTIONS *,
# GET http://example.com/path or GET /path. PRI * begins HTTP/2, which is refused for its version.
FORM = rb"CONNECT %s:[0-9]+|(?:OPTIONS|PRI) \*|(?!CONNECT )%s (?:(?i:http)://%s(?=[/? ])|/)[^ ]*" % (
    URI_HOST, TOKEN, HOST.pattern)
# request-line = method SP request-target SP HTTP-version CRLF  (RFC 9112 section 3)
# As a target we accept all visible characters but "#", since browsers send some that the rule forbids.
REQUEST_LINE = re.compile(rb"(?=(?:%s) )(%s) ([!\"$-~]+) HTTP/([0-9])\.([0-9])\r\n" % (FORM, TOKEN))


class Refused(Exception):
    """The request breaks a rule. The arguments are those of send_error: a status and a message."""


def require(condition: object, rule: str, status: int = 400) -> None:
    """Raise Refused unless the condition holds."""
    if not condition:
        raise Refused(status, rule)


def parse_head(head: bytes) -> tuple[str, str, str, bool, bool, bool]:
    r"""Return the method, the target and the version, and whether a body follows, the connection is to be
    closed after the response, and the client waits for 100 Continue. Raises Refused.

    >>> parse_head(b"GET /any/path HTTP/1.1\r\nHost: localhost:8880\r\n\r\n")
    ('GET', '/any/path', 'HTTP/1.1', False, False, False)
    """
    line = REQUEST_LINE.match(head)
    if not line:
        raise Refused(400, "malformed request line (RFC 9112 section 3)")
    method, target, major, minor = line.groups()
    require(major == b"1", "not HTTP/1.0 or HTTP/1.1 (RFC 9110 section 15.6.6)", 505)
    version = "HTTP/1.0" if minor == b"0" else "HTTP/1.1"  # also for 1.2: RFC 9110 section 2.5
    section = head[line.end():]  # the fields and the empty line
    require(len(head) <= HEAD_BYTES and section.count(b"\n") <= MAX_FIELDS + 1, "head too large", 431)
    require(FIELD_LINES.fullmatch(section), "malformed field line (RFC 9112 section 5)")
    fields = [(name.lower(), value.strip(b" \t")) for name, value in KNOWN_FIELD.findall(section)]
    host = single(fields, b"host")
    require(HOST.fullmatch(host) if host is not None else version == "HTTP/1.0", "Host (RFC 9112 section 3.2)")
    body, options = body_follows(fields, version), members(fields, b"connection")
    close = body or b"close" in options or (version == "HTTP/1.0" and b"keep-alive" not in options)
    expects = version == "HTTP/1.1" and b"100-continue" in members(fields, b"expect")
    # A method of yours may redirect to its path: then "//x" would be a host (python/cpython#87389).
    return method.decode(), re.sub("^//+", "/", target.decode()), version, body, close, expects


def single(fields: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the value of a field, or None. Raises Refused if there are two: which one counts?"""
    values = [value for other, value in fields if other == name]
    require(len(values) < 2, f"{name.decode()} repeated (RFC 9110 section 5.3)")
    return values[0] if values else None


def members(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the members of a list in lower case, without empty ones (RFC 9110 section 5.6.1.2)."""
    values = b",".join(value for other, value in fields if other == name)
    return [member.strip(b" \t") for member in values.lower().split(b",") if member.strip(b" \t")]


def body_follows(fields: list[tuple[bytes, bytes]], version: str) -> bool:
    """Return whether a body follows (RFC 9112 section 6.3); raise Refused if that is ambiguous."""
    length, coding = single(fields, b"content-length"), single(fields, b"transfer-encoding")
    # Content-Length = 1*DIGIT  (RFC 9110 section 8.6); every program can keep 18 digits in 64 bits.
    require(length is None or re.fullmatch(b"[0-9]{1,18}", length), "malformed Content-Length")
    if coding is None:
        return int(length or 0) > 0
    # Transfer-Encoding: chunked means that the body is sent in chunks, each after its length. HTTP/1.0
    # does not know this field; Content-Length contradicts it; only the last coding can be chunked.
    *others, last = members(fields, b"transfer-encoding") or [b""]
    require(version == "HTTP/1.1" and length is None and last and b"chunked" not in others
            and (not others or last == b"chunked"), "ambiguous length of the body (RFC 9112 section 6.3)")
    require(not others and last == b"chunked", "unknown transfer coding (RFC 9112 section 6.1)", 501)
    return True


class StrictHandler(HonestHandler):
    """Accepts what the standards define, and closes the connection after a request with a body."""

    parse_head = staticmethod(parse_head)  # "The speed" replaces it
    has_body = False  # whether the last request had one

    def parse_request(self):
        """Read and check a request, whose first line has been read; return whether to answer it."""
        # After a body, stop, even if a method has sent Connection: keep-alive, which the library obeys.
        head = b"" if self.has_body else self.read_head()
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.request_version, self.close_connection = "HTTP/1.1", True
        if not head:
            return False
        try:
            request = self.parse_head(head)
        except Refused as refused:
            self.command = self.requestline.partition(" ")[0]  # no response to HEAD has a body
            self.send_error(*refused.args)
            return False
        self.command, self.path, self.request_version, self.has_body, close, expects = request
        self.raw_head, self.headers_cache = head, None
        self.close_connection = close or self.protocol_version == "HTTP/1.0"  # in a subclass
        return not expects or self.handle_expect_100()

    def handle_expect_100(self):
        """Send 100 Continue, for which a client with "Expect: 100-continue" waits, unless it is refused."""
        if getattr(self, "do_" + self.command, self.refuse) != self.refuse:
            super().handle_expect_100()
            self.wfile.flush()
        return True

    def read_head(self):
        """Return the head, or what there is if a line cannot be right, or b"" if the client leaves."""
        if self.raw_requestline == b"\r\n":  # RFC 9112 section 2.2: ignore an empty line before
            self.raw_requestline = self.rfile.readline(HEAD_BYTES + 1)
        head = line = self.raw_requestline
        rule = REQUEST_LINE
        while rule.fullmatch(line) and head.count(b"\n") < MAX_FIELDS + 3:  # lines: one more than a head has
            line = self.rfile.readline(HEAD_BYTES + 1 - len(head))
            head, rule = head + line, FIELD_LINE
        return head if line.endswith(b"\n") or len(head) > HEAD_BYTES else b""

    @property
    def headers(self):
        """The fields of the request. Overridden to parse them only if a method uses them."""
        if self.headers_cache is None:
            section = self.raw_head.partition(b"\r\n")[2].decode("latin-1")
            self.headers_cache = email.message_from_string(section, self.MessageClass)
        return self.headers_cache


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
# take.) Our servers override methods that serve_forever, the loop of the module socketserver, calls. There,
# a connection is called a request:
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

# These errors mean that a client, or the network between us, is gone.
CLIENT_LEFT = {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ETIMEDOUT,
               errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}


class CalmServer(ThreadingHTTPServer):
    """Lets clients leave when they like, and leaves itself in good manners."""

    def finish_request(self, request, client_address):
        """Let a handler serve a connection. Overridden to read what the client still sends."""
        try:
            super().finish_request(request, client_address)
        finally:
            try:
                request.shutdown(socket.SHUT_WR)
                while request.recv(8192):
                    pass
            except OSError:  # the client has left
                pass

    def handle_error(self, request, client_address):
        """Print a traceback, if that is possible at once, and if it is not that the client left."""
        error = sys.exc_info()[1]
        # The errors of files have a filename; those of connections have none.
        is_bug = getattr(error, "errno", None) not in CLIENT_LEFT or error.filename
        if is_bug and sys.stderr and not is_stuck(sys.stderr):
            with suppress(Exception):  # standard error cannot be written, or no file is free to load this
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
# a connection. A timeout for each receive is no cure: a client that sends a byte now and then never
# meets it. So the whole request has a deadline, and its response, too: a connection that waits too long
# for its next complete head is evicted, that is, closed before its client is done.

REQUEST_SECONDS = 9  # from one head to the next; at 10, a client that asks every 10 s would cross the close


class PunctualServer(CalmServer):
    """Evicts the connections that have had no complete head for REQUEST_SECONDS."""

    def __init__(self, *args, **options):
        # For each connection, when its last complete head came, or when it began; the oldest is the first.
        # No lock protects this dict, since what we do with it (copy, pop, assign) is a single step for Python.
        self.connections = {}
        super().__init__(*args, **options)

    def get_request(self):
        """Accept a connection. Overridden to remember when it began."""
        request, client_address = super().get_request()
        self.connections[request] = time.monotonic()
        return request, client_address

    def shutdown_request(self, request):
        """Close a connection. Overridden to forget it."""
        self.connections.pop(request, None)
        self.close_request(request)  # inherited; finish_request has shut it down already

    def evict(self, seconds: float) -> bool:
        """Evict the connection that has waited longest, if so long; return whether it was evicted."""
        connections = self.connections.copy()  # the other threads change the original
        longest = next(iter(connections), None)
        if longest is None or time.monotonic() - connections[longest] < seconds:
            return False
        self.connections.pop(longest, None)
        with suppress(OSError):  # the client has left
            longest.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
        return True

    def service_actions(self):
        """Keep the deadlines. Overridden because serve_forever calls it twice a second or more often."""
        while self.evict(REQUEST_SECONDS):
            pass


class PunctualHandler(StrictHandler):
    """Tells its server, a PunctualServer, when a head is complete."""

    timeout = REQUEST_SECONDS if os.name == "nt" else None  # on Windows, evict wakes no waiting thread

    def parse_request(self):
        """Read and check a request. Overridden to give the connection its time anew."""
        is_valid = super().parse_request()
        if is_valid and self.server.connections.pop(self.connection, None):  # unless evicted, it becomes last
            self.server.connections[self.connection] = time.monotonic()
        return is_valid


# Now the command ends after nine seconds:
#
#     $ python3 -c "from clock_server import *; PunctualServer(('', 8880), PunctualHandler).serve_forever()"


# --- The full house ------------------------------------------------------------------------------
#
# A client can take all connections, and do nothing with them. To see it in a second, type `ulimit -n 64`
# in the terminal of the server before you start it: then it may open 64 files and sockets, where Linux
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
# The cure is to evict the connection that has waited longest when another client comes. If all clients
# are busy, so that none has waited long, each response closes its connection, and they take turns.
#
# A client can also ask again and again, and not read. (Start the server without the ulimit for this one.)
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
# The server answers as fast as it can, and the system keeps what nobody reads: 300 MB, as the line TCP of
# /proc/net/sockstat on Linux says (in pages of 4 KB), while the page takes up to half a second. The cure
# is to let the system keep 40 KB for each connection; then the threads of the greedy clients wait, and
# the page takes a millisecond.

MAX_CONNECTIONS = 512   # at once: half of the 1,024 files and sockets that Linux usually allows
TURN_CONNECTIONS = 256  # at once: if there are more, each response closes its connection
GRACE_SECONDS = 0.1     # before a connection may be evicted; a request usually follows at once
RETRY_SECONDS = 0.0005  # to sleep when there is no room, and no connection that may be evicted
SEND_BYTES = 40960      # of a response that the system keeps until the client reads them


class FairServer(PunctualServer):
    """Makes room for new clients when it is full, and for others when one is greedy."""

    request_queue_size = 1024  # clients that the system lets wait to be accepted; the default is 5

    def server_activate(self):
        """Begin to listen. Overridden to set socket options, which the connections inherit."""
        with suppress(OSError, AttributeError):  # this system does not know the second option
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            # Drop what a client does not take within so many milliseconds, even after the close.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * REQUEST_SECONDS))
        super().server_activate()

    def has_room(self) -> bool:
        """Return whether another connection can be served."""
        return len(self.connections) < MAX_CONNECTIONS

    def get_request(self):
        """Accept a connection. Overridden to make room if there is none, and raise an OSError."""
        try:
            if not self.has_room():
                raise BlockingIOError("no room yet")
            return super().get_request()
        except OSError:  # the system may have no more sockets
            if not self.evict(GRACE_SECONDS):
                time.sleep(RETRY_SECONDS)
            raise


class FairHandler(PunctualHandler):
    """Closes its connection after each response while its server, a FairServer, is half full."""

    def parse_request(self):
        """Read and check a request. Overridden to let the clients take turns."""
        is_valid = super().parse_request()
        self.close_connection = self.close_connection or len(self.server.connections) > TURN_CONNECTIONS
        return is_valid


# Now the page loads at once while the commands run:
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), FairHandler).serve_forever()"


# --- The speed -----------------------------------------------------------------------------------
#
# This server is safe, but slow: it does the same work again for each request and each connection. Type
# these commands while it runs. The first one sends 2,001 requests on one connection, the second one 5,000
# requests on a connection for each, and the third one is 16 clients that do the same with 300.
#
#     $ python3 -c "import socket, time
#     > connection, start = socket.create_connection(('localhost', 8880)), time.time()
#     > last = b'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
#     > connection.sendall(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n' * 2000 + last)
#     > while connection.recv(65536): pass
#     > print(time.time() - start)"
#     $ time curl -s -o /dev/null -H 'Connection: close' 'http://localhost:8880/?[1-5000]'
#     $ time (for i in $(seq 16); do
#     >     curl -s -o /dev/null -H 'Connection: close' 'http://localhost:8880/?[1-300]' & done; wait)
#
# These are the measures of this chapter, and the seconds after each, on two cores and without a log:
#
#     the server of the last chapter                               0.11    1.9    2.0
#     keep a response for the rest of its second (do_GET)          0.03    1.4    1.6
#     keep what heads say (parse_head); receive a head in one
#     piece, which is a third of the work for a browser's          0.01    1.4    1.4
#     reuse threads (has_room, work)                               0.01    1.2    0.7
#     use one core of the processor (stay_on_one_core)             0.01    0.8    0.4
#
# Threads that have done their work wait at a queue, self.jobs, and the loop accepts a connection only if
# one is idle. One core is enough since only one thread at a time runs Python, and a thread that hands
# over to one on another core must wake that core. The price: a program that a method starts inherits the
# core. Besides, a ClockServer serves IPv6 as well, and asks no name server when it starts.

MAX_THREADS = 1024  # twice MAX_CONNECTIONS: a slow method goes on when its connection has been evicted


class ClockHandler(FairHandler):
    """Answers the requests to a ClockServer. To serve a page of your own, override do_GET."""

    rbufsize = 8192  # bytes that rfile receives at once; new Pythons keep 128 KB for it
    parse_head = staticmethod(functools.lru_cache(maxsize=64)(parse_head))  # clients repeat their head
    match_line = staticmethod(functools.lru_cache(maxsize=64)(REQUEST_LINE.fullmatch))  # and so its line
    # For each version and close_connection, a second, and a response of it, cut at its milliseconds.
    kept: dict[tuple[str, bool], tuple[int, bytes, bytes]] = {}

    def read_head(self):
        """Return the head of the request. Overridden to take it in one piece if it has come in one."""
        head = self.raw_requestline
        if self.match_line(head):
            head += self.rfile.peek()  # what has come; it stays in rfile
        length = head.find(b"\r\n\r\n") + 4
        if length < 4:
            return super().read_head()
        self.rfile.read(length - len(self.raw_requestline))
        return head[:length]

    def do_GET(self):
        """Send the page. Overridden because for a second, all but its milliseconds is the same."""
        if type(self) is not ClockHandler or self.command != "GET":  # another response
            return super().do_GET()
        now, key = time.time(), (self.request_version, self.close_connection)
        second, before, after = self.kept.get(key, (0, b"", b""))
        if second == int(now):
            self.log_request(200)
            self.wfile.write(b"%b%03d%b" % (before, now % 1 * 1000, after))
            return
        stream, self.wfile = self.wfile, io.BytesIO()
        super().do_GET()
        response, self.wfile = self.wfile.getvalue(), stream
        self.wfile.write(response)
        # Cut it at the milliseconds of the stamp: 12.345+01:00">
        before, _, after = re.split(rb'(?<=[0-9]\.)([0-9]{3})(?=[+-][0-9:]+">)', response, maxsplit=1)
        if int(time.time()) == int(now):  # otherwise the response may be of the next second
            self.kept[key] = int(now), before, after


class ClockServer(FairServer):
    """Serves connections with any handler. The host "" means every network of this machine."""

    allow_reuse_address = os.name == "posix"  # on Windows, it lets two servers share a port

    def __init__(self, server_address, RequestHandlerClass=ClockHandler, bind_and_activate=True):
        self.jobs = queue.SimpleQueue()  # the connections that wait for a thread, each with its address
        self.idle = []  # has a None for each thread that waits; append and pop are single steps, += is not
        self.address_family, address = resolve(*server_address[:2])
        super().__init__(address, RequestHandlerClass, bind_and_activate)

    def server_bind(self):
        """Bind the socket. Overridden because HTTPServer asks a name server, which may be slow."""
        with suppress(AttributeError, OSError):  # this is an IPv4 socket
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # serve IPv4 as well
        # Send the end of a response although its beginning is not yet acknowledged.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socketserver.TCPServer.server_bind(self)
        self.server_address = self.server_address[:2]
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]

    def has_room(self):
        """Return whether another connection can be served. Overridden to ask for an idle thread, too."""
        if not self.idle and threading.active_count() < MAX_THREADS:
            with suppress(RuntimeError):  # the system has no more threads
                threading.Thread(target=self.work, daemon=True).start()
                self.idle.append(None)
        return bool(self.idle) and super().has_room()

    def work(self):
        """Serve one connection after the other. Runs in each thread."""
        while job := self.jobs.get():
            self.process_request_thread(*job)  # inherited: finish_request, shutdown_request
            self.idle.append(None)
        self.jobs.put(None)  # for the next thread

    def get_request(self):
        """Accept a connection. Overridden to show IPv4 addresses as such, not as ::ffff:192.0.2.1."""
        request, (host, port, *_) = super().get_request()
        return request, (host[7:] if host.startswith("::ffff:") else host, port)

    def process_request(self, request, client_address):
        """Hand a connection to an idle thread; has_room has seen that there is one."""
        self.idle.pop()
        self.jobs.put((request, client_address))

    def server_close(self):
        """Stop listening, close all connections, and end the threads when they are done."""
        super().server_close()
        while self.evict(0):
            pass
        self.jobs.put(None)


def stay_on_one_core() -> None:
    """Keep this process, and the processes that it starts, on one core, where the system can do that."""
    with suppress(AttributeError, OSError):  # the system does not know these calls, or forbids them
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


# Start this stage with `python3 clock_server.py --quiet`, and type the commands again.


# --- The command ---------------------------------------------------------------------------------
#
# Two programs cannot listen on one port. Start this server twice:
#
#     $ python3 -c "from clock_server import *; FairServer(('', 8880), FairHandler).serve_forever()"
#
# The second one prints a traceback, and Ctrl-C in the first one prints another. But the operator has only
# made a slip, or wants to stop. Start `python3 clock_server.py` twice: the second one says in a line what
# is wrong and which port is free, and Ctrl-C ends the first one without a word.

def main(argv: list[str] | None = None, handler=ClockHandler) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, which end the whole process: main does not return.

    `argv` are the arguments, or None for those of the program. Exits with status 2 if they are invalid,
    and with status 1 if the server cannot start.
    """
    args = parse_arguments(argv)
    server = listen(args.bind or "", args.port, handler)
    for number in signal.SIGINT, signal.SIGTERM:
        with suppress(ValueError):  # this is not the main thread, which alone can do this
            signal.signal(number, lambda *_: os._exit(0))  # at once, whatever the threads do
    if sys.implementation.name == "cpython" and hasattr(os, "fork"):  # 3.13 calls no handler in a child
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if args.quiet:
        handler = getattr(handler, "func", handler)  # the class of a functools.partial
        handler.log_request = handler.log_error = lambda *_: None
    if getattr(sys, "_is_gil_enabled", lambda: True)():  # threads cannot run Python at the same time
        stay_on_one_core()
    say(sys.stdout, start_text(*server.server_address))
    server.serve_forever()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command; exit with status 2 if one is invalid."""
    parser = argparse.ArgumentParser(prog="clock_server", description="Serve a page with the current time.")
    parser.add_argument("--version", action="version", version="%(prog)s " + __version__)
    parser.add_argument("-b", "--bind", metavar="ADDRESS", help="listen there (default: all interfaces)")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not log requests")
    parser.add_argument("port", nargs="?", type=int, default=8880, help="0 picks one (default: %(default)s)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error("not a port number from 0 to 65535: %d" % args.port)
    args.bind = args.bind and args.bind.strip("[]")  # in URLs, IPv6 addresses stand in brackets
    if args.bind == "":
        parser.error("--bind needs an address or a host name")
    return args


def listen(host: str, port: int, handler) -> ClockServer:
    """Return a server that listens there; exit with status 1 and the reason if that is impossible."""
    try:
        threading.Thread(target=int).start()  # raises RuntimeError if the system allows no thread
        return ClockServer((host, port), handler)
    except (OSError, RuntimeError, UnicodeError) as error:
        reason, number = getattr(error, "strerror", None) or error, getattr(error, "errno", None)
        advice = f"; port {free_port(host, port)} is free" if number == errno.EADDRINUSE else ""
        sys.exit(f"clock_server: cannot listen on port {port} of {host or 'all interfaces'}: {reason}{advice}")


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple]:
    """Return the address family and the address to listen on. Raises OSError or UnicodeError."""
    if not host and socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", port)
    # What cannot be a name can only be an address: do not ask a name server.
    flags = 0 if re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*", host) else socket.AI_NUMERICHOST
    # A name may have addresses of both families. The smaller one is IPv4, which more clients can use.
    found = min(socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM, flags=flags))
    return found[0], (found[4][0], port, *found[4][2:])


def free_port(host: str, port: int) -> int:
    """Return a free port near this one, or 0, which picks a free one."""
    for other in [*range(port + 1, 65536), *range(1024, port)]:
        with suppress(OSError), ClockServer((host, other)):
            return other
    return 0


def start_text(host: str, port: int) -> str:
    """Return where the clock is, who can reach it, its time zone, and how to stop it."""
    local, outside = ("localhost", outside_address()) if host in ("::", "0.0.0.0") else (host, "")
    text = f"Serving the time on {url(local, port)}\n"
    if outside:
        text += f"From other computers: {url(outside, port)}\n"
    return text + f"Time zone: UTC{datetime.now().astimezone().isoformat()[-6:]}\nPress Ctrl-C to stop.\n"


def url(host: str, port: int) -> str:
    """Return the URL of a server; in it, an IPv6 address has brackets."""
    return "http://%s:%d/" % ("[%s]" % host if ":" in host else host, port)


def outside_address() -> str:
    """Return an address under which other computers reach this one, or "" without a network."""
    # These two targets are reserved for documentation.
    for family, target in (socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # sends nothing, but chooses the address to send from
            return probe.getsockname()[0]
    return ""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it while it starts, too
    main()
