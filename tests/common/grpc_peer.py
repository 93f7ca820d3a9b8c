"""A real gRPC server and client without generated code: messages are plain bytes.

    grpc_peer.py serve             prints its port, serves until its stdin closes
    grpc_peer.py check ADDR NAME   runs one scenario below against ADDR; exits 0 if all held
"""

import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    meta = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-trail", meta.get("x-in", "none")), ("x-trail-bin", b"\x00\xff\x01")))
    context.send_initial_metadata((("x-initial", "yes"),))
    return request[::-1]


def fail(request, context):
    context.set_trailing_metadata((("x-detail", "why"),))
    # Percent-encoded on the wire; it has to come back as it was.
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: caf\u00e9 100%\n")


def slow(request, context):
    threading.Event().wait(30)
    return b""


def server_stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def server_stream_fails(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "gone")


def client_stream(requests, context):
    return b"%d" % sum(int(r) for r in requests)


def bidi(requests, context):
    for request in requests:
        yield request.upper()


def health(request, context):
    # HealthCheckRequest { string service = 1; } and HealthCheckResponse { ServingStatus status = 1; }, as bytes.
    if request == b"\x0a\x07nowhere":
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return {b"": b"\x08\x01", b"\x0a\x04shop": b"\x08\x01", b"\x0a\x04sick": b"\x08\x02"}[request]


def serve():
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ServerStreamFails": grpc.unary_stream_rpc_method_handler(server_stream_fails),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    checks = {"Check": grpc.unary_unary_rpc_method_handler(health)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", checks),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error
    raise AssertionError("it did not fail")


class Check:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])

    def path(self, name):
        return "/test.Echo/" + name

    def do_unary(self):
        call = self.channel.unary_unary(self.path("Unary"))
        reply, info = call.with_call(b"abc", metadata=(("x-in", "7"),), timeout=10)
        assert reply == b"cba", reply
        assert dict(info.initial_metadata())["x-initial"] == "yes"
        trailers = dict(info.trailing_metadata())
        assert trailers["x-trail"] == "7" and trailers["x-trail-bin"] == b"\x00\xff\x01", trailers
        big = bytes(range(256)) * 8192
        assert call(big, timeout=20) == big[::-1]
        pending = [call.future(b"%d" % n, timeout=10) for n in range(200)]
        assert [p.result() for p in pending] == [(b"%d" % n)[::-1] for n in range(200)]

    def do_streams(self):
        stream = self.channel.unary_stream(self.path("ServerStream"))
        assert list(stream(b"500", timeout=10)) == [b"%d" % n for n in range(500)]
        assert list(stream(b"0", timeout=10)) == []
        total = self.channel.stream_unary(self.path("ClientStream"))
        assert total(iter(b"%d" % n for n in range(500)), timeout=10) == b"124750"

    def do_bidi(self):
        # Each message is sent only when the answer to the one before has come: nothing may be held back.
        arrived, done = threading.Semaphore(1), 20

        def requests():
            for n in range(done):
                assert arrived.acquire(timeout=5), "an answer was held back"
                yield b"m%d" % n

        got = []
        for reply in self.channel.stream_stream(self.path("Bidi"))(requests(), timeout=20):
            got.append(reply)
            arrived.release()
        assert got == [b"M%d" % n for n in range(done)], got

    def do_errors(self):
        error = refused(lambda: self.channel.unary_unary(self.path("Fail"))(b"", timeout=10), grpc.StatusCode.FAILED_PRECONDITION)
        assert error.details() == "no: caf\u00e9 100%\n", error.details()
        assert dict(error.trailing_metadata())["x-detail"] == "why"
        refused(lambda: self.channel.unary_unary(self.path("Nowhere"))(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)
        stream = self.channel.unary_stream(self.path("ServerStreamFails"))(b"", timeout=10)
        assert next(stream) == b"first"
        error = refused(lambda: next(stream), grpc.StatusCode.DATA_LOSS)
        assert error.details() == "gone"

    def do_deadline(self):
        refused(lambda: self.channel.unary_unary(self.path("Slow"))(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert self.channel.unary_unary(self.path("Unary"))(b"abc", timeout=10) == b"cba"

    def do_timeout(self):
        # No deadline of our own: the proxy's route has one.
        refused(lambda: self.channel.unary_unary(self.path("Slow"))(b"", timeout=10), grpc.StatusCode.DEADLINE_EXCEEDED)

    def do_unimplemented(self):
        error = refused(lambda: self.channel.unary_unary(self.path("Unary"))(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)
        assert error.details() == "no route matches this request", error.details()

    def do_unavailable(self):
        error = refused(lambda: self.channel.unary_unary(self.path("Unary"))(b"", timeout=10), grpc.StatusCode.UNAVAILABLE)
        # What grpc says of a peer that it cannot reach itself would have the address in it.
        assert error.details() == "no connection to the service could be made", error.details()

    def do_cancel(self):
        call = self.channel.stream_stream(self.path("Bidi"))
        arrived = threading.Event()

        def requests():
            yield b"one"
            arrived.wait(10)

        replies = call(requests(), timeout=20)
        assert next(replies) == b"ONE"
        replies.cancel()
        arrived.set()
        self.do_unary()


if sys.argv[1] == "serve":
    serve()
else:
    getattr(Check(sys.argv[2]), "do_" + sys.argv[3])()
    print("ok")
