"""A provider of OAuth 2.0 for tests, on loopback: authorization code flow with PKCE, and a page on which one says who one is.

Source: RFC 6749 section 4.1, RFC 7636. Its threads live in the network namespace of the thread that starts it.
"""

import base64
import hashlib
import html
import json
import secrets
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLIENT, SECRET = "jupyterhub", "0auth-Secret"
FORM = '<form method="post" action="/authorize?{query}">I am <input name="user"><input type="submit" value="Continue"></form>'


class Provider(ThreadingHTTPServer):
    """`with Provider() as provider:` serves provider.url; `codes` and `tokens` say for whom they were given."""

    daemon_threads = True

    def __init__(self, port=9000):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{port}"
        self.codes, self.tokens = {}, {}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body, status=200, kind="application/json", **headers):
        content = (body if kind == "text/html" else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/authorize":
            self.answer(FORM.format(query=html.escape(url.query)), kind="text/html")
        elif user := self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer ")):
            self.answer({"preferred_username": user})
        else:
            self.answer({"error": "invalid_token"}, 401)

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        if url.path == "/authorize":
            code = secrets.token_urlsafe()
            self.server.codes[code] = (form.get("user"), asked["redirect_uri"], asked["code_challenge"])
            given = {"code": code} if form.get("user") else {"error": "access_denied", "error_description": "You said no."}
            query = urllib.parse.urlencode({**given, "state": asked["state"]})
            self.answer("", 302, "text/html", Location=f"{asked['redirect_uri']}?{query}")
        elif url.path == "/token":
            user, address, challenge = self.server.codes.pop(form["code"])  # each is good for one time
            proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
            if (form["client_id"], form["client_secret"], form["redirect_uri"], proof) != (CLIENT, SECRET, address, challenge):
                return self.answer({"error": "invalid_grant"}, 400)
            token = secrets.token_urlsafe()
            self.server.tokens[token] = user
            self.answer({"access_token": token, "token_type": "Bearer", "expires_in": 600})
