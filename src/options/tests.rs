use weft_ctrl::source::SourceOptions;
use weft_ctrl::source::etcd::{EtcdOptions, TlsFiles};
use weft_ctrl::source::kubernetes::{Access, KubernetesOptions, NodeName, Patience};

use super::*;
use crate::flags::Command;

fn check(arguments: &[&str]) -> Result<Options, Vec<String>> {
    check_with(arguments, &[])
}

fn check_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Options, Vec<String>> {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    let variable = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let Ok(Command::Run(flags)) = Flags::parse(&arguments, variable) else {
        panic!("{arguments:?} do not parse");
    };
    Options::check(&flags)
        .map_err(|mistakes| mistakes.into_iter().map(|mistake| mistake.0).collect())
}

#[test]
fn the_least_that_is_needed() {
    let options = check(&["--lease-dir=/leases"]).unwrap();
    assert_eq!(
        options,
        Options {
            control: controller::Options {
                source: SourceOptions::Directory("/leases".into()),
                state_directory: "/var/lib/weft".into(),
                subnet_file: "/run/flannel/subnet.env".into(),
                interface: InterfaceOptions::default(),
                netfilter: netfilter::Options {
                    masquerade: false,
                    fully_random: true,
                    forward: true,
                    resync: Duration::from_secs(5),
                    blackhole: false,
                },
                renew_margin: Duration::from_secs(3600),
                on_lease_loss: OnLeaseLoss::Hold,
                insecure_store: false,
            },
            health: None,
            admin_socket: "/run/weft/weft.sock".into(),
            engine: EngineWish::Auto,
            workers: 1,
            without: Without::default(),
        }
    );
}

#[test]
fn every_flag_with_a_function_is_used() {
    let options = check(&[
        "--lease-dir=/leases",
        "--iface=u1",
        "--iface=10.0.0.1",
        "--iface-regex=^u",
        "--iface-can-reach=192.0.2.1",
        "--public-ip=198.51.100.7",
        "--public-ipv6=2001:db8::7",
        "--subnet-file=/vxlan.env",
        "--healthz-ip=::1",
        "--healthz-port=8080",
        "--engine=uring",
        "--workers=4",
        "--on-lease-loss=hold",
        "--insecure-store",
        "--without=uring,multishot,tun-tso,tun-uso,tun-csum,udp-gso,udp-gro,spin,precedence,shortcut",
    ])
    .unwrap();
    assert_eq!(
        options.control.interface,
        InterfaceOptions {
            iface: vec!["u1".into(), "10.0.0.1".into()],
            iface_regex: vec!["^u".into()],
            can_reach: Some("192.0.2.1".into()),
            public_ip: Some("198.51.100.7".parse().unwrap()),
            public_ipv6: Some("2001:db8::7".parse().unwrap()),
        }
    );
    assert_eq!(options.control.subnet_file, Path::new("/vxlan.env"));
    assert_eq!(options.health, Some("[::1]:8080".parse().unwrap()));
    assert_eq!(options.engine, EngineWish::Uring);
    assert!(options.control.insecure_store);
    assert_eq!(
        options.without,
        Without {
            ring: WithoutRing { io_uring: true, multishot: true },
            tun: WithoutOffloads { checksum: true, tso: true, uso: true },
            udp_gso: true,
            udp_gro: true,
            spin: true,
            precedence: true,
            shortcut: true,
        }
    );
}

#[test]
fn each_feature_switches_off_what_it_names() {
    type Switch = fn(&Without) -> bool;
    let switches: [(&str, Switch); 10] = [
        ("uring", |without| without.ring.io_uring),
        ("multishot", |without| without.ring.multishot),
        ("tun-csum", |without| without.tun.checksum),
        ("tun-tso", |without| without.tun.tso),
        ("tun-uso", |without| without.tun.uso),
        ("udp-gso", |without| without.udp_gso),
        ("udp-gro", |without| without.udp_gro),
        ("spin", |without| without.spin),
        ("precedence", |without| without.precedence),
        ("shortcut", |without| without.shortcut),
    ];
    for (feature, _) in switches {
        let options = check(&["--lease-dir=/l", "--without", feature]).unwrap();
        for (other, switch) in switches {
            assert_eq!(switch(&options.without), other == feature, "{feature} and {other}");
        }
    }
}

#[test]
fn places_follow_the_stem_of_the_subnet_file() {
    for (subnet_file, socket, state) in [
        ("/run/flannel/subnet.env", "/run/weft/weft.sock", "/var/lib/weft"),
        ("/run/flannel//subnet.env", "/run/weft/weft.sock", "/var/lib/weft"),
        ("/vxlan.env", "/run/weft/vxlan.sock", "/var/lib/weft/vxlan"),
        ("/tmp/subnet.env", "/run/weft/subnet.sock", "/var/lib/weft/subnet"),
        ("a.b.env", "/run/weft/a.b.sock", "/var/lib/weft/a.b"),
        ("plain", "/run/weft/plain.sock", "/var/lib/weft/plain"),
    ] {
        let options = check(&["--lease-dir=/l", "--subnet-file", subnet_file]).unwrap();
        assert_eq!(options.admin_socket, Path::new(socket), "{subnet_file}");
        assert_eq!(options.control.state_directory, Path::new(state), "{subnet_file}");
    }
    let options = check(&[
        "--lease-dir=/l",
        "--subnet-file=/vxlan.env",
        "--admin-socket=/a",
        "--state-dir=/s",
    ])
    .unwrap();
    assert_eq!(options.admin_socket, Path::new("/a"));
    assert_eq!(options.control.state_directory, Path::new("/s"));
}

#[test]
fn what_has_no_function_is_refused_when_set() {
    for (argument, sentence) in
        [("--vmodule=a=1", "--vmodule: "), ("--log_backtrace_at=a:1", "--log_backtrace_at: ")]
    {
        let refusals = check(&["--lease-dir=/l", argument]).unwrap_err();
        assert_eq!(refusals.len(), 1, "{argument}: {refusals:?}");
        assert!(refusals[0].starts_with(sentence), "{argument}: {refusals:?}");
    }
}

#[test]
fn a_variable_is_refused_like_its_flag() {
    let refusals = check_with(&["--lease-dir=/l"], &[("FLANNELD_VMODULE", "a=1")]).unwrap_err();
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].starts_with("--vmodule: "));
}

#[test]
fn asking_for_what_happens_anyway_is_accepted() {
    check(&[
        "--lease-dir=/l",
        "--kube-subnet-mgr=false",
        "--kube-api-url=",
        "--set-node-network-unavailable=false",
        "--insecure-store=false",
    ])
    .unwrap();
}

#[test]
fn netfilter_rules_are_as_the_flags_say() {
    let options = check(&[
        "--lease-dir=/l",
        "--ip-masq",
        "--ip-masq-fully-random-disable",
        "--iptables-forward-rules=false",
        "--iptables-resync=60",
        "--ip-blackhole-route",
    ]);
    let expected = netfilter::Options {
        masquerade: true,
        fully_random: false,
        forward: false,
        resync: Duration::from_secs(60),
        blackhole: true,
    };
    assert_eq!(options.unwrap().control.netfilter, expected);
    for seconds in ["0", "-1"] {
        let mistakes = check(&["--lease-dir=/l", "--iptables-resync", seconds]).unwrap_err();
        assert!(mistakes[0].contains("at least 1 second"), "{mistakes:?}");
    }
}

fn etcd(arguments: &[&str]) -> Result<EtcdOptions, Vec<String>> {
    match check(arguments)?.control.source {
        SourceOptions::Etcd(options) => Ok(*options),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_lease_directory_the_source_is_etcd() {
    for arguments in [&[][..], &["--lease-dir="]] {
        let options = etcd(arguments).unwrap();
        let servers: Vec<_> = options.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
        assert_eq!((&*options.prefix, &options.credentials), ("/coreos.com/network", &None));
        assert_eq!(options.tls, TlsFiles::default());
    }
    let options = etcd(&[
        "--etcd-endpoints=10.0.0.1:2379",
        "--etcd-prefix=/vxlan/network",
        "--etcd-cafile=/ca",
        "--etcd-certfile=/cert",
        "--etcd-keyfile=/key",
        "--etcd-username=node",
        "--etcd-password=s3cret",
        "--on-lease-loss=replace",
        "--subnet-lease-renew-margin=30",
    ])
    .unwrap();
    assert_eq!(options.endpoints[0].url(), "https://10.0.0.1:2379", "encrypted, as the files say");
    assert_eq!(options.prefix, "/vxlan/network");
    assert_eq!(options.tls.authority, Some("/ca".into()));
    assert_eq!(options.tls.client, Some(("/cert".into(), "/key".into())));
    assert_eq!(options.credentials.as_ref().unwrap().user, "node");
    assert!(!format!("{options:?}").contains("s3cret"));
}

#[test]
fn halves_of_the_etcd_flags_are_refused_without_their_secrets() {
    for (arguments, words) in [
        (&["--etcd-certfile=/cert"][..], "only together"),
        (&["--etcd-keyfile=/key"], "only together"),
        (&["--etcd-password=s3cret"], "--etcd-username"),
        (&["--etcd-endpoints=ftp://u:s3cret@host"], "--etcd-endpoints"),
        (&["--etcd-endpoints=,"], "--etcd-endpoints"),
    ] {
        let mistakes = etcd(arguments).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains(words) && !mistakes[0].contains("s3cret"), "{mistakes:?}");
    }
}

#[test]
fn what_is_doubtful_about_the_etcd_flags_is_remarked() {
    let remarks_on = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let Ok(Command::Run(flags)) = Flags::parse(&arguments, |_| None) else { panic!() };
        remarks(&flags)
    };
    assert_eq!(remarks_on(&[]), [""; 0]);
    let found = remarks_on(&["--etcd-endpoints=http://u:s3cret@h:1", "--etcd-cafile=/ca"]);
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("--etcd-username") && found[1].contains("not encrypted"));
    assert!(!found.concat().contains("s3cret"));
}

#[test]
fn etcd_flags_beside_a_lease_directory_are_named_as_unused() {
    let arguments = ["--lease-dir=/l".to_owned(), "--etcd-prefix=/x".to_owned()];
    let Ok(Command::Run(flags)) = Flags::parse(&arguments, |_| None) else { panic!() };
    Options::check(&flags).unwrap();
    assert_eq!(unused(&flags), ["etcd-prefix"]);
}

const IN_A_POD: &[(&str, &str)] = &[
    ("POD_NAME", "weft-x"),
    ("POD_NAMESPACE", "kube-flannel"),
    ("KUBERNETES_SERVICE_HOST", "fd00::1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
];

#[test]
fn the_kubernetes_source_is_told_where_it_runs() {
    let options = check_with(&["--kube-subnet-mgr", "--state-dir=/s"], IN_A_POD).unwrap();
    let expected = KubernetesOptions {
        access: Access {
            url: None,
            kubeconfig: None,
            service: Some("https://[fd00::1]:443".into()),
        },
        node: NodeName::OfPod { namespace: "kube-flannel".into(), pod: "weft-x".into() },
        prefix: "flannel.alpha.coreos.com".parse().unwrap(),
        config: "/etc/kube-flannel/net-conf.json".into(),
        sets_condition: true,
        state_directory: "/s".into(),
        patience: Patience::default(),
    };
    assert_eq!(options.control.source, SourceOptions::Kubernetes(Box::new(expected)));
}

#[test]
fn every_flag_of_the_kubernetes_source_is_used() {
    let options = check_with(
        &[
            "--kube-subnet-mgr",
            "--kube-api-url=https://a:6443",
            "--kubeconfig-file=/k",
            "--kube-annotation-prefix=org.com/9",
            "--net-config-path=/n",
            "--set-node-network-unavailable=false",
        ],
        &[("NODE_NAME", "n"), ("POD_NAME", "p"), ("POD_NAMESPACE", "s")],
    );
    let SourceOptions::Kubernetes(options) = options.unwrap().control.source else { panic!() };
    assert_eq!(options.access.url.as_deref(), Some("https://a:6443"));
    assert_eq!(options.access.kubeconfig.as_deref(), Some(Path::new("/k")));
    assert_eq!(options.node, NodeName::Known("n".into()));
    assert_eq!(options.prefix, "org.com/9-".parse().unwrap());
    assert_eq!((options.config.as_path(), options.sets_condition), (Path::new("/n"), false));
}

#[test]
fn wrong_wishes_about_kubernetes_are_all_told() {
    let mistakes = check(&[
        "--kube-subnet-mgr",
        "--kube-api-url=10.0.0.1:6443",
        "--kube-annotation-prefix=Org",
    ])
    .unwrap_err();
    for part in ["--kube-api-url", "--kube-annotation-prefix", "NODE_NAME"] {
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{mistakes:?}");
    }
    // As with flanneld, they are of no interest to another source.
    check(&["--lease-dir=/l", "--kube-annotation-prefix=Org"]).unwrap();
}

#[test]
fn wrong_values_are_all_reported_at_once() {
    let mistakes = check(&[
        "--subnet-lease-renew-margin=0",
        "--workers=0",
        "--iface-can-reach=x",
        "--public-ip=::1",
        "--public-ipv6=10.0.0.1",
        "--healthz-ip=here",
        "--healthz-port=80",
        "--subnet-file=/",
        "--iptables-resync=0",
        "--vmodule=a=1",
    ])
    .unwrap_err();
    let names = [
        "--vmodule",
        "--subnet-lease-renew-margin",
        "--workers",
        "--iface-can-reach",
        "--public-ip",
        "--public-ipv6",
        "--healthz-ip",
        "--subnet-file",
        "--iptables-resync",
    ];
    assert_eq!(mistakes.len(), names.len(), "{mistakes:?}");
    for (mistake, name) in mistakes.iter().zip(names) {
        assert!(mistake.contains(name), "{mistake}");
    }
}

#[test]
fn workers_are_as_many_as_can_be_told_apart() {
    for (workers, expected) in
        [("-1", None), ("0", None), ("1", Some(1)), ("64", Some(64)), ("65", None)]
    {
        let checked = check(&["--lease-dir=/l", "--workers", workers]);
        assert_eq!(checked.ok().map(|options| options.workers), expected, "{workers}");
    }
}

#[test]
fn the_margin_has_both_its_ends_checked() {
    for (margin, good) in [("0", false), ("1", true), ("1439", true), ("1440", false)] {
        let checked = check(&["--lease-dir=/l", "--subnet-lease-renew-margin", margin]);
        assert_eq!(checked.is_ok(), good, "{margin}");
    }
}

#[test]
fn health_probes_are_answered_only_with_a_port() {
    for (arguments, address) in [
        (&["--healthz-ip=not looked at"][..], None),
        (&["--healthz-port=-1"], None),
        (&["--healthz-port=8080"], Some("0.0.0.0:8080")),
        (&["--healthz-port=8080", "--healthz-ip="], Some("0.0.0.0:8080")),
        (&["--healthz-port=8080", "--healthz-ip=127.0.0.1"], Some("127.0.0.1:8080")),
    ] {
        let mut all = vec!["--lease-dir=/l"];
        all.extend(arguments);
        let expected = address.map(|address| address.parse().unwrap());
        assert_eq!(check(&all).unwrap().health, expected, "{arguments:?}");
    }
    assert_eq!(check(&["--lease-dir=/l", "--healthz-port=65536"]).unwrap_err().len(), 1);
}
