"""A gRPC server and a gRPC client of others (grpcio): `serve` says its port and serves until its input ends, over TLS if it is
told a certificate and its key; `call ADDRESS` makes calls of all kinds through whatever listens there and says what came of each, over
TLS if it is told an authority that vouches for `a.test`."""

import sys
import threading
from concurrent import futures

import grpc

MEBIBYTE = 1 << 20
cancelled = threading.Event()


def echo(message, context):
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return message


def absent(_, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "nö such thing")


def silent(message, _):
    threading.Event().wait(30)
    return message


def left(_, context):
    # To hundreds of seconds: clocks tick, and machines stand still.
    return b"%d" % round(context.time_remaining(), -2)


def join(messages, _):
    return b"".join(messages)


def count(message, _):
    for number in range(5):
        yield message + b"%d" % number


def answer_each(messages, _):
    yield from messages


def endless(_, context):
    context.add_callback(cancelled.set)
    yield b"first"
    cancelled.wait(30)


def was_cancelled(_, __):
    return b"yes" if cancelled.wait(10) else b"no"


def serves(_, __):
    return b"\x08\x01"


METHODS = {
    "/t.T/Echo": grpc.unary_unary_rpc_method_handler(echo),
    "/t.T/Absent": grpc.unary_unary_rpc_method_handler(absent),
    "/t.T/Silent": grpc.unary_unary_rpc_method_handler(silent),
    "/t.T/Left": grpc.unary_unary_rpc_method_handler(left),
    "/t.T/Join": grpc.stream_unary_rpc_method_handler(join),
    "/t.T/Count": grpc.unary_stream_rpc_method_handler(count),
    "/t.T/Each": grpc.stream_stream_rpc_method_handler(answer_each),
    "/t.T/Endless": grpc.unary_stream_rpc_method_handler(endless),
    "/t.T/WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(serves),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def serve(certificate=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=(Handler(),))
    if certificate:
        credentials = grpc.ssl_server_credentials([(read(key), read(certificate))])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    print(port, flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def call(address, authority=None):
    def failure(method, seconds):
        try:
            channel.unary_unary(method)(b"x", timeout=seconds)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"

    if authority:
        options = [("grpc.ssl_target_name_override", "a.test")]
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(read(authority)), options)
    else:
        channel = grpc.insecure_channel(address)
    answer, ended = channel.unary_unary("/t.T/Echo").with_call(b"hello", timeout=30)
    print("unary", answer.decode(), ended.code().name, dict(ended.trailing_metadata())["x-trailer"])
    print("large", len(channel.unary_unary("/t.T/Echo")(b"x" * 3 * MEBIBYTE, timeout=30)))
    print("status", failure("/t.T/Absent", 30))
    print("unknown", failure("/t.T/Unknown", 30).split()[0])
    print("deadline", failure("/t.T/Silent", 0.2).split()[0])
    print("left", channel.unary_unary("/t.T/Left")(b"", timeout=3000).decode())
    print("client streams", channel.stream_unary("/t.T/Join")(iter([b"a", b"b", b"c"]), timeout=30).decode())
    print("server streams", b" ".join(channel.unary_stream("/t.T/Count")(b"n", timeout=30)).decode())
    print("both stream", b" ".join(channel.stream_stream("/t.T/Each")(iter([b"1", b"2", b"3"]), timeout=30)).decode())
    stream = channel.unary_stream("/t.T/Endless")(b"", timeout=30)
    next(stream)
    stream.cancel()
    print("cancelled", channel.unary_unary("/t.T/WasCancelled")(b"", timeout=30).decode())


if sys.argv[1] == "serve":
    serve(*sys.argv[2:])
else:
    call(*sys.argv[2:])
