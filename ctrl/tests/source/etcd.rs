//! What only etcd can get wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_ctrl::config::NetworkConfig;
use weft_ctrl::identity::Identity;
use weft_ctrl::lease::{Attributes, Weft};
use weft_ctrl::source::acquire::{Request, acquire};
use weft_ctrl::source::etcd::{
    Credentials, Endpoints, Etcd, EtcdOptions, Patience, Secret, TlsFiles,
};
use weft_ctrl::source::{Change, Record, Source, SourceError, Update, Watch};

use super::certificates::certificates;
use super::relay::{Relay, Wire};
use super::server::{EtcdServer, can_run_etcd, free_port};

const PREFIX: &str = "/coreos.com/network";

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(40);

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

macro_rules! needs_etcd {
    () => {
        if !can_run_etcd() {
            return;
        }
    };
}

/// Options with short waits, so that a test need not wait as long as a node would.
fn options(urls: &str) -> EtcdOptions {
    let endpoints = Endpoints::parse(urls, false).unwrap().servers;
    EtcdOptions {
        patience: Patience {
            connect: Duration::from_secs(1),
            request: Duration::from_secs(2),
            keep_alive: Duration::from_millis(500),
        },
        check_period: Duration::from_millis(300),
        ..EtcdOptions::new(endpoints, PREFIX)
    }
}

fn key(name: &str) -> String {
    format!("{PREFIX}/subnets/{name}")
}

fn put(server: &EtcdServer, name: &str, value: &str) {
    server.ctl(&["put", &key(name), "--", value]);
}

/// What a node knows from a watch, with the rule for what is absent left out.
struct Known {
    watch: Watch,
    leases: BTreeMap<String, String>,
    /// Deletions that were seen, as against absences in a listing.
    deleted: Vec<String>,
    absent: Vec<String>,
}

impl Known {
    fn by(source: &Etcd) -> Self {
        let watch = source.watch();
        Self { watch, leases: BTreeMap::new(), deleted: Vec::new(), absent: Vec::new() }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                let update = self.watch.next().await;
                self.take(update);
            }
        };
        let ended = timeout(PATIENCE, wait).await;
        assert!(ended.is_ok(), "{what}: {:?}", self.watch.health().borrow());
    }

    fn take(&mut self, update: Update) {
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        match update {
            Update::Snapshot(records) => {
                let now: BTreeMap<String, String> =
                    records.into_iter().map(|one| (one.name, text(one.value))).collect();
                let missing = self.leases.keys().filter(|name| !now.contains_key(*name));
                self.absent = missing.cloned().collect();
                self.leases = now;
            }
            Update::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Put(one) => drop(self.leases.insert(one.name, text(one.value))),
                        Change::Deleted { name, .. } => {
                            self.leases.remove(&name);
                            self.deleted.push(name);
                        }
                    }
                }
            }
            Update::Config(_) => {}
        }
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.leases.get(name).is_some_and(|known| known == value)
    }

    fn listings(&self) -> u64 {
        self.watch.health().borrow().listings
    }

    async fn until_problem(&mut self, is_problem: bool) {
        let mut health = self.watch.health();
        let wait = async {
            while health.borrow_and_update().problem.is_some() != is_problem {
                health.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{:?}", health.borrow()));
    }
}

fn node(number: u8) -> Attributes {
    let id: Identity = format!("{number:032x}").parse().unwrap();
    Attributes {
        public_ip: [192, 0, 2, number].into(),
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft { id: Some(id), ..Weft::default() }),
    }
}

/// Keys and values as flanneld has them, but for our one key at the end.
#[tokio::test]
async fn what_is_written_is_what_flanneld_would_write() {
    needs_etcd!();
    let server = EtcdServer::start();
    let source = Etcd::new(options(&server.url()));
    let config = NetworkConfig::parse(br#"{"Network":"10.5.0.0/24"}"#).unwrap();
    let attributes = Attributes { weft: None, ..node(1) };
    let previous = Some("10.5.0.64-26".parse().unwrap());
    let request = Request { config: &config, attributes: &attributes, previous };
    acquire(&source, &request).await.unwrap();
    let key = "/coreos.com/network/subnets/10.5.0.64-26";
    assert_eq!(server.keys("/"), [key]);
    assert_eq!(server.value(key).unwrap(), r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
    assert_eq!(server.granted(key), Some(86_400));

    // Renewal: another etcd lease, the same key.
    let seen = source.read("10.5.0.64-26").await.unwrap().unwrap();
    assert!(seen.expires);
    let renewed = source.replace(&seen, &seen.value).await.unwrap().unwrap();
    assert!(renewed.revision > seen.revision);
    assert_eq!(server.granted(key), Some(86_400));

    // An operator takes the time limit away, and it stays away.
    put(&server, "10.5.0.64-26", r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
    let acquired = acquire(&source, &request).await.unwrap();
    assert!(!acquired.record.expires);
    assert_eq!(server.granted(key), None);
}

/// What flanneld forgets (a deletion, an expiry) is told as it happens.
#[tokio::test]
async fn an_expired_lease_is_a_deletion() {
    needs_etcd!();
    let server = EtcdServer::start();
    let source =
        Etcd::new(EtcdOptions { lifetime: Duration::from_secs(3), ..options(&server.url()) });
    let mut known = Known::by(&source);
    source.create("10.5.1.0-24", b"one").await.unwrap().unwrap();
    known.until("there", |known| known.has("10.5.1.0-24", "one")).await;
    known.until("gone", |known| known.deleted == ["10.5.1.0-24"]).await;
}

/// flanneld takes an event that it cannot read for an empty listing and forgets every peer; and it
/// reads keys beside `subnets/` too.
#[tokio::test]
async fn stray_keys_are_told_as_they_are_or_not_seen() {
    needs_etcd!();
    let server = EtcdServer::start();
    let source = Etcd::new(options(&server.url()));
    put(&server, "10.5.1.0-24", "one");
    let mut known = Known::by(&source);
    known.until("one", |known| known.leases.len() == 1).await;
    server.ctl(&["put", "/coreos.com/network/subnets-foo", "stray"]);
    server.ctl(&["put", "/coreos.com/network/subnets", "stray"]);
    put(&server, "stray", "{");
    put(&server, "a/10.5.2.0-24", "nested");
    put(&server, "10.5.3.0-24", "last");
    known.until("last", |known| known.has("10.5.3.0-24", "last")).await;
    let names: Vec<&String> = known.leases.keys().collect();
    assert_eq!(names, ["10.5.1.0-24", "10.5.3.0-24", "a/10.5.2.0-24", "stray"]);
}

/// A lease known by its name whose value changed while nobody watched is told: flanneld does not.
#[tokio::test]
async fn a_server_that_was_killed_is_followed_on_from_where_it_was() {
    needs_etcd!();
    let mut server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    put(&server, "10.5.2.0-24", "two");
    let relay = Relay::to(server.port()).await;
    let source = Etcd::new(options(&relay.url()));
    let mut known = Known::by(&source);
    known.until("listed", |known| known.leases.len() == 2).await;
    relay.set(Wire::Refuses);
    known.until_problem(true).await;
    server.restart();
    put(&server, "10.5.1.0-24", "changed");
    server.ctl(&["del", &key("10.5.2.0-24")]);
    relay.set(Wire::Whole);
    known
        .until("caught up", |known| {
            known.has("10.5.1.0-24", "changed") && known.deleted == ["10.5.2.0-24"]
        })
        .await;
    known.until_problem(false).await;
    assert_eq!(known.listings(), 1, "nothing had to be listed again");
}

#[tokio::test]
async fn history_that_is_compacted_is_listed_again() {
    needs_etcd!();
    let server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    put(&server, "10.5.2.0-24", "two");
    let relay = Relay::to(server.port()).await;
    let source = Etcd::new(options(&relay.url()));
    let mut known = Known::by(&source);
    known.until("listed", |known| known.leases.len() == 2).await;
    relay.set(Wire::Swallows);
    known.until_problem(true).await;
    put(&server, "10.5.1.0-24", "changed");
    server.ctl(&["del", &key("10.5.2.0-24")]);
    put(&server, "10.5.3.0-24", "three");
    let answer: serde_json::Value =
        serde_json::from_str(&server.ctl(&["get", "--write-out=json", "x"])).unwrap();
    server.ctl(&["compact", &answer["header"]["revision"].to_string()]);
    relay.set(Wire::Whole);
    known.until("listed again", |known| known.has("10.5.3.0-24", "three")).await;
    assert!(known.has("10.5.1.0-24", "changed"));
    assert_eq!(known.absent, ["10.5.2.0-24"], "absent, which is not deleted");
    put(&server, "10.5.4.0-24", "four");
    known.until("followed on", |known| known.has("10.5.4.0-24", "four")).await;
}

/// An older backup has the same cluster number and lower revisions. Live peers that it does not know
/// are absent, which is not deleted.
#[tokio::test]
async fn a_restored_store_is_noticed() {
    needs_etcd!();
    let mut server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    let backup = server.save();
    for number in 2..9 {
        put(&server, &format!("10.5.{number}.0-24"), "later");
    }
    let source = Etcd::new(options(&server.url()));
    let mut known = Known::by(&source);
    known.until("listed", |known| known.leases.len() == 8).await;
    server.restore(&backup);
    known.until("listed again", |known| known.leases.len() == 1).await;
    assert_eq!(known.absent.len(), 7);
    assert!(known.deleted.is_empty());
    put(&server, "10.5.9.0-24", "new");
    known.until("followed on", |known| known.has("10.5.9.0-24", "new")).await;
}

/// A stopped process keeps its connections open and says nothing.
#[tokio::test]
async fn a_server_that_hangs_is_noticed_and_comes_back() {
    needs_etcd!();
    let server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    let source = Etcd::new(options(&server.url()));
    let mut known = Known::by(&source);
    known.until("listed", |known| known.leases.len() == 1).await;
    server.signal("STOP");
    known.until_problem(true).await;
    let problem = known.watch.health().borrow().problem.clone().unwrap();
    assert!(!problem.is_empty());
    let error = source.config().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("--etcd-endpoints"), "{error}");
    server.signal("CONT");
    put(&server, "10.5.2.0-24", "two");
    known.until("followed on", |known| known.has("10.5.2.0-24", "two")).await;
    known.until_problem(false).await;
}

/// The server answers and the connection stands, and nothing is asked: only the wish for a leader ends
/// a watch that would tell nothing for ever.
#[tokio::test]
async fn a_member_without_a_majority_ends_the_watch() {
    needs_etcd!();
    let mut members = EtcdServer::start_cluster(3);
    let source = Etcd::new(EtcdOptions { check_period: NEVER, ..options(&members[0].url()) });
    let mut known = Known::by(&source);
    source.create("10.5.1.0-24", b"one").await.unwrap().unwrap();
    known.until("followed", |known| known.has("10.5.1.0-24", "one")).await;
    members[1..].iter_mut().for_each(EtcdServer::kill);
    known.until_problem(true).await;
    assert!(known.watch.health().borrow().restarts > 0 || known.watch.health().borrow().errors > 0);
    members[1..].iter_mut().for_each(EtcdServer::run);
    members.iter().for_each(EtcdServer::wait);
    put(&members[1], "10.5.2.0-24", "two");
    known.until("followed on", |known| known.has("10.5.2.0-24", "two")).await;
    known.until_problem(false).await;
    assert!(known.deleted.is_empty() && known.absent.is_empty());
    assert_eq!(known.listings(), 1);
}

/// Nothing is asked here: the connection's own signs of life are missed.
#[tokio::test]
async fn a_wire_that_swallows_is_noticed_by_the_connection_itself() {
    needs_etcd!();
    let server = EtcdServer::start();
    let relay = Relay::to(server.port()).await;
    let quiet = EtcdOptions { check_period: NEVER, ..options(&relay.url()) };
    let keep_alive = quiet.patience.keep_alive;
    let source = Etcd::new(quiet);
    let mut known = Known::by(&source);
    known.until("listed", |known| known.listings() == 1).await;
    put(&server, "10.5.1.0-24", "one");
    known.until("followed", |known| known.has("10.5.1.0-24", "one")).await;
    relay.set(Wire::Swallows);
    let began = Instant::now();
    known.until_problem(true).await;
    // One pause and one wait for an answer; the rest is for a busy machine.
    let bound = 2 * keep_alive + Duration::from_secs(15);
    assert!(began.elapsed() < bound, "{:?}", began.elapsed());
    relay.set(Wire::Whole);
    put(&server, "10.5.2.0-24", "two");
    known.until("followed on", |known| known.has("10.5.2.0-24", "two")).await;
    assert_eq!(known.listings(), 1);
}

/// What was missed comes in one message, which has a limit. Whoever tries the same for ever never
/// hears of anything again.
#[tokio::test]
async fn more_than_a_message_holds_was_missed() {
    needs_etcd!();
    let server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    let relay = Relay::to(server.port()).await;
    let source = Etcd::new(options(&relay.url()));
    let mut known = Known::by(&source);
    known.until("listed", |known| known.leases.len() == 1).await;
    relay.set(Wire::Refuses);
    known.until_problem(true).await;
    let mut client = etcd_client::Client::connect([server.url()], None).await.unwrap();
    for _ in 0..70 {
        client.put(key("huge"), vec![b'x'; 1 << 20], None).await.unwrap();
    }
    put(&server, "10.5.2.0-24", "two");
    relay.set(Wire::Whole);
    known.until("caught up", |known| known.has("10.5.2.0-24", "two")).await;
    put(&server, "10.5.3.0-24", "three");
    known.until("followed on", |known| known.has("10.5.3.0-24", "three")).await;
    assert_eq!(known.listings(), 2);
}

/// Members are killed one after the other under a stream of changes; each change arrives.
#[tokio::test]
async fn a_cluster_may_lose_each_of_its_members_in_turn() {
    needs_etcd!();
    let mut members = EtcdServer::start_cluster(3);
    let urls: Vec<String> = members.iter().map(EtcdServer::url).collect();
    let source = Etcd::new(options(&urls.join(",")));
    let mut known = Known::by(&source);
    let mut number = 0;
    for member in &mut members {
        member.kill();
        for _ in 0..5 {
            number += 1;
            let name = format!("10.5.{number}.0-24");
            let wrote = async {
                while source.create(&name, b"x").await.is_err() {
                    sleep(Duration::from_millis(100)).await;
                }
            };
            timeout(PATIENCE, wrote).await.unwrap();
            known.until(&name, |known| known.has(&name, "x")).await;
        }
        member.restart();
    }
    assert_eq!(known.leases.len(), 15);
    assert!(known.deleted.is_empty() && known.absent.is_empty());
    assert_eq!(known.listings(), 1);
}

#[tokio::test]
async fn an_unreachable_endpoint_is_passed_over() {
    needs_etcd!();
    let server = EtcdServer::start();
    let nobody = free_port();
    let urls = format!("http://127.0.0.1:{nobody},{}", server.url());
    for _ in 0..4 {
        let source = Etcd::new(options(&urls));
        assert_eq!(source.config().await.unwrap(), None);
    }
    let source = Etcd::new(options(&format!("http://127.0.0.1:{nobody}")));
    let sentence = source.config().await.unwrap_err().sentence();
    assert!(sentence.contains(&nobody.to_string()) && sentence.contains("refused"), "{sentence}");
}

/// The request arrives, its answer does not. The second try finds what the first has written; giving
/// the unused etcd lease back would take the key away.
#[tokio::test]
async fn a_write_whose_answer_is_lost_was_made() {
    needs_etcd!();
    let server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "reserved");
    let relay = Relay::to(server.port()).await;
    let source = Etcd::new(options(&relay.url()));
    let seen = source.read("10.5.1.0-24").await.unwrap().unwrap();
    relay.set(Wire::SwallowsAnswers);
    let mend = async {
        sleep(Duration::from_millis(700)).await;
        assert_eq!(server.value(&key("10.5.1.0-24")).as_deref(), Some("renewed"));
        relay.set(Wire::Whole);
    };
    let (written, ()) = tokio::join!(source.replace(&seen, b"renewed"), mend);
    let written = written.unwrap().expect("it was ours");
    assert!(written.revision > seen.revision && !written.expires);
    assert_eq!(source.read("10.5.1.0-24").await.unwrap(), Some(written));
}

/// A claim or renewal that was refused leaves no etcd lease behind that nothing hangs on for a day.
#[tokio::test]
async fn what_was_granted_for_a_refused_write_is_given_back() {
    needs_etcd!();
    let server = EtcdServer::start();
    let granted = || {
        let text = server.ctl(&["lease", "list", "--write-out=json"]);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["leases"].as_array().map_or(0, Vec::len)
    };
    let source = Etcd::new(options(&server.url()));
    let seen = source.create("10.5.1.0-24", b"one").await.unwrap().unwrap();
    assert_eq!(granted(), 1);
    assert_eq!(source.create("10.5.1.0-24", b"two").await.unwrap(), None);
    let older = Record { revision: seen.revision - 1, ..seen.clone() };
    assert_eq!(source.replace(&older, b"two").await.unwrap(), None);
    assert_eq!(granted(), 1);
    assert_eq!(source.read("10.5.1.0-24").await.unwrap(), Some(seen));
}

/// flanneld that cannot list at first never hears of any peer.
#[tokio::test]
async fn a_store_that_comes_later_is_followed() {
    needs_etcd!();
    let mut server = EtcdServer::start();
    put(&server, "10.5.1.0-24", "one");
    server.kill();
    let source = Etcd::new(options(&server.url()));
    let mut known = Known::by(&source);
    known.until_problem(true).await;
    server.restart();
    known.until("listed", |known| known.has("10.5.1.0-24", "one")).await;
    put(&server, "10.5.2.0-24", "two");
    known.until("followed", |known| known.has("10.5.2.0-24", "two")).await;
}

/// Tokens die with the server that gave them.
#[tokio::test]
async fn users_are_authenticated_again_when_their_token_is_gone() {
    needs_etcd!();
    let mut server = EtcdServer::start();
    server.enable_users(PREFIX);
    let with = |user: &str, password: &str| {
        let credentials = Credentials { user: user.into(), password: Secret::new(password) };
        Etcd::new(EtcdOptions { credentials: Some(credentials), ..options(&server.url()) })
    };
    let refused = async |source: Etcd| source.list().await.unwrap_err().to_string();
    let text = refused(Etcd::new(options(&server.url()))).await;
    assert!(text.contains("--etcd-username"), "{text}");
    let text = refused(with("node", "wrong")).await;
    assert!(text.contains("Check --etcd-username") && !text.contains("wrong"), "{text}");
    let text = refused(with("stranger", "x")).await;
    assert!(text.contains("read and write access"), "{text}");

    let source = with("node", "s3cret");
    assert!(!format!("{source:?}").contains("s3cret"));
    let mut known = Known::by(&source);
    source.create("10.5.1.0-24", b"one").await.unwrap().unwrap();
    known.until("one", |known| known.has("10.5.1.0-24", "one")).await;
    server.restart();
    source.create("10.5.2.0-24", b"two").await.unwrap().unwrap();
    known.until("two", |known| known.has("10.5.2.0-24", "two")).await;
}

/// flanneld ignores an authority that comes without a certificate of the client.
#[tokio::test]
async fn encrypted_with_an_authority_alone_and_with_client_certificates() {
    needs_etcd!();
    let place = tempfile::tempdir().unwrap();
    let [authority, certificate, key] = certificates(place.path(), "127.0.0.1");
    let files = [authority.as_str(), certificate.as_str(), key.as_str()];
    let only_authority = TlsFiles { authority: Some(authority.clone().into()), client: None };
    let client = Some((certificate.clone().into(), key.clone().into()));
    let both = TlsFiles { authority: Some(authority.clone().into()), client };
    for asks in [false, true] {
        let server = EtcdServer::start_encrypted(files, asks);
        let with =
            |tls: &TlsFiles| Etcd::new(EtcdOptions { tls: tls.clone(), ..options(&server.url()) });
        assert_eq!(with(&only_authority).config().await.is_ok(), !asks, "{asks}");
        let source = with(&both);
        let mut known = Known::by(&source);
        source.create("10.5.1.0-24", b"one").await.unwrap().unwrap();
        known.until("one", |known| known.has("10.5.1.0-24", "one")).await;
        let sentence = with(&TlsFiles::default()).config().await.unwrap_err().sentence();
        assert!(sentence.to_lowercase().contains("certificate"), "{sentence}");
    }
    let missing = TlsFiles { authority: Some("/nonexistent/ca.pem".into()), client: None };
    let source = Etcd::new(EtcdOptions { tls: missing, ..options("https://127.0.0.1:1") });
    let error = source.config().await.unwrap_err();
    assert!(matches!(error, SourceError::Etcd(_)));
    assert!(error.sentence().contains("/nonexistent/ca.pem"));
}

/// More than a page of leases is one listing of one moment.
#[tokio::test]
async fn many_leases_come_in_pages() {
    needs_etcd!();
    let server = EtcdServer::start_with(&["--max-txn-ops=10000"]);
    let mut client = etcd_client::Client::connect([server.url()], None).await.unwrap();
    for part in 0..5 {
        let puts: Vec<etcd_client::TxnOp> = (0..1000)
            .map(|index| {
                let number = part * 1000 + index;
                let name = key(&format!("10.{}.{}.0-24", number / 250, number % 250));
                etcd_client::TxnOp::put(name, format!("{number}"), None)
            })
            .collect();
        client.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    let source = Etcd::new(options(&server.url()));
    let records = source.list().await.unwrap();
    assert_eq!(records.len(), 5000);
    let names: std::collections::BTreeSet<&String> = records.iter().map(|one| &one.name).collect();
    assert_eq!(names.len(), 5000);
}

/// Fifty nodes start at once where there are hardly more subnets.
#[tokio::test]
async fn fifty_nodes_share_fifty_one_subnets() {
    needs_etcd!();
    let server = EtcdServer::start();
    let document = br#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.51.0"}"#;
    let config = NetworkConfig::parse(document).unwrap();
    let nodes: Vec<(Etcd, Attributes)> =
        (1..=50).map(|number| (Etcd::new(options(&server.url())), node(number))).collect();
    let taking = nodes.iter().map(async |(source, attributes)| {
        let request = Request { config: &config, attributes, previous: None };
        acquire(source, &request).await.unwrap().record.name
    });
    let names = timeout(PATIENCE, futures_util::future::join_all(taking)).await.unwrap();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), 50);
    assert_eq!(server.keys(PREFIX).len(), 50);
}
