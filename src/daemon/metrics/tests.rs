use std::collections::{BTreeMap, BTreeSet};

use weft_ctrl::status::{LeaseStatus, OnDemandStatus};
use weft_forward::counters::Counters;
use weft_forward::drops::DropReason;
use weft_sys::shortcut::ShortcutCounts;

use super::*;

/// Everything there can be, with numbers that differ.
fn scrape(counted: weft_forward::counters::Snapshot) -> Scrape {
    let info = weft_dataplane::WorkerInfo {
        engine: "uring",
        reason: "the kernel has no \"multishot\"".into(),
        offloads: weft_sys::tun::Offloads { checksum: true, tso: true, tso_ecn: true, uso: false },
        segments_max: 128,
        joins_datagrams: vec![true, false],
        checksum: "portable",
        memory: 0,
    };
    let mut control = weft_ctrl::status::StatusHandle::new().snapshot();
    control.device = Some(weft_ctrl::status::DeviceStatus {
        name: "flannel0".into(),
        index: Some(1),
        mtu: 1472,
    });
    control.lease = Some(lease());
    control.rejections.insert("value", 4);
    let counts = weft_ctrl::desired::demand::Counts { answered: 7, unknown: 8, refused: 9 };
    control.on_demand = Some(OnDemandStatus { addresses: 6, counts });
    for milliseconds in [1, 30, 70, 2000] {
        control.delays.add(Duration::from_millis(milliseconds));
    }
    control.source = weft_ctrl::status::SourceStatus {
        connected: true,
        listings: 2,
        restarts: 3,
        events: 40,
        errors: 5,
        ..Default::default()
    };
    Scrape {
        ready: true,
        uptime: Duration::from_secs(5),
        resident_bytes: Some(4096),
        control,
        stalls: 2,
        stalled: false,
        lowered: (0..200).map(|peer| (format!("10.0.0.{peer}:8285"), 1400 - peer)).collect(),
        unsegmented: 3,
        kernel: vec![("flannel0_tx_dropped", 6)],
        moving: Some(Moving {
            info,
            sealing: Some(crate::daemon::sealing::Standing {
                mode: weft_dataplane::sealing::Mode::Offer,
                plain_peers: 4,
                report: Arc::default(),
            }),
            shortcut: Some(ShortcutCounts { packets_in: 3, bytes_out: 400, ..Default::default() }),
            counted,
            workers: vec![counted, Counters::default().snapshot()],
        }),
    }
}

fn lease() -> LeaseStatus {
    let id = "00112233445566778899aabbccddeeff".parse().unwrap();
    let mut lease = LeaseStatus::new(&"10.244.1.0-24".parse().unwrap(), id);
    (lease.age_seconds, lease.expires_in_seconds) = (Some(300), Some(86_100));
    lease
}

#[derive(Debug)]
struct Fixed(Scrape);

impl Collector for Fixed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families::families(&self.0).iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

fn text_of(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix("weft");
    registry.register_collector(Box::new(Fixed(scrape)));
    Metrics(registry).text()
}

/// Reads the exposition as strictly as its specification is written, and returns every sample by
/// its name and labels.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let body = text.strip_suffix("# EOF\n").expect("it ends with its end");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            assert!(name.starts_with("weft_") && help.ends_with('.'), "{line}");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, its_kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram", "info"].contains(&its_kind), "{line}");
            kind = its_kind.to_owned();
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line}"));
            let fits = match kind.as_str() {
                "counter" => suffix == "_total",
                "gauge" => suffix.is_empty(),
                "info" => suffix == "_info",
                _ => ["_bucket", "_count", "_sum"].contains(&suffix),
            };
            assert!(fits && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()));
            check_labels(&series[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert_eq!(samples.insert(series.to_owned(), value), None, "{line}");
        }
    }
    samples
}

/// `{name="value",…}` or nothing; a quote within a value is escaped.
fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let mut rest = labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{labels}");
        let mut escaped = false;
        let end = value.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        rest = &value[end.unwrap() + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[test]
fn numbers_arrive_under_their_names() {
    let counters = Counters::default();
    counters.outbound.segments_in.add(9);
    counters.outbound.drops.add(DropReason::NoRoute, 4);
    counters.inbound.bytes_in.add(u64::from(u32::MAX) + 1);
    for segments in [1, 3, 64, 200] {
        counters.inbound.train_segments.record(segments);
    }
    counters.buffers.writes.set(7);
    counters.busy_ns.add(1_500_000_000);
    let samples = parse(&text_of(scrape(counters.snapshot())));
    for (series, value) in [
        (r#"weft_segments_in_total{direction="outbound"}"#, 9.0),
        (r#"weft_dropped_segments_total{direction="outbound",reason="no_route"}"#, 4.0),
        (r#"weft_dropped_segments_total{direction="inbound",reason="no_route"}"#, 0.0),
        (r#"weft_inner_bytes_total{direction="inbound"}"#, 4_294_967_296.0),
        (r#"weft_shortcut_packets_total{direction="inbound"}"#, 3.0),
        (r#"weft_shortcut_bytes_total{direction="outbound"}"#, 400.0),
        (r#"weft_train_segments_bucket{le="1.0",direction="inbound"}"#, 1.0),
        (r#"weft_train_segments_bucket{le="4.0",direction="inbound"}"#, 2.0),
        (r#"weft_train_segments_bucket{le="128.0",direction="inbound"}"#, 3.0),
        (r#"weft_train_segments_bucket{le="+Inf",direction="inbound"}"#, 4.0),
        (r#"weft_train_segments_sum{direction="inbound"}"#, 268.0),
        (r#"weft_train_segments_count{direction="inbound"}"#, 4.0),
        (r#"weft_buffers_in_use{buffer="writes"}"#, 7.0),
        (r#"weft_offload_enabled{offload="tun-uso"}"#, 0.0),
        (r#"weft_offload_enabled{offload="tun-tso"}"#, 1.0),
        (r#"weft_offload_enabled{offload="udp-gro"}"#, 0.0),
        (r#"weft_kernel_dropped_packets_total{place="flannel0_tx_dropped"}"#, 6.0),
        (r#"weft_buffers_max{buffer="trains"}"#, 128.0),
        ("weft_workers", 2.0),
        (r#"weft_worker_busy_seconds_total{worker="0"}"#, 1.5),
        (r#"weft_worker_busy_seconds_total{worker="1"}"#, 0.0),
        (r#"weft_worker_outbound_segments_total{worker="0"}"#, 9.0),
        ("weft_worker_stalls_total", 2.0),
        ("weft_segmentation_off_peers", 3.0),
        ("weft_ready", 1.0),
        ("weft_lease_age_seconds", 300.0),
        ("weft_lease_remaining_seconds", 86_100.0),
        (r#"weft_lease_rejections_total{reason="value"}"#, 4.0),
        ("weft_store_connected", 1.0),
        ("weft_store_listings_total", 2.0),
        ("weft_store_restarts_total", 3.0),
        ("weft_store_events_total", 40.0),
        ("weft_store_errors_total", 5.0),
        (r#"weft_table_delay_seconds_bucket{le="0.001"}"#, 1.0),
        (r#"weft_table_delay_seconds_bucket{le="0.05"}"#, 2.0),
        (r#"weft_table_delay_seconds_bucket{le="0.1"}"#, 3.0),
        (r#"weft_table_delay_seconds_bucket{le="+Inf"}"#, 4.0),
        ("weft_table_delay_seconds_sum", 2.101),
        ("weft_table_delay_seconds_count", 4.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}: {samples:#?}");
    }
}

#[test]
fn paths_of_many_peers_are_few_metrics() {
    let samples = parse(&text_of(scrape(Counters::default().snapshot())));
    assert_eq!(samples["weft_path_mtu_lowered_peers"], 200.0);
    assert_eq!(samples["weft_path_mtu_min_bytes"], 1201.0);
    let peers = samples.keys().filter(|name| name.starts_with("weft_peer_path_mtu_bytes"));
    assert_eq!(peers.count(), 100);
    let mut unlowered = scrape(Counters::default().snapshot());
    unlowered.lowered.clear();
    assert_eq!(parse(&text_of(unlowered))["weft_path_mtu_min_bytes"], 1472.0);
}

/// Paths to `peers` peers, two to each, of which one is dead to the first ten.
fn with_paths(peers: u64) -> Scrape {
    let mut scrape = scrape(Counters::default().snapshot());
    scrape.control.peers = (0..peers)
        .map(|number| {
            let path = |path: &str, fault: &str| weft_ctrl::status::PathStatus {
                path: path.into(),
                subnet: format!("10.244.{number}.0/24"),
                chosen: path == "udp",
                problem: String::new(),
                fault: fault.into(),
                mtu: Some(1422),
                round_trip_us: Some(1500),
                loss: Some(0.25),
            };
            let fault = if number + 10 >= peers { "dead" } else { "none" };
            let mut peer = weft_ctrl::status::PeerStatus::default();
            peer.paths = vec![path("vxlan", fault), path("udp", "none")];
            peer
        })
        .collect();
    let [from, to, reason] = ["vxlan", "udp", "dead"].map(str::to_owned);
    scrape.control.path_switches =
        vec![weft_ctrl::status::PathSwitches { from, to, reason, count: 12 }];
    scrape
}

#[test]
fn health_of_paths_is_told_of_the_worst() {
    let samples = parse(&text_of(with_paths(200)));
    for (series, value) in [
        (r#"weft_paths{path="vxlan",fault="dead"}"#, 10.0),
        (r#"weft_paths{path="vxlan",fault="none"}"#, 190.0),
        (r#"weft_paths{path="udp",fault="none"}"#, 200.0),
        (r#"weft_path_good{subnet="10.244.199.0/24",path="vxlan"}"#, 0.0),
        (r#"weft_path_good{subnet="10.244.0.0/24",path="udp"}"#, 1.0),
        (r#"weft_path_chosen{subnet="10.244.199.0/24",path="vxlan"}"#, 0.0),
        (r#"weft_path_round_trip_seconds{subnet="10.244.199.0/24",path="vxlan"}"#, 0.0015),
        (r#"weft_path_loss_ratios{subnet="10.244.199.0/24",path="vxlan"}"#, 0.25),
        (r#"weft_path_mtu_bytes{subnet="10.244.199.0/24",path="vxlan"}"#, 1422.0),
        (r#"weft_path_switches_total{from="vxlan",to="udp",reason="dead"}"#, 12.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}: {samples:#?}");
    }
    let all = samples.keys().filter(|series| series.contains("subnet=")).count();
    assert_eq!(all, 500, "five of each of the first hundred");
    let alone = parse(&text_of(scrape(Counters::default().snapshot())));
    assert!(!alone.keys().any(|series| series.starts_with("weft_paths")), "nobody has a choice");
}

#[test]
fn a_daemon_that_waits_can_be_scraped() {
    let state = State::new("directory /l".into());
    let samples = parse(&Metrics::new(state).text());
    assert_eq!(samples["weft_ready"], 0.0);
    assert_eq!(samples["weft_lease_held"], 0.0);
    assert!(samples.keys().any(|name| name.starts_with("weft_build_info{version=")));
    assert!(samples["weft_resident_memory_bytes"] > 4096.0);
}

/// The board beside the scripts shows nothing that does not exist.
#[test]
fn the_board_asks_for_what_there_is() {
    let text = include_str!("../../../scripts/grafana/weft.json");
    let board: serde_json::Value = serde_json::from_str(text).unwrap();
    let samples = parse(&text_of(scrape(Counters::default().snapshot())));
    let known: BTreeSet<&str> =
        samples.keys().map(|series| series.split('{').next().unwrap()).collect();
    let mut asked = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let is_part = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
            for name in expression.split(|letter| !is_part(letter)) {
                if name.starts_with("weft_") {
                    assert!(known.contains(name), "{name} in {}", panel["title"]);
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 20, "{asked}");
}
