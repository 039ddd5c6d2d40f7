//! Packets that somebody may send us, and what must become of each of them.

use etherparse::PacketBuilder;

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It is dropped and counted under this reason.
    Dropped(&'static str),
    /// It is handed on and reaches the pod.
    Arrives,
    /// It is handed on. The kernel behind us may refuse it.
    Passes,
}

use Fate::{Arrives, Dropped, Passes};

/// A packet with its name and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) packet: Vec<u8>,
    pub(crate) fate: Fate,
}

/// What stands before the number of a case in its packet.
const MARK: &[u8] = b"hostile!";

/// Bytes of every packet that is as long as it should be, so that many of them make a train.
pub(crate) const LENGTH: usize = 120;

/// Where nobody answers, in the pod.
pub(crate) const PORT: u16 = 7777;

/// Bytes of the header of IPv4 without options.
pub(crate) const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// What is in front of the mark, with room for options and fragment headers.
const V4_MARK: usize = V4_HEADER + UDP_HEADER + 40;
const V6_MARK: usize = V6_HEADER + UDP_HEADER + 48;

const FRAGMENT_V6: u8 = 44;
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

/// All cases; the place of each is the number in its packet.
#[derive(Default)]
pub(crate) struct Cases(Vec<Case>);

impl Cases {
    pub(crate) fn v4() -> Vec<Case> {
        let mut cases = Self::default();
        cases.truncated(v4, V4_HEADER);
        cases.versions_v4();
        cases.lengths_v4();
        cases.checksums_v4();
        cases.addresses_v4();
        cases.options_v4();
        cases.fragments_v4();
        cases.0
    }

    pub(crate) fn v6() -> Vec<Case> {
        let mut cases = Self::default();
        cases.truncated(v6, V6_HEADER);
        cases.headers_v6();
        cases.addresses_v6();
        cases.extensions_v6();
        cases.0
    }

    fn add(&mut self, name: &str, fate: Fate, packet: impl FnOnce(u32) -> Vec<u8>) {
        let number = u32::try_from(self.0.len()).unwrap();
        self.0.push(Case { name: name.to_owned(), packet: packet(number), fate });
    }

    /// A packet of IPv4 that `edit` has changed, with the right header checksum.
    fn edited_v4(&mut self, name: &str, fate: Fate, edit: impl FnOnce(&mut Vec<u8>)) {
        self.add(name, fate, |number| {
            let mut packet = v4(number);
            edit(&mut packet);
            sum_v4(&mut packet);
            packet
        });
    }

    /// A packet of IPv6 that `edit` has changed.
    fn edited_v6(&mut self, name: &str, fate: Fate, edit: impl FnOnce(&mut Vec<u8>)) {
        self.add(name, fate, |number| {
            let mut packet = v6(number);
            edit(&mut packet);
            packet
        });
    }

    fn truncated(&mut self, whole: fn(u32) -> Vec<u8>, header: usize) {
        self.add("whole", Arrives, whole);
        for length in 0..LENGTH {
            let fate = if length < header { "too_short" } else { "length_mismatch" };
            let cut = |number| whole(number)[..length].to_vec();
            self.add(&format!("cut to {length}"), Dropped(fate), cut);
        }
        for more in [1, 2, 8, 1000] {
            let longer = |number| [whole(number), vec![0; more]].concat();
            self.add(&format!("{more} longer"), Dropped("length_mismatch"), longer);
        }
    }

    fn versions_v4(&mut self) {
        for version in (0..16).filter(|version| *version != 4) {
            // The lengths of IPv6 are in another place, where this packet has its number.
            let fate = if version == 6 { "length_mismatch" } else { "bad_version" };
            self.edited_v4(&format!("version {version}"), Dropped(fate), |packet| {
                packet[0] = version << 4 | 5;
            });
        }
        for words in 0..5 {
            self.edited_v4(&format!("{words} words"), Dropped("bad_header_length"), |packet| {
                packet[0] = 4 << 4 | words;
            });
        }
        for words in 6..16 {
            // The sum of what is taken for the header is another one.
            self.add(&format!("{words} words"), Dropped("bad_header_checksum"), |number| {
                let mut packet = v4(number);
                packet[0] = 4 << 4 | words;
                packet
            });
            self.add(&format!("{words} words, cut"), Dropped("too_short"), |number| {
                let mut packet = v4(number);
                packet.truncate(usize::from(words) * 4 - 1);
                packet[0] = 4 << 4 | words;
                packet[2..4].copy_from_slice(&(u16::from(words) * 4 - 1).to_be_bytes());
                packet
            });
        }
        self.edited_v4("no hop left", Dropped("hop_limit_zero"), |packet| packet[8] = 0);
    }

    fn lengths_v4(&mut self) {
        let length = u16::try_from(LENGTH).unwrap();
        for wrong in [0, 1, 19, 20, length - 1, length + 1, 1500, u16::MAX] {
            let name = format!("length {wrong}");
            self.edited_v4(&name, Dropped("length_mismatch"), |packet| {
                packet[2..4].copy_from_slice(&wrong.to_be_bytes());
            });
        }
    }

    fn checksums_v4(&mut self) {
        for bit in 0..16 {
            let name = format!("checksum bit {bit}");
            self.add(&name, Dropped("bad_header_checksum"), |number| {
                let mut packet = v4(number);
                packet[10 + bit / 8] ^= 1 << (bit % 8);
                packet
            });
        }
        self.add("checksum 0", Dropped("bad_header_checksum"), |number| {
            let mut packet = v4(number);
            packet[10..12].fill(0);
            packet
        });
        self.add("checksum of UDP", Arrives, |number| {
            let mut packet = v4(number);
            packet[V4_HEADER + 6] ^= 1;
            packet
        });
    }

    fn addresses_v4(&mut self) {
        for destination in [
            [10, 244, 2, 2],
            [10, 244, 3, 2],
            [10, 244, 0, 0],
            [10, 168, 0, 2],
            [8, 8, 8, 8],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [0, 0, 0, 0],
        ] {
            let name = format!("to {destination:?}");
            self.edited_v4(&name, Dropped("destination_not_ours"), |packet| {
                packet[16..20].copy_from_slice(&destination);
            });
        }
        for (source, fate) in [
            ([10, 244, 1, 2], Dropped("source_forbidden")),
            ([10, 244, 1, 1], Dropped("source_forbidden")),
            ([10, 244, 1, 0], Dropped("source_forbidden")),
            ([10, 168, 0, 2], Dropped("source_forbidden")),
            ([127, 0, 0, 1], Dropped("source_forbidden")),
            ([0, 0, 0, 0], Dropped("source_forbidden")),
            ([0, 1, 2, 3], Dropped("source_forbidden")),
            ([224, 0, 0, 1], Dropped("source_forbidden")),
            ([240, 0, 0, 1], Dropped("source_forbidden")),
            ([255, 255, 255, 255], Dropped("source_forbidden")),
            ([10, 244, 3, 2], Dropped("source_spoofed")),
            ([10, 244, 0, 0], Dropped("source_spoofed")),
            ([10, 244, 255, 255], Dropped("source_spoofed")),
            ([10, 168, 0, 3], Arrives),
            ([192, 0, 2, 1], Passes),
        ] {
            self.edited_v4(&format!("from {source:?}"), fate, |packet| {
                packet[12..16].copy_from_slice(&source);
            });
        }
    }

    fn options_v4(&mut self) {
        let options: [(&str, &[u8], Fate); 6] = [
            ("nothing", &[1, 1, 1, 1], Arrives),
            ("end of list", &[0, 0, 0, 0], Arrives),
            ("a length of 0", &[7, 0, 4, 0], Passes),
            ("a length beyond the header", &[7, 255, 4, 0], Passes),
            ("source route", &[131, 7, 4, 10, 244, 1, 2, 1], Passes),
            ("router alert", &[148, 4, 0, 0], Passes),
        ];
        for (name, option, fate) in options {
            self.edited_v4(&format!("option: {name}"), fate, |packet| {
                packet[0] += u8::try_from(option.len() / 4).unwrap();
                packet.splice(V4_HEADER..V4_HEADER, option.iter().copied());
                packet.truncate(LENGTH);
            });
        }
    }

    /// Offsets are in units of eight bytes; 0x2000 says that more follow.
    fn fragments_v4(&mut self) {
        for (name, word, length) in [
            ("first of two", 0x2000, LENGTH),
            ("second, overlapping the first", 4, LENGTH),
            ("second, within the first", 1, LENGTH),
            ("first, tiny", 0x2000, V4_HEADER + UDP_HEADER),
            ("later, none before", 100, LENGTH),
            ("later, more to come, none before", 0x2000 | 200, LENGTH),
            ("beyond what a packet can have", 0x1fff, LENGTH),
            ("at the end, more to come", 0x3fff, LENGTH),
            ("with the evil bit", 0x8000, LENGTH),
        ] {
            self.edited_v4(&format!("fragment: {name}"), Arrives, |packet| {
                packet.truncate(length);
                packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                packet[6..8].copy_from_slice(&u16::to_be_bytes(word));
            });
        }
    }

    fn headers_v6(&mut self) {
        for version in (0..16).filter(|version| *version != 6) {
            let fate = if version == 4 { "bad_header_length" } else { "bad_version" };
            self.edited_v6(&format!("version {version}"), Dropped(fate), |packet| {
                packet[0] = version << 4;
            });
        }
        let length = u16::try_from(LENGTH - V6_HEADER).unwrap();
        for wrong in [0, 1, length - 1, length + 1, 1500, u16::MAX] {
            let name = format!("length {wrong}");
            self.edited_v6(&name, Dropped("length_mismatch"), |packet| {
                packet[4..6].copy_from_slice(&wrong.to_be_bytes());
            });
        }
        self.edited_v6("no hop left", Dropped("hop_limit_zero"), |packet| packet[7] = 0);
    }

    fn addresses_v6(&mut self) {
        for destination in
            ["fd00:244:2::2", "fd00:244:1:1::2", "fd00:168::2", "::1", "::", "ff02::1", "fe80::1"]
        {
            let name = format!("to {destination}");
            self.edited_v6(&name, Dropped("destination_not_ours"), |packet| {
                packet[24..40].copy_from_slice(&address(destination));
            });
        }
        for (source, fate) in [
            ("fd00:244:1::2", Dropped("source_forbidden")),
            ("fd00:244:1::", Dropped("source_forbidden")),
            ("fd00:168::2", Dropped("source_forbidden")),
            ("::1", Dropped("source_forbidden")),
            ("::", Dropped("source_forbidden")),
            ("ff02::1", Dropped("source_forbidden")),
            ("::ffff:10.244.2.2", Dropped("source_forbidden")),
            ("fd00:244:7::2", Dropped("source_spoofed")),
            ("fd00:244:2:1::2", Dropped("source_spoofed")),
            ("fd00:168::3", Arrives),
            ("2001:db8::1", Arrives),
        ] {
            self.edited_v6(&format!("from {source}"), fate, |packet| {
                packet[8..24].copy_from_slice(&address(source));
            });
        }
    }

    fn extensions_v6(&mut self) {
        let padding = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |offset: u16| {
            let [high, low] = offset.to_be_bytes();
            [17, 0, high, low, 0, 0, 0, 7]
        };
        let broken = Dropped("extension_headers");
        self.extended("padding", Arrives, HOP_BY_HOP, &[padding(17)]);
        self.extended("longer than the packet", broken, HOP_BY_HOP, &[[17, 255, 1, 4, 0, 0, 0, 0]]);
        let late = [padding(HOP_BY_HOP), padding(17)];
        self.extended("hop by hop, late", broken, DESTINATION, &late);
        let many = [padding(DESTINATION); 6];
        self.extended("more than there can be", broken, DESTINATION, &many);
        self.extended("first fragment", Arrives, FRAGMENT_V6, &[fragment(1)]);
        self.extended("overlapping fragment", Arrives, FRAGMENT_V6, &[fragment(8)]);
        self.extended("later fragment, none before", Arrives, FRAGMENT_V6, &[fragment(800)]);
        self.extended("fragment beyond the end", Arrives, FRAGMENT_V6, &[fragment(0xfff8)]);
        self.add("extension: cut off", broken, |number| {
            let mut packet = v6(number);
            packet[4..6].copy_from_slice(&4u16.to_be_bytes());
            packet[6] = DESTINATION;
            packet.truncate(V6_HEADER + 4);
            packet
        });
    }

    /// With these extension headers, of which the first is of the kind `first`.
    fn extended(&mut self, name: &str, fate: Fate, first: u8, headers: &[[u8; 8]]) {
        self.edited_v6(&format!("extension: {name}"), fate, |packet| {
            packet[6] = first;
            packet.splice(V6_HEADER..V6_HEADER, headers.concat());
            packet.truncate(LENGTH);
        });
    }
}

/// A good packet for pod 1 from pod 2, of [`LENGTH`] bytes.
pub(crate) fn v4(number: u32) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 244, 2, 2], [10, 244, 1, 2], 63).udp(40_000, PORT);
    let mut packet = Vec::new();
    builder.write(&mut packet, &payload(number, V4_HEADER, V4_MARK)).unwrap();
    packet
}

/// As [`v4`], over IPv6.
pub(crate) fn v6(number: u32) -> Vec<u8> {
    let (source, destination) = (address("fd00:244:2::2"), address("fd00:244:1::2"));
    let builder = PacketBuilder::ipv6(source, destination, 63).udp(40_000, PORT);
    let mut packet = Vec::new();
    builder.write(&mut packet, &payload(number, V6_HEADER, V6_MARK)).unwrap();
    packet
}

/// The same packet with another number, if it has one.
pub(crate) fn renumbered(packet: &[u8], number: u32) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(place) = packet.windows(MARK.len() + 4).position(|window| window.starts_with(MARK))
    {
        packet[place + MARK.len()..place + MARK.len() + 4].copy_from_slice(&number.to_be_bytes());
    }
    packet
}

fn payload(number: u32, header: usize, mark: usize) -> Vec<u8> {
    let mut payload = vec![b'.'; LENGTH - header - UDP_HEADER];
    let place = mark - header - UDP_HEADER;
    payload[place..place + MARK.len()].copy_from_slice(MARK);
    payload[place + MARK.len()..place + MARK.len() + 4].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The numbers of all cases that are in a frame, which may be many packets joined.
pub(crate) fn numbers_in(frame: &[u8]) -> Vec<u32> {
    let found = frame.windows(MARK.len() + 4).filter(|window| window.starts_with(MARK));
    found.map(|window| u32::from_be_bytes(window[MARK.len()..].try_into().unwrap())).collect()
}

fn address(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// Sets the header checksum of what says that it is IPv4.
fn sum_v4(packet: &mut [u8]) {
    let length = (usize::from(packet[0] & 15) * 4).clamp(V4_HEADER, packet.len());
    packet[10..12].fill(0);
    let words = packet[..length].chunks_exact(2);
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
