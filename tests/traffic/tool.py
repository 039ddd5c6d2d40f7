#!/usr/bin/env python3
"""Makes and checks traffic for the tests. Nothing but the standard library.

Servers print `ready` once they can be reached. Every command prints one line of JSON at its end.
"""

import argparse
import errno
import hashlib
import itertools
import json
import random
import select
import signal
import socket
import struct
import sys
import threading
import time

# A length that no packet, buffer or segment size divides, so that a piece that is missing, doubled
# or in the wrong place changes the content.
POOL = random.Random(8285).randbytes(4 * 1024 * 1024 + 4099)

# include/uapi/linux/in.h, in6.h, udp.h and asm-generic/socket.h
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IP_PMTUDISC_WANT = 1
IP_PMTUDISC_DO = 2
IP_PMTUDISC_OMIT = 5
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_DONTFRAG = 62
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33
SO_MAX_PACING_RATE = 47

# Bytes of flow and sequence number at the head of each numbered datagram.
MARK = struct.Struct("!HQ")

READ_BYTES = 256 * 1024
# Set when the command is to end.
STOPPING = threading.Event()

# A stalled connection must end the test rather than hang it.
STALL_SECONDS = 30


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def report(**values):
    print(json.dumps(values), flush=True)


def piece(start, length):
    """Some bytes of the pool, which is endless in that it starts again at its end."""
    start %= len(POOL)
    part = POOL[start : start + length]
    while len(part) < length:
        part += POOL[: length - len(part)]
    return part


# --- TCP ------------------------------------------------------------------------------------------


def in_threads(number, work):
    """Runs work(0) … work(number - 1) at once; their results, or the first failure."""
    results, failures = [None] * number, []

    def run(index):
        try:
            results[index] = work(index)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def drain(connection):
    """Length and hash of all that comes until the other side has sent everything."""
    digest, total = hashlib.sha256(), 0
    buffer = bytearray(READ_BYTES)
    view = memoryview(buffer)
    connection.settimeout(STALL_SECONDS)
    while length := connection.recv_into(buffer):
        digest.update(view[:length])
        total += length
    return total, digest.hexdigest()


def pour(connection, start, length):
    """Sends `length` bytes, or until it is told to stop; how many, and their hash."""
    digest, rest = hashlib.sha256(), length
    view = memoryview(POOL)
    connection.settimeout(STALL_SECONDS)
    while rest and not STOPPING.is_set():
        start %= len(POOL)
        part = view[start : start + min(rest, READ_BYTES)]
        connection.sendall(part)
        digest.update(part)
        start += len(part)
        rest -= len(part)
    return length - rest, digest.hexdigest()


def described(streams):
    return [{"bytes": total, "sha256": digest, "peer": peer} for total, digest, peer in streams]


def tcp_serve(options):
    listener = socket.create_server(
        (options.address, options.port), family=family(options.address), backlog=64
    )
    listener.settimeout(STALL_SECONDS)
    print("ready", flush=True)
    connections = [listener.accept() for _ in range(options.streams)]

    def serve(index):
        connection, peer = connections[index]
        with connection:
            total, digest = drain(connection)
            # The sender waits for this, so it knows that all has arrived.
            connection.sendall(digest.encode())
            return total, digest, peer[0]

    report(streams=described(in_threads(options.streams, serve)))


def tcp_send(options):
    share = options.bytes // options.streams
    signal.signal(signal.SIGTERM, lambda *_: STOPPING.set())
    connected = itertools.count(1)

    def send(index):
        with socket.socket(family(options.address), socket.SOCK_STREAM) as connection:
            if options.congestion:
                name = options.congestion.encode()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            if options.rate:
                connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, options.rate)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.rate // 8)
            connection.settimeout(STALL_SECONDS)
            connection.connect((options.address, options.port))
            if next(connected) == options.streams:
                print("connected", flush=True)
            total, digest = pour(connection, index * 1_000_003, share)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(4096):
                answer += part
            if answer.decode() != digest:
                raise OSError(f"stream {index}: sent {digest}, arrived {answer!r}")
            return total, digest, connection.getsockname()[0]

    report(streams=described(in_threads(options.streams, send)))


# --- UDP, one datagram at a time ------------------------------------------------------------------


def receive_buffer(receiver):
    """Large enough that a slow reader is not mistaken for a lossy network."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)


def fragmentation(sender, allowed):
    if sender.family == socket.AF_INET6:
        # Only senders make fragments, so `allowed` is about them alone.
        mode = IP_PMTUDISC_WANT if allowed else IP_PMTUDISC_DO
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, mode)
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 0 if allowed else 1)
    else:
        # Without DF, and as large as the device takes, whatever was learned of the path.
        mode = IP_PMTUDISC_OMIT if allowed else IP_PMTUDISC_DO
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)


def echo_serve(options):
    """Sends every datagram back with its bytes in reverse; an empty one comes back empty."""
    server = socket.socket(family(options.address), socket.SOCK_DGRAM)
    receive_buffer(server)
    fragmentation(server, allowed=True)
    server.bind((options.address, options.port))
    print("ready", flush=True)
    while True:
        payload, client = server.recvfrom(65536)
        server.sendto(payload[::-1], client)


def echo_check(options):
    """Asks for echoes of every size of a range, and compares them byte by byte."""
    client = socket.socket(family(options.address), socket.SOCK_DGRAM)
    receive_buffer(client)
    fragmentation(client, allowed=options.fragment)
    client.connect((options.address, options.port))
    client.settimeout(5)
    first, last = options.sizes
    for size in range(first, last + 1):
        wanted = piece(size * 7919, size)
        client.send(wanted)
        got = client.recv(65536)
        if got[::-1] != wanted:
            raise OSError(f"the echo of {size} bytes has {len(got)} bytes or other content")
    report(echoes=last + 1 - first)


# --- UDP, numbered datagrams in flows -------------------------------------------------------------


def numbered(flow, sequence, size):
    mark = MARK.pack(flow, sequence)
    return mark + piece(flow * 65_537 + sequence * 31, size - MARK.size)


def size_of(sizes, sequence, run):
    """The sizes in turn, `run` datagrams of each."""
    return sizes[sequence // run % len(sizes)]


def udp_send(options):
    """Sends flows of numbered datagrams, each from its own port, `burst` at a time."""
    senders = []
    for _ in range(options.flows):
        sender = socket.socket(family(options.address), socket.SOCK_DGRAM)
        fragmentation(sender, allowed=options.fragment)
        if options.source:
            sender.bind((options.source, 0))
        sender.connect((options.address, options.port))
        senders.append(sender)
    sequence = 0
    pause = threading.Event()
    while sequence < options.count:
        burst = range(sequence, min(sequence + options.burst, options.count))
        for flow, sender in enumerate(senders):
            for number in burst:
                sender.send(numbered(flow, number, size_of(options.sizes, number, options.run)))
        sequence = burst.stop
        if options.pause:
            pause.wait(options.pause)
    report(sent=options.count * options.flows)


def udp_send_segmented(options):
    """The same flows, but each call hands the kernel many datagrams at once (UDP_SEGMENT)."""
    sender = socket.socket(family(options.address), socket.SOCK_DGRAM)
    sender.connect((options.address, options.port))
    pause = threading.Event()
    flow, sent = 0, 0
    for size in options.sizes:
        per_call = max(1, min(options.burst, 65_000 // size))
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        for start in range(0, options.count, per_call):
            numbers = range(start, min(start + per_call, options.count))
            parts = [numbered(flow, number, size) for number in numbers]
            # The last datagram of a call may be shorter than the others.
            parts[-1] = numbered(flow, numbers[-1], max(MARK.size, size - start % size))
            sender.sendmsg([b"".join(parts)], ancillary)
            sent += len(parts)
            pause.wait(options.pause)
        flow += 1
    report(sent=sent)


class Flow:
    def __init__(self):
        self.received = self.reordered = self.duplicates = 0
        self.highest = -1
        self.seen = set()

    def handle(self, sequence):
        self.received += 1
        if sequence in self.seen:
            self.duplicates += 1
        elif sequence < self.highest:
            self.reordered += 1
        self.seen.add(sequence)
        self.highest = max(self.highest, sequence)


def udp_receive(options):
    """Receives until all is there or nothing came for a while."""
    receiver = socket.socket(family(options.address), socket.SOCK_DGRAM)
    receive_buffer(receiver)
    receiver.bind((options.address, options.port))
    print("ready", flush=True)
    flows, received, corrupted, lengths, sources = {}, 0, 0, {}, set()
    receiver.settimeout(STALL_SECONDS)
    while received < options.expect:
        try:
            payload, source = receiver.recvfrom(65536)
        except TimeoutError:
            break
        receiver.settimeout(options.idle)
        received += 1
        sources.add(source[0])
        lengths[len(payload)] = lengths.get(len(payload), 0) + 1
        if len(payload) < MARK.size:
            corrupted += 1
            continue
        flow, sequence = MARK.unpack_from(payload)
        if payload != numbered(flow, sequence, len(payload)):
            corrupted += 1
            continue
        flows.setdefault(flow, Flow()).handle(sequence)
    report(
        received=received,
        corrupted=corrupted,
        lengths=lengths,
        sources=sorted(sources),
        flows=len(flows),
        reordered=sum(flow.reordered for flow in flows.values()),
        duplicates=sum(flow.duplicates for flow in flows.values()),
    )


# --- errors ---------------------------------------------------------------------------------------


def read_error(sender, wait):
    """One entry of the error queue, or None: struct sock_extended_err, linux/errqueue.h."""
    # An entry shows as an error whatever is asked for.
    poller = select.poll()
    poller.register(sender, 0)
    if not poller.poll(wait * 1000):
        return None
    _, ancillary, _, _ = sender.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    for _, kind, data in ancillary:
        if kind in (IP_RECVERR, IPV6_RECVERR):
            number, origin, icmp_type, code, _, info, _ = struct.unpack_from("=IBBBBII", data)
            offender = data[16:]
            if sender.family == socket.AF_INET6:
                offender = socket.inet_ntop(socket.AF_INET6, offender[8:24])
            else:
                offender = socket.inet_ntop(socket.AF_INET, offender[4:8])
            name = errno.errorcode.get(number, str(number))
            return {
                "error": name,
                "origin": origin,
                "type": icmp_type,
                "code": code,
                "mtu": info,
                "offender": offender,
            }
    return None


def errors(options):
    """Sends datagrams until one of them was answered by an error; that error."""
    sender = socket.socket(family(options.address), socket.SOCK_DGRAM)
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    fragmentation(sender, allowed=options.fragment)
    sender.connect((options.address, options.port))
    tries, found = 0, None
    while found is None and tries < options.tries:
        tries += 1
        try:
            sender.send(piece(tries, options.size))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                # The kernel knows the limit already, and says so in the queue as well.
                pass
        found = read_error(sender, 0.5)
    report(tries=tries, found=found)


def raw_send(options):
    """Sends one packet given in hexadecimal with its IPv4 header; the kernel fills in the sums."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    if options.device:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.device.encode())
    sender.sendto(bytes.fromhex(options.packet), (options.address, 0))
    report(sent=1)


# --- what is on the wire --------------------------------------------------------------------------


def capture(options):
    """Looks at everything on a device until it is told to stop: who says the text in the clear, and
    whether datagrams to the port are messages of WireGuard."""
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    listener.bind((options.device, 0))
    signal.signal(signal.SIGTERM, lambda *_: STOPPING.set())
    found = dict(packets=0, clear=0, messages=0, others=0, initiations={})
    text, port = options.address.encode(), options.port
    print("ready", flush=True)
    listener.settimeout(0.1)
    end = None
    while True:
        if STOPPING.is_set():
            # What has been seen before is still to be counted, but other traffic may never end.
            end = end or time.monotonic() + 0.5
        try:
            packet = listener.recv(1 << 17)
        except TimeoutError:
            if end:
                break
            continue
        if end and time.monotonic() > end:
            break
        found["packets"] += 1
        found["clear"] += text in packet
        is_v6 = packet[12:14] == b"\x86\xdd"
        protocol, start = (packet[20], 14 + 40) if is_v6 else (packet[23], 14 + 20)
        if packet[12:14] not in (b"\x08\x00", b"\x86\xdd") or protocol != socket.IPPROTO_UDP:
            continue
        if struct.unpack_from("!H", packet, start + 2)[0] == port:
            message = packet[start + 8 :]
            is_message = message[0] in (1, 2, 3, 4) and message[1:4] == bytes(3)
            found["messages" if is_message else "others"] += 1
        if packet[start + 8 : start + 12] == bytes((1, 0, 0, 0)) and not is_v6:
            from_to = "{}.{}.{}.{}:{} ".format(*packet[26:30], *struct.unpack_from("!H", packet, start))
            from_to += "{}.{}.{}.{}:{}".format(
                *packet[30:34], *struct.unpack_from("!H", packet, start + 2)
            )
            found["initiations"][from_to] = found["initiations"].get(from_to, 0) + 1
    report(**found)


# --- command line ---------------------------------------------------------------------------------


def numbers(text):
    return [int(word) for word in text.split(",")]


def size_range(text):
    first, _, last = text.partition("-")
    return int(first), int(last or first)


COMMANDS = {
    "tcp-serve": tcp_serve,
    "tcp-send": tcp_send,
    "echo-serve": echo_serve,
    "echo-check": echo_check,
    "udp-send": udp_send,
    "udp-send-segmented": udp_send_segmented,
    "udp-receive": udp_receive,
    "errors": errors,
    "raw-send": raw_send,
    "capture": capture,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("address")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=1 << 20)
    parser.add_argument("--congestion")
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--sizes", default="64")
    parser.add_argument("--run", type=int, default=1)
    parser.add_argument("--flows", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--source", default="")
    parser.add_argument("--expect", type=int, default=1)
    parser.add_argument("--idle", type=float, default=2)
    parser.add_argument("--fragment", action="store_true")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--packet", default="")
    parser.add_argument("--device", default="")
    options = parser.parse_args()
    options.sizes = (size_range if options.command == "echo-check" else numbers)(options.sizes)
    try:
        COMMANDS[options.command](options)
    except OSError as error:
        sys.exit(f"{options.command}: {error!r}")


if __name__ == "__main__":
    main()
