use super::*;

fn parse(arguments: &[&str]) -> Result<Command, Vec<Mistake>> {
    parse_with(arguments, &[])
}

fn parse_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command, Vec<Mistake>> {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    Flags::parse(&arguments, |name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn flags(arguments: &[&str]) -> Flags {
    flags_with(arguments, &[])
}

fn flags_with(arguments: &[&str], variables: &[(&str, &str)]) -> Flags {
    match parse_with(arguments, variables) {
        Ok(Command::Run(flags)) => flags,
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

fn mistakes(arguments: &[&str]) -> Vec<String> {
    match parse(arguments) {
        Err(mistakes) => mistakes.into_iter().map(|mistake| mistake.0).collect(),
        Ok(other) => panic!("{arguments:?} gave {other:?}"),
    }
}

/// A value that differs from the default, how it reads back, and a value that is wrong.
fn sample(kind: Kind) -> (&'static str, Value, Option<&'static str>) {
    match kind {
        Kind::Text => ("some text", Value::Text("some text".into()), None),
        Kind::Repeatable => ("one", Value::List(vec!["one".into()]), None),
        Kind::Boolean => ("T", Value::Boolean(true), Some("yes")),
        Kind::Integer => ("0x1F", Value::Integer(31), Some("1.5")),
        Kind::Level => ("7", Value::Integer(7), Some("0x1")),
        Kind::Choice(words) => (words[1], Value::Text(words[1].into()), Some("neither")),
        Kind::Words(words) => (words[1], Value::List(vec![words[1].into()]), Some("neither")),
    }
}

#[test]
fn every_flag_takes_its_value_in_every_form() {
    for flag in ALL.iter().filter(|flag| flag.name != "version") {
        let (text, value, _) = sample(flag.kind);
        for dashes in ["-", "--"] {
            let joined = format!("{dashes}{}={text}", flag.name);
            assert_eq!(flags(&[&joined]).value(flag.name), value, "{joined}");
            if flag.kind != Kind::Boolean {
                let name = format!("{dashes}{}", flag.name);
                assert_eq!(flags(&[&name, text]).value(flag.name), value, "{name} {text}");
            }
        }
    }
}

#[test]
fn every_flag_has_a_variable_that_the_command_line_overrides() {
    for flag in ALL.iter().filter(|flag| flag.name != "version") {
        let (text, value, wrong) = sample(flag.kind);
        let variable = variable_name(flag.name);

        let filled = flags_with(&[], &[(&variable, text)]);
        assert_eq!(filled.value(flag.name), value, "{variable}");
        assert_eq!(filled.origin(flag.name), Some(Origin::Environment), "{variable}");

        let overridden = flags_with(&[&format!("--{}={text}", flag.name)], &[(&variable, "1")]);
        assert_eq!(overridden.value(flag.name), value, "{variable}");
        assert_eq!(overridden.origin(flag.name), Some(Origin::CommandLine), "{variable}");

        assert_eq!(flags_with(&[], &[(&variable, "")]).origin(flag.name), None, "{variable}");

        if let Some(wrong) = wrong {
            let kept = flags_with(&[], &[(&variable, wrong)]);
            assert_eq!(kept.origin(flag.name), None, "{variable}={wrong}");
            assert_eq!(kept.rejected().len(), 1, "{variable}={wrong}");
            assert!(kept.rejected()[0].0.starts_with(&variable));
        }
    }
}

#[test]
fn every_wrong_value_is_a_mistake_that_names_its_flag() {
    for flag in ALL {
        let Some(wrong) = sample(flag.kind).2 else { continue };
        let found = mistakes(&[&format!("--{}={wrong}", flag.name)]);
        assert_eq!(found.len(), 1, "{}", flag.name);
        assert!(found[0].contains(&format!("--{}", flag.name)), "{found:?}");
    }
}

#[test]
fn defaults_are_those_of_flanneld() {
    let flags = flags(&[]);
    assert_eq!(flags.text("etcd-endpoints"), "http://127.0.0.1:4001,http://127.0.0.1:2379");
    assert_eq!(flags.text("etcd-prefix"), "/coreos.com/network");
    assert_eq!(flags.text("subnet-file"), "/run/flannel/subnet.env");
    assert_eq!(flags.integer("subnet-lease-renew-margin"), 60);
    assert_eq!(flags.text("kube-annotation-prefix"), "flannel.alpha.coreos.com");
    assert_eq!(flags.text("net-config-path"), "/etc/kube-flannel/net-conf.json");
    assert_eq!(flags.text("healthz-ip"), "0.0.0.0");
    assert_eq!(flags.integer("healthz-port"), 0);
    assert_eq!(flags.integer("iptables-resync"), 5);
    for (name, value) in [
        ("set-node-network-unavailable", true),
        ("iptables-forward-rules", true),
        ("ip-masq", false),
        ("ip-masq-fully-random-disable", false),
        ("kube-subnet-mgr", false),
        ("ip-blackhole-route", false),
    ] {
        assert_eq!(flags.boolean(name), value, "{name}");
    }
    assert!(flags.list("iface").is_empty());
    for flag in ALL {
        assert_eq!(flags.origin(flag.name), None);
        if !matches!(flag.kind, Kind::Repeatable) {
            Value::parse(flag.kind, flag.default).unwrap();
        }
    }
}

#[test]
fn booleans_take_exactly_the_words_of_go() {
    for (words, value) in [
        (["1", "t", "T", "TRUE", "true", "True"], true),
        (["0", "f", "F", "FALSE", "false", "False"], false),
    ] {
        for word in words {
            assert_eq!(flags(&[&format!("-ip-masq={word}")]).boolean("ip-masq"), value, "{word}");
        }
    }
    for word in ["yes", "tRUE", "2", "", " true"] {
        assert_eq!(mistakes(&[&format!("-ip-masq={word}")]).len(), 1, "{word:?}");
    }
}

#[test]
fn a_boolean_takes_no_separate_value_and_the_word_ends_the_flags() {
    let flags = flags(&["--ip-masq", "false", "--healthz-port=1"]);
    assert!(flags.boolean("ip-masq"));
    assert_eq!(flags.integer("healthz-port"), 0);
    assert_eq!(flags.ignored(), ["false", "--healthz-port=1"]);
}

#[test]
fn integers_are_those_of_go() {
    for (text, value) in [
        ("8080", 8080),
        ("+5", 5),
        ("-5", -5),
        ("0", 0),
        ("-0x10", -16),
        ("0XfF", 255),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("1_000", 1000),
        ("0x_ff", 255),
        ("0_7", 7),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(flags(&["-healthz-port", text]).integer("healthz-port"), value, "{text}");
    }
    for text in [
        "",
        "-",
        "+",
        "0x",
        "08",
        "1__0",
        "_1",
        "1_",
        "1.0",
        " 1",
        "+-1",
        "0b2",
        "1e3",
        "٣",
        "9223372036854775808",
    ] {
        assert_eq!(mistakes(&["-healthz-port", text]).len(), 1, "{text:?}");
    }
}

#[test]
fn a_value_may_look_like_a_flag_or_hold_an_equals_sign() {
    assert_eq!(flags(&["--iface", "-x"]).list("iface"), ["-x"]);
    assert_eq!(flags(&["--etcd-prefix=a=b"]).text("etcd-prefix"), "a=b");
    assert_eq!(flags(&["--etcd-prefix="]).text("etcd-prefix"), "");
}

#[test]
fn repeatable_flags_collect_and_others_keep_the_last_value() {
    let flags = flags_with(
        &["--iface=a,b", "-iface", "c", "--public-ip=1", "--public-ip=2"],
        &[("FLANNELD_IFACE", "d"), ("FLANNELD_IFACE_REGEX", "e,f")],
    );
    assert_eq!(flags.list("iface"), ["a,b", "c"]);
    assert_eq!(flags.list("iface-regex"), ["e,f"]);
    assert_eq!(flags.text("public-ip"), "2");
}

#[test]
fn what_ends_the_flags() {
    for (arguments, ignored) in [
        (&["--v=1", "--", "--v=2"][..], &["--v=2"][..]),
        (&["--v=1", "-", "--v=2"][..], &["-", "--v=2"][..]),
        (&["--v=1", "word", "--v=2"][..], &["word", "--v=2"][..]),
    ] {
        let flags = flags(arguments);
        assert_eq!(flags.integer("v"), 1);
        assert_eq!(flags.ignored(), ignored);
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = mistakes(&["--nonsense", "value", "---v", "--v=x", "-=1", "--iface"]);
    assert_eq!(
        found,
        [
            "flag provided but not defined: --nonsense",
            "bad flag syntax: ---v",
            "invalid value \"x\" for flag --v: expected a whole number",
            "bad flag syntax: -=1",
            "flag needs an argument: --iface",
        ]
    );
}

#[test]
fn help_and_version_win() {
    for argument in ["-h", "--h", "-help", "--help", "--help=x"] {
        assert!(matches!(parse(&["--nonsense", argument]), Ok(Command::Help)), "{argument}");
    }
    assert!(matches!(parse(&["--version"]), Ok(Command::Version)));
    assert!(matches!(parse(&["-version=t"]), Ok(Command::Version)));
    assert!(matches!(parse(&["-version=false"]), Ok(Command::Run(_))));
    assert!(parse(&["--version", "--nonsense"]).is_err());
    assert!(matches!(parse_with(&[], &[("FLANNELD_VERSION", "true")]), Ok(Command::Run(_))));
}

#[test]
fn features_are_separated_by_commas() {
    let flags = flags(&["--without=tun-uso, udp-gro,"]);
    assert_eq!(flags.list("without"), ["tun-uso", "udp-gro"]);
}

#[test]
fn the_one_line_description_keeps_secrets() {
    let line = flags(&["--etcd-password=hunter2", "--v=3"]).describe();
    assert!(!line.contains("hunter2"));
    assert!(line.contains("etcd-password=***"));
    let other = flags(&["--etcd-endpoints=http://u:hunter2@a:1,http://b:1"]).describe();
    assert!(other.contains("etcd-endpoints=http://***@a:1,http://b:1 "), "{other}");
    assert!(line.contains(" v=3"));
    assert!(line.contains("subnet-file=/run/flannel/subnet.env"));
    assert!(!line.contains('\n'));
}

#[test]
fn the_usage_names_every_flag_once() {
    let text = usage("flanneld");
    assert!(text.starts_with("Usage: flanneld [OPTION]...\n"));
    for flag in ALL {
        let lines = text.lines().filter(|line| {
            line.strip_prefix("  --").and_then(|rest| rest.split(' ').next()) == Some(flag.name)
        });
        assert_eq!(lines.count(), 1, "{}", flag.name);
    }
}
