"""A WebSocket server and a WebSocket client of others (websockets): `serve` says its port and serves until its input ends, over TLS if
it is told a certificate and its key; `call ADDRESS` talks through whatever listens there and says what came of it, over TLS if it is
told an authority that vouches for `a.test`."""

import asyncio
import ssl
import sys

import websockets

MEBIBYTE = 1 << 20
last = asyncio.Queue()


async def echo(socket):
    try:
        while True:
            await socket.send(await socket.recv())
    except websockets.ConnectionClosed:
        pass
    await last.put(f"{socket.close_code} {socket.close_reason}")


async def answer(socket, path):
    if path == "/echo":
        await echo(socket)
    elif path == "/enough":
        await socket.close(4002, "enough")
    elif path == "/abrupt":
        socket.transport.abort()
    elif path == "/last":
        await socket.send(await last.get())


async def serve(certificate=None, key=None):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    server = await websockets.serve(answer, "127.0.0.1", 0, ssl=context, subprotocols=["a"], max_size=None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def ended(socket):
    try:
        await socket.recv()
    except websockets.ConnectionClosed as closed:
        return f"{closed.rcvd.code} {closed.rcvd.reason}" if closed.rcvd else "without a word"


async def talk(address, authority=None):
    options = {"max_size": None, "open_timeout": 30}
    if authority:
        options["ssl"] = ssl.create_default_context(cafile=authority)
        options["server_hostname"] = "a.test"
    base = ("wss://" if authority else "ws://") + address

    async with websockets.connect(base + "/echo", subprotocols=["b", "a"], **options) as socket:
        print("subprotocol", socket.subprotocol, "extensions", *(extension.name for extension in socket.extensions))
        await socket.send("hü")
        print("text", await socket.recv())
        await socket.send(b"x" * MEBIBYTE)
        print("binary", len(await socket.recv()))
        await socket.send(["a", "b", "c"])
        print("fragments", await socket.recv())
        await asyncio.wait_for(await socket.ping(b"well?"), 30)
        print("pong")
        await socket.close(4001, "bye")
    async with websockets.connect(base + "/last", **options) as socket:
        print("the server saw", await socket.recv())
    for path in ("/enough", "/abrupt"):
        async with websockets.connect(base + path, **options) as socket:
            print("the client saw", await ended(socket))


mode = serve if sys.argv[1] == "serve" else talk
asyncio.run(mode(*sys.argv[2:]))
