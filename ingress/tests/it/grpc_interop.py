"""The cases of gRPC's interoperability tests, with grpcio, against the service in grpc_interop.rs. Prints a line a case."""

import sys

import grpc

TIMEOUT = 20
channel = grpc.insecure_channel(sys.argv[1])


def unary(method, message=b"", **options):
    return channel.unary_unary("/portolan.Interop/" + method)(message, timeout=TIMEOUT, **options)


def fails(call, code, message):
    try:
        call()
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == (code, message), error
    else:
        raise AssertionError("no error")


def empty_unary():
    assert unary("Echo") == b""


def large_unary():
    assert unary("Echo", b"\7" * 314159) == b"\7" * 314159


def client_streaming():
    sizes = (27182, 8, 1828, 45904)
    call = channel.stream_unary("/portolan.Interop/Sum")
    assert call((b"\0" * size for size in sizes), timeout=TIMEOUT) == b"74922"


def server_streaming():
    answers = channel.unary_stream("/portolan.Interop/Count")(b"50", timeout=TIMEOUT)
    assert [len(answer) for answer in answers] == [n * 1000 for n in range(1, 51)]


def ping_pong():
    import queue

    said = queue.Queue()
    heard = channel.stream_stream("/portolan.Interop/Echo")(iter(said.get, None), timeout=TIMEOUT)
    for message in (b"one", b"two", b"three"):
        said.put(message)
        assert next(heard) == message
    said.put(None)
    assert list(heard) == []


def empty_stream():
    assert list(channel.stream_stream("/portolan.Interop/Echo")(iter(()), timeout=TIMEOUT)) == []


def timeout_on_sleeping_server():
    call = channel.unary_stream("/portolan.Interop/Sleep")(b"", timeout=0.1)
    try:
        next(call)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    else:
        raise AssertionError("no error")


def status_code_and_message():
    fails(lambda: unary("Status", b"test status message"), grpc.StatusCode.UNKNOWN, "test status message")


def special_status_message():
    message = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
    fails(lambda: unary("Status", message.encode()), grpc.StatusCode.UNKNOWN, message)


def unimplemented_method():
    fails(lambda: unary("Missing"), grpc.StatusCode.UNIMPLEMENTED, "no such method")


def unimplemented_service():
    call = channel.unary_unary("/other.Service/Method")
    fails(lambda: call(b"", timeout=TIMEOUT), grpc.StatusCode.UNIMPLEMENTED, "no_route")


def custom_metadata():
    metadata = (
        ("x-grpc-test-echo-initial", "test_initial_metadata_value"),
        ("x-grpc-test-echo-trailing-bin", b"\x0a\x0b\x0a\x0b\x0a\x0b"),
    )
    call = channel.stream_stream("/portolan.Interop/Custom")(iter((b"x",)), timeout=TIMEOUT, metadata=metadata)
    assert metadata[0] in tuple(call.initial_metadata()), call.initial_metadata()
    assert list(call) == [b"x"]
    assert metadata[1] in tuple(call.trailing_metadata()), call.trailing_metadata()


def cancel_after_begin():
    call = channel.stream_stream("/portolan.Interop/Sleep")(iter(()), timeout=TIMEOUT)
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED, call.code()


def cancel_after_first_response():
    import threading

    forever = threading.Event()

    def said():
        yield b"x"
        forever.wait(TIMEOUT)

    call = channel.stream_stream("/portolan.Interop/Echo")(said(), timeout=TIMEOUT)
    assert next(call) == b"x"
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED, call.code()
    forever.set()


for case in (
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    timeout_on_sleeping_server,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    custom_metadata,
    cancel_after_begin,
    cancel_after_first_response,
):
    case()
    print(case.__name__, flush=True)
