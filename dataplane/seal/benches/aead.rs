//! The implementations of ChaCha20-Poly1305 side by side: single packets, and a train of them as a
//! worker seals and opens it. Sessions take any of them.
//!
//! With `RUSTFLAGS='--cfg chacha20_avx512'` RustCrypto's takes AVX-512 where the processor has it.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead as aws;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_seal::aead::{Aead, Forged, KEY_LENGTH, Portable, Ring, TAG_LENGTH};
use weft_seal::handshake::Keys;
use weft_seal::keys::Secret;
use weft_seal::session::{Load, Session, sealed_length};

/// A small packet, a middling one, and a full one of an inner MTU of 1,420 bytes.
const LENGTHS: [usize; 3] = [64, 512, 1420];

/// Full packets in a train of 64 KiB.
const TRAIN: usize = 44;

const MTU: usize = 1420;

/// ChaCha20-Poly1305 by AWS-LC, which overwrites its keys on drop.
struct AwsLc(aws::LessSafeKey);

impl Aead for AwsLc {
    const NAME: &'static str = "aws-lc";

    fn new(key: &[u8; KEY_LENGTH]) -> Self {
        let key = aws::UnboundKey::new(&aws::CHACHA20_POLY1305, key);
        Self(aws::LessSafeKey::new(key.expect("the key has the right length")))
    }

    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_LENGTH] {
        let associated = aws::Aad::from(associated);
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), associated, text);
        let tag = tag.expect("the text is short");
        tag.as_ref().try_into().expect("a tag has 16 bytes")
    }

    fn open(&self, counter: u64, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let text = self.0.open_in_place(nonce(counter), aws::Aad::from(associated), sealed);
        text.map(|text| text.len()).map_err(|_| Forged)
    }
}

fn nonce(counter: u64) -> aws::Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    aws::Nonce::assume_unique_for_key(nonce)
}

fn packets<A: Aead>(criterion: &mut Criterion) {
    let aead = A::new(&[1; KEY_LENGTH]);
    for length in LENGTHS {
        let mut group = criterion.benchmark_group(format!("seal/{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        let mut text = vec![0x5a; length];
        let mut counter = 0;
        group.bench_function(A::NAME, |bencher| {
            bencher.iter(|| {
                counter += 1;
                black_box(aead.seal(counter, &[], &mut text))
            });
        });
        group.finish();

        let mut group = criterion.benchmark_group(format!("open/{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        let mut sealed = vec![0x5a; length];
        let tag = aead.seal(0, &[], &mut sealed);
        sealed.extend_from_slice(&tag);
        // Opening destroys the text, so each turn gets a copy, which is not measured.
        group.bench_function(A::NAME, |bencher| {
            bencher.iter_batched_ref(
                || sealed.clone(),
                |sealed| black_box(aead.open(0, &[], sealed).is_ok()),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn session<A: Aead>(local: u32) -> Session<A> {
    let (ours, theirs) = (Secret::new([1; KEY_LENGTH]), Secret::new([1; KEY_LENGTH]));
    let keys = Keys { sending: ours, receiving: theirs, local, remote: 1, is_initiator: true };
    Session::new(&keys, Duration::ZERO)
}

/// Everything a worker does for a train: counters, copies, headers, padding, sealing.
fn seal_train<A: Aead>(session: &Session<A>, packet: &[u8], train: &mut [u8]) {
    let stride = sealed_length(packet.len(), MTU);
    let counters = session.reserve(TRAIN, Load::Packet, Duration::ZERO);
    let counters = counters.expect("the session is fresh");
    let (header, payload) = packet.split_at(52);
    for (counter, datagram) in counters.zip(train.chunks_exact_mut(stride)) {
        session.seal(counter, &[header, payload], datagram, MTU);
    }
}

fn trains<A: Aead>(criterion: &mut Criterion) {
    let packet = vec![0x45; MTU];
    let stride = sealed_length(MTU, MTU);
    let mut train = vec![0; stride * TRAIN];

    let mut group = criterion.benchmark_group("train");
    group.throughput(Throughput::Bytes((TRAIN * MTU) as u64));
    let sender = session::<A>(2);
    group.bench_function(BenchmarkId::new("seal", A::NAME), |bencher| {
        bencher.iter(|| seal_train(&sender, &packet, &mut train));
    });

    // A receiver of its own, since a train is admitted once.
    let (sender, receiver) = (session::<A>(2), session::<A>(1));
    let mut opened = Vec::with_capacity(TRAIN);
    group.bench_function(BenchmarkId::new("open", A::NAME), |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut train = vec![0; stride * TRAIN];
                seal_train(&sender, &packet, &mut train);
                train
            },
            |train| {
                opened.clear();
                opened.extend(train.chunks_exact_mut(stride).map(|datagram| {
                    receiver.authenticate(datagram, Duration::ZERO).expect("sealed above")
                }));
                receiver.admit(&opened, Duration::ZERO, |admitted| {
                    assert!(black_box(admitted).is_ok());
                });
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn benches(criterion: &mut Criterion) {
    packets::<Ring>(criterion);
    packets::<AwsLc>(criterion);
    packets::<Portable>(criterion);
    trains::<Ring>(criterion);
    trains::<AwsLc>(criterion);
    trains::<Portable>(criterion);
}

criterion_group!(aead, benches);
criterion_main!(aead);
