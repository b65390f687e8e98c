"""A web server that does next to nothing, so that what is measured through the proxy is the proxy: backend.py PORT

`/.../N` answers with N bytes. Connections stay open, one thread each.
"""

import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        while request := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            size = int(request.split()[1].rpartition(b"/")[2] or 0)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (size, bytes(size)))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
