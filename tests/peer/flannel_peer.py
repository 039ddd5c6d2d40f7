#!/usr/bin/env python3
"""A deliberately simple peer that speaks flannel's UDP wire format.

It shares no code with weft and uses nothing but the standard library, so that weft is compared with
something it was not written against: a TUN without offloads, one UDP socket, one packet a call.
A datagram's payload is exactly one raw IPv4 packet. The TTL is lowered on both ways. Routes are
searched one by one, first match wins. Prints `ready` once packets can flow; ends on SIGTERM.
"""

import argparse
import fcntl
import ipaddress
import os
import select
import signal
import socket
import struct
import subprocess
import sys

# include/uapi/linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000

# include/uapi/asm-generic/socket.h
SO_RCVBUFFORCE = 33

# Bytes of the IPv4 and the UDP header around each inner packet.
OVERHEAD = 28
IPV4_HEADER_MIN = 20
ICMP = 1
UNREACHABLE_TTL = 8


def open_tun(name):
    """A non-persistent TUN without packet information and without any offload."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def checksum(data):
    """The Internet checksum of RFC 1071."""
    if len(data) % 2:
        data = data + b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def lower_ttl(packet):
    """Lowers the TTL and patches the header checksum. False when the packet is to be dropped."""
    packet[8] = (packet[8] - 1) & 0xFF
    total = int.from_bytes(packet[10:12], "big") + 0x0100
    packet[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    return packet[8] != 0


def net_unreachable(offender, source):
    """ICMP network unreachable about a packet, or None where none may be sent."""
    header_length = (offender[0] & 0x0F) * 4
    later_fragment = int.from_bytes(offender[6:8], "big") & 0x1FFF
    if header_length >= 60 or later_fragment or offender[9] == ICMP:
        return None
    quoted = bytes(offender[: header_length + 8])
    icmp = struct.pack("!BBHI", 3, 0, 0, 0) + quoted
    icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
    target = bytes(offender[12:16])
    length = IPV4_HEADER_MIN + len(icmp)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, UNREACHABLE_TTL, ICMP, 0)
    header += source + target
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + icmp


class Peer:
    def __init__(self, options):
        mtu = options.underlay_mtu - OVERHEAD
        own = options.subnet.network_address
        self.own = own.packed
        self.mtu = mtu
        self.port = options.port
        self.routes = options.route
        self.tun = open_tun(options.device)
        ip("address", "add", f"{own}/32", "dev", options.device)
        ip("link", "set", options.device, "mtu", str(mtu), "txqueuelen", "4096", "up")
        ip("route", "add", str(options.network), "dev", options.device)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # A slow reader is not to be mistaken for a lossy network.
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 * 1024 * 1024)
        self.socket.bind((str(options.local), options.port))

    def find(self, destination):
        for subnet, address in self.routes:
            if destination in subnet:
                return address
        return None

    def outbound(self):
        """One packet from the TUN to a peer. False when there was none."""
        try:
            packet = bytearray(os.read(self.tun, self.mtu))
        except BlockingIOError:
            return False
        if len(packet) < IPV4_HEADER_MIN:
            return True
        address = self.find(ipaddress.IPv4Address(bytes(packet[16:20])))
        if address is None:
            message = net_unreachable(packet, self.own)
            if message is not None:
                self.write(message)
        elif lower_ttl(packet):
            try:
                self.socket.sendto(packet, (address, self.port))
            except OSError:
                pass  # this packet is lost, as flanneld would lose it
        return True

    def inbound(self):
        """One packet from a peer to the TUN. False when there was none."""
        try:
            packet = bytearray(self.socket.recv(self.mtu, socket.MSG_DONTWAIT))
        except OSError:
            return False
        if len(packet) >= IPV4_HEADER_MIN and lower_ttl(packet):
            self.write(packet)
        return True

    def write(self, packet):
        while True:
            try:
                os.write(self.tun, packet)
                return
            except BlockingIOError:
                continue
            except OSError:
                return  # the kernel refuses this packet

    def run(self):
        while True:
            select.select([self.tun, self.socket], [], [])
            # Both sides of the `or` must run, so this is not written with `or`.
            progress = True
            while progress:
                sent = self.outbound()
                received = self.inbound()
                progress = sent or received


def parse_route(text):
    subnet, separator, address = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write SUBNET=ADDRESS")
    return ipaddress.IPv4Network(subnet), str(ipaddress.IPv4Address(address))


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="flannel0")
    parser.add_argument("--local", required=True, type=ipaddress.IPv4Address)
    parser.add_argument("--port", default=8285, type=int)
    parser.add_argument("--subnet", required=True, type=ipaddress.IPv4Network)
    parser.add_argument("--network", default="10.244.0.0/16", type=ipaddress.IPv4Network)
    parser.add_argument("--route", action="append", default=[], type=parse_route)
    parser.add_argument("--underlay-mtu", default=1500, type=int)
    return parser.parse_args()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    peer = Peer(parse_options())
    print("ready", flush=True)
    peer.run()


if __name__ == "__main__":
    main()
